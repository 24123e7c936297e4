"""HTTP/2 in Hypercorn, where what is wrong with one request is that request's business, not its connection's.

Rule: Hypercorn sees only requests whose method, path and host the other lanes would take. What it does not know how to
handle (data for a request that is answered already, trees of priorities) does not reach it.

A subclass of what is not Hypercorn's public interface; tests/http/test_http2.py fails when that moves.
"""

from __future__ import annotations

from contextlib import suppress

import hypercorn.protocol
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, PriorityUpdated, RequestReceived, StreamReset
from h2.exceptions import ProtocolError, StreamClosedError
from h2.stream import StreamState
from hypercorn.protocol.h2 import H2Protocol

from qrusty_trio.api.operations import error_reply
from qrusty_trio.errors import QrustyError
from qrusty_trio.http.head import check_host_header, read_line


class Http2(H2Protocol):
    """One connection."""

    async def _handle_events(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, RequestReceived) and (refusal := refusal_of(event)) is not None:
                with suppress(ProtocolError):  # the peer has taken it back, or has left
                    self._refuse(event.stream_id, refusal)
            elif isinstance(event, DataReceived) and event.stream_id not in self.streams:
                self._let_go(event)
            else:
                if isinstance(event, StreamReset) and (unsent := self.stream_buffers.get(event.stream_id)) is not None:
                    # Without a window it would be kept as long as the connection.
                    await unsent.close()
                with suppress(StreamClosedError):  # the peer has taken back what was to be refused, as the server stops
                    await super()._handle_events([event])
        await self._flush()

    async def _priority_updated(self, event: PriorityUpdated) -> None:
        """RFC 9113 has given priorities up. A peer could make their tree as large as it likes."""

    def _refuse(self, stream_id: int, refusal: QrustyError) -> None:
        """Answer with `refusal`, as far as the peer has room for it."""
        reply = error_reply(refusal)
        fits = len(reply.body) <= min(
            self.connection.local_flow_control_window(stream_id), self.connection.max_outbound_frame_size
        )
        head = [(b":status", b"%d" % reply.status), *self.config.response_headers("h2")]
        if fits:
            head += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(reply.body))]
        self.connection.send_headers(stream_id, head, end_stream=not fits)
        if fits:
            self.connection.send_data(stream_id, reply.body, end_stream=True)

    def _let_go(self, event: DataReceived) -> None:
        """Data of a request that was answered before it was whole: too large, say."""
        stream_id = event.stream_id
        self.connection.acknowledge_received_data(event.flow_controlled_length, stream_id)
        stream = self.connection.streams.get(stream_id)
        if stream is not None and stream.state_machine.state == StreamState.HALF_CLOSED_LOCAL:
            # The answer is out: no more is wanted (RFC 9113, 8.1).
            self.connection.reset_stream(stream_id, ErrorCodes.NO_ERROR)


def refusal_of(request: RequestReceived) -> QrustyError | None:
    """What is wrong with the head of a request; h2 has checked the rest."""
    found = dict(request.headers)
    try:
        # One that lacks a path is a CONNECT.
        read_line(b"%b %b HTTP/1.1" % (found.get(b":method", b""), found.get(b":path", b"")))
        check_host_header(found.get(b":authority", found.get(b"host", b"")))
    except QrustyError as refusal:
        return refusal
    return None


def install() -> None:
    """Let Hypercorn speak HTTP/2 by this class."""
    hypercorn.protocol.H2Protocol = Http2  # type: ignore[attr-defined]  # there is no setting for it
