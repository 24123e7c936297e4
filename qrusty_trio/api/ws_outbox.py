"""The frames that one connection has yet to send: responses and deliveries, in order and bounded.

Rule: no frame is dropped to save room. Instead, the connection gets no deliveries while more than a little waits
(`room`), and reads no requests while the outbox is `full`. So it can hold at most that limit and the responses of the
bursts that wait for a sync.

Where locks are synced, a delivery and whatever was added after it wait for that sync. So frames leave in the order in
which they were added.

The two limits are far apart on purpose. A single-threaded peer that acks what it reads stops reading while its acks do
not get through. If deliveries waiting for it kept the server from reading those acks, both would wait for ever.

Requirements: WS-0019
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from qrusty_trio.api.ws_budget import Budget
from qrusty_trio.api.ws_frames import END_OF_BATCH
from qrusty_trio.core.unsynced import Unsynced

ROOM_BYTES = 256 * 1024
"""Deliveries are accepted while less than this waits, so an empty outbox accepts one of any size."""
FULL_BYTES = 4 * 1024 * 1024
"""Requests are read while less than this waits: the responses to 300,000 acks."""
SHORT_ROOM_BYTES = 16 * 1024
SHORT_FULL_BYTES = 512 * 1024
"""The same two limits while the shared budget is short. A peer that acks its deliveries still gets through."""
BATCH_BYTES = 32 * 1024
"""A frame with several deliveries that has this much gets no more: a message that is larger comes alone."""
TAKE_BYTES = 64 * 1024
"""Most bytes handed out at a time, or one frame. If the connection ends meanwhile, later frames have not been sent."""
DELIVERY = b'{"type":"deliver'
"""How a delivery frame begins, and no other frame."""


class HandedOut(NamedTuple):
    """A delivery frame that was handed out."""

    frame: bytes
    """It, or how it begins: with the queue's name."""
    ids: list[str]
    """The messages in it, in order."""


class _Batch(bytearray):
    """A frame with several deliveries, to which more are added until it is handed out, or one that waits for a sync."""

    __slots__ = ("deliveries", "prefix", "unsynced")

    deliveries: int
    prefix: bytes
    unsynced: Unsynced | None
    """What it waits for; None: for nothing."""


