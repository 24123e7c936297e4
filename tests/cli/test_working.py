"""`work`: a real command for each message; what its end does to the message, and what ends the work."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from qrusty_trio.cli import working
from qrusty_trio.client import Message
from tests.cli.shell import Shell

PATIENCE = 60


def settled(shell: Shell, queue: str, *, dead: int = 0) -> None:
    """Wait until nothing is available or locked."""
    shell.ok("queue", "wait", queue, "--empty", "--within", str(PATIENCE))
    assert shell.ok("queue", "show", queue, "-o", "json").json["dead"] == dead


def worker(shell: Shell, script: str, *options: str) -> subprocess.Popen[bytes]:
    return shell.popen("work", "jobs", *options, "--", "sh", "-c", script, stdin=subprocess.DEVNULL)


def stopped(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> tuple[int, bytes, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err.decode()


def appeared(path: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.01)


# Verifies: API-0132
def test_the_command_gets_the_message_and_0_acks(shell: Shell, tmp_path: Path) -> None:
    payload = b"two\nlines\x00 \xc3\xa9, no end"
    (id,) = shell.ok("publish", "jobs", "-p", "7", stdin=payload).lines
    script = f'cat > {tmp_path}/got; echo "$QRUSTY_MESSAGE_ID $QRUSTY_QUEUE $QRUSTY_PRIORITY $QRUSTY_CREATED_AT"'
    with worker(shell, script) as process:
        settled(shell, "jobs")
        status, out, err = stopped(process)
    assert (tmp_path / "got").read_bytes() == payload
    assert out.decode().startswith(f"{id} jobs 7 20")
    assert (status, err) == (0, f"1 command ended with 0, 0 failed ({shell.url})\n")


# Verifies: API-0132
def test_another_end_nacks_with_what_was_said_last(shell: Shell) -> None:
    shell.ok("publish", "jobs", "p", "--max-retries", "1")
    shell.ok("publish", "jobs", "q", "--max-retries", "1")
    with worker(
        shell, 'read x; [ "$x" = q ] && kill -9 $$; echo first >&2; echo "no such address" >&2; exit 3'
    ) as process:
        settled(shell, "jobs", dead=2)
        status, _, err = stopped(process)
    errors = sorted(each["error"] for each in shell.ok("peek", "jobs", "--state", "dead").rows)
    assert errors == ["CommandFailed: ended by SIGKILL", "CommandFailed: exit status 3: no such address"]
    assert (status, "0 commands ended with 0, 2 failed" in err) == (0, True)
    assert "Traceback" not in err


# Verifies: API-0132
def test_the_lock_is_renewed_while_the_command_runs(shell: Shell, tmp_path: Path) -> None:
    """It takes longer than its lock, and is run once."""
    shell.ok("publish", "jobs", "p")
    with worker(shell, f"echo run >> {tmp_path}/runs; sleep 3.5", "--lock", "1") as process:
        settled(shell, "jobs")
        stopped(process)
    assert (tmp_path / "runs").read_text() == "run\n"


# Verifies: API-0132
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 0)])
def test_a_signal_waits_for_the_commands(shell: Shell, tmp_path: Path, number: signal.Signals, status: int) -> None:
    """Those that run come to their end, no other one is begun, and what was not begun goes back uncounted."""
    shell.ok("publish", "jobs", "--ndjson", stdin=b'"p"\n' * 5)
    script = f"touch {tmp_path}/began$QRUSTY_MESSAGE_ID; while ! [ -e {tmp_path}/go ]; do sleep 0.05; done"
    with worker(shell, script, "-j", "2") as process:
        end = time.monotonic() + PATIENCE
        while len(list(tmp_path.glob("began*"))) < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(number)
        assert process.stderr is not None
        (tmp_path / "go").touch()
        assert process.wait(PATIENCE) == status
        process.stderr.read()
    assert len(list(tmp_path.glob("began*"))) == 2
    rows = shell.ok("peek", "jobs").rows
    assert [each["deliveries"] for each in rows] == [0, 0, 0]


def test_nohup(shell: Shell, tmp_path: Path) -> None:
    """Where SIGHUP is ignored it stays so."""
    command = ("work", "jobs", "--", "sh", "-c", f"touch {tmp_path}/$(cat)")
    with shell.popen(*command, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as process:
        shell.ok("publish", "jobs", "first")
        appeared(tmp_path / "first")
        process.send_signal(signal.SIGHUP)
        shell.ok("publish", "jobs", "second")
        settled(shell, "jobs")
        assert (tmp_path / "second").exists()
        assert stopped(process)[0] == 0


# Verifies: API-0132
def test_nobody_reads_stderr(shell: Shell, tmp_path: Path) -> None:
    """The pipe is full: the lock is renewed all the same, the message is run once, and the worker ends when asked."""
    shell.ok("publish", "jobs", "p")
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    script = f"echo run >> {tmp_path}/runs; head -c 1000000 /dev/zero >&2; sleep 2.5"
    try:
        with shell.popen("work", "jobs", "--lock", "1", "--", "sh", "-c", script, stderr=fifo) as process:
            settled(shell, "jobs")
            process.terminate()
            assert process.wait(PATIENCE) == 0
    finally:
        os.close(fifo)
    assert (tmp_path / "runs").read_text() == "run\n"


def test_a_slow_reader_of_stderr(shell: Shell, tmp_path: Path) -> None:
    """What had no room is left out and counted, and the end is there."""
    shell.ok("publish", "jobs", "p")
    with worker(shell, f"head -c 3000000 /dev/zero >&2; touch {tmp_path}/said") as process:
        appeared(tmp_path / "said")
        settled(shell, "jobs")
        _, _, err = stopped(process)
    numbers = re.findall(r"\n\[left out, as nobody read stderr: ([0-9]+) bytes?\]\n", err)
    assert numbers
    assert sum(map(int, numbers)) + err.count("\0") == 3_000_000
    assert err.endswith(f"1 command ended with 0, 0 failed ({shell.url})\n")


def test_a_reader_of_stderr_that_goes(shell: Shell, tmp_path: Path) -> None:
    """The work goes on."""
    with worker(shell, f"echo said >&2; touch {tmp_path}/$(cat)") as process:
        assert process.stderr is not None
        shell.ok("publish", "jobs", "first")
        process.stderr.readline()
        process.stderr.close()
        for each in ("second", "third"):
            shell.ok("publish", "jobs", each)
            appeared(tmp_path / each)
        settled(shell, "jobs")
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_what_outlasts_the_grace_is_ended_with_all_it_started(shell: Shell, tmp_path: Path) -> None:
    shell.ok("publish", "jobs", "p")
    script = f"sleep 1000 & echo $! > {tmp_path}/child.tmp; mv {tmp_path}/child.tmp {tmp_path}/child; wait"
    with worker(shell, script, "--grace", "0.1") as process:
        appeared(tmp_path / "child")
        status, _, err = stopped(process)
    assert (status, "handlers were cancelled" in err) == (0, True)
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + PATIENCE
    while _runs(child):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert [each["deliveries"] for each in shell.ok("peek", "jobs").rows] == [0]


async def test_what_a_command_started_is_killed_if_it_outlives_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command ends on SIGTERM, and its child does not."""
    monkeypatch.setattr(working, "KILL_SECONDS", 0.2)
    script = (
        f"(trap '' TERM; echo > {tmp_path}/ready; exec sleep 1000) & "
        f"echo $! > {tmp_path}/child.tmp; mv {tmp_path}/child.tmp {tmp_path}/child; wait"
    )
    made = {"ready", "child"}
    message = Message("jobs", "id", "p", 0, datetime.now(UTC))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(working.run_for, ["sh", "-c", script], message)
        with trio.fail_after(PATIENCE):
            while set(os.listdir(tmp_path)) != made:  # noqa: ASYNC110  # a process makes them
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    child = int((tmp_path / "child").read_text())
    with trio.fail_after(PATIENCE):
        while _runs(child):  # noqa: ASYNC110  # no child of ours
            await trio.sleep(0.01)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_concurrency(shell: Shell, tmp_path: Path) -> None:
    """Four commands that wait for each other: fewer at a time would never end."""
    shell.ok("publish", "jobs", "--ndjson", stdin=b'"p"\n' * 4)
    directory = shlex.quote(str(tmp_path))
    script = f"mkdir {directory}/$$; while [ $(ls -d {directory}/[0-9]* | wc -l) -lt 4 ]; do sleep 0.05; done"
    with worker(shell, script, "--concurrency", "4") as process:
        settled(shell, "jobs")
        stopped(process)


def test_a_command_that_reads_nothing_and_leaves_a_child(shell: Shell, tmp_path: Path) -> None:
    """Neither a payload that nobody takes nor a pipe that a child holds open keeps the worker."""
    shell.ok("publish", "jobs", stdin=b"x" * 1_000_000)
    with worker(shell, f"exec 0<&-; sleep 1000 > /dev/null & echo $! > {tmp_path}/child") as process:
        settled(shell, "jobs")
        status, _, _ = stopped(process)
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    assert status == 0


def test_what_can_not_work(shell: Shell) -> None:
    done = shell.run("work", "jobs", "--", "no-such-command-anywhere")
    assert (done.status, done.err.count("\n")) == (2, 1)
    gone = shell.run("work", "nothing", "--", "true")
    assert (gone.status, "does not exist" in gone.err) == (4, True)
    off = shell.run("work", "jobs", "--reconnect", "0.1", "--url", "http://127.0.0.1:1", "--", "true")
    assert (off.status, off.err.count("\n")) == (5, 1)
    assert shell.run("work", "jobs").status == 2
