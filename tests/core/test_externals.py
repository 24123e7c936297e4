"""Who owns what of which segment: the sums follow every change, survive a restart, and name no segment too many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qrusty_trio.core import externals as externals_module
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.externals import Externals, Tail
from qrusty_trio.core.journal import Journal
from qrusty_trio.errors import PayloadNotStored, PayloadUnreadable
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.payload_format import FRAME_BYTES, HEADER_BYTES
from qrusty_trio.storage.payloads import PayloadStore
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.core.brokers import exhaust
from tests.core.ownership import check_ownership

NOW = 1_000_000
SIZE = 300
PER_SEGMENT = 4


class Shelf:
    """A broker whose segments hold four payloads."""

    def __init__(self, path: Path) -> None:
        self.storage = RocksStorage.open(path, cache_mb=8, write_buffer_mb=2, max_open_files=64)
        self.payloads = PayloadStore.open(
            path / "payloads", segment_max_bytes=HEADER_BYTES + PER_SEGMENT * (FRAME_BYTES + SIZE)
        )
        self.load()

    def load(self) -> None:
        self.broker = Broker(self.storage, payloads=self.payloads, externalize_min_bytes=SIZE)
        for _ in self.broker.load():
            pass

    @property
    def externals(self) -> Externals:
        assert self.broker.payloads.index is not None
        return self.broker.payloads.index

    def publish(self, queue: str, count: int = 1, max_retries: int = 1) -> list[str]:
        return [self.broker.publish(queue, 0, str(n).ljust(SIZE, "."), max_retries, NOW) for n in range(count)]

    def bury(self, queue: str) -> None:
        delivery = self.broker.consume(queue, "c", 30, NOW)
        assert delivery is not None
        self.broker.nack(queue, delivery.id, "c", NOW)

    def owned(self) -> dict[int, int]:
        """Segment -> bytes, as memory has it; the store must say the same, before and after it is read anew."""
        for _ in range(2):
            self.broker.commit()
            owned = check_ownership(self.storage)
            assert {number: self.externals.owned_bytes(number) for number in owned} == owned
            assert {number for number in self.payloads.segments() if self.externals.owned(number)} == set(owned)
            assert set(self.externals.least_sizes()) == set(owned)
            self.load()
        return owned


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.broker.journal.detach()
    shelf.payloads.close()
    shelf.storage.close()


@pytest.mark.parametrize("per_step", [1, 3, 1000])
def test_the_sums_follow_every_change(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, per_step: int) -> None:
    monkeypatch.setattr(externals_module, "_GROUPS_PER_STEP", per_step)
    assert shelf.owned() == {}
    for queue in "ab":
        shelf.publish(queue, 6)
    assert shelf.owned() == {1: 4 * SIZE, 2: 4 * SIZE, 3: 4 * SIZE}
    shelf.bury("a")
    assert shelf.owned() == {1: 4 * SIZE, 2: 4 * SIZE, 3: 4 * SIZE}
    # A purge leaves dead letters.
    shelf.broker.catalog.purge("a")
    assert shelf.owned() == {1: SIZE, 2: 2 * SIZE, 3: 4 * SIZE}
    shelf.broker.catalog.delete("a")
    assert shelf.owned() == {2: 2 * SIZE, 3: 4 * SIZE}
    delivery = shelf.broker.consume("b", "c", 30, NOW)
    assert delivery is not None
    shelf.broker.ack("b", delivery.id, "c", NOW)
    assert shelf.owned() == {2: SIZE, 3: 4 * SIZE}
    shelf.broker.catalog.purge("b")
    assert shelf.owned() == {}


def test_all_of_it_in_one_batch(shelf: Shelf) -> None:
    """What is put and gone again before anything is written leaves nothing; and what comes after stays."""
    shelf.publish("q", 3)
    shelf.bury("q")
    shelf.broker.catalog.purge("q")
    shelf.publish("q", 1)
    shelf.broker.catalog.delete("q")
    shelf.publish("q", 2)
    assert shelf.owned() == {2: 2 * SIZE}


def test_the_least_size_of_a_segment_is_where_its_last_owned_byte_is(shelf: Shelf) -> None:
    shelf.publish("a", 2)
    shelf.publish("b", 1)
    sizes = shelf.payloads.segments()
    assert shelf.externals.least_sizes() == sizes
    shelf.broker.catalog.purge("b")
    assert shelf.externals.least_sizes() == {1: sizes[1] - FRAME_BYTES - SIZE}


def test_entries_come_in_order_and_in_pieces(shelf: Shelf) -> None:
    ids = shelf.publish("q", PER_SEGMENT)
    assert [each.id for each in shelf.externals.entries(1, b"", 10)] == ids
    first, second = shelf.externals.entries(1, b"", 2)
    assert [each.id for each in shelf.externals.entries(1, second.index_key + b"\0", 10)] == ids[2:]
    assert first.place == (1, HEADER_BYTES + FRAME_BYTES)
    assert shelf.externals.entries(2, b"", 10) == []


def test_entries_without_records_are_forgotten_whatever_kind_they_are_of(shelf: Shelf) -> None:
    shelf.publish("a", 3)
    shelf.publish("b", 3)
    shelf.bury("b")
    externals = shelf.externals
    entries = [entry for segment in (1, 2) for entry in externals.entries(segment, b"", 10)]
    assert len(entries) == 6
    for entry in entries:
        assert externals.owned(entry.segment)
        externals.forget(entry)
    assert not externals.owned(1)
    assert not externals.owned(2)
    shelf.broker.commit()
    shelf.load()
    assert shelf.externals.least_sizes() == {}


def test_a_tail_is_cut_only_where_nothing_is_left(shelf: Shelf) -> None:
    shelf.publish("q", PER_SEGMENT)
    externals = shelf.externals
    entries = externals.entries(1, b"", 10)
    tail = Tail(1, entries[0].index_key[: -len(entries[0].offset.to_bytes(8))], entries[2].offset)
    (size,) = externals.least_sizes().values()
    for end, count in ((size + 1, 2), (100, 1), (100, 3)):
        externals.cut(tail, end, count)
        assert externals.least_sizes() == {1: size}
    externals.cut(tail, 100, 2)
    assert externals.least_sizes() == {1: 100}
    shelf.broker.commit()
    shelf.load()
    assert shelf.externals.least_sizes() == {1: 100}


class Synced:
    """Of a store of payloads: how far it is synced."""

    def __init__(self, synced: tuple[int, int]) -> None:
        self.synced = synced


@pytest.mark.parametrize("synced", [(2, 0), (1, 77)])
def test_the_mark_is_stored_where_there_is_to_be_one(synced: tuple[int, int]) -> None:
    storage = MemoryStorage()

    def loaded() -> Externals:
        externals = Externals(Journal(storage), Synced(synced))  # type: ignore[arg-type]  # no more is asked of it
        exhaust(externals.load())
        return externals

    journal = Journal(storage)
    externals = Externals(journal, Synced(synced))  # type: ignore[arg-type]
    externals.note_mark()
    journal.commit()
    assert loaded().mark == (0, 0)
    externals.marks = True
    externals.note_mark()
    journal.commit()
    assert externals.mark == loaded().mark == synced
    externals.drop_mark()
    journal.commit()
    assert externals.mark == loaded().mark == (0, 0)
    externals.store.synced = 0, 0
    externals.note_mark()
    assert not journal.dirty


def test_a_payload_that_finds_no_room_refuses_that_message_only(shelf: Shelf) -> None:
    shelf.publish("q", 1)
    shelf.payloads.close()
    with pytest.raises(PayloadNotStored) as refused:
        shelf.publish("q", 1)
    assert (refused.value.status, refused.value.code) == (503, "storage_error")
    assert shelf.externals.failures == 1
    assert shelf.externals.last_failure in str(refused.value)
    shelf.broker.publish("q", 0, "short", 3, NOW)
    shelf.broker.commit()
    assert check_ownership(shelf.storage) == {1: SIZE}
    stats = shelf.broker.catalog.stats("q")
    assert stats is not None
    assert stats.available == 2


def test_a_read_that_fails_is_counted(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise PayloadUnreadable("no descriptor")

    monkeypatch.setattr(PayloadStore, "read", fail)
    shelf.publish("q", 1)
    for count in (1, 2):
        with pytest.raises(PayloadUnreadable):
            shelf.broker.consume("q", "c", 30, NOW)
        assert (shelf.externals.failures, shelf.externals.last_failure) == (count, "no descriptor")


@pytest.mark.parametrize("character", ["x", "ü", "\U0001f600"])
def test_what_is_long_is_said_in_bytes(shelf: Shelf, character: str) -> None:
    """As many characters of any kind as make up the bound, and one fewer."""
    count = SIZE // len(character.encode())
    shelf.broker.publish("q", 1, character * (count - 1), 3, NOW)
    assert shelf.payloads.segments() == {}
    shelf.broker.publish("q", 1, character * count, 3, NOW)
    assert len(shelf.payloads.segments()) == 1
