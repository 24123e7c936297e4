"""Notes what was done over WebSockets, as `engine.py` does for calls.

Rule: it changes nothing about frames. A request counts from when its burst was run until its response may be sent. A
delivery counts from when its frame was handed to the socket until the socket has taken it. So what never left has no
span. A frame of the wrong shape has none either.

Requirements: API-0195
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import time_ns
from typing import Final

from qrusty_trio.api.identity import identity_in_trace
from qrusty_trio.api.ws_burst import Burst
from qrusty_trio.api.ws_frames import Request
from qrusty_trio.api.ws_outbox import HandedOut
from qrusty_trio.core.model import MAX_QUEUE_NAME_BYTES
from qrusty_trio.telemetry.served import ID_BYTES, PUBLISHES, WEBSOCKET, Served

OPERATIONS: Final = {
    "publish": "publish",
    "batch-publish": "publish_batch",
    "ack": "ack",
    "nack": "nack",
    "batch-ack": "ack_batch",
    "batch-nack": "nack_batch",
}
"""Type of frame -> the operation of the HTTP API that does the same."""
REFUSED = b'{"type":"error"'
"""How the response to a refused request begins, and no other."""
BATCH = b'{"type":"deliver-batch"'
AFTER_QUEUE = (b',"id":"', b',"messages":[')
"""What follows the queue's name in a frame with a delivery, and in one with several. No name can hold it: in a name, a
quotation mark has a backslash before it."""


class FrameNotes:
    """See `http.websocket_notes.ConnectionNotes`."""

    def __init__(self, note: Callable[[Served], None], traceparents: Sequence[str]) -> None:
        """`traceparents`: those headers of the handshake."""
        self._note = note
        self._identity = identity_in_trace(traceparents)

    def served(self, burst: Burst, begun_ns: int) -> None:
        ended = time_ns()
        for request, response in zip(burst.requests, burst.responses, strict=False):
            if type(request) is not Request or (operation := OPERATIONS.get(request.type or "")) is None:
                continue
            publish = operation in PUBLISHES
            identity = self._identity
            if request.traceparent is not None:
                identity = identity_in_trace([request.traceparent]) or identity
            self._note(
                Served(
                    operation,
                    _params(request),
                    identity,
                    b"",
                    WEBSOCKET,
                    response if publish or response.startswith(REFUSED) else b"",
                    () if publish else _ids(request),
                    begun_ns,
                    ended,
                )
            )

    def delivered(self, frames: Sequence[HandedOut], begun_ns: int) -> None:
        ended = time_ns()
        for frame, ids in frames:
            # Only its beginning is kept: a payload would count against the limit of what is noted.
            queue = frame[: frame.find(AFTER_QUEUE[frame.startswith(BATCH)])] + b"}"
            self._note(Served("deliver", (), self._identity, b"", WEBSOCKET, queue, ids, begun_ns, ended))


# A request may hold anything in place of a name or an id, up to the size of a frame. What is too long for one is not
# kept, as the limit of what is noted counts bodies and numbers of ids.


def _params(request: Request) -> tuple[str, ...]:
    """The queue, and perhaps the message."""
    if request.queue is None:
        return ()
    queue = request.queue[:MAX_QUEUE_NAME_BYTES]
    return (queue,) if request.id is None else (queue, request.id[:ID_BYTES])


def _ids(request: Request) -> Sequence[str]:
    ids = request.ids or ()
    return ids if sum(map(len, ids)) <= ID_BYTES * len(ids) else ()
