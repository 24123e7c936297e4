"""A shell for tests: runs commands in this process, as `qrusty-trio` would, against a real server.

Rule: nothing of the machine gets in: no contexts of whoever runs the tests, no address from the environment.
"""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec

from qrusty_trio.cli import main
from tests.server.running import child_environment

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60


class Done(NamedTuple):
    """How a command ended."""

    status: int
    data: bytes
    err: str

    @property
    def out(self) -> str:
        return self.data.decode()

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.data)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def rows(self) -> list[Any]:
        """Of JSON lines."""
        return [msgspec.json.decode(line) for line in self.lines]


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Shell:
    """Runs commands against `url`, with contexts in `home`."""

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self.home = home

    def environment(self, **variables: str) -> dict[str, str]:
        return {"HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home), "PATH": os.environ["PATH"]} | variables

    def run(
        self, *words: str, stdin: bytes = b"", typed: str | None = None, terminal: bool = False, **variables: str
    ) -> Done:
        """Run a command. `typed`: a person is at stdin and types this. `terminal`: stdout and stderr are one."""
        kind = Terminal if terminal else io.TextIOWrapper
        out, err = io.BytesIO(), io.BytesIO()
        source = Terminal(io.BytesIO(typed.encode())) if typed is not None else io.TextIOWrapper(io.BytesIO(stdin))
        stdout, stderr = kind(out, encoding="utf-8"), kind(err, encoding="utf-8")
        given = {"QRUSTY_URL": self.url} if self.url else {}
        with (
            patch.object(sys, "stdin", source),
            patch.object(sys, "stdout", stdout),
            patch.object(sys, "stderr", stderr),
            patch.dict(os.environ, self.environment(**given | variables), clear=True),
        ):
            status = main(words)
            stdout.flush()
            stderr.flush()
            return Done(status, out.getvalue(), err.getvalue().decode())

    def ok(self, *words: str, **options: Any) -> Done:
        """Run a command that has to succeed."""
        done = self.run(*words, **options)
        assert done.status == 0, (words, done)
        return done

    def popen(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command in a process of its own, with pipes."""
        kept = {name: os.environ[name] for name in ("COVERAGE_PROCESS_CONFIG",) if name in os.environ}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-m", "qrusty_trio", *words]
        environment = self.environment(QRUSTY_URL=self.url) | kept
        settings: dict[str, Any] = {**pipes, "preexec_fn": _hear_interrupts, **options}
        return subprocess.Popen(command, env=environment, cwd=ROOT, **settings)


def _hear_interrupts() -> None:
    """Undo what a shell or nohup does to what it starts: to ignore Ctrl-C, or the end of the terminal."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def serving(directory: Path, **variables: str) -> Iterator[str]:
    """A server in a process of its own. Its address."""
    log = directory / "server.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "qrusty_trio"],
            env=child_environment(directory / "data", **variables),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        yield f"http://127.0.0.1:{_port(log, process)}"
    finally:
        process.terminate()
        assert process.wait(START_SECONDS) == 0, log.read_text()


def _port(log: Path, process: subprocess.Popen[bytes]) -> int:
    """Once the server takes changes."""
    while True:
        text = log.read_text()
        found = re.search(r"listening on 127\.0\.0\.1:(\d+)", text)
        if found and "ready after" in text:
            return int(found[1])
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(text)
