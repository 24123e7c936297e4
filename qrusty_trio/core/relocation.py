"""Moving and dropping payloads in segment files: the changes that compaction and repair make to messages.

Rule: a message is looked up in one step of the event loop and changed in a later one; its payload is read, appended and
synced in between. The message may have changed by then, so a change applies only if the record still refers to the
place that the payload was read from.
"""

from __future__ import annotations

from typing import NamedTuple

from qrusty_trio.core import records
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.externals import DEAD_LETTER, Owned
from qrusty_trio.core.keys import lock_key
from qrusty_trio.core.queue import Queue
from qrusty_trio.storage.payload_format import CUT_OFF
from qrusty_trio.storage.payloads import PayloadRef

PIECE = 32
"""Entries examined in one step."""
PIECE_BYTES = 512 * 1024
"""Payload bytes appended in one step, or a single larger payload: at most 2 MiB, about 1.5 ms."""


class Place(NamedTuple):
    """A payload and the record that owns it."""

    owned: Owned
    reference: bytes


def places(broker: Broker, segment: int, begin: bytes, end: bytes = b"") -> tuple[list[Place], bytes | None]:
    """The next payloads of a segment, and the index key to continue from (None: there are no more).

    Starts at index key `begin` and ends before `end` (b"" and b"": the whole segment). Entries without a message are
    deleted.
    """
    externals = broker.payloads.externals
    entries = externals.entries(segment, begin, PIECE, end)
    found: list[Place] = []
    octets = 0
    for owned in entries:
        record = _record(broker, owned)
        if record is None:
            # What was locked when its queue was put aside is not looked for.
            if owned.kind == DEAD_LETTER or owned.queue_number not in broker.catalog.kept:
                externals.forget(owned)
            continue
        reference = records.reference_of(record)
        length = PayloadRef.unpack(reference).length
        if found and octets + length > PIECE_BYTES:
            return found, owned.index_key
        octets += length
        found.append(Place(owned, reference))
    return found, entries[-1].index_key + b"\x00" if len(entries) == PIECE else None


def refer(broker: Broker, place: Place, reference: bytes) -> None:
    """Make the message refer to its payload at the new place, where it has been synced.

    No effect if the message is gone or its payload is no longer at the old place.

    Requirements: PER-0027
    """
    record = _record(broker, place.owned)
    if record is None or not _refers(record, place.reference):
        return
    externals = broker.payloads.externals
    owned = place.owned
    queue = broker.catalog.holder(owned.queue_number, owned.kind)
    assert queue is not None, "it has the record"
    _rewrite(broker, queue, owned, records.with_reference(record, reference), reference)
    externals.free(queue, place.reference, owned.kind)
    externals.own(queue, reference, owned.id, owned.key, owned.kind)


def drop(broker: Broker, place: Place, reason: str) -> None:
    """Remove a message whose payload is lost. A locked one stays, because its consumer already has the payload.

    But it goes if it was cut off (CUT_OFF). Nobody was told that it is stored, so its publisher sends it again, and it
    is that one that counts.

    No effect if the message is gone or its payload is no longer at this place.

    Requirements: DLV-0036
    """
    record = _record(broker, place.owned)
    if record is None or not _refers(record, place.reference):
        return
    owned = place.owned
    queue = broker.catalog.holder(owned.queue_number, owned.kind)
    assert queue is not None, "it has the record"
    journal = broker.journal
    key = owned.key
    if owned.kind == DEAD_LETTER:
        value = journal.get(journal.dead, owned.key)
        assert value is not None
        key = records.unpack_dead_letter(value).key
        queue.unbury(journal, owned.key, owned.id)
    elif (lock := queue.locks.get(owned.id)) is not None:
        if reason != CUT_OFF:
            return
        broker.unlock(lock)
    else:
        queue.drop(journal, key)
    digest = records.external_digest(record)
    broker.payload_lost(queue, key, owned.id, place.reference, digest, reason, owned.kind)


def _refers(record: bytes, reference: bytes) -> bool:
    return records.reference_of(record) == reference


def _record(broker: Broker, owned: Owned) -> bytes | None:
    """The record that belongs to an index entry, in whichever family the message is now; None if it is gone."""
    queue = broker.catalog.holder(owned.queue_number, owned.kind)
    if queue is None:
        return None
    journal = broker.journal
    journal.commit()
    record: bytes | None
    lock = queue.locks.get(owned.id)
    if owned.kind == DEAD_LETTER:
        value = journal.get(journal.dead, owned.key)
        record = records.unpack_dead_letter(value).record if value is not None else None
    elif lock is not None:
        value = journal.get(journal.locks, lock_key(queue.number, lock.number))
        record = records.unpack_lock(value).record if value is not None else None
    else:
        record = journal.get(journal.messages, owned.key)
    reference = records.reference_of(record) if record is not None else b""
    return record if reference and PayloadRef.unpack(reference)[:2] == owned.place else None


def _rewrite(broker: Broker, queue: Queue, owned: Owned, record: bytes, reference: bytes) -> None:
    journal = broker.journal
    lock = queue.locks.get(owned.id)
    if owned.kind == DEAD_LETTER:
        value = journal.get(journal.dead, owned.key)
        assert value is not None
        letter = records.unpack_dead_letter(value)._replace(record=record)
        journal.put(owned.key, records.repack_dead_letter(letter), journal.dead)
    elif lock is not None:
        stored = queue.read_lock(journal, lock)
        queue.rewrite_lock(journal, lock, records.repack_lock(stored._replace(record=record)))
        lock.external = reference
    else:
        journal.put(owned.key, record, journal.messages)
        queue.tier.replace(owned.key, record)
