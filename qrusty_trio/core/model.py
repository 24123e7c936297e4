"""The vocabulary of the core: orderings, kinds, configuration, deliveries.

Rule: plain frozen values, no behaviour beyond checks, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import msgspec

U64_MAX = 2**64 - 1
U32_MAX = 2**32 - 1
NEVER = 2**63
"""Wall milliseconds that never come; also more bytes than anything has."""
MAX_QUEUE_NAME_BYTES = 255
MAX_TEXT_PRIORITY_BYTES = 1024
MAX_CONSUMER_BYTES = 1024
MAX_QUEUES = 10_000
MAX_BATCH_IDS = 50_000
"""Message ids that one request may settle: nearly all that fit into a body, if they are such as are given out."""
MAX_LOCK_SECONDS = 10 * 365 * 86_400
"""Longer lock timeouts are accepted and shortened to this (ten years)."""

WS_MARK = "\udcff"
"""The first character of a WebSocket's consumer id, inside this process: a lone surrogate, which no JSON can hold. So
no HTTP consumer can pass for a WebSocket, whatever it calls itself. Lock records hold a flag in its place."""
WS_CONSUMER_PREFIX = WS_MARK + "ws-"
"""The consumer id of a WebSocket is this and a UUID, made by the server for each connection."""

Priority = int | str


class Ordering(StrEnum):
    MAX_FIRST = "MaxFirst"
    MIN_FIRST = "MinFirst"
    FIFO = "Fifo"


class Kind(StrEnum):
    NUMERIC = "Numeric"
    TEXT = "Text"


@dataclass(frozen=True, slots=True)
class QueueConfig:
    ordering: Ordering = Ordering.MAX_FIRST
    allow_duplicates: bool = True
    kind: Kind = Kind.NUMERIC


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message handed to a consumer under a lock."""

    queue_number: int
    """Stable for the life of the queue, also through a rename."""
    id: str
    """UUID text, 36 characters."""
    payload: str
    retry_count: int
    """Deliveries so far, this one included: 1 on the first."""
    priority: Priority
    created_ms: int
    """Wall time of the publish, milliseconds since 1970."""
    lock_number: int = -1
    """With the queue's number, the identity of this delivery: never used again within a process."""


class NackOutcome(StrEnum):
    UNLOCKED = "unlocked"
    DEAD_LETTERED = "dead_lettered"
    DROPPED = "dropped"
    """An equal message stands for it in a queue that refuses duplicates."""


class QueueStats(NamedTuple):
    name: str
    config: QueueConfig
    available: int
    locked: int
    dead: int
    publish_rate: float
    ack_rate: float
    nack_rate: float


def is_websocket(consumer: str) -> bool:
    """Whether a consumer id is that of a WebSocket."""
    return consumer[:1] == WS_MARK
