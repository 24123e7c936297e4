"""`work`: a worker that runs a command for each message.

Rule: a command that exits with 0 acks its message, any other end nacks it with what the command said last. The lock is
renewed while the command runs, whether or not anybody reads stderr. A command whose message goes to somebody else is
ended with all that it started.

Requirements: API-0132
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated

import trio
import typer

from qrusty_trio.cli.command import command
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed
from qrusty_trio.cli.output import say
from qrusty_trio.cli.parameters import LockSeconds, Queue
from qrusty_trio.cli.session import Session
from qrusty_trio.cli.unblocked import unblocked_stderr
from qrusty_trio.cli.values import AS_GIVEN
from qrusty_trio.client import Message, worker
from qrusty_trio.wording import counted

KILL_SECONDS = 5.0
"""What a command and what it started have to end after SIGTERM, before SIGKILL."""
POLL_SECONDS = 0.05
LAST_WORDS_BYTES = 1024
"""Of what a command wrote to stderr, so much is kept for the nack."""
READ_BYTES = 64 * 1024


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "work")(work)


def work(
    session: Session,
    queue: Queue,
    program: Annotated[
        list[str],
        typer.Argument(metavar="-- COMMAND...", help="The command and its arguments.", show_default=False),
        AS_GIVEN,
    ],
    concurrency: Annotated[int, typer.Option("--concurrency", "-j", min=1, max=10_000, help="Commands at a time.")] = 1,
    lock: LockSeconds = 30,
    grace: Annotated[float, typer.Option(min=0, help="Seconds that commands may take to end after SIGTERM.")] = 30.0,
    reconnect: Annotated[float, typer.Option(min=0, help="Seconds without a server before it gives up.")] = 300.0,
) -> Exit:
    """Run a command for each message of a queue.

    \b
    qrusty-trio work mail -- ./send-mail
    qrusty-trio work jobs -j 4 -- sh -c 'gzip > "$QRUSTY_MESSAGE_ID.gz"'

    The command gets the payload on stdin, and QRUSTY_MESSAGE_ID, QRUSTY_QUEUE, QRUSTY_PRIORITY and QRUSTY_CREATED_AT in
    its environment. If it exits with 0, the message is acked. Otherwise it is nacked, with the last line that the
    command wrote to stderr as the reason. Its lock is renewed while the command runs. SIGTERM, SIGHUP and SIGINT end
    the work after the commands that run.
    """
    session.check_writable()
    if shutil.which(program[0]) is None:
        raise Failed(Exit.USAGE, f"there is no command {program[0]}: give its path, or correct its name")
    _log_plainly(session)
    runner = _Runner(program)

    async def main() -> int:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            ended = await nursery.start(_watch_signals, stop)
            await worker(
                session.target.websocket_url,
                queue,
                runner.handle,
                concurrency=concurrency,
                lock_seconds=lock,
                grace_seconds=grace,
                reconnect_seconds=reconnect,
                token=session.target.token,
                stop=stop,
                **session.target.tls,
            )
            nursery.cancel_scope.cancel()
        return ended.number if ended.number is not None else 0

    with unblocked_stderr():
        number = trio.run(main)
        session.tell(f"{counted(runner.done, 'command')} ended with 0, {runner.failed} failed")
    return Exit.INTERRUPTED if number == signal.SIGINT else Exit.DONE


class _Ended:
    """Which signal ended the work."""

    number: int | None = None


async def _watch_signals(stop: trio.Event, *, task_status: trio.TaskStatus[_Ended]) -> None:
    ended = _Ended()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        numbers.append(signal.SIGHUP)
    with trio.open_signal_receiver(*numbers) as signals:
        task_status.started(ended)
        async for number in signals:
            if stop.is_set():
                if number == signal.SIGHUP:
                    continue  # a terminal that goes and its shell send one each
                raise KeyboardInterrupt  # asked twice: no longer wait for the commands
            ended.number = number
            stop.set()


def _log_plainly(session: Session) -> None:
    """The client's warnings as lines on stderr, without the tracebacks of commands that failed."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1] is not None:
                say(f"{record.getMessage()}: {record.exc_info[1]}")
            else:
                say(record.getMessage())

    logger = logging.getLogger("qrusty_trio.client")
    logger.handlers = [Lines()]
    logger.propagate = False
    logger.setLevel(logging.ERROR if session.quiet else logging.WARNING)


class CommandFailed(Exception):
    """A command did not exit with 0. `str(error)` goes into the nack."""


class _Runner:
    def __init__(self, program: Sequence[str]) -> None:
        self._program = program
        self.done = self.failed = 0

    async def handle(self, message: Message) -> None:
        try:
            await run_for(self._program, message)
        except CommandFailed:
            self.failed += 1
            raise
        self.done += 1


def environment_of(message: Message) -> Mapping[str, str]:
    """What a command finds in its environment besides ours."""
    return {
        "QRUSTY_MESSAGE_ID": message.id,
        "QRUSTY_QUEUE": message.queue,
        # No environment can hold a NUL.
        "QRUSTY_PRIORITY": str(message.priority).replace("\0", ""),
        "QRUSTY_CREATED_AT": message.created_at.isoformat(),
    }


async def run_for(program: Sequence[str], message: Message) -> None:
    """Run a command with a message's payload on its stdin. Raises CommandFailed.

    If it is cancelled, the command and what it started get SIGTERM, and SIGKILL after a while.
    """
    try:
        process = await trio.lowlevel.open_process(
            list(program),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment_of(message)},
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailed(f"{program[0]} can't be run: {error.strerror}") from error
    words = _LastWords()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_feed, process, message.payload.encode())
            nursery.start_soon(words.read, process)
            status = await process.wait()
            # A child of it may hold the pipes open. The command itself has ended.
            nursery.cancel_scope.deadline = trio.current_time() + 1.0
    finally:
        await _end(process)
    if status:
        how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        said = words.last_line()
        raise CommandFailed(f"{how}: {said}" if said else how)


async def _feed(process: trio.Process, payload: bytes) -> None:
    assert process.stdin is not None
    # A command need not read what it is given.
    with suppress(trio.BrokenResourceError):
        async with process.stdin:
            await process.stdin.send_all(payload)


class _LastWords:
    """Passes on what a command writes to stderr, and keeps the end of it."""

    def __init__(self) -> None:
        self._kept = b""

    async def read(self, process: trio.Process) -> None:
        assert process.stderr is not None
        while data := await process.stderr.receive_some(READ_BYTES):
            self._kept = (self._kept + bytes(data))[-LAST_WORDS_BYTES:]
            sys.stderr.buffer.write(data)
            sys.stderr.flush()

    def last_line(self) -> str:
        said = self._kept.decode(errors="replace").strip()
        return said.rpartition("\n")[2]


async def _end(process: trio.Process) -> None:
    """End a command that was cancelled, with all that it started. One that has ended leaves behind what it likes."""
    if process.returncode is None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_SECONDS):
            there = _signal(process, signal.SIGTERM)
            await process.wait()
            # It may be gone before what it started.
            while there:
                await trio.sleep(POLL_SECONDS)
                there = _signal(process, 0)
        _signal(process, signal.SIGKILL)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_SECONDS):
            await process.wait()
    for pipe in (process.stdin, process.stderr):
        if pipe is not None:
            await trio.aclose_forcefully(pipe)


def _signal(process: trio.Process, number: int) -> bool:
    """Send a signal to a command and what it started. Whether there is any of them that we may signal."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
