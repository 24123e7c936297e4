"""Turning duplicates off in a queue that may hold some.

Rule: of equal payloads the one that is locked stays (of several, the one locked first keeps equal ones out, and the
others are removed when they come back unsettled), else the one first in order; the others are removed. While this
is at work (`Queue.settling`, stored, so that a restart goes on with it) the queue serves everybody: publishes are
checked against what has been indexed so far, a duplicate that slips in behind the search is found by it later, and a
consume that meets an equal of a locked message removes it.

There is one search for each queue, whoever asked for it; `Broker.search` takes its steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qrusty_trio.core import records
from qrusty_trio.core.externals import REFERENCE_BYTES
from qrusty_trio.core.keys import lock_key
from qrusty_trio.core.records import EXTERNAL, PAYLOAD_AT
from qrusty_trio.storage.payloads import PayloadBroken

if TYPE_CHECKING:
    from qrusty_trio.core.locks import Lock
    from qrusty_trio.core.queue import Queue
    from qrusty_trio.core.registry import Registry

PER_STEP = 64
"""Messages looked at in one step."""
STEP_BYTES = 512 * 1024
"""Payload bytes read in one step, or one payload: at most 2 MiB, about 1.5 ms."""
TRIM_EVERY = 4_000
"""Messages removed one after the other between two range deletes over their place: a refill would pass every one."""
MAX_TRIM_PIECES = 8
"""Range deletes in one step; what messages in between keep from being covered stays as it is."""


def settle(registry: Registry, queue: Queue) -> Iterator[None]:
    """Index the payloads of a queue and remove duplicates; a step is about a millisecond."""
    run = queue.settle_run
    for page in queue.locks.pages(PER_STEP):
        octets = 0
        for lock in page:
            if not _at_work(registry, queue, run):
                return
            if queue.locks.get(lock.id) is lock:
                octets += _index_lock(registry, queue, lock)
                if octets >= STEP_BYTES:
                    octets = 0
                    yield
        yield
    begin = queue.head
    removed_from = begin
    """No message before `begin` and from here on was kept."""
    removed = 0
    journal = registry.journal
    while _at_work(registry, queue, run):
        pairs = journal.scan(journal.messages, begin, queue.end, PER_STEP, STEP_BYTES)
        octets = 0
        for key, record in pairs:
            size, kept = _index_message(registry, queue, key, record)
            begin = key + b"\x00"
            octets += size
            removed += not kept
            if kept or removed >= TRIM_EVERY:
                if removed >= PER_STEP:
                    _trim(registry, removed_from, key if kept else begin)
                removed = 0
                removed_from = begin
            if octets >= STEP_BYTES:
                break
        if not pairs:
            if removed >= PER_STEP:
                _trim(registry, removed_from, begin)
            queue.settling = False
            queue.write_config(journal)
            return
        yield


def _trim(registry: Registry, begin: bytes, end: bytes) -> None:
    """Delete a stretch of removed messages as a range, around those that were published into it meanwhile."""
    journal = registry.journal
    for _ in range(MAX_TRIM_PIECES):
        if begin >= end:
            return
        found = journal.scan(journal.messages, begin, end, 1)
        live = found[0][0] if found else end
        if begin < live:
            journal.delete_range(begin, live, journal.messages)
            journal.touch()
        begin = live + b"\x00"


def _at_work(registry: Registry, queue: Queue, run: int) -> bool:
    return registry.by_number.get(queue.number) is queue and queue.settling and queue.settle_run == run


def _index_lock(registry: Registry, queue: Queue, lock: Lock) -> int:
    """Returns how many bytes of payload had to be read."""
    if lock.digest:
        # From an earlier time without duplicates.
        if not registry.digests.owner(queue, lock.digest):
            registry.digests.own(queue, lock.digest, lock.id)
        return 0
    journal = registry.journal
    if lock.batch_number == journal.batch_number:
        journal.commit()
    key = lock_key(queue.number, lock.number)
    value = journal.get(journal.locks, key)
    if value is None:
        raise registry.damaged(f"the lock of message {lock.id} in queue '{queue.name}' is not in the store")
    stored = records.unpack_lock(value)
    try:
        payload = registry.payload_of(stored.record)
    except PayloadBroken:
        return 0  # its consumer has the payload, and nobody else will get it
    digest = records.digest_of(payload)
    if not registry.digests.owner(queue, digest):
        registry.digests.own(queue, digest, lock.id)
    lock.digest = digest
    journal.put(key, records.repack_lock(stored._replace(digest=digest)), journal.locks)
    lock.batch_number = journal.batch_number
    journal.mark(queue)
    return len(payload)


def _index_message(registry: Registry, queue: Queue, key: bytes, record: bytes) -> tuple[int, bool]:
    """Returns how many bytes of payload had to be read, and whether the message stays."""
    flags, _, _, _, id_bytes = records.unpack_message(record)
    id = id_bytes.decode()
    reference = record[PAYLOAD_AT : PAYLOAD_AT + REFERENCE_BYTES] if flags & EXTERNAL else b""
    journal = registry.journal
    try:
        payload = registry.payload_of(record)
    except PayloadBroken as broken:
        queue.drop(journal, key)
        registry.drop_broken(queue, key, id, reference, record[PAYLOAD_AT + REFERENCE_BYTES :], broken.reason)
        return 0, False
    digest = records.digest_of(payload)
    owner = registry.digests.owner(queue, digest)
    if owner and owner != id_bytes:
        queue.drop(journal, key)
        if reference and registry.externals is not None:
            registry.externals.free(queue, reference)
        return len(payload), False
    registry.digests.own(queue, digest, id)
    if reference and len(record) == PAYLOAD_AT + REFERENCE_BYTES:
        # From now on the record has to tell its digest even when the payload is lost.
        journal.put(key, record + digest, journal.messages)
        queue.tier.replace(key, record + digest)
    return len(payload), True
