"""The vocabulary of the core: orderings, kinds, configuration, deliveries.

Rule: plain frozen values, no behaviour beyond checks, no I/O.

Requirements: SYS-0007
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypedDict

import msgspec

U64_MAX = 2**64 - 1
U32_MAX = 2**32 - 1
NEVER = 2**63
"""A wall time (ms) that never comes; also a size in bytes that nothing reaches."""
MAX_QUEUE_NAME_BYTES = 255
MAX_TEXT_PRIORITY_BYTES = 1024
MAX_CONSUMER_BYTES = 1024
MAX_QUEUES = 10_000
ID_CHARACTERS = 36
"""Length of a message id, a UUID as text."""
MAX_BATCH_IDS = 50_000
"""Message ids that one request may settle: nearly as many ids of our own as fit into a body."""
MAX_BATCH_MESSAGES = 5_000
"""Messages that one request may publish: reading them takes 1.1 ms, and 2 ms where 10,000 are allowed."""
MAX_BATCH_DELIVERIES = 1_000
"""Messages that one request may consume."""
MAX_DEAD_LETTER_SECONDS = 10 * 365 * 86_400
"""Longest time to live of dead letters: ten years."""
MAX_ERROR_BYTES = 1024
"""Longest text that a nack may give as its reason, bytes of UTF-8."""
MAX_UNDO_SECONDS = 86_400
"""Longest time for which purged messages and deleted queues are kept aside."""
MAX_LOCK_SECONDS = 10 * 365 * 86_400
"""Ten years. Longer lock timeouts are accepted but capped at this."""

WS_MARK = "\udcff"
"""The first character of a WebSocket's consumer id within this process: a lone surrogate, which valid JSON text can't
contain. So no HTTP consumer can pass for a WebSocket. Lock records have a flag in its place."""
WS_CONSUMER_PREFIX = WS_MARK + "ws-"
"""A WebSocket's consumer id is this prefix and a UUID, which the server generates for each connection."""

Priority = int | str


class Ordering(StrEnum):
    MAX_FIRST = "MaxFirst"
    MIN_FIRST = "MinFirst"
    FIFO = "Fifo"


class Kind(StrEnum):
    NUMERIC = "Numeric"
    TEXT = "Text"


class DeathReason(StrEnum):
    """Why a message became a dead letter. Its place in this list is stored: never change the order."""

    code: int
    """That place."""

    UNKNOWN = "unknown"
    """It died under a version that did not note it."""
    NACKED = "nacked"
    EXPIRED = "expired"
    CONNECTION_LOST = "connection_lost"


for _code, _reason in enumerate(DeathReason):
    _reason.code = _code


@dataclass(frozen=True, slots=True)
class QueueConfig:
    ordering: Ordering = Ordering.MAX_FIRST
    allow_duplicates: bool = True
    kind: Kind = Kind.NUMERIC
    dead_letter_ttl_seconds: int | None = None
    """Dead letters are removed this long after they died; None: never."""
    dead_letter_max: int | None = None
    """With more dead letters than this, the oldest are removed; None: any number is kept."""
    protected: bool = False
    """Whether purge, delete, rename and stricter limits of dead letters are refused."""


class Retention(TypedDict, total=False):
    """Changes to how long dead letters are kept: those fields of `QueueConfig`."""

    dead_letter_ttl_seconds: int | None
    dead_letter_max: int | None


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message handed to a consumer under a lock.

    Requirements: DLV-0009
    """

    queue_number: int
    """A rename does not change it. Only a purge that can be undone does, and that ends the delivery."""
    id: str
    """UUID text, 36 characters."""
    payload: str
    retry_count: int
    """Deliveries so far, including this one: 1 on the first."""
    priority: Priority
    created_ms: int
    """Wall time of the publish, milliseconds since 1970."""
    lock_number: int = -1
    """Identifies this delivery together with the queue number. Never reused within a process."""
    expires_at_ms: int = 0
    """End of the lock, wall milliseconds."""


class NackOutcome(StrEnum):
    UNLOCKED = "unlocked"
    DEAD_LETTERED = "dead_lettered"
    DROPPED = "dropped"
    """The queue refuses duplicates, and an equal message owns the payload."""


class QueueStats(NamedTuple):
    name: str
    config: QueueConfig
    available: int
    locked: int
    dead: int
    publish_rate: float
    ack_rate: float
    nack_rate: float
    oldest_ms: int | None = None
    """When the oldest available message was published, wall milliseconds; None if that is not known, or there is none.
    """
    oldest_exact: bool = True
    """False: there may be an older one."""


def is_websocket(consumer: str) -> bool:
    """Whether a consumer id belongs to a WebSocket."""
    return consumer[:1] == WS_MARK
