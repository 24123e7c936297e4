"""Turning duplicates off in a queue that may hold some.

Rule: of equal payloads the one that is locked stays (of several, the one locked first keeps equal ones out, and the
others are removed when they come back unsettled), else the one first in order; the others are removed. While this
is at work (`Queue.settling`, stored, so that a restart goes on with it) the queue serves everybody: publishes are
checked against what has been indexed so far, and a duplicate that slips in behind the search is found by it later.
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


def settle(registry: Registry, queue: Queue) -> Iterator[None]:
    """Index the payloads of a queue and remove duplicates; a step is about a millisecond."""
    run = queue.settle_run
    locked = list(queue.locks.values())
    for start in range(0, len(locked), PER_STEP):
        for lock in locked[start : start + PER_STEP]:
            if _at_work(registry, queue, run) and queue.locks.get(lock.id) is lock:
                _index_lock(registry, queue, lock)
        yield
    begin = queue.head
    journal = registry.journal
    while _at_work(registry, queue, run):
        pairs = journal.scan(journal.messages, begin, queue.end, PER_STEP)
        for key, record in pairs:
            _index_message(registry, queue, key, record)
        if len(pairs) < PER_STEP:
            queue.settling = False
            queue.write_config(journal)
            return
        begin = pairs[-1][0] + b"\x00"
        yield


def _at_work(registry: Registry, queue: Queue, run: int) -> bool:
    return registry.by_number.get(queue.number) is queue and queue.settling and queue.settle_run == run


def _index_lock(registry: Registry, queue: Queue, lock: Lock) -> None:
    if lock.digest:
        # From an earlier time without duplicates.
        if not registry.digests.owner(queue, lock.digest):
            registry.digests.own(queue, lock.digest, lock.id)
        return
    journal = registry.journal
    if lock.batch_number == journal.batch_number:
        journal.commit()
    key = lock_key(queue.number, lock.number)
    value = journal.get(journal.locks, key)
    if value is None:
        raise registry.damaged(f"the lock of message {lock.id} in queue '{queue.name}' is not in the store")
    stored = records.unpack_lock(value)
    try:
        digest = records.digest_of(registry.payload_of(stored.record))
    except PayloadBroken:
        return  # its consumer has the payload, and nobody else will get it
    if not registry.digests.owner(queue, digest):
        registry.digests.own(queue, digest, lock.id)
    lock.digest = digest
    value = records.pack_lock(stored.until, stored.deliveries, stored.consumer, stored.key, digest, stored.record)
    journal.put(key, value, journal.locks)
    lock.batch_number = journal.batch_number
    journal.mark(queue)


def _index_message(registry: Registry, queue: Queue, key: bytes, record: bytes) -> None:
    flags, _, _, _, id_bytes = records.unpack_message(record)
    id = id_bytes.decode()
    reference = record[PAYLOAD_AT : PAYLOAD_AT + REFERENCE_BYTES] if flags & EXTERNAL else b""
    journal = registry.journal
    try:
        digest = records.digest_of(registry.payload_of(record))
    except PayloadBroken as broken:
        _remove(registry, queue, key)
        registry.drop_broken(queue, key, id, reference, record[PAYLOAD_AT + REFERENCE_BYTES :], broken.reason)
        return
    owner = registry.digests.owner(queue, digest)
    if owner and owner != id_bytes:
        _remove(registry, queue, key)
        if reference and registry.externals is not None:
            registry.externals.free(queue, reference)
        return
    registry.digests.own(queue, digest, id)
    if reference and len(record) == PAYLOAD_AT + REFERENCE_BYTES:
        # From now on the record has to tell its digest even when the payload is lost.
        journal.put(key, record + digest, journal.messages)
        queue.tier.replace(key, record + digest)


def _remove(registry: Registry, queue: Queue, key: bytes) -> None:
    registry.journal.delete(key, registry.journal.messages)
    registry.journal.mark(queue)
    queue.tier.discard(key)
    queue.available -= 1
