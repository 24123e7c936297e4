"""Commands as processes: signals, pipes that break, prompts on a terminal, completion."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

from tests.cli.shell import ROOT, Shell

PATIENCE = 60


# Verifies: API-0121
def test_interrupted(shell: Shell) -> None:
    """Ctrl-C ends a consume that waits, with 130 and without a word. Its message goes to the next."""
    with shell.popen("consume", "jobs", "--wait", "60", "--verbose") as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (130, b"", b"")


# Verifies: API-0121
def test_a_reader_that_ends_first(shell: Shell) -> None:
    shell.ok("publish", "jobs", "--ndjson", stdin=b'"%b"\n' % (b"x" * 4000) * 200)
    with shell.popen("peek", "jobs", "-n", "200", stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(PATIENCE) == 141
    assert said == b""


# Verifies: API-0126
def test_a_terminal_that_goes(shell: Shell) -> None:
    """What --ack was to settle is still there if the table did not get out as a whole."""
    shell.ok("publish", "jobs", "--ndjson", stdin=b'"p"\n' * 1000)
    ours, theirs = pty.openpty()
    try:
        with shell.popen("consume", "jobs", "-n", "1000", "--ack", stdin=subprocess.DEVNULL, stdout=theirs) as process:
            assert os.read(ours, 1)
            process.kill()
    finally:
        os.close(ours)
        os.close(theirs)
    counts = shell.ok("queue", "show", "jobs", "-o", "json").json
    assert counts["available"] + counts["locked"] == 1000


# Verifies: API-0121
def test_a_reader_that_ends_first_is_no_fault_of_the_file(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b'"p"\n' * 4000)
    with shell.popen("publish", "jobs", "--ndjson", "-f", str(file), stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(PATIENCE) == 141
    assert said == b""


# Verifies: API-0128
def test_a_person_is_asked_on_a_terminal(shell: Shell) -> None:
    shell.ok("publish", "jobs", "p")
    for typed, status in ((b"no\n", 1), (b"jobs\n", 0)):
        ours, theirs = pty.openpty()
        try:
            with shell.popen("queue", "purge", "jobs", stdin=theirs, stdout=subprocess.DEVNULL) as process:
                assert process.stderr is not None
                said = b""
                while not said.endswith(b"Type jobs to go on: "):
                    said += os.read(process.stderr.fileno(), 1)
                os.write(ours, typed)
                assert process.wait(PATIENCE) == status
        finally:
            os.close(ours)
            os.close(theirs)


# Verifies: API-0127
def test_names_of_queues_are_completed(shell: Shell) -> None:
    for name in ("mail", "maps", "jobs"):
        shell.ok("queue", "create", name)
    shell.ok("context", "add", "mine", shell.url)

    def completed(line: str, **variables: str) -> list[str]:
        words = {"_QRUSTY_TRIO_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        done = subprocess.run(
            [sys.executable, "-m", "qrusty_trio"],
            env=shell.environment(**words, **variables),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.stderr == ""
        return done.stdout.split()

    assert completed("qrusty-trio publish ma", QRUSTY_URL=shell.url) == ["mail", "maps"]
    assert completed("qrusty-trio queue show --context mine j") == ["jobs"]
    assert completed("qrusty-trio config --context m") == ["mine"]
    assert completed("qrusty-trio publish ma", QRUSTY_URL="http://127.0.0.1:1") == []


def test_a_module_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "qrusty-trio", "config", "-o", "json"],
        env=Shell("", tmp_path).environment(),
        capture_output=True,
        check=True,
    )
    assert b'"source":"default"' in done.stdout
