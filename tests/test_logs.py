"""The log: one line a record, the ring and its listeners, and an output that never makes a record wait."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from qrusty_trio import logs
from qrusty_trio.api.ws_logs import LogReader
from qrusty_trio.api.ws_logs import LogRing as RingProtocol
from qrusty_trio.logs import LogFormat, LogLevel, LogRing, Output

logger = logging.getLogger("qrusty_trio.test")


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """The root logger without the handlers of the test runner, put back at the end."""
    root = logging.getLogger()
    own = logging.getLogger("qrusty_trio")
    levels = root.level, own.level
    monkeypatch.setattr(root, "handlers", [])
    yield root
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(levels[0])
    own.setLevel(levels[1])


def written(root: logging.Logger, stream: io.StringIO) -> list[str]:
    """The lines on the stream once the output has written all."""
    for handler in root.handlers:
        handler.close()
    return stream.getvalue().splitlines()


def record(message: str, level: int = logging.INFO, created: float = 0.0) -> logging.LogRecord:
    made = logging.LogRecord("qrusty_trio.test", level, __file__, 1, message, (), None)
    made.created = created
    return made


# Verifies: SYS-0017, API-0067
def test_console_shows_time_level_part_and_message(root: logging.Logger) -> None:
    stream = io.StringIO()
    logs.set_up(LogLevel.INFO, LogFormat.CONSOLE, stream)
    logger.warning("queue %s is full", "größe")
    (line,) = written(root, stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARN  test: queue größe is full", line)


# Verifies: API-0067
@pytest.mark.parametrize("hostile", ["a\nb", "a\r\nb", "a\x1b[31mb", "a\x00b", "a\u2028b", "a\ud800b", "a\x85b"])
@pytest.mark.parametrize("layout", list(LogFormat))
def test_a_record_is_one_line_whatever_a_client_sent(root: logging.Logger, layout: LogFormat, hostile: str) -> None:
    stream = io.StringIO()
    logs.set_up(LogLevel.INFO, layout, stream)
    logger.info("name %s", hostile)
    (line,) = written(root, stream)
    assert line.isprintable()
    if layout is LogFormat.JSON:
        assert json.loads(line)["message"] == f"name {hostile}"


# Verifies: API-0067
def test_json_holds_a_traceback_on_its_line(root: logging.Logger) -> None:
    stream = io.StringIO()
    logs.set_up(LogLevel.INFO, LogFormat.JSON, stream)
    try:
        raise ValueError("told you so")
    except ValueError:
        logger.exception("it broke")
    (line,) = written(root, stream)
    fields = json.loads(line)
    assert list(fields) == ["timestamp", "level", "logger", "message", "traceback"]
    assert (fields["level"], fields["logger"], fields["message"]) == ("error", "qrusty_trio.test", "it broke")
    assert fields["traceback"].startswith("Traceback (most recent call last):\n")
    assert fields["traceback"].endswith("ValueError: told you so")


# Verifies: API-0078
def test_json_tells_of_which_request_a_record_is(root: logging.Logger) -> None:
    stream = io.StringIO()
    ring = logs.set_up(LogLevel.INFO, LogFormat.JSON, stream)
    logger.info("a", extra={"request_id": "id\n", "trace_id": "trace"})
    logger.info("b", extra={"request_id": "id", "trace_id": ""})
    assert [message for _, _, message in ring.read(0, 10)[1]] == ["a", "b"]
    both, one = (json.loads(line) for line in written(root, stream))
    assert list(both) == ["timestamp", "level", "logger", "message", "request_id", "trace_id"]
    assert (both["request_id"], both["trace_id"]) == ("id\n", "trace")
    assert list(one) == ["timestamp", "level", "logger", "message", "request_id"]


def test_console_puts_a_traceback_under_its_line(root: logging.Logger) -> None:
    stream = io.StringIO()
    logs.set_up(LogLevel.INFO, LogFormat.CONSOLE, stream)
    logger.error("it broke", exc_info=ValueError("told you so"))
    lines = written(root, stream)
    assert lines[0].endswith("ERROR test: it broke")
    assert lines[-1] == "ValueError: told you so"


@pytest.mark.parametrize(
    ("level", "shown"),
    [("error", "EC"), ("warn", "WEC"), ("info", "IWEC"), ("debug", "DIWEC")],
)
def test_the_level_is_that_and_worse(root: logging.Logger, level: str, shown: str) -> None:
    stream = io.StringIO()
    logs.set_up(LogLevel(level), LogFormat.JSON, stream)
    for letter, number in zip("DIWEC", (10, 20, 30, 40, 50), strict=True):
        logger.log(number, letter)
    assert [json.loads(line)["message"] for line in written(root, stream)] == list(shown)


def test_other_packages_are_heard_from_warning_on(root: logging.Logger) -> None:
    stream = io.StringIO()
    ring = logs.set_up(LogLevel.DEBUG, LogFormat.JSON, stream)
    other = logging.getLogger("websockets.server")
    other.debug("> TEXT frame")
    other.info("connection open")
    other.warning("odd")
    assert [json.loads(line)["message"] for line in written(root, stream)] == ["odd"]
    assert [message for _, _, message in ring.read(0, 10)[1]] == ["odd"]


def test_set_up_again_replaces_what_was(root: logging.Logger) -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.set_up(LogLevel.INFO, LogFormat.JSON, first)
    logs.set_up(LogLevel.INFO, LogFormat.JSON, second)
    logger.info("once")
    assert len(written(root, second)) == 1
    assert first.getvalue() == ""


# Verifies: API-0068
def test_output_that_is_not_taken_costs_records_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "OUTPUT_RECORDS", 3)
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, encoding="utf-8") as reader:
        with os.fdopen(write_end, "w", encoding="utf-8") as stream:
            output = Output(stream)
            # More than a pipe holds, so the writer stands still on the first until somebody reads.
            output.emit(record("x" * 1_000_000))
            while not output.lines.waiting.empty():
                time.sleep(0.001)
            for number in range(10):
                output.emit(record(f"record {number}"))
            assert reader.readline() == "x" * 1_000_000 + "\n"
            output.close()
        lines = reader.read().splitlines()
    assert lines[0] == "7 log records were lost: they were not taken fast enough"
    assert lines[1:] == ["record 0", "record 1", "record 2"]


def test_closing_gives_up_on_a_stream_that_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "OUTPUT_RECORDS", 1)
    monkeypatch.setattr(logs, "OUTPUT_CLOSE_SECONDS", 0.01)
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, encoding="utf-8") as reader, os.fdopen(write_end, "w", encoding="utf-8") as stream:
        output = Output(stream)
        for _ in range(3):
            output.emit(record("x" * 1_000_000))
        output.close()
        assert output.lines.is_running()
        # Somebody reads again: closing once more writes the rest.
        monkeypatch.setattr(logs, "OUTPUT_CLOSE_SECONDS", 60)
        drain = threading.Thread(target=reader.read)
        drain.start()
        output.close()
        assert not output.lines.is_running()
        stream.close()
        drain.join()


def test_output_survives_a_stream_that_is_gone() -> None:
    stream = io.StringIO()
    output = Output(stream)
    stream.close()
    output.emit(record("to nobody"))
    output.close()
    output.emit(record("after the end"))
    output.close()


# The limit on the size of files stands for a disk that is full and gets room again.
FULL_AND_BACK = """
import logging, resource, sys, time
from qrusty_trio import logs
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
stream = open(sys.argv[1], "w", encoding="utf-8")
logs.set_up(logs.LogLevel.INFO, logs.LogFormat(sys.argv[2]), stream)
logger = logging.getLogger("qrusty_trio.test")
output = logging.getLogger().handlers[0]
def say(text):
    logger.info(text)
    while not output.lines.waiting.empty():
        time.sleep(0.001)
    time.sleep(0.05)
