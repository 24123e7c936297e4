"""Bytes that all WebSockets of a server hold together, and what becomes scarce when they are many.

Rule: whatever a connection keeps for its peer is counted here while it keeps it: what it has yet to send, and what came
and was not served. There are three marks. From the first one on (`short`) a connection is given little to send; at half
as much again (`exhausted`) nothing is delivered any more; at twice the first (`full`) nothing is read. So that is the
bound, give or take the burst or the delivery at which it was reached. `http.websocket_watch` cuts off those that hold
most and take nothing, so it never lasts.
"""

from __future__ import annotations

from collections.abc import Callable

LIMIT_BYTES = 64 * 1024 * 1024
"""First mark. Nearly all connections have nothing to keep: it takes 256 that stopped reading to come here."""


def _nothing() -> None:
    pass


class Budget:
    """`when_short` is called each time something is added beyond the first mark."""

    __slots__ = ("held", "limit", "when_short")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = LIMIT_BYTES if limit is None else limit
        self.held = 0
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

    def change(self, octets: int) -> None:
        """That much more is held, or less when negative."""
        self.held += octets
        if self.held >= self.limit:
            self.when_short()
