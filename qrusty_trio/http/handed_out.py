"""What a connection's answers handed out, until it is known whether they have left.

Rule: what never left to its end goes back, once. Over HTTP/2 most of an answer may wait for its peer to take it.
"""

from __future__ import annotations

from qrusty_trio.api.call import Engine, Reply
from qrusty_trio.http.http2_progress import Http2Progress


class HandedOut:
    """That of one connection. Holds no payloads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.given: list[Reply] = []
        """What the last answer that left handed out."""
        self._unsent: dict[int, Reply] = {}
        """By HTTP/2 stream: what has not left to its end."""

    def answered(self, reply: Reply | None, written: bool, stream: int, http2: Http2Progress | None) -> None:
        """The app has ended with a request."""
        self.given = []
        if reply is None or reply.delivery is None:
            return
        if http2 is not None and http2.unfinished(stream):
            self._unsent[stream] = reply.receipt()
        elif http2 is None and written:
            self.given = [reply.receipt()]
        else:
            self._engine.give_back(reply)

    def stream_ended(self, stream: int, whole: bool) -> None:
        """An HTTP/2 stream is over; `whole`: all of its answer was sent."""
        reply = self._unsent.pop(stream, None)
        if reply is not None and whole:
            self.given = [reply]
        elif reply is not None:
            self._engine.give_back(reply)

    def give_back_unsent(self) -> None:
        """The connection is over."""
        while self._unsent:
            self._engine.give_back(self._unsent.popitem()[1])