for again in range(2):
    say("before")
    resource.setrlimit(resource.RLIMIT_FSIZE, (stream.tell() + 40 * (again + 1) + 300 * again, hard))
    for number in range(3):
        say("lost " + "x" * 1000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
say("after")
logging.shutdown()
"""


# Verifies: API-0068
@pytest.mark.parametrize("layout", list(LogFormat))
def test_the_log_goes_on_when_there_is_room_again(tmp_path: Path, layout: LogFormat) -> None:
    file = tmp_path / "log"
    subprocess.run([sys.executable, "-c", FULL_AND_BACK, str(file), layout.value], check=True, timeout=60)
    lines = file.read_text().splitlines()
    whole = [line for line in lines if "xxx" not in line and line.strip()]
    if layout is LogFormat.JSON:
        said = [json.loads(line)["message"] for line in whole if line.endswith("}")]
    else:
        said = [line.partition(": ")[2] for line in whole]
    told = "3 log records were lost: they were not written: [Errno 27] File too large"
    assert [message for message in said if message in ("before", "after", told)] == [
        "before",
        told,
        "before",
        told,
        "after",
    ]


def test_one_write_that_fails_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the error is."""
    read_end, write_end = os.pipe()
    errors = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EPIPE, errno.ENOMEM]
    really_write = os.write

    def write(descriptor: int, data: memoryview) -> int:
        if errors and len(data) > 12:
            return really_write(descriptor, data[:10])
        if errors:
            raise OSError(errors.pop(), "made up")
        return really_write(descriptor, data)

    with os.fdopen(read_end, encoding="utf-8") as reader:
        with os.fdopen(write_end, "w", encoding="utf-8") as stream:
            output = Output(stream)
            monkeypatch.setattr(os, "write", write)
            for number in range(7):
                output.emit(record(f"record number {number}"))
            output.close()
            monkeypatch.undo()
        lines = [line for line in reader.read().splitlines() if line.strip()]
    assert lines[-3:] == [
        "5 log records were lost: they were not written: [Errno 28] made up",
        "record number 5",
        "record number 6",
    ]


