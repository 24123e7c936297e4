"""The server as a process: how the server's end becomes an exit status, and that a signal ends it cleanly."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from qrusty_trio.cli import serving
from qrusty_trio.config import Settings
from qrusty_trio.errors import StartupRefused
from qrusty_trio.logs import LogRing
from qrusty_trio.server import supervisor
from qrusty_trio.server.activation import PassedSocket
from qrusty_trio.server.notify import Notifier

ROOT = Path(__file__).parents[2]


@contextmanager
def command(data: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A running `python -m qrusty_trio`, or Python with `words`, on a free port, ended at the end."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "COVERAGE_PROCESS_CONFIG") if name in os.environ}
    variables = {"DATA_PATH": str(data), "BIND_ADDR": "127.0.0.1:0"} | environment
    with subprocess.Popen(
        [sys.executable, *(words or ("-m", "qrusty_trio"))],
        env=kept | variables,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def listening(process: subprocess.Popen[str]) -> int:
    """The port, once the server says that it listens."""
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.search(r"listening on \S+:(\d+)$", line):
            return int(match[1])
    raise AssertionError("the server ended before it listened")


# Verifies: SYS-0015
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_with_0(tmp_path: Path, number: signal.Signals) -> None:
    with command(tmp_path / "data") as process:
        port = listening(process)
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as response:
            assert response.status == 200
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (0, "")
    assert "Traceback" not in stderr


# Verifies: SYS-0015, PER-0015
def test_a_data_directory_in_use_ends_it_with_78_and_one_line(tmp_path: Path) -> None:
    with command(tmp_path / "data") as first:
        listening(first)
        with command(tmp_path / "data") as second:
            stdout, stderr = second.communicate(timeout=60)
    assert (second.returncode, stdout) == (78, "")
    assert stderr == f"The data directory {tmp_path / 'data'} is in use by another server.\n"


def test_a_port_in_use_ends_it_with_78_and_one_line(tmp_path: Path) -> None:
    with command(tmp_path / "first") as first:
        address = f"127.0.0.1:{listening(first)}"
        with command(tmp_path / "second", BIND_ADDR=address) as second:
            _, stderr = second.communicate(timeout=60)
    assert second.returncode == 78
    assert stderr.startswith(f"BIND_ADDR='{address}'")
    assert stderr.count("\n") == 1


# Verifies: API-0063
def test_a_slip_of_the_pen_is_logged(tmp_path: Path) -> None:
    with command(tmp_path / "data", STORAGE_MODE="memory", QRUSTY_FSINC="never") as process:
        assert process.stderr is not None
        assert (
            "WARN  cli.serving: QRUSTY_FSINC is no setting of this server; is QRUSTY_FSYNC meant?"
            in process.stderr.readline()
        )


# Verifies: API-0120
@pytest.mark.parametrize("words", [[], ["serve"]])
def test_a_server_holds_nothing_of_the_commands(tmp_path: Path, words: list[str]) -> None:
    """What it has loaded by its end is looked at: neither typer nor rich, which would cost memory and time."""
    program = (
        "import sys\n"
        "from qrusty_trio.cli import main\n"
        "assert main() == 0\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'typer', 'rich', 'shellingham', 'trio'}))\n"
    )
    with command(tmp_path / "data", "-c", program, *words) as process:
        listening(process)
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (0, "['trio']\n")


@pytest.mark.parametrize("words", [["--version"], ["serve", "--help"], ["--help"], ["-h"]])
def test_what_is_asked_without_serving(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qrusty_trio", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (done.stderr, "qrusty-trio" in done.stdout) == ("", True)


def ended(monkeypatch: pytest.MonkeyPatch, error: Exception) -> int:
    async def serve(settings: Settings, ring: LogRing, *, notifier: Notifier, passed: list[PassedSocket]) -> None:
        raise error

    monkeypatch.setattr(supervisor, "serve", serve)
    return serving._run(Settings(), LogRing())


# Verifies: SYS-0013
@pytest.mark.parametrize(
    "crash",
    [
        RuntimeError("told you so"),
        ExceptionGroup("nursery", [RuntimeError("told you so")]),
        ExceptionGroup("nursery", [StartupRefused("no"), RuntimeError("told you so")]),
    ],
)
def test_a_crash_is_logged_with_its_traceback_and_gives_1(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, crash: Exception
) -> None:
    with caplog.at_level(logging.ERROR):
        assert ended(monkeypatch, crash) == 1
    assert "The server crashed." in caplog.text
    assert "RuntimeError: told you so" in caplog.text


@pytest.mark.parametrize(
    "refusal",
    [StartupRefused("no"), ExceptionGroup("outer", [ExceptionGroup("inner", [StartupRefused("no")])])],
)
def test_a_refusal_is_one_however_it_is_wrapped(monkeypatch: pytest.MonkeyPatch, refusal: Exception) -> None:
    with pytest.raises(StartupRefused, match="no"):
        ended(monkeypatch, refusal)
