"""The real server in a process of its own, for tests that drive a browser and so can't be asynchronous.

Rule: a restarted server has the port and the store of the one before. What is started here has ended with its `with`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.server.running import ROOT, child_environment

START_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Served:
    """A server that can be killed and started again under a page."""

    def __init__(self, path: Path, **variables: str) -> None:
        self.port = free_port()
        self._environment = child_environment(path, BIND_ADDR=f"127.0.0.1:{self.port}", **variables)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def processor_seconds(self) -> float:
        """The processor time that the server has used since it was started."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def start(self) -> None:
        """Start it, and wait until it takes changes."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "qrusty_trio"],
            env=self._environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        give_up = time.monotonic() + START_SECONDS
        while True:
            assert self._process.poll() is None, "the server did not start"
            assert time.monotonic() < give_up, "the server did not become ready"
            try:
                if self.ask("GET", "/health")["status"] == "ok":
                    return
            except OSError:
                pass
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9, if it runs."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Let it hang: connections stand, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(START_SECONDS)

    def ask(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """One request; the response's JSON, or None if it is empty. Raises OSError."""
        target = f"{self.url}{path}" + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(target, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            text = response.read()
        return json.loads(text) if text else None

    @staticmethod
    def in_shell(command: str) -> str:
        """What a command prints."""
        return subprocess.run(["sh", "-c", f"{command} --silent"], capture_output=True, text=True, check=True).stdout

    def create(self, name: str, ordering: str = "MaxFirst", **config: Any) -> None:
        self.ask("POST", "/create-queue", {"name": name, "config": {"ordering": ordering, **config}})

    def publish(self, queue: str, payload: str = "p", priority: int | str = 0, **more: Any) -> str:
        """The id of the message."""
        body = {"queue": queue, "payload": payload, "priority": priority, **more}
        message_id: str = self.ask("POST", "/publish", body)["id"]
        return message_id

    def bury(self, queue: str, payload: str = "p", error: str = "it failed") -> str:
        """Publish a message and make it a dead letter. The id."""
        message_id = self.publish(queue, payload, 2**64 - 1 if self.kind(queue) == "Numeric" else "~", max_retries=1)
        message = self.ask("POST", "/consume", {"consumer_id": "worker"}, queue=queue)
        self.ask("POST", "/nack", {"consumer_id": "worker", "error": error}, queue=queue, id=message["id"])
        assert message["id"] == message_id, "another message was before it"
        return message_id

    def kind(self, queue: str) -> str:
        kind: str = self.ask("GET", "/queue-stats", queue=queue)["config"]["priority_kind"]
        return kind


PAGES: list[Callable[[], None]] = []
"""How to close the pages that are open."""


def close_pages() -> None:
    """Close all pages, before their server goes: they would complain of that."""
    while PAGES:
        PAGES.pop()()


@contextmanager
def served(path: Path, **variables: str) -> Iterator[Served]:
    server = Served(path, **variables)
    server.start()
    try:
        yield server
    finally:
        close_pages()
        server.kill()