def test_a_reader_that_does_not_let_wait_gets_everything() -> None:
    """Others that share stderr may have made it non-blocking."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with os.fdopen(read_end, encoding="utf-8") as reader:
        with os.fdopen(write_end, "w", encoding="utf-8") as stream:
            output = Output(stream)
            for number in range(20):
                output.emit(record(f"{number}" + "x" * 50_000))
            assert reader.readline() == "0" + "x" * 50_000 + "\n"
            drained: list[str] = []
            drain = threading.Thread(target=lambda: drained.extend(reader))
            drain.start()
            output.close()
            assert not output.lines.is_running()
        drain.join()
    assert [line.partition("x")[0] for line in drained] == [str(number) for number in range(1, 20)]


def test_a_process_without_stderr_logs_to_the_ring(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    ring = logs.set_up(LogLevel.INFO, LogFormat.CONSOLE)
    logger.info("to nobody")
    assert [message for _, _, message in ring.read(0, 10)[1]] == ["to nobody"]


def test_ring_satisfies_the_protocol_and_starts_empty() -> None:
    ring: RingProtocol = LogRing()
    assert ring.oldest() == 0
    assert ring.read(0, 10) == (0, [])


def test_ring_holds_time_level_and_message() -> None:
    ring = LogRing()
    ring.handle(record("slow\ndisk", logging.WARNING, created=1_700_000_000.0126))
    ring.handle(record("dead", logging.CRITICAL))
    assert ring.read(0, 10) == (
        2,
        [("2023-11-14T22:13:20.012Z", "warn", "slow\ndisk"), ("1970-01-01T00:00:00.000Z", "error", "dead")],
    )


# Verifies: WS-0017
def test_ring_keeps_the_last_thousand() -> None:
    ring = LogRing()
    for number in range(1500):
        ring.handle(record(str(number)))
    assert ring.oldest() == 500
    after, records = ring.read(0, 2)
    assert (after, [message for _, _, message in records]) == (502, ["500", "501"])
    after, records = ring.read(after, 5000)
    assert (after, len(records), records[-1][2]) == (1500, 998, "1499")
    assert ring.read(1500, 10) == (1500, [])
    assert ring.read(700, 0) == (700, [])


def test_ring_bounds_a_record_and_keeps_the_traceback_in_it() -> None:
    ring = LogRing()
    ring.handle(record("y" * 1_000_000))
    failed = record("it broke")
    failed.exc_info = (ValueError, ValueError("told you so"), None)
    ring.handle(failed)
    _, records = ring.read(0, 2)
    assert len(records[0][2]) == logs.MAX_MESSAGE_CHARS
    assert records[1][2] == "it broke\nValueError: told you so"


def test_a_reader_that_was_overtaken_is_told_how_many_it_lost() -> None:
    for lost, sentence in ((42, "42 log records were lost: this"), (1, "1 log record was lost: this")):
        ring = LogRing()
        ring.handle(record("first"))
        reader = LogReader(ring, lambda: None)
        for number in range(logs.RING_RECORDS + lost - 1):
            ring.handle(record(str(number)))
        frames = [json.loads(frame) for frame in reader.read(2)]
        assert frames[0]["level"] == "warn"
        assert frames[0]["message"].startswith(sentence)
        assert [frame["message"] for frame in frames[1:]] == [f"{lost - 1}", f"{lost}"]


class Loop:
    """What `attach` takes, run by hand: functions that wait, each once."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def call_soon(self, function: Callable[[], None]) -> None:
        if function not in self.waiting:
            self.waiting.append(function)

    def turn(self) -> int:
        """Run what waits; how much that was."""
        waiting, self.waiting = self.waiting, []
        for function in waiting:
            function()
        return len(waiting)