class Outbox:
    """Frames are bytes of UTF-8 JSON. `wake` is called when there is something to take.

    Requirements: WS-0018
    """

    def __init__(self, wake: Callable[[], None], budget: Budget | None = None) -> None:
        self._wake = wake
        self._budget = budget if budget is not None else Budget()
        self._frames: list[bytes | _Batch] = []
        self._waiting = 0
        self._on_the_way = 0
        self._behind: list[bytes | _Batch] | None = None
        self._held = 0
        """How many frames wait, or waited, for a sync."""
        self.unsent: dict[str, int] = {}
        """Message id -> how many of its deliveries were not handed out yet. There are several if its lock expired while
        it waited here, and it was delivered again."""
        self._order: deque[str] = deque()
        """The ids of those deliveries, in order."""
        self.handed_out: list[HandedOut] | None = None
        """If it is a list, the delivery frames that are handed out are added. Whoever wants them empties it."""

    @property
    def size(self) -> int:
        """Bytes that wait or are being sent."""
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
        """Hold back frames added from now on until the responses of the current burst have been added.

        For a burst that subscribes: its client expects that response before the first delivery.
        """
        if self._behind is None:
            self._behind = []

    def put(self, frame: bytes | _Batch) -> None:
        """Add a frame."""
        self._waiting += len(frame)
        self._budget.change(len(frame))
        if self._behind is not None:
            self._behind.append(frame)
        else:
            self._frames.append(frame)
            self._wake()

    def put_delivery(self, frame: bytes, id: str, prefix: bytes = b"", unsynced: Unsynced | None = None) -> None:
        """Add the delivery of a message. `prefix`: what it begins with. `unsynced`: the sync that it waits for."""
        self.unsent[id] = self.unsent.get(id, 0) + 1
        self._order.append(id)
        self.put(frame if unsynced is None else self._new_batch(frame, prefix, unsynced))

    def _new_batch(self, frame: bytes, prefix: bytes, unsynced: Unsynced | None) -> _Batch:
        batch = _Batch(frame)
        batch.deliveries, batch.prefix, batch.unsynced = 1, prefix, unsynced
        if unsynced is not None:
            self._held += 1
        return batch

    def put_in_batch(self, prefix: bytes, message: bytes, id: str, most: int, unsynced: Unsynced | None = None) -> None:
        """Add the delivery of a message to a frame of up to `most` deliveries, the last one if that has room for it.

        `prefix`: what a frame of this subscription begins with, always the same object. `unsynced`: the sync that the
        delivery waits for; all of a frame wait for the same.
        """
        self.unsent[id] = self.unsent.get(id, 0) + 1
        self._order.append(id)
        frames = self._frames if self._behind is None else self._behind
        last = frames[-1] if frames else None
        if (
            type(last) is _Batch
            and last.prefix is prefix
            and last.unsynced is unsynced
            and last.deliveries < most
            and len(last) < BATCH_BYTES
        ):
            last[-len(END_OF_BATCH) :] = b",%b%b" % (message, END_OF_BATCH)
            last.deliveries += 1
            self._waiting += 1 + len(message)
            self._budget.change(1 + len(message))
            return
        self.put(self._new_batch(b"%b%b%b" % (prefix, message, END_OF_BATCH), prefix, unsynced))

    def withdraw(self) -> None:
        """Remove the deliveries not handed out yet: they were never committed, so nobody may see them.

        Requirements: WS-0011
        """
        if self.unsent:
            self._all_left()
            self._held = 0
            for frames in (self._frames, self._behind or []):
                size = sum(len(frame) for frame in frames if frame.startswith(DELIVERY))
                self._waiting -= size
                self._budget.change(-size)
                frames[:] = [frame for frame in frames if not frame.startswith(DELIVERY)]

    def put_responses(self, responses: list[bytes]) -> None:
        """Add the responses of a burst, then the frames that were held back."""
        size = sum(map(len, responses))
        self._waiting += size
        self._budget.change(size)
        self._frames += responses
        if self._behind is not None:
            self._frames += self._behind
            self._behind = None
        if self._frames:
            self._wake()

    @property
    def waits(self) -> bool:
        """Whether the next frame waits for a sync that is not over."""
        unsynced = _unsynced(self._frames[0]) if self._frames else None
        return unsynced is not None and not (unsynced.over or unsynced.failed)

    def take(self) -> list[bytes]:
        """Hand out the next frames: at most TAKE_BYTES, or one frame. They count against the limits until `sent`.

        Requirements: PER-0061
        """
        frames = self._frames
        held = self._held
        if self._waiting <= TAKE_BYTES and not held:
            self._frames = []
            size = sum(map(len, frames))
        else:
            size = count = 0
            for frame in frames:
                if count and size + len(frame) > TAKE_BYTES:
                    break
                if held and (unsynced := _unsynced(frame)) is not None:
                    if not unsynced.over:
                        break
                    self._held -= 1
                size += len(frame)
                count += 1
            self._frames = frames[count:]
            del frames[count:]
        self._waiting -= size
        self._on_the_way += size
        if self.unsent:
            if self.handed_out is not None:
                self._tell_handed_out(self.handed_out, frames)
            self._note_taken(frames)
        return [bytes(frame) if isinstance(frame, _Batch) else frame for frame in frames]

    def _note_taken(self, frames: list[bytes | _Batch]) -> None:
        if not self._frames and self._behind is None:
            self._all_left()
            return
        for frame in frames:
            # Deliveries are handed out in the order in which they were added.
            for _ in range(frame.deliveries if type(frame) is _Batch else frame.startswith(DELIVERY)):
                id = self._order.popleft()
                if self.unsent[id] > 1:
                    self.unsent[id] -= 1
                else:
                    del self.unsent[id]

    def _tell_handed_out(self, handed_out: list[HandedOut], frames: list[bytes | _Batch]) -> None:
        order = iter(self._order)
        for frame in frames:
            if type(frame) is _Batch:
                handed_out.append(HandedOut(frame.prefix, list(islice(order, frame.deliveries))))
            elif frame.startswith(DELIVERY):
                handed_out.append(HandedOut(bytes(frame), [next(order)]))

    def _all_left(self) -> None:
        self.unsent = {}
        self._order.clear()

    def sent(self) -> None:
        """Everything handed out has been sent: stop counting it."""
        self._budget.change(-self._on_the_way)
        self._on_the_way = 0

    def close(self) -> None:
        """The connection has ended: drop what has not been sent.

        Requirements: DLV-0017
        """
        self._budget.change(-self.size)
        self._waiting = self._on_the_way = self._held = 0
        self._frames = []
        self._behind = None


def _unsynced(frame: bytes | _Batch) -> Unsynced | None:
    return frame.unsynced if type(frame) is _Batch else None
