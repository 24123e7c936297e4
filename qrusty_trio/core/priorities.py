"""How many messages a queue has of each priority.

Rule: a small queue is counted. A large one is sampled, because the store does not know how many keys are in a range.
Of each priority some windows of sequence numbers are counted, spread evenly over those that it has used, and what they
hold stands for the rest. The number of all available messages is known, and the estimates are made to add up to it.

A Fifo queue is not ordered by priority. There the windows are spread over the whole queue.

Requirements: DLV-0054
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from typing import NamedTuple

from qrusty_trio.core.browsing import READ_BYTES, read_on
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.keys import SEQUENCE_BYTES
from qrusty_trio.core.model import Ordering, Priority
from qrusty_trio.core.queue import Queue

MAX_PRIORITIES = 100
"""Priorities listed: the first ones in the order of the queue, or the most frequent ones of a Fifo queue."""
COUNTED_MESSAGES = 10_000
"""A queue with more messages is sampled. Counting takes 10 ms, in steps."""
COUNT_STEPS = 100
"""Steps after which counting is given up for sampling, because the records are large."""
MESSAGES_PER_STEP = 500
"""Messages counted in one step, which takes half a millisecond."""
FIRST_MESSAGES = 64
"""Messages of a priority that are counted one by one. If there are no more, that is their exact number."""
WINDOWS = 16
"""Windows counted of a priority that has more."""
WINDOW_MESSAGES = 32
"""Messages that a window is meant to hold, by what the first ones were like."""
FIFO_WINDOWS = 64
"""Windows counted of a Fifo queue."""
_SPREAD = 0.6180339887498949
"""Steps by the golden ratio are spread evenly, and fall in with no other rhythm."""


class PriorityCounts(NamedTuple):
    """Messages by priority."""

    counts: list[tuple[Priority, int]]
    """At most MAX_PRIORITIES, in the order of the queue; by number of messages in a Fifo queue."""
    others: int
    """Messages of further priorities."""
    sampled: bool
    looked_at: int
    """Messages looked at."""


def count_priorities(journal: Journal, queue: Queue) -> Generator[None, None, PriorityCounts]:
    """Count or sample the available messages of a queue. Raises StorageFault."""
    if queue.available <= COUNTED_MESSAGES:
        counted = yield from _count(journal, queue)
        if counted is not None:
            return counted
    if queue.config.ordering is Ordering.FIFO:
        return (yield from _sample_fifo(journal, queue))
    return (yield from _sample(journal, queue))


def _count(journal: Journal, queue: Queue) -> Generator[None, None, PriorityCounts | None]:
    """None: there is too much to read."""
    counts: Counter[Priority] = Counter()
    begin = queue.head
    priority = queue.coder.priority
    for _ in range(COUNT_STEPS):
        chunk = read_on(journal, queue, begin, MESSAGES_PER_STEP)
        counts.update([priority(key) for key, _ in chunk.pairs])
        if chunk.begin is None:
            return _listed(queue, counts, counts.total(), False, counts.total())
        begin = chunk.begin
        yield
    return None


def _listed(queue: Queue, counts: Counter[Priority], total: int, sampled: bool, looked_at: int) -> PriorityCounts:
    """A dict keeps the order in which priorities were met."""
    listed = list(counts.items())
    if queue.config.ordering is Ordering.FIFO:
        listed = counts.most_common(MAX_PRIORITIES)
    del listed[MAX_PRIORITIES:]
    return PriorityCounts(listed, total - sum(count for _, count in listed), sampled, looked_at)


class _Sample(NamedTuple):
    priority: Priority
    messages: float
    exact: bool


def _sample(journal: Journal, queue: Queue) -> Generator[None, None, PriorityCounts]:
    """Go from priority to priority, each with a seek."""
    samples: list[_Sample] = []
    looked_at = 0
    begin = queue.head
    while first := journal.scan(journal.messages, max(begin, queue.head), queue.end, 1):
        if len(samples) == MAX_PRIORITIES:
            break
        order = first[0][0][:-SEQUENCE_BYTES]
        sample, looked = yield from _sample_priority(journal, queue, order)
        samples.append(sample)
        looked_at += looked
        begin = order + b"\xff" * SEQUENCE_BYTES + b"\x00"
        yield
    return _scaled(queue.available, samples, bool(first), looked_at)


def _scaled(available: int, samples: list[_Sample], further: bool, looked_at: int) -> PriorityCounts:
    exact = sum(sample.messages for sample in samples if sample.exact)
    estimated = sum(sample.messages for sample in samples if not sample.exact)
    factor = 1.0
    if estimated and (not further or exact + estimated > available):
        factor = max(0.0, available - exact) / estimated
    counts = [(each.priority, round(each.messages * (1.0 if each.exact else factor))) for each in samples]
    others = max(0, available - sum(count for _, count in counts)) if further else 0
    return PriorityCounts(counts, others, True, looked_at)


def _sample_priority(journal: Journal, queue: Queue, order: bytes) -> Generator[None, None, tuple[_Sample, int]]:
    """How many messages have keys that begin with `order`, and how many of them were looked at."""
    last = order + b"\xff" * SEQUENCE_BYTES
    end = last + b"\x00"
    pairs = journal.scan(journal.messages, max(order, queue.head), end, FIRST_MESSAGES, READ_BYTES)
    numbers = [_sequence(key) for key, _ in pairs]
    priority = queue.coder.priority(last)
    looked_at = len(pairs)
    if len(pairs) < FIRST_MESSAGES and sum(len(record) for _, record in pairs) < READ_BYTES:
        return _Sample(priority, len(pairs), True), looked_at
    first, after = numbers[0], queue.next_sequence
    width = (numbers[-1] - first + 1) * WINDOW_MESSAGES // len(numbers)
    # At most so wide that the windows cover everything.
    width = min(width, -(-(after - first) // WINDOWS))
    seen, span = 0, 0
    for number in range(WINDOWS):
        yield
        room = (after - first) // WINDOWS - width
        start = first + (after - first) * number // WINDOWS + int(room * (number * _SPREAD % 1))
        pairs = journal.scan(
            journal.messages,
            max(order + start.to_bytes(SEQUENCE_BYTES, "big"), queue.head),
            min(order + (start + width).to_bytes(SEQUENCE_BYTES, "big"), end),
            2 * WINDOW_MESSAGES,
            READ_BYTES,
        )
        looked_at += len(pairs)
        seen += len(pairs)
        # A window that is fuller than expected ends where it was left.
        cut = len(pairs) == 2 * WINDOW_MESSAGES or sum(len(record) for _, record in pairs) >= READ_BYTES
        span += _sequence(pairs[-1][0]) + 1 - start if cut else width
    return _Sample(priority, max(seen * (after - first) / span, len(numbers)), False), looked_at


def _sample_fifo(journal: Journal, queue: Queue) -> Generator[None, None, PriorityCounts]:
    counts: Counter[Priority] = Counter()
    looked_at = 0
    first = int.from_bytes(queue.head[4 : 4 + SEQUENCE_BYTES].ljust(SEQUENCE_BYTES, b"\x00"), "big")
    for number in range(FIFO_WINDOWS):
        start = first + (queue.next_sequence - first) * number // FIFO_WINDOWS
        begin = max(queue.prefix + start.to_bytes(SEQUENCE_BYTES, "big"), queue.head)
        pairs = journal.scan(journal.messages, begin, queue.end, WINDOW_MESSAGES, READ_BYTES)
        counts.update([queue.coder.priority(key) for key, _ in pairs])
        looked_at += len(pairs)
        yield
    factor = queue.available / max(1, looked_at)
    scaled = Counter({priority: round(count * factor) for priority, count in counts.most_common()})
    return _listed(queue, scaled, max(queue.available, scaled.total()), True, looked_at)


def _sequence(key: bytes) -> int:
    return int.from_bytes(key[-SEQUENCE_BYTES:], "big")
