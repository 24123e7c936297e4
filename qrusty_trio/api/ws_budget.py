"""The budget for the bytes that all WebSockets of a server hold together.

Rule: a connection counts here whatever it holds for its peer: frames not sent yet, and bytes received and not served
yet. There are three marks. From the first (`short`), each connection may have only little to send. At one and a half
times that (`exhausted`), nothing is delivered. At twice the first (`full`), nothing is read. So twice the limit is the
bound, give or take the burst or delivery that reached it. A decoded request may take 15 times its text, so text that
was read before that waits (`crowded`) while many requests are unanswered. The shortage never lasts:
`http.websocket_watch` cuts off those that hold most and make no progress.

Requirements: SYS-0007
"""

from __future__ import annotations

from collections.abc import Callable

LIMIT_BYTES = 64 * 1024 * 1024
"""The first mark. Nearly all connections hold nothing, so it takes 256 that stopped reading to reach it."""


def _nothing() -> None:
    pass


class Budget:
    """Counts bytes. `when_short` is called at each change that leaves the budget short.

    Requirements: WS-0021
    """

    __slots__ = ("decoded", "held", "limit", "when_short")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = LIMIT_BYTES if limit is None else limit
        self.held = 0
        self.decoded = 0
        """The part that is decoded requests without a response yet."""
        self.when_short: Callable[[], None] = _nothing

    @property
    def short(self) -> bool:
        return self.held >= self.limit

    @property
    def exhausted(self) -> bool:
        return self.held >= self.limit + self.limit // 2

    @property
    def full(self) -> bool:
        return self.held >= 2 * self.limit

    @property
    def crowded(self) -> bool:
        """Whether nothing more may be decoded until some requests have been answered."""
        return self.held >= 2 * self.limit and self.decoded >= self.limit // 4

    def change(self, octets: int) -> None:
        """Count `octets` more, or fewer if negative."""
        self.held += octets
        if self.held >= self.limit:
            self.when_short()
