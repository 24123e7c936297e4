"""What the model knows of requests, connections and locks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

EPOCH = 1_700_000_000.0
"""Wall time at the start of a world."""
EXACT = 2e-6
"""Seconds by which a lock may seem to end early: that much is lost when times are added."""
TOLERANCE = 0.005
"""The same of a lock from an earlier process: how far the clock was set is known in whole milliseconds only."""


@dataclass(eq=False)
class Publish:
    """A publish on its way."""

    queue: str
    payload: bytes
    id: str | None = None
    """Of the message that it made."""


@dataclass(eq=False)
class Peer:
    """A WebSocket connection, as its client and the model know it."""

    consumer: str
    process: int
    lost: bool = False
    """It broke."""
    closed: bool = False
    """It was ended in order, by whomever."""
    fault: int = 0
    """Number of the store's faults when it began."""
    over: bool = False
    """The server has nothing to do with it any more."""
    locks: dict[str, list[Held]] = field(default_factory=dict)
    """Message id -> locks for this connection, in order; each stands for one delivery."""
    left: Counter[str] = field(default_factory=Counter)
    """Message id -> deliveries that have left."""


@dataclass(eq=False)
class Subscription:
    """What a peer is subscribed to: a queue, or the next one of that name when it is gone."""

    peer: Peer
    name: str
    number: int | None
    certain: bool
    """Whether it is known what the name meant when the server took the request."""
    deliveries: int = 0


@dataclass(eq=False)
class Held:
    """What the model knows of a lock."""

    id: str
    consumer: str
    process: int
    fault: int
    """Number of the store's faults until then."""
    ends_at: float
    """By the clock of the world."""
    peer: Peer | None
    batch: int
    """That made it."""
    boot: int
    """Number of the machine's starts until then."""
    ahead: float
    """By how much the wall clock was set."""
    unsure: bool = False
    """It may end at any time: the machine was started and its clock set since it was made."""
    left: bool = False
    """Its delivery has left for the consumer."""
    renewals: list[tuple[int, float, tuple[int, float, bool]]] = field(default_factory=list)
    """The batch of each renewal, and what was before it: when the lock ended, and `boot`, `ahead` and `unsure`.

    What was not synced may be undone.
    """
    over: bool = False
    aside: bool = False
    """Its queue was put aside: nobody holds the message any more."""
    revived: bool = False
    """It was over, and is back, as what ended it was not synced: what was known of it is not, any more."""


@dataclass
class Asked:
    """What was asked for and is not answered yet."""

    publishes: dict[tuple[str, bytes], list[Publish]] = field(default_factory=dict)
    spare: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    """Messages that may turn up although those who wait have theirs: one of these may be of somebody who left."""
    consumes: Counter[str] = field(default_factory=Counter)
    """By consumer."""
    acks: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By message and consumer."""
    nacks: Counter[tuple[str, str]] = field(default_factory=Counter)
    renews: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """Since when."""
    sweeps: Counter[str] = field(default_factory=Counter)
    """Purges and deletes by the queue's name; "" for all queues."""
    deletes: Counter[str] = field(default_factory=Counter)
    unlocks: int = 0
    """Force-unlocks, of whatever queue: one goes on with its queue under another name."""
    requeues: Counter[str] = field(default_factory=Counter)
    """Of dead letters, by the queue's name when it was asked. It may have another one by now."""
    dead_purges: Counter[str] = field(default_factory=Counter)
    asides: Counter[tuple[str, bool, int]] = field(default_factory=Counter)
    """Purges (True) and deletes by the queue's name, and how long they can be undone, in seconds."""
    restores: Counter[tuple[int, str | None]] = field(default_factory=Counter)
    """By the number of what is kept aside, and the new name."""
    erases: Counter[int] = field(default_factory=Counter)

    def publish_begins(self, publish: Publish) -> None:
        self.publishes.setdefault((publish.queue, publish.payload), []).append(publish)

    def publish_ends(self, publish: Publish, id: str | None) -> None:
        """It was answered with the id of a message, or (None) may have made one or not."""
        key = publish.queue, publish.payload
        waiting = self.publishes.get(key, [])
        if publish not in waiting:
            return
        waiting.remove(publish)
        # Of equal ones on their way nobody can tell which made which message, before they are answered.
        took = next((other for other in waiting if id is not None and other.id == id), None)
        if took is not None:
            took.id = publish.id
        elif publish.id is None and any(other.id is not None for other in waiting):
            self.spare[key] += 1
        if not waiting:
            del self.publishes[key]
            del self.spare[key]

    def renew_begins(self, key: tuple[str, str], now: float) -> None:
        self.renews.setdefault(key, []).append(now)

    def renew_ends(self, key: tuple[str, str]) -> None:
        if self.renews.get(key):
            self.renews[key].pop(0)