def test_many_records_wake_a_listener_once_a_turn() -> None:
    ring, loop = LogRing(), Loop()
    calls: list[int] = []
    ring.attach(loop.call_soon)
    ring.add_listener(partial(calls.append, 1))
    for _ in range(100):
        ring.handle(record("x"))
    assert calls == []
    assert (loop.turn(), calls) == (1, [1])
    assert loop.turn() == 0


def test_without_listeners_the_loop_is_left_alone() -> None:
    ring, loop = LogRing(), Loop()
    ring.attach(loop.call_soon)
    listener = [].clear
    ring.add_listener(listener)
    ring.remove_listener(listener)
    ring.remove_listener(listener)
    ring.handle(record("x"))
    assert loop.waiting == []


def test_a_record_made_while_records_are_delivered_wakes_nobody() -> None:
    ring, loop = LogRing(), Loop()
    ring.attach(loop.call_soon)

    def listener() -> None:
        ring.handle(record("delivering"))

    ring.add_listener(listener)
    ring.handle(record("x"))
    assert [loop.turn(), loop.turn()] == [1, 0]
    assert [message for _, _, message in ring.read(0, 10)[1]] == ["x", "delivering"]


def test_a_listener_may_leave_while_listeners_are_called() -> None:
    ring, loop, calls = LogRing(), Loop(), []

    def leave() -> None:
        calls.append("left")
        ring.remove_listener(leave)

    ring.attach(loop.call_soon)
    ring.add_listener(leave)
    ring.add_listener(partial(calls.append, "stayed"))
    for _ in range(2):
        ring.handle(record("x"))
        loop.turn()
    assert calls == ["left", "stayed", "stayed"]


def test_after_detach_records_are_kept_and_nobody_is_called() -> None:
    ring, loop = LogRing(), Loop()
    ring.attach(loop.call_soon)
    ring.add_listener([].clear)
    ring.detach()
    ring.handle(record("x"))
    assert loop.waiting == []
    assert ring.read(0, 1)[0] == 1


async def test_records_of_any_thread_reach_listeners_on_the_thread_of_the_loop() -> None:
    ring, done = LogRing(), trio.Event()
    seen: list[tuple[str, int]] = []
    position = 0

    def listener() -> None:
        nonlocal position
        position, records = ring.read(position, 10_000)
        seen.extend((message, threading.get_ident()) for _, _, message in records)
        if len(seen) == 800:
            done.set()

    def work(name: int) -> None:
        for number in range(200):
            ring.handle(record(f"{name}-{number}"))

    ring.attach(partial(trio.lowlevel.current_trio_token().run_sync_soon, idempotent=True))
    ring.add_listener(listener)
    async with trio.open_nursery() as nursery:
        for name in range(4):
            nursery.start_soon(trio.to_thread.run_sync, work, name)
        with trio.fail_after(60):
            await done.wait()
    assert {thread for _, thread in seen} == {threading.get_ident()}
    for name in range(4):
        mine = [message for message, _ in seen if message.startswith(f"{name}-")]
        assert mine == [f"{name}-{number}" for number in range(200)]


def test_a_thread_that_outlives_the_loop_may_log() -> None:
    ring = LogRing()

    async def attach() -> None:
        ring.attach(partial(trio.lowlevel.current_trio_token().run_sync_soon, idempotent=True))
        ring.add_listener([].clear)

    trio.run(attach)
    ring.handle(record("late"))
    assert ring.read(0, 1)[0] == 1


def test_arguments_that_do_not_fit_do_not_raise(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    stream = io.StringIO()
    ring = logs.set_up(LogLevel.INFO, LogFormat.CONSOLE, stream)
    logger.info("%d", "no number")
    assert written(root, stream) == []
    assert ring.read(0, 1)[0] == 0
