"""Messages handed out in a connection's responses, until it is known whether those were sent.

Rule: if a response was not sent whole, its messages go back to their queue, once. Over HTTP/2 most of a response may
still wait for the peer's window.

Requirements: DLV-0022
"""

from __future__ import annotations

from qrusty_trio.api.call import Engine, Reply
from qrusty_trio.http.fallback.http2_progress import Http2Progress


class ResponseDeliveries:
    """The messages handed out on one connection. Holds no payloads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.given: list[Reply] = []
        """The messages of the last response that was sent."""
        self._unsent: dict[int, Reply] = {}
        """By HTTP/2 stream: the messages of responses that were not sent whole."""

    def answered(self, reply: Reply | None, written: bool, stream: int, http2: Http2Progress | None) -> None:
        """The app has finished a request."""
        self.given = []
        if reply is None or not reply.deliveries:
            return
        if http2 is not None and http2.unfinished(stream):
            self._unsent[stream] = reply.receipt()
        elif http2 is None and written:
            self.given = [reply.receipt()]
        else:
            self._engine.give_back(reply)

    def stream_ended(self, stream: int, whole: bool) -> None:
        """An HTTP/2 stream has ended; `whole`: its response was sent whole."""
        reply = self._unsent.pop(stream, None)
        if reply is not None and whole:
            self.given = [reply]
        elif reply is not None:
            self._engine.give_back(reply)

    def give_back_unsent(self) -> None:
        """The connection has ended: return the messages of unsent responses."""
        while self._unsent:
            self._engine.give_back(self._unsent.popitem()[1])
