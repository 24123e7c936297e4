"""Hypercorn's HTTP/2, changed so that a fault in one request does not end the connection.

Rule: Hypercorn sees only requests whose method, path and host HTTP/1.1 would accept here. What it can't handle (data
for a request already answered, priority trees) does not reach it.

This subclasses a class that is not public in Hypercorn; tests/http/fallback/test_http2.py fails when that changes.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import hypercorn.protocol
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, PriorityUpdated, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import FrameTooLargeError, ProtocolError
from h2.frame_buffer import FrameBuffer
from h2.stream import StreamState
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream

from qrusty_trio.api.operations import error_reply
from qrusty_trio.errors import QrustyError
from qrusty_trio.http.fallback.guard import guard_of
from qrusty_trio.http.header_block import check_host_header
from qrusty_trio.http.request_line import read_line

_LENGTH_BYTES = 3
"""A frame begins with its length (RFC 9113, 4.1)."""


class Frames(FrameBuffer):
    """Refuses a frame that is too long by its header.

    h2 waits for the whole payload first. So each connection could make the server keep 16 MiB.

    Requirements: API-0198
    """

    def __next__(self) -> Any:
        if len(self._data) >= _LENGTH_BYTES:
            length = int.from_bytes(self._data[:_LENGTH_BYTES], "big")
            if length > self.max_frame_size:
                raise FrameTooLargeError(f"length {length}, over {self.max_frame_size}")
        return super().__next__()


class Http2(H2Protocol):
    """One HTTP/2 connection.

    Requirements: API-0046
    """

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.connection.incoming_buffer = Frames(server=True)

    async def _handle_events(self, events: list[Event]) -> None:
        """As in Hypercorn, but each request waits for its turn.

        Requirements: API-0202
        """
        for event in events:
            if isinstance(event, RequestReceived):
                # A request takes milliseconds here, and a few bytes.
                await guard_of(self.connection_state).turns.next()
            if isinstance(event, RequestReceived) and (refusal := refusal_of(event)) is not None:
                with suppress(ProtocolError):  # the peer has reset the stream, or has left
                    self._refuse(event.stream_id, refusal)
            elif isinstance(event, DataReceived) and event.stream_id not in self.streams:
                with suppress(ProtocolError):  # the peer has ended the connection in the same breath
                    self._let_go(event)
            elif isinstance(event, StreamEnded) and isinstance(self.streams.get(event.stream_id), WSStream):
                await self._end_websocket(event.stream_id)
            else:
                if isinstance(event, StreamReset) and (unsent := self.stream_buffers.get(event.stream_id)) is not None:
                    # Without a window, the response would be kept as long as the connection.
                    await unsent.close()
                # The server stops, and the peer has reset a stream that it would refuse, or has ended the connection.
                with suppress(ProtocolError):
                    await super()._handle_events([event])
        await self._flush()

    async def _end_websocket(self, stream_id: int) -> None:
        """The peer has ended the stream of a WebSocket: to that, it is the end of the connection (RFC 8441, 5)."""
        if self.streams[stream_id].state is ASGIWebsocketState.HANDSHAKE:
            with suppress(ProtocolError):  # the peer has reset it as well
                self.connection.reset_stream(stream_id, ErrorCodes.CANCEL)
        await self.stream_send(StreamClosed(stream_id=stream_id))

    async def stream_send(self, event: StreamEvent) -> None:
        """As in Hypercorn, but the stream of a WebSocket ends with it, also if its peer has closed it.

        Otherwise it lasts as long as the connection, which looks as if it took nothing, or never falls idle.

        Requirements: API-0047
        """
        if isinstance(event, StreamClosed) and isinstance(self.streams.get(event.stream_id), WSStream):
            unsent = self.stream_buffers.get(event.stream_id)
            if unsent is not None:
                unsent.set_complete()
                self.priority.unblock(event.stream_id)
                await self.has_data.set()
        await super().stream_send(event)

    async def _priority_updated(self, event: PriorityUpdated) -> None:
        """Ignore priorities: RFC 9113 deprecates them, and a peer could make their tree as large as it likes."""

    def _refuse(self, stream_id: int, refusal: QrustyError) -> None:
        """Respond with `refusal`; without its body if the peer's window has no room for that."""
        reply = error_reply(refusal)
        fits = len(reply.body) <= min(
            self.connection.local_flow_control_window(stream_id), self.connection.max_outbound_frame_size
        )
        headers = [(b":status", b"%d" % reply.status), *self.config.response_headers("h2")]
        if fits:
            headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(reply.body))]
        self.connection.send_headers(stream_id, headers, end_stream=not fits)
        if fits:
            self.connection.send_data(stream_id, reply.body, end_stream=True)

    def _let_go(self, event: DataReceived) -> None:
        """Drop data of a request that was answered before it was complete, because it was too large, for example."""
        stream_id = event.stream_id
        self.connection.acknowledge_received_data(event.flow_controlled_length, stream_id)
        stream = self.connection.streams.get(stream_id)
        if stream is not None and stream.state_machine.state == StreamState.HALF_CLOSED_LOCAL:
            # The response is complete: ask for no more data (RFC 9113, 8.1).
            self.connection.reset_stream(stream_id, ErrorCodes.NO_ERROR)


def refusal_of(request: RequestReceived) -> QrustyError | None:
    """What is wrong with a request's method, path or host; None if nothing. h2 has checked the rest."""
    found = dict(request.headers)
    try:
        # Only a CONNECT lacks a path.
        read_line(b"%b %b HTTP/1.1" % (found.get(b":method", b""), found.get(b":path", b"")))
        check_host_header(found.get(b":authority", found.get(b"host", b"")))
    except QrustyError as refusal:
        return refusal
    return None


def install() -> None:
    """Make Hypercorn use this class for HTTP/2."""
    hypercorn.protocol.H2Protocol = Http2  # type: ignore[attr-defined]  # there is no setting for it
