"""One queue: its configuration, its counters and its hot tier.

Rule: the counters are what the store says once the pending batch is written; they are stored with every change, so
nothing has to be counted at start-up. `head` is a bound: no available message stands before it, so everything there in
the store is dead and every search may start at it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec

from qrusty_trio.core.hot_tier import HotTier, TierLimits
from qrusty_trio.core.keys import KeyCoder, prefix, prefix_end
from qrusty_trio.core.model import Kind, Ordering, QueueConfig, QueueStats
from qrusty_trio.core.rates import Rates

if TYPE_CHECKING:
    from qrusty_trio.core.journal import Journal
    from qrusty_trio.core.locks import Lock

_COUNTERS = struct.Struct(">7Q")
CONFIG = b"Q"
"""META: CONFIG + queue number (4) -> StoredConfig as JSON."""
COUNTERS = b"C"
"""META: COUNTERS + queue number (4) -> available, locked, dead, next sequence, next lock, next dead letter, length of
`head` (each a u64), then `head`, then `covered`."""
COVER_EVERY = 5_000
"""Messages taken from a queue between two range deletes over its dead head. Without them a search that has to start far
back (behind messages of a higher priority that came later, after a restart) passes every one: 0.16 µs each, 0.8 ms at
most. A cycle costs the same as with ten times as many."""


class StoredConfig(msgspec.Struct):
    """What META keeps of a queue besides its counters."""

    name: str
    ordering: Ordering
    kind: Kind
    allow_duplicates: bool
    settling: bool = False
    """True while duplicates from before `allow_duplicates` was turned off are being looked for."""


_decode_config = msgspec.json.Decoder(StoredConfig).decode


class Queue:
    """Made by `Queue.new` and `Queue.stored`; changed by the broker only."""

    __slots__ = (
        "available",
        "coder",
        "config",
        "covered",
        "dead",
        "dirty",
        "encode",
        "end",
        "head",
        "locked",
        "locks",
        "name",
        "next_dead",
        "next_lock",
        "next_sequence",
        "number",
        "prefix",
        "rates",
        "settle_run",
        "settling",
        "taken",
        "tier",
    )

    def __init__(self, number: int, name: str, config: QueueConfig, limits: TierLimits) -> None:
        self.number = number
        self.name = name
        self.config = config
        self.settling = False
        self.settle_run = 0
        """Counts how often duplicates were allowed or refused: a search from before then is void."""
        self.coder = KeyCoder(number, config)
        self.encode = self.coder.encode
        self.prefix = prefix(number)
        self.end = prefix_end(number)
        self.available = 0
        self.locked = 0
        self.locks: dict[str, Lock] = {}
        """By message id. Kept by `LockIndex`."""
        self.dead = 0
        self.next_sequence = 0
        self.next_lock = 0
        self.next_dead = 0
        self.head = self.prefix
        self.covered = self.prefix
        """No message that was ever stored before this one but is covered by a range delete."""
        self.taken = 0
        """Messages taken since the last one."""
        self.rates = Rates()
        self.tier = HotTier(limits, None)
        self.dirty = False

    @classmethod
    def stored(cls, number: int, config: bytes, counters: bytes, limits: TierLimits) -> Queue:
        """A queue as `write_config` and `write_state` left it. Its tier is empty; the first consume fills it."""
        read = _decode_config(config)
        queue = cls(number, read.name, QueueConfig(read.ordering, read.allow_duplicates, read.kind), limits)
        queue.settling = read.settling
        (
            queue.available,
            queue.locked,
            queue.dead,
            queue.next_sequence,
            queue.next_lock,
            queue.next_dead,
            head_bytes,
        ) = _COUNTERS.unpack_from(counters)
        head_at = _COUNTERS.size
        queue.head = counters[head_at : head_at + head_bytes]
        queue.covered = counters[head_at + head_bytes :]
        queue.unload()
        return queue

    def write_state(self, journal: Journal) -> None:
        counters = _COUNTERS.pack(
            self.available,
            self.locked,
            self.dead,
            self.next_sequence,
            self.next_lock,
            self.next_dead,
            len(self.head),
        )
        journal.put(COUNTERS + self.prefix, b"%b%b%b" % (counters, self.head, self.covered), journal.meta)

    def write_config(self, journal: Journal) -> None:
        config = self.config
        stored = StoredConfig(self.name, config.ordering, config.kind, config.allow_duplicates, self.settling)
        journal.put(CONFIG + self.prefix, msgspec.json.encode(stored), journal.meta)
        journal.mark(self)

    def unload(self) -> None:
        """Empty the tier; what is available will be read again from `head` on."""
        self.tier.reset(self.head if self.available else None)

    def cover(self, journal: Journal) -> None:
        """Delete the dead head as a range, so that no search has to pass its messages one by one."""
        self.taken = 0
        if self.covered < self.head:
            journal.delete_range(self.covered, self.head, journal.messages)
            self.covered = self.head

    def stats(self) -> QueueStats:
        points = self.rates.points
        published, acked, nacked = points[-1][3:] if points else (0.0, 0.0, 0.0)
        return QueueStats(self.name, self.config, self.available, self.locked, self.dead, published, acked, nacked)
