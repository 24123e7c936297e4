"""What was served, on its way from the event loop to the thread that makes spans of it.

Rule: noting a call takes microseconds and never waits. What is noted is bounded in entries and bytes; when the thread
does not keep up, further calls are dropped and counted.

A message may be delivered before the sync that its publish waits for, so its delivery is noted first. Therefore calls
are held for a moment and put in order: a publish counts from its beginning, as a delivery over a WebSocket does, all
others from their end.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from qrusty_trio.api.identity import Identity

MAX_ENTRIES = 20_000
MAX_BYTES = 16 * 1024 * 1024
"""Calls noted and not yet made into spans. Further ones leave no span."""
ENTRY_BYTES = 256
"""What an entry counts besides its bodies."""
ID_BYTES = 100
HOLD_SECONDS = 1.0
"""How long a call is held for publishes that began before it ended: longer than most syncs."""
POLL_SECONDS = 0.1
PUBLISHES = frozenset({"publish", "publish_batch"})
FROM_THEIR_BEGINNING = PUBLISHES | {"deliver"}
"""A message may be acked before its delivery was sent as a whole."""
WEBSOCKET = 0
"""Stands for the status of what was done over a WebSocket. There, an error has only a code."""


class Served(msgspec.Struct, gc=False):
    """A call and what came of it."""

    operation: str
    params: tuple[str, ...]
    identity: Identity | None
    request: bytes
    """The body of the request, if it names the queue or the messages."""
    status: int
    """Or WEBSOCKET."""
    reply: bytes
    """The body of the reply, if it names the queue, the messages or an error; of a delivery its beginning."""
    messages: Sequence[str]
    """Ids of the messages that were handed out, or that a frame names."""
    begun_ns: int
    ended_ns: int
    """Wall times."""
    noted: float = 0.0
    """When it was put into the inbox, on the monotonic clock."""

    @property
    def size(self) -> int:
        return ENTRY_BYTES + len(self.request) + len(self.reply) + ID_BYTES * len(self.messages)


class Inbox:
    """Calls that were noted. `put` is for the event loop, `take` for the one thread that empties it."""

    def __init__(self) -> None:
        self._arrived: deque[Served] = deque()
        self._held: list[tuple[int, int, Served]] = []
        """A heap: the time that decides, a number that tells equal times apart, and the call."""
        self._number = 0
        self._put = self._taken = 0
        """How many so far; each is written by one thread only, as are the next two."""
        self._put_bytes = self._taken_bytes = 0
        self._closed = threading.Event()
        self.dropped = 0
        """Calls that found no room, since the start."""

    def put(self, served: Served) -> None:
        """Note a call, or drop it if there is no room."""
        size = served.size
        if self._put - self._taken >= MAX_ENTRIES or self._put_bytes - self._taken_bytes + size > MAX_BYTES:
            self.dropped += 1
            return
        self._put += 1
        self._put_bytes += size
        served.noted = time.monotonic()
        self._arrived.append(served)

    def take(self) -> Served | None:
        """The next call in order, once it is due. None when the inbox was closed and is empty."""
        while True:
            closed = self._closed.is_set()
            self._hold_arrived()
            if self._held and (closed or _is_due(self._held[0][2])):
                served = heapq.heappop(self._held)[2]
                self._taken += 1
                self._taken_bytes += served.size
                return served
            if closed:
                return None
            # A look now and then costs the event loop less than a call that wakes this thread.
            self._closed.wait(POLL_SECONDS)

    def close(self) -> None:
        """Let `take` come to an end after what is there."""
        self._closed.set()

    def _hold_arrived(self) -> None:
        while self._arrived:
            served = self._arrived.popleft()
            decisive = served.begun_ns if served.operation in FROM_THEIR_BEGINNING else served.ended_ns
            self._number += 1
            heapq.heappush(self._held, (decisive, self._number, served))


def _is_due(served: Served) -> bool:
    return served.operation in PUBLISHES or time.monotonic() >= served.noted + HOLD_SECONDS
