"""One HTTP/1.1 connection of a client, without I/O: requests to bytes, bytes to responses.

Rule: h11 knows the protocol. Here is only what this client makes of it: one request at a time, with its body whole, and
a response of bounded size.
"""

from __future__ import annotations

import h11

from qrusty_trio.client.errors import ConnectionLost, ProtocolError
from qrusty_trio.client.operations import Request, Response
from qrusty_trio.client.trace_context import traceparent

MAX_HEADER_BYTES = 64 * 1024
MAX_RESPONSE_BYTES = 64 * 1024 * 1024
"""A larger response is a ProtocolError. The largest of the server, a payload of 2 MiB of escapes, has 12 MiB."""


class Exchange:
    """The state of a connection. Call `send`, then `receive` until it returns the response."""

    def __init__(self, host: str, authorization: str = "") -> None:
        """`host`, `authorization`: what goes into the headers Host and Authorization; '' for none."""
        self._own = [("Host", host)] + ([("Authorization", authorization)] if authorization else [])
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)
        self._status = 0
        self._parts: list[bytes] = []
        self._size = 0

    def send(self, request: Request) -> bytes:
        """The bytes of a request."""
        headers = [*self._own]
        if (trace := traceparent()) is not None:
            headers.append(("traceparent", trace))
        body = request.body
        if body is not None:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        elif request.method != "GET":
            headers.append(("Content-Length", "0"))
        self._status, self._parts, self._size = 0, [], 0
        connection = self._connection
        begin = connection.send(h11.Request(method=request.method, target=request.target, headers=headers))
        whole = connection.send(h11.Data(data=body)) if body else b""
        end = connection.send(h11.EndOfMessage())
        return (begin or b"") + (whole or b"") + (end or b"")

    def receive(self, data: bytes) -> Response | None:
        """Take bytes that came, b"" at the end of the stream. Returns the response once it is whole.

        Raises ProtocolError, and ConnectionLost if the stream ended too early.
        """
        try:
            self._connection.receive_data(data)
            while True:
                event = self._connection.next_event()
                if isinstance(event, h11.Response):
                    self._status = event.status_code
                elif isinstance(event, h11.Data):
                    self._add(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    return Response(self._status, b"".join(self._parts))
                elif not isinstance(event, h11.InformationalResponse):
                    break
        except h11.RemoteProtocolError as error:
            if not data:
                raise ConnectionLost("the connection ended before the response was there") from error
            raise ProtocolError(f"a response that is not HTTP: {error}") from error
        if isinstance(event, h11.ConnectionClosed) or not data:
            raise ConnectionLost("the connection ended before the response was there")
        return None

    def _add(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_RESPONSE_BYTES:
            raise ProtocolError(f"a response of more than {MAX_RESPONSE_BYTES} bytes")
        self._parts.append(data)

    def next(self) -> bool:
        """After a response: whether the connection takes another request."""
        connection = self._connection
        if connection.our_state is h11.DONE and connection.their_state is h11.DONE and not connection.trailing_data[0]:
            connection.start_next_cycle()
            return True
        return False
