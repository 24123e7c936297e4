"""One WebSocket connection of a client: requests out, responses and deliveries in.

Rule: one task reads and one writes. A request is an entry in the outgoing queue and one in the table of pending
requests. Its caller never touches the socket, so cancelling it never leaves half a frame behind. A connection ends
once, for one reason, and that is raised in every pending request.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import anyio
import msgspec

from qrusty_trio.client.encoding import decoded, json_of
from qrusty_trio.client.errors import (
    ClientError,
    ClosedByServer,
    ConnectionLost,
    FrameTooLarge,
    NotSent,
    ProtocolError,
    TimedOut,
    again,
    request_error,
)
from qrusty_trio.client.results import Rejected
from qrusty_trio.client.trace_context import traceparent
from qrusty_trio.client.transport import Closed, WebSocket

MAX_IN_FLIGHT = 1024
"""Most requests of a connection that wait for a response. Further ones wait for a slot."""
MAX_FRAME_BYTES = 2 * 1024 * 1024
"""A server closes the connection on a larger frame, so larger ones are refused here."""
PING_SECONDS = 30.0
"""Time between two pings of ours."""
PONG_SECONDS = 10.0
"""How long the server may take to answer a ping before the connection counts as lost."""
RESPONSE_SECONDS = 30.0
"""How long a response may take."""
HOPELESS = frozenset({1002, 1003, 1007, 1008, 1009, 1010})
"""Close codes for a violation by one side: a new connection would end the same way."""
SEND_BYTES = 64 * 1024
"""Requests are sent together up to about this much."""


class Frame(msgspec.Struct):
    """Any frame from a server except log records. Which fields are meaningful depends on the type."""

    type: str = ""
    req_id: str | None = None
    id: str = ""
    code: str = ""
    message: str = ""
    queue: str = ""
    payload: str = ""
    priority: int | str = 0
    created_at: datetime | None = None
    messages: list[Frame] = []
    """The deliveries of a frame with several; each of them lacks the type and the queue."""
    ids: list[str] = []
    rejected: list[Rejected] = []


class _Request:
    __slots__ = ("deadline", "done", "response")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.done = anyio.Event()
        self.response: Frame | ClientError | None = None


_FRAMES = msgspec.json.Decoder(Frame)


class Connection:
    """`run` does the work. Any task may call the other methods meanwhile.

    The reading task calls `on_push` for each delivery and each warning. It may raise ProtocolError. A connection on
    which a response does not come within `timeout_seconds` is given up.

    Requirements: WS-0034, WS-0049
    """

    def __init__(self, websocket: WebSocket, on_push: Callable[[Frame], None], timeout_seconds: float) -> None:
        self._websocket = websocket
        self._on_push = on_push
        self._timeout_seconds = timeout_seconds
        self._numbers = itertools.count(1)
        self._slots = anyio.Semaphore(MAX_IN_FLIGHT)
        self._pending: dict[str, _Request] = {}
        """By req_id, in the order in which they were made. Each entry holds one slot."""
        self._unsent: OrderedDict[str, bytes] = OrderedDict()
        """Requests and posts not sent yet, by number."""
        self._wake = anyio.Event()
        self._scope = anyio.CancelScope()
        self.ended: ClientError | None = None
        """Why the connection ended: ConnectionLost, or an error that makes a new one hopeless. None while open."""

    async def request(self, on_abandoned: Callable[[], None] | None = None, **fields: Any) -> Frame:
        """Send a request and wait for its response.

        Raises RequestError (refused), InvalidRequest also for what can't be sent, such as bytes, FrameTooLarge,
        NotSent, TimedOut, ConnectionLost or whatever else ended the connection. If the caller is cancelled before the
        request was sent, it is not sent. If it is cancelled after that, `on_abandoned` is called: the request may take
        effect, and nobody waits for the response.
        """
        number = str(next(self._numbers))
        fields["req_id"] = number
        if (trace := traceparent()) is not None:
            fields["traceparent"] = trace
        text = _text(fields)
        await self._slots.acquire()
        if self.ended is not None:
            self._slots.release()
            raise NotSent("the connection ended before the request was sent")
        request = self._pending[number] = _Request(anyio.current_time() + self._timeout_seconds)
        self._send(number, text)
        try:
            await request.done.wait()
        except anyio.get_cancelled_exc_class():
            if self._unsent.pop(number, None) is not None:
                self._resolve(number, None)
            elif on_abandoned is not None:
                on_abandoned()
            raise
        response = request.response
        assert response is not None
        if isinstance(response, ClientError):
            raise response
        if response.type == "error":
            raise request_error(response.code, response.message)
        return response

    def post(self, **fields: Any) -> None:
        """Send a frame without waiting for a response. Nothing limits these, so callers must send few."""
        if self.ended is None:
            self._send(str(next(self._numbers)), _text(fields))

    async def run(self) -> ClientError:
        """Serve the connection to its end. Returns why it ended."""
        with self._scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._guard, self._read)
                tasks.start_soon(self._guard, self._write)
                tasks.start_soon(self._watch)
                tasks.start_soon(self._expire)
        assert self.ended is not None
        return self.ended

    def end(self, reason: ClientError) -> None:
        """Stop, and fail all pending requests. The first reason stands."""
        if self.ended is not None:
            return
        self.ended = reason
        self._scope.cancel()
        self._websocket.hurry()
        for number in list(self._pending):
            unsent = number in self._unsent
            error = NotSent("the connection ended before the request was sent") if unsent else again(reason)
            self._resolve(number, error)
        self._unsent.clear()

    def _send(self, number: str, text: bytes) -> None:
        self._unsent[number] = text
        self._wake.set()

    def _resolve(self, number: str, response: Frame | ClientError | None) -> None:
        request = self._pending.pop(number)
        self._slots.release()
        request.response = response
        request.done.set()

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except Closed as closed:
            if closed.code in HOPELESS:
                self.end(ClosedByServer(closed.code, closed.reason))
            else:
                self.end(ConnectionLost(f"the connection ended with {closed.code} {closed.reason}".rstrip()))
        except ProtocolError as error:
            self.end(error)

    async def _read(self) -> None:
        while True:
            for message in await self._websocket.receive():
                self._take(decoded(message, _FRAMES))
            if self._websocket.owes:
                self._wake.set()

    def _take(self, frame: Frame) -> None:
        if frame.type in ("deliver", "deadline-soon"):
            self._on_push(frame)
        elif frame.type == "deliver-batch":
            for each in frame.messages:
                each.queue = frame.queue
                self._on_push(each)
        elif frame.type in ("ok", "error"):
            if frame.req_id in self._pending:
                self._resolve(frame.req_id, frame)
            elif frame.req_id is not None:
                raise ProtocolError(f"a response to a request that was not made: {frame.req_id[:40]!r}")
            elif frame.type == "error":
                raise ProtocolError(f"the server refused a grant of credit: {frame.message} ({frame.code})")
        else:
            raise ProtocolError(f"an unknown frame type: {frame.type[:40]!r}")

    async def _write(self) -> None:
        websocket = self._websocket
        while True:
            while self._unsent or websocket.owes:
                size = 0
                while self._unsent and size < SEND_BYTES:
                    if not websocket.is_open:
                        # The reader has not said why yet.
                        return self.end(ConnectionLost("the connection is closing"))
                    _, text = self._unsent.popitem(last=False)
                    websocket.put(text)
                    size += len(text)
                await websocket.flush()
            self._wake = anyio.Event()
            await self._wake.wait()

    async def _watch(self) -> None:
        """Ping the server, to detect one that vanished without closing the connection."""
        while True:
            await anyio.sleep(PING_SECONDS)
            with anyio.move_on_after(PONG_SECONDS) as waiting:
                ponged = self._websocket.ping()
                self._wake.set()
                await ponged.wait()
            if waiting.cancelled_caught:
                self.end(ConnectionLost("the server answers no ping"))

    async def _expire(self) -> None:
        """End the connection when a response does not come in time."""
        while True:
            number, oldest = next(iter(self._pending.items()), (None, None))
            if number is None or oldest is None:
                await anyio.sleep(self._timeout_seconds)
            elif oldest.deadline > anyio.current_time():
                await anyio.sleep_until(oldest.deadline)
            else:
                if number not in self._unsent:
                    self._resolve(number, TimedOut(f"no response within {self._timeout_seconds:g} s"))
                return self.end(ConnectionLost("a response did not come in time"))


def _text(fields: dict[str, Any]) -> bytes:
    data = json_of(fields)
    if len(data) > MAX_FRAME_BYTES:
        raise FrameTooLarge(f"the request has {len(data)} bytes; a server takes {MAX_FRAME_BYTES}")
    return data
