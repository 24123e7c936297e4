"""A keep-alive HTTP connection for the tools that measure single requests.

Rule: sending and receiving are apart, so that a tool can put its clock where it wants.
"""

from __future__ import annotations

import json
import socket
from typing import Any


class Connection:
    """One connection to a server on the loopback; requests one after the other."""

    def __init__(self, port: int) -> None:
        self._host = f"127.0.0.1:{port}"
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb")

    def send(self, method: str, path: str, body: object = None) -> None:
        """Send a request; `body` as JSON."""
        data = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        self._socket.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)

    def receive(self) -> Any:
        """The JSON of the answer, None for an empty body.

        Raises RuntimeError for a status other than 200, and 409: the queue that was to be made is there.
        """
        status = int(self._stream.readline().split(b" ")[1])
        length = 0
        while line := self._stream.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        body = self._stream.read(length)
        if status not in (200, 409):
            raise RuntimeError(f"status {status}: {body!r}")
        return json.loads(body) if body.strip().startswith((b"{", b"[", b"n")) else None

    def ask(self, method: str, path: str, body: object = None) -> Any:
        self.send(method, path, body)
        return self.receive()

    def close(self) -> None:
        self._stream.close()
        self._socket.close()
