"""What one connection has yet to send: answers and deliveries in their order, with a bound.

Rule: nothing is ever dropped from here. Instead its connection gets no deliveries while more than a little waits
(`room`), and reads no requests when the outbox is `full`; so what it can hold is that limit and one burst of answers.

The two are far apart on purpose. A peer that acks what it reads, in one thread, reads no more while its acks do not get
through: if deliveries that wait for it kept the server from reading those, both would wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable

ROOM_BYTES = 256 * 1024
"""A delivery is taken while less than this is waiting, so an empty outbox takes one of any size."""
FULL_BYTES = 4 * 1024 * 1024
"""Requests are read while less than this is waiting: the answers to 300,000 acks."""


class Outbox:
    """Frames are bytes of UTF-8 JSON. `wake` is called when there is something to take."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._frames: list[bytes] = []
        self._waiting = 0
        self._on_the_way = 0
        self._behind: list[bytes] | None = None
        self.taken = 0
        """Frames handed out by `take` since the start."""
        self.count = 0
        """Frames put in since the start."""

    @property
    def size(self) -> int:
        """Bytes waiting or on their way."""
        return self._waiting + self._on_the_way

    def room(self) -> bool:
        return self._waiting + self._on_the_way < ROOM_BYTES

    def full(self) -> bool:
        return self._waiting + self._on_the_way >= FULL_BYTES

    def hold(self) -> None:
        """Keep the frames that are put in from now on behind the answers of the burst at work.

        For a burst that subscribes: a client expects the answer to that before the first delivery.
        """
        if self._behind is None:
            self._behind = []

    def put(self, frame: bytes) -> int:
        """Add a frame. Returns its number: it has been handed out once `taken` is higher."""
        number = self.count
        self.count += 1
        self._waiting += len(frame)
        if self._behind is not None:
            self._behind.append(frame)
        else:
            self._frames.append(frame)
            self._wake()
        return number

    def take_back(self, number: int) -> None:
        """Remove the frame that was put last, as number `number`; it has not been handed out."""
        frames = self._behind if self._behind else self._frames
        assert number == self.count - 1 >= self.taken
        self.count -= 1
        self._waiting -= len(frames.pop())

    def put_answers(self, answers: list[bytes]) -> None:
        """Add the answers of a burst, and behind them what was held back."""
        self.count += len(answers)
        self._waiting += sum(map(len, answers))
        self._frames += answers
        if self._behind is not None:
            self._frames += self._behind
            self._behind = None
        if self._frames:
            self._wake()

    def take(self) -> list[bytes]:
        """Hand out everything that may leave. It counts against the limit until `sent`."""
        frames, self._frames = self._frames, []
        size = sum(map(len, frames))
        self._waiting -= size
        self._on_the_way += size
        self.taken += len(frames)
        return frames

    def sent(self) -> None:
        """Everything handed out has been sent."""
        self._on_the_way = 0
