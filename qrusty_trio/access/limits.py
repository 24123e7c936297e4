"""How much a token may ask for: requests and messages a second.

Rule: an allowance fills up steadily and holds one second's worth. A request is refused while an allowance is used up.
What it costs in messages may be known only afterwards. So an allowance can go below zero, by one request or response at
most, and then the next ones wait until it is made up for.

Requirements: API-0138
"""

from __future__ import annotations

import math

from qrusty_trio.errors import RateLimited


class Allowance:
    """So many a second."""

    __slots__ = ("_at_ms", "_left", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._left = max(rate, 1.0)
        self._at_ms = 0

    def wait(self, now: int) -> float:
        """Seconds until it is not used up; 0 if it is not. `now`: wall milliseconds."""
        if now > self._at_ms:
            self._left = min(self._left + (now - self._at_ms) * self.rate / 1000, max(self.rate, 1.0))
            self._at_ms = now
        elif now < self._at_ms - 1000:
            self._at_ms = now  # The clock was set back.
        return (1.0 - self._left) / self.rate if self._left < 1.0 else 0.0

    def take(self, count: int) -> None:
        self._left -= count

    def go_on_from(self, earlier: Allowance) -> None:
        """Take over what is left of an earlier one of the same rate."""
        if earlier.rate == self.rate:
            self._left, self._at_ms = earlier._left, earlier._at_ms


class Limit:
    """The allowances of a token; None: no limit."""

    __slots__ = ("_messages", "_requests")

    def __init__(self, requests: float | None, messages: float | None) -> None:
        """Both a second."""
        self._requests = Allowance(requests) if requests is not None else None
        self._messages = Allowance(messages) if messages is not None else None

    def admit(self, now: int, refusable: bool = True) -> None:
        """Count a request. Raises RateLimited if there were too many. `now`: wall milliseconds."""
        for what, allowance in (("requests", self._requests), ("messages", self._messages)):
            if allowance is not None and (wait := allowance.wait(now)) and refusable:
                raise RateLimited(f"The token may have {allowance.rate:g} {what} a second", math.ceil(wait))
        if self._requests is not None:
            self._requests.take(1)

    def go_on_from(self, earlier: Limit) -> None:
        """Take over what is left of earlier allowances of the same rates."""
        for ours, theirs in ((self._requests, earlier._requests), (self._messages, earlier._messages)):
            if ours is not None and theirs is not None:
                ours.go_on_from(theirs)

    def uncount(self) -> None:
        """A request that was admitted did not run. It comes again."""
        if self._requests is not None:
            self._requests.take(-1)

    def charge(self, messages: int) -> None:
        """Count messages that were published or handed out."""
        if self._messages is not None:
            self._messages.take(messages)
