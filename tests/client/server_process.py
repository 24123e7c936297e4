"""The real server as a child process, for tests that run an event loop of their own, or none."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.server.running import LISTENING, ROOT, START_SECONDS, child_environment

BACKENDS = ("trio", "asyncio")
on_both_loops = pytest.mark.parametrize("backend", BACKENDS)


class ServerProcess:
    """A server that can be killed and started again, on the same port, with the same store."""

    def __init__(self, path: Path, **variables: str) -> None:
        self._path = path
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def websocket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def start(self) -> None:
        environment = child_environment(self._path / "data", BIND_ADDR=f"127.0.0.1:{self.port}", **self._variables)
        log = self._path / "log"
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "qrusty_trio"], cwd=ROOT, env=environment, stderr=stderr
            )
        deadline = time.monotonic() + START_SECONDS
        while (found := LISTENING.search(log.read_text(encoding="utf-8", errors="replace"))) is None:
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.port = int(found[1])

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_SECONDS)
            self._process = None


@contextmanager
def server_process(path: Path, **variables: str) -> Iterator[ServerProcess]:
    server = ServerProcess(path, **variables)
    try:
        server.start()
        yield server
    finally:
        server.stop(signal.SIGKILL)
