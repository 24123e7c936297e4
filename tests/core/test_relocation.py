"""Moving and dropping payloads under messages that do not hold still."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from qrusty_trio.core import relocation
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.externals import DEAD_LETTER, LIVE
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.core.relocation import PIECE, Place
from qrusty_trio.errors import DuplicatePayload
from qrusty_trio.storage.base import Storage
from qrusty_trio.storage.payloads import PayloadRef, PayloadStore
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.core.brokers import lock_of
from tests.core.ownership import check_ownership

NOW = 1_000_000
SECONDS = 100


class Shelf:
    """A broker over real stores, with small segments."""

    def __init__(self, path: Path) -> None:
        self.storage: Storage = RocksStorage.open(path, cache_mb=8, write_buffer_mb=2, max_open_files=64)
        self.payloads = PayloadStore.open(path / "payloads", segment_max_bytes=4000)
        self.broker = self.load()

    def load(self) -> Broker:
        broker = Broker(self.storage, payloads=self.payloads, externalize_min_bytes=300)
        for _ in broker.load():
            pass
        return broker

    def publish(self, text: str, queue: str = "q", max_retries: int = 3) -> str:
        return self.broker.publish(queue, 0, text.ljust(300, "."), max_retries, NOW)

    def consume(self, queue: str = "q") -> str | None:
        delivery = self.broker.consume(queue, "c", SECONDS, NOW)
        return delivery.payload.rstrip(".") if delivery is not None else None

    def places(self, number: int = 1) -> list[Place]:
        found: list[Place] = []
        begin: bytes | None = b""
        while begin is not None:
            some, begin = relocation.places(self.broker, number, begin)
            found += some
        return found

    def move(self, place: Place) -> bytes:
        self.payloads.retire()
        reference = self.payloads.append(self.payloads.read(PayloadRef.unpack(place.reference))).pack()
        relocation.refer(self.broker, place, reference)
        return reference

    def check(self) -> dict[int, int]:
        self.broker.commit()
        return check_ownership(self.storage)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.broker.journal.detach()
    shelf.payloads.close()
    shelf.storage.close()


@pytest.mark.parametrize("reload", [False, True])
@pytest.mark.parametrize("allow_duplicates", [True, False])
def test_a_payload_moves_wherever_its_message_is(shelf: Shelf, reload: bool, allow_duplicates: bool) -> None:
    shelf.broker.catalog.create("q", QueueConfig(allow_duplicates=allow_duplicates))
    dead, locked, available = (shelf.publish(text, max_retries=1) for text in ("dead", "locked", "available"))
    assert shelf.consume() == "dead"
    shelf.broker.nack("q", dead, "c", NOW)
    assert shelf.consume() == "locked"
    for place in shelf.places():
        shelf.move(place)
    assert set(shelf.check()) == {2, 3, 4}
    if reload:
        shelf.broker = shelf.load()
    assert shelf.places() == []
    shelf.payloads.retire()
    shelf.payloads.remove(1)
    assert shelf.consume() == "available"
    shelf.broker.give_back(lock_of(shelf.broker, locked), counts=False, now=0)
    assert shelf.consume() == "locked"
    if not allow_duplicates:
        with pytest.raises(DuplicatePayload):
            shelf.publish("available")
    shelf.broker.ack("q", locked, "c", NOW)
    shelf.broker.ack("q", available, "c", NOW)
    # The dead letter is what is left.
    assert len(shelf.check()) == 1
    shelf.broker.catalog.delete("q")
    assert shelf.check() == {}


def test_a_locked_message_is_nacked_in_the_batch_in_which_its_payload_moves(shelf: Shelf) -> None:
    id = shelf.publish("first")
    shelf.consume()
    [place] = shelf.places()
    shelf.check()
    shelf.move(place)
    shelf.broker.nack("q", id, "c", NOW)
    assert shelf.check() == {2: 300}
    shelf.payloads.remove(1)
    assert shelf.consume() == "first"


def test_a_locked_message_is_acked_after_its_payload_has_moved(shelf: Shelf) -> None:
    id = shelf.publish("first")
    shelf.consume()
    [place] = shelf.places()
    shelf.move(place)
    shelf.broker.ack("q", id, "c", NOW)
    assert shelf.check() == {}


@pytest.mark.parametrize("fate", ["ack", "purge", "delete", "moved"])
def test_who_comes_too_late_changes_nothing(shelf: Shelf, fate: str) -> None:
    id = shelf.publish("first")
    [place] = shelf.places()
    if fate == "ack":
        shelf.consume()
        shelf.broker.ack("q", id, "c", NOW)
    elif fate == "purge":
        shelf.broker.catalog.purge("q")
    elif fate == "delete":
        shelf.broker.catalog.delete("q")
        shelf.publish("of a new queue of that name")
    else:
        shelf.move(place)
    before = shelf.check()
    shelf.move(place)
    relocation.drop(shelf.broker, place, "checksum")
    assert shelf.check() == before
    assert not shelf.broker.payloads.removed


@pytest.mark.parametrize("fate", ["consumed", "dead", "nacked"])
def test_who_comes_after_the_message_moved_on_still_finds_it(shelf: Shelf, fate: str) -> None:
    id = shelf.publish("first", max_retries=1 if fate == "dead" else 9)
    places = shelf.places()
    shelf.consume()
    if fate != "consumed":
        shelf.broker.nack("q", id, "c", NOW)
    if fate == "dead":
        # A dead letter is another entry; it is met at its own place.
        shelf.move(places[0])
        assert shelf.check() == {1: 300}
        places = shelf.places()
    shelf.move(places[0])
    # Each late move takes a segment; the last one is where the payload is.
    assert shelf.check() == {3 if fate == "dead" else 2: 300}


# Verifies: DLV-0036
def test_a_locked_message_stays_with_its_consumer_although_its_payload_is_lost(shelf: Shelf) -> None:
    id = shelf.publish("first")
    shelf.consume()
    [place] = shelf.places()
    relocation.drop(shelf.broker, place, "checksum")
    assert not shelf.broker.payloads.removed
    shelf.broker.ack("q", id, "c", NOW)
    assert shelf.check() == {}


def test_dropped_messages_are_counted_and_named(shelf: Shelf) -> None:
    shelf.broker.catalog.create("q", QueueConfig(allow_duplicates=False))
    dead = shelf.publish("dead", max_retries=1)
    shelf.consume()
    shelf.broker.nack("q", dead, "c", NOW)
    available = shelf.publish("available")
    kept = shelf.publish("kept")
    refs = {}
    for place in shelf.places():
        if place.owned.id != kept:
            refs[place.owned.id] = PayloadRef.unpack(place.reference)[:3]
            relocation.drop(shelf.broker, place, "short segment")
    assert shelf.broker.payloads.removed_total == 2
    # LIVE entries come first.
    assert [tuple(each) for each in shelf.broker.payloads.take_removed()] == [
        ("q", available, 0, "short segment", *refs[available]),
        ("q", dead, 0, "short segment", *refs[dead]),
    ]
    stats = shelf.broker.catalog.stats("q")
    assert stats is not None
    assert (stats.available, stats.locked, stats.dead) == (1, 0, 0)
    # Nothing holds its payload any more.
    shelf.publish("available")
    shelf.check()
    assert [shelf.consume(), shelf.consume(), shelf.consume()] == ["kept", "available", None]


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("kind", [LIVE, DEAD_LETTER])
def test_an_entry_without_a_message_does_not_hold_its_segment(shelf: Shelf, kind: int, kept: bool) -> None:
    """Except in a queue that is kept aside: the message may be locked there, and then it is not looked for."""
    shelf.publish("first")
    shelf.broker.commit()
    journal, queue = shelf.broker.journal, shelf.broker.catalog.by_name["q"]
    index = shelf.broker.payloads.externals
    entry = struct.pack(">IIBQ", 1, queue.number, kind, 1)
    journal.put(entry, b"x" * 36 + queue.prefix, journal.external)
    index._of(1, queue.number, kind).count += 1
    journal.mark(index._of(1, queue.number, kind))
    if kept:
        shelf.broker.trash.delete("q", SECONDS, NOW)
    assert [place.owned.id == "x" * 36 for place in shelf.places()] == [False]
    journal.commit()
    assert (journal.get(journal.external, entry) is not None) == (kept and kind == LIVE)
    if not kept:
        assert shelf.check() == {1: 300}
        shelf.broker.catalog.purge("q")
        assert not index.owned(1)


def test_pieces_are_bounded_and_complete(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relocation, "PIECE_BYTES", 1000)
    ids = [shelf.publish(str(number)) for number in range(12)]
    found: list[str] = []
    sizes = []
    for number in shelf.payloads.segments():
        begin: bytes | None = b""
        while begin is not None:
            places, begin = relocation.places(shelf.broker, number, begin)
            assert len(places) <= PIECE
            assert sum(PayloadRef.unpack(place.reference).length for place in places) <= 1000
            found += [place.owned.id for place in places]
            sizes.append(len(places))
    assert found == ids
    assert max(sizes) == 1000 // 300
