"""Whether a connection of the fallback makes progress: with its header block, with what it holds, over HTTP/2.

Rule: no I/O, and no clock: times are arguments, seconds of the same clock. `stalled` says why a connection has to be
cut off; who asks does that.

Requirements: API-0048
"""

from __future__ import annotations

from collections.abc import Callable

from qrusty_trio.http.fallback.http2_progress import Http2Progress
from qrusty_trio.http.fallback.share import ConnectionShare
from qrusty_trio.http.header_block import HEADER_SECONDS, HTTP2_PREFACE, SEND_SECONDS


class PeerProgress:
    """What a peer sent and took. The app's WebSockets see it as a `websocket.PeerActivity`."""

    def __init__(
        self,
        socket: object,
        share: ConnectionShare,
        on_stream_end: Callable[[int, bool], None],
        now: float,
    ) -> None:
        """`socket`: the one under the connection, or a stand-in. `on_stream_end`: see `Http2Progress.on_end`."""
        self.socket = socket
        self.pauses: dict[Callable[[], bool], None] = {}
        """Reading pauses while any of these returns True."""
        self.last_heard = now
        """When bytes last arrived."""
        self.http2: Http2Progress | None = None
        """The progress of an HTTP/2 connection; None for any other."""
        self._share = share
        self._on_stream_end = on_stream_end
        self._begun = now
        """When the request began whose header block is incomplete."""
        self._got_on = now
        """When Hypercorn last read or sent something."""
        self._moved = 0
        """Bytes received and sent so far, without those of the last send."""
        self._upgrading = False
        """An upgrade to h2c was passed on. Frames begin after the response to it."""

    # Received

    @property
    def paused(self) -> bool:
        return any([pause() for pause in list(self.pauses)])  # noqa: C419  # call each: it also counts

    @property
    def header_deadline(self) -> float:
        """When the header block that has begun must be complete."""
        return self._begun + HEADER_SECONDS

    def received(self, data: bytes, in_headers: bool, now: float) -> None:
        """These bytes arrived. `in_headers`: in the midst of a header block."""
        self.last_heard = now
        self._moved += len(data)
        if not in_headers:
            self._begun = now

    def passed(self, data: bytes, now: float) -> None:
        """Hypercorn is given these bytes."""
        if self.http2 is not None:
            self.http2.received(data, now)
        self._begun = now

    def read_ended(self, now: float) -> None:
        """Hypercorn has read something."""
        self._got_on = now

    # Sent

    def send_begins(self, sent_before: int) -> None:
        """`sent_before`: what was sent of the last send."""
        self._moved += sent_before

    def sent(self, data: bytes, now: float) -> None:
        """These bytes were sent."""
        self._got_on = now
        if self.http2 is not None:
            self.http2.sent(data, now)
        elif self._upgrading and data.startswith(b"HTTP/1.1 101"):
            # The upgrade to h2c is answered: HTTP/1.1 up to the empty line, then HTTP/2. The responses to requests
            # before it came first.
            self._upgrading = False
            end = data.find(b"\r\n\r\n") + 4
            if end >= 4:
                http2 = self.watch_http2(now)
                http2.upgraded(now)
                http2.sent(data[end:], now)

    # HTTP/2

    def upgrade_to_h2c(self) -> None:
        """Such a request is passed on."""
        self._upgrading = True

    def watch_http2(self, now: float) -> Http2Progress:
        """The connection speaks HTTP/2 from here on."""
        self.http2 = http2 = Http2Progress(len(HTTP2_PREFACE), now)
        http2.on_end = self._on_stream_end
        return http2

    # Both

    def stalled(self, now: float, sent: int, reading: bool) -> str | None:
        """Why the connection has to be cut off; None if it need not be.

        `sent`: bytes that were sent of the current or last send. `reading`: whether Hypercorn reads.
        """
        if self._share.lags(now, self._moved + sent):
            return "a connection is cut off: it hardly moves, and others wait for what it holds"
        if self.http2 is None:
            return None
        why = self.http2.stuck(now)
        if why is None and not reading and now - self._got_on >= SEND_SECONDS:
            # A deadlock: Hypercorn's reader waits for room in a window that only a frame it reads could open.
            why = "a response that is not taken"
        return f"an HTTP/2 connection is cut off: {why}" if why is not None else None
