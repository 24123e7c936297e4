"""One suite for every backend: what `Storage` promises, whoever keeps it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from qrusty_trio.errors import StorageFault
from qrusty_trio.storage.base import Family, Storage
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.rocksdb import RocksStorage

END = b"\xff" * 8


def open_rocksdb(path: Path) -> Storage:
    return RocksStorage.open(path, cache_mb=8, write_buffer_mb=2, max_open_files=64)


def open_memory(path: Path) -> Storage:
    return MemoryStorage()


BACKENDS: dict[str, Callable[[Path], Storage]] = {"memory": open_memory, "rocksdb": open_rocksdb}


@pytest.fixture(params=sorted(BACKENDS))
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    store = BACKENDS[request.param](tmp_path / "store")
    yield store
    store.close()


def put(storage: Storage, family: Family, **pairs: str) -> None:
    batch = storage.batch()
    for key, value in pairs.items():
        batch.put(key.encode(), value.encode(), storage.families[family])
    storage.write(batch)


def test_one_handle_per_family(storage: Storage) -> None:
    assert len(storage.families) == len(Family)


def test_a_family_does_not_see_another(storage: Storage) -> None:
    batch = storage.batch()
    for family in Family:
        batch.put(b"key", family.name.encode(), storage.families[family])
    storage.write(batch)
    for family in Family:
        assert storage.get(storage.families[family], b"key") == family.name.encode()
    batch = storage.batch()
    batch.delete_range(b"", END, storage.families[Family.LOCKS])
    storage.write(batch)
    assert [f for f in Family if storage.get(storage.families[f], b"key") is None] == [Family.LOCKS]


# Verifies: PER-0006
def test_a_batch_is_invisible_until_written(storage: Storage) -> None:
    batch = storage.batch()
    assert len(batch) == 0
    batch.put(b"a", b"1", storage.families[Family.MESSAGES])
    assert len(batch) == 1
    assert storage.get(storage.families[Family.MESSAGES], b"a") is None
    storage.write(batch)
    assert storage.get(storage.families[Family.MESSAGES], b"a") == b"1"


def test_an_empty_batch_changes_nothing(storage: Storage) -> None:
    put(storage, Family.MESSAGES, a="1")
    storage.write(storage.batch())
    assert storage.scan(storage.families[Family.MESSAGES], b"", END, 10) == [(b"a", b"1")]


# Verifies: PER-0023
def test_a_batch_applies_its_changes_in_their_order(storage: Storage) -> None:
    handle = storage.families[Family.MESSAGES]
    batch = storage.batch()
    batch.put(b"a", b"1", handle)
    batch.put(b"b", b"1", handle)
    batch.put(b"c", b"1", handle)
    batch.delete_range(b"a", b"c", handle)
    batch.put(b"a", b"2", handle)
    batch.delete(b"c", handle)
    batch.put(b"d", b"1", handle)
    batch.put(b"d", b"2", handle)
    storage.write(batch)
    assert storage.scan(handle, b"", END, 10) == [(b"a", b"2"), (b"d", b"2")]


def test_deleting_what_is_not_there_is_no_error(storage: Storage) -> None:
    handle = storage.families[Family.DEAD]
    batch = storage.batch()
    batch.delete(b"nothing", handle)
    batch.delete_range(b"a", b"z", handle)
    storage.write(batch)
    assert storage.scan(handle, b"", END, 10) == []


# Verifies: PER-0023
def test_a_range_is_half_open(storage: Storage) -> None:
    put(storage, Family.MESSAGES, a="1", b="2", c="3")
    handle = storage.families[Family.MESSAGES]
    assert storage.scan(handle, b"a", b"c", 10) == [(b"a", b"1"), (b"b", b"2")]
    batch = storage.batch()
    batch.delete_range(b"a", b"c", handle)
    storage.write(batch)
    assert storage.scan(handle, b"", END, 10) == [(b"c", b"3")]


def test_a_scan_stops_at_its_limit(storage: Storage) -> None:
    put(storage, Family.MESSAGES, a="1", b="2", c="3")
    handle = storage.families[Family.MESSAGES]
    assert storage.scan(handle, b"", END, 0) == []
    assert storage.scan(handle, b"", END, 2) == [(b"a", b"1"), (b"b", b"2")]
    assert len(storage.scan(handle, b"", END, 3)) == 3


def test_a_scan_stops_at_its_bytes(storage: Storage) -> None:
    put(storage, Family.MESSAGES, a="12345", b="", c="12345", d="1")
    handle = storage.families[Family.MESSAGES]
    for octets, keys in ((1, b"a"), (5, b"a"), (6, b"abc"), (10, b"abc"), (11, b"abcd"), (99, b"abcd")):
        assert b"".join(key for key, _ in storage.scan(handle, b"", END, 10, octets)) == keys
    assert len(storage.scan(handle, b"", END, 2, 99)) == 2
    assert storage.scan(handle, b"b", b"c", 10, 1) == [(b"b", b"")]


def test_an_empty_range_gives_nothing(storage: Storage) -> None:
    put(storage, Family.MESSAGES, a="1", b="2")
    handle = storage.families[Family.MESSAGES]
    for begin, end in ((b"b", b"a"), (b"a", b"a")):
        assert storage.scan(handle, begin, end, 10) == []


def test_keys_and_values_are_any_bytes(storage: Storage) -> None:
    handle = storage.families[Family.MESSAGES]
    pairs = [
        (b"", b"empty key"),
        (b"\x00", b""),
        (b"\x00\x00", b"\x00"),
        (b"\x7f\x80", b"\xff" * 70_000),
        (b"\xfe", b"x"),
    ]
    batch = storage.batch()
    for key, value in reversed(pairs):
        batch.put(key, value, handle)
    storage.write(batch)
    assert storage.scan(handle, b"", END, 10) == pairs
    assert [storage.get(handle, key) for key, _ in pairs] == [value for _, value in pairs]


def test_sync_flush_and_compact_work_in_other_threads_while_writes_go_on(storage: Storage) -> None:
    def work() -> None:
        for _ in range(5):
            storage.sync()
            storage.flush()
            storage.compact()

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(work) for _ in range(2)]
        for number in range(500):
            put(storage, Family.MESSAGES, **{f"{number:05}": "v" * 100})
        for future in running:
            future.result()
    assert len(storage.scan(storage.families[Family.MESSAGES], b"", END, 1_000)) == 500


def test_what_is_on_disk_is_accounted(storage: Storage) -> None:
    put(storage, Family.MESSAGES, a="1")
    assert (storage.disk_bytes() > 0) == storage.persistent
    storage.set_cache_bytes(1_000_000)


def test_reopen_keeps_everything(storage: Storage) -> None:
    put(storage, Family.MESSAGES, a="1")
    storage.reopen()
    assert storage.get(storage.families[Family.MESSAGES], b"a") == b"1"
    put(storage, Family.MESSAGES, b="2")
    storage.sync()


def test_close_is_idempotent_and_final(storage: Storage) -> None:
    batch = storage.batch()
    storage.close()
    storage.close()
    with pytest.raises(StorageFault):
        storage.write(batch)


KEYS = st.binary(max_size=3)
FAMILIES = [family for family in Family if family is not Family.META]  # META holds the schema version besides
CHANGES = st.lists(
    st.tuples(st.sampled_from(["put", "put", "delete", "delete_range"]), st.sampled_from(FAMILIES), KEYS, KEYS),
    max_size=12,
)


class Model(RuleBasedStateMachine):
    """The backend against a dict per family."""

    open: Callable[[Path], Storage]

    @initialize()
    def start(self) -> None:
        self.directory = TemporaryDirectory()
        self.storage = type(self).open(Path(self.directory.name))
        self.model: dict[Family, dict[bytes, bytes]] = {family: {} for family in FAMILIES}

    def everything(self, family: Family) -> list[tuple[bytes, bytes]]:
        return self.storage.scan(self.storage.families[family], b"", END, 10_000)

    def within(self, family: Family, begin: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        return sorted((key, value) for key, value in self.model[family].items() if begin <= key < end)

    @rule(changes=CHANGES)
    def write(self, changes: list[tuple[str, Family, bytes, bytes]]) -> None:
        batch = self.storage.batch()
        for kind, family, key, other in changes:
            handle = self.storage.families[family]
            table = self.model[family]
            if kind == "put":
                batch.put(key, other, handle)
                table[key] = other
            elif kind == "delete":
                batch.delete(key, handle)
                table.pop(key, None)
            else:
                begin, end = sorted((key, other))
                batch.delete_range(begin, end, handle)
                for doomed in [known for known in table if begin <= known < end]:
                    del table[doomed]
        self.storage.write(batch)

    @rule(family=st.sampled_from(FAMILIES), key=KEYS)
    def get(self, family: Family, key: bytes) -> None:
        assert self.storage.get(self.storage.families[family], key) == self.model[family].get(key)

    @rule(family=st.sampled_from(FAMILIES), begin=KEYS, end=KEYS, limit=st.integers(0, 5))
    def scan(self, family: Family, begin: bytes, end: bytes, limit: int) -> None:
        expected = self.within(family, begin, end)[:limit]
        assert self.storage.scan(self.storage.families[family], begin, end, limit) == expected

    @rule(call=st.sampled_from(["sync", "flush", "compact"]))
    def maintain(self, call: str) -> None:
        getattr(self.storage, call)()

    @rule()
    def reopen(self) -> None:
        self.storage.reopen()
        self.compare()

    @precondition(lambda self: self.storage.persistent)
    @rule()
    def close_and_open(self) -> None:
        self.storage.close()
        self.storage = type(self).open(Path(self.directory.name))
        self.compare()

    def compare(self) -> None:
        for family in FAMILIES:
            assert self.everything(family) == sorted(self.model[family].items())

    def teardown(self) -> None:
        if hasattr(self, "storage"):
            try:
                self.compare()
            finally:
                self.storage.close()
                self.directory.cleanup()


# Verifies: PER-0023
@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_behaves_like_a_sorted_dict(backend: str) -> None:
    machine: Any = type("BackendModel", (Model,), {"open": staticmethod(BACKENDS[backend])})
    examples = 20 if backend == "rocksdb" else 60
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
