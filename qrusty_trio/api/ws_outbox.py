"""What one connection has yet to send: answers and deliveries in their order, with a bound.

Rule: nothing is ever dropped from here. Instead its connection gets no deliveries while more than a little waits
(`room`), and reads no requests when the outbox is `full`; so what it can hold is that limit and one burst of answers.

The two are far apart on purpose. A peer that acks what it reads, in one thread, reads no more while its acks do not get
through: if deliveries that wait for it kept the server from reading those, both would wait for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from qrusty_trio.api.ws_budget import Budget

ROOM_BYTES = 256 * 1024
"""A delivery is taken while less than this is waiting, so an empty outbox takes one of any size."""
FULL_BYTES = 4 * 1024 * 1024
"""Requests are read while less than this is waiting: the answers to 300,000 acks."""
SHORT_ROOM_BYTES = 16 * 1024
SHORT_FULL_BYTES = 512 * 1024
"""The same while the budget of all connections is short. A peer that acks what it was delivered still gets through."""
TAKE_BYTES = 64 * 1024
"""Handed out at a time, or one frame: what is behind it has not left when the connection ends meanwhile."""
DELIVERY = b'{"type":"deliver",'
"""How the frame of a delivery begins, and no other."""


class Outbox:
    """Frames are bytes of UTF-8 JSON. `wake` is called when there is something to take."""

    def __init__(self, wake: Callable[[], None], budget: Budget | None = None) -> None:
        self._wake = wake
        self._budget = budget if budget is not None else Budget()
        self._frames: list[bytes] = []
        self._waiting = 0
        self._on_the_way = 0
        self._behind: list[bytes] | None = None
        self.unsent: dict[str, int] = {}
        """Message id -> how many deliveries of it were not handed out yet. There are several when its lock ended
        while it waited here, and it came again."""
        self._order: deque[str] = deque()
        """The ids of those deliveries, in order."""

    @property
    def size(self) -> int:
        """Bytes waiting or on their way."""
        return self._waiting + self._on_the_way

    def room(self) -> bool:
        size = self._waiting + self._on_the_way
        budget = self._budget
        if budget.held < budget.limit:
            return size < ROOM_BYTES
        return size < SHORT_ROOM_BYTES and not budget.exhausted

    def full(self) -> bool:
        size = self._waiting + self._on_the_way
        budget = self._budget
        if budget.held < budget.limit:
            return size >= FULL_BYTES
        return size >= SHORT_FULL_BYTES or budget.full

    def hold(self) -> None:
        """Keep the frames that are put in from now on behind the answers of the burst at work.

        For a burst that subscribes: a client expects the answer to that before the first delivery.
        """
        if self._behind is None:
            self._behind = []

    def put(self, frame: bytes) -> None:
        """Add a frame."""
        self._waiting += len(frame)
        self._budget.change(len(frame))
        if self._behind is not None:
            self._behind.append(frame)
        else:
            self._frames.append(frame)
            self._wake()

    def put_delivery(self, frame: bytes, id: str) -> None:
        """Add the delivery of a message."""
        self.unsent[id] = self.unsent.get(id, 0) + 1
        self._order.append(id)
        self.put(frame)

    def withdraw(self) -> None:
        """The deliveries that were not handed out were never committed: nobody may see them."""
        if self.unsent:
            self._all_left()
            for frames in (self._frames, self._behind or []):
                size = sum(len(frame) for frame in frames if frame.startswith(DELIVERY))
                self._waiting -= size
                self._budget.change(-size)
                frames[:] = [frame for frame in frames if not frame.startswith(DELIVERY)]

    def put_answers(self, answers: list[bytes]) -> None:
        """Add the answers of a burst, and behind them what was held back."""
        size = sum(map(len, answers))
        self._waiting += size
        self._budget.change(size)
        self._frames += answers
        if self._behind is not None:
            self._frames += self._behind
            self._behind = None
        if self._frames:
            self._wake()

    def take(self) -> list[bytes]:
        """Hand out what leaves next: at most TAKE_BYTES, or one frame. It counts against the limit until `sent`."""
        frames = self._frames
        if self._waiting <= TAKE_BYTES:
            self._frames = []
            size = sum(map(len, frames))
        else:
            size = count = 0
            for frame in frames:
                if count and size + len(frame) > TAKE_BYTES:
                    break
                size += len(frame)
                count += 1
            self._frames = frames[count:]
            del frames[count:]
        self._waiting -= size
        self._on_the_way += size
        if self.unsent:
            self._note_taken(frames)
        return frames

    def _note_taken(self, frames: list[bytes]) -> None:
        if not self._frames and self._behind is None:
            self._all_left()
            return
        for frame in frames:
            if frame.startswith(DELIVERY):
                # Deliveries leave in the order in which they were put.
                id = self._order.popleft()
                if self.unsent[id] > 1:
                    self.unsent[id] -= 1
                else:
                    del self.unsent[id]

    def _all_left(self) -> None:
        self.unsent = {}
        self._order.clear()

    def sent(self) -> None:
        """Everything handed out has been sent."""
        self._budget.change(-self._on_the_way)
        self._on_the_way = 0

    def close(self) -> None:
        """The connection is over: what has not left never will."""
        self._budget.change(-self.size)
        self._waiting = self._on_the_way = 0
        self._frames = []
        self._behind = None
