"""A data directory that goes away under an open store: told before anything is answered, and found again."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qrusty_trio.errors import StorageFault
from qrusty_trio.storage import place as place_module
from qrusty_trio.storage.base import Family
from qrusty_trio.storage.payload_format import segment_name
from qrusty_trio.storage.payloads import PayloadBroken, PayloadStore
from qrusty_trio.storage.place import Place
from qrusty_trio.storage.rocksdb import RocksStorage


def open_store(path: Path) -> RocksStorage:
    return RocksStorage.open(path, cache_mb=8, write_buffer_mb=2, max_open_files=64)


def put(storage: RocksStorage, key: bytes) -> None:
    batch = storage.batch()
    batch.put(key, b"x" * 100, storage.families[Family.MESSAGES])
    storage.write(batch)


def keys(storage: RocksStorage) -> list[bytes]:
    return [key for key, _ in storage.scan(storage.families[Family.MESSAGES], b"", b"\xff", 1000)]


def rename(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def rename_and_replace(path: Path) -> None:
    rename(path)
    path.mkdir()


def rename_and_copy(path: Path) -> None:
    """As when a backup is put in its place: all the same files, and none of them the same."""
    rename(path)
    shutil.copytree(path.with_name("elsewhere"), path)


def put_back(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
    path.with_name("elsewhere").rename(path)


def remove_everything_in_it(path: Path) -> None:
    for entry in path.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)


def remove(pattern: str) -> Callable[[Path], None]:
    def remove_some(path: Path) -> None:
        for file in path.glob(pattern):
            file.unlink(missing_ok=True)  # RocksDB may remove an old one just now

    return remove_some


# Verifies: PER-0045
@pytest.mark.parametrize("gone", [rename, rename_and_replace, rename_and_copy])
def test_a_directory_that_comes_back_is_gone_on_with(tmp_path: Path, gone: Callable[[Path], None]) -> None:
    path = tmp_path / "data"
    storage = open_store(path)
    put(storage, b"before")
    storage.sync()
    gone(path)
    put(storage, b"meanwhile")
    before = sorted(os.listdir(path)) if path.exists() else None
    for refused in (storage.check, storage.sync, storage.reopen, storage.reopen):
        with pytest.raises(StorageFault, match="Put the same one back"):
            refused()
    with pytest.raises(StorageFault, match="reopened first"):
        put(storage, b"refused")
    assert before is None or sorted(os.listdir(path)) == before  # nothing is written into another one
    assert keys(storage) == [b"before", b"meanwhile"]
    put_back(path)
    storage.reopen()
    assert keys(storage) == [b"before", b"meanwhile"]
    put(storage, b"after")
    storage.sync()
    storage.close()
    storage = open_store(path)
    assert keys(storage) == [b"after", b"before", b"meanwhile"]
    storage.close()


# Verifies: PER-0046
@pytest.mark.parametrize(
    "gone",
    [
        shutil.rmtree,
        remove_everything_in_it,
        remove("FORMAT"),
        remove("*.log"),
        remove("CURRENT"),
        remove("MANIFEST-*"),
    ],
    ids=["directory", "content", "FORMAT", "log", "CURRENT", "manifest"],
)
def test_what_is_written_into_removed_files_is_not_taken_for_safe(tmp_path: Path, gone: Callable[[Path], None]) -> None:
    path = tmp_path / "data"
    storage = open_store(path)
    put(storage, b"before")
    storage.sync()
    gone(path)
    put(storage, b"lost")
    with pytest.raises(StorageFault, match="under the running server"):
        storage.check()
    with pytest.raises(StorageFault, match="under the running server"):
        storage.reopen()
    with pytest.raises(StorageFault):
        put(storage, b"refused")
    storage.close()


def test_a_removal_right_after_a_look_is_seen_by_the_next(tmp_path: Path) -> None:
    """Times of change tick every few milliseconds: two changes may share one."""
    path = tmp_path / "data"
    for _ in range(20):
        storage = open_store(path)
        (path / "just now").touch()
        storage.sync()
        for file in path.glob("*.log"):
            file.unlink(missing_ok=True)  # RocksDB may remove an old one just now
        with pytest.raises(StorageFault, match="was removed"):
            storage.check()
        storage.close()
        shutil.rmtree(path)


def test_nothing_is_looked_at_twice_while_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(place_module, "SETTLED_NS", 0)
    place = Place(tmp_path, "the place", lambda: looks.append(1))
    while not looks or time.time_ns() <= tmp_path.stat().st_mtime_ns:
        place.check()
    place.check()
    seen = len(looks)
    for _ in range(10):
        place.check()
    assert len(looks) == seen
    (tmp_path / "new").touch()
    place.check()
    assert len(looks) == seen + 1
    place.forget()
    place.check()
    assert len(looks) == seen + 2


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_no_descriptors_are_no_fault_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path = tmp_path / "data"
    storage = open_store(path)
    put(storage, b"before")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as out_of_it:
        out_of_it.setattr(os, "listdir", fail)
        (path / "just now").touch()
        storage.check()
        storage.sync()
        put(storage, b"meanwhile")
        # What can be seen without one is seen.
        (path / "FORMAT").rename(path / "format")
        with pytest.raises(StorageFault, match="FORMAT was removed"):
            storage.check()
        (path / "format").rename(path / "FORMAT")
    # What could not be seen is looked at next time.
    storage.reopen()
    for file in path.glob("*.log"):
        file.unlink(missing_ok=True)  # RocksDB may remove an old one just now
    with pytest.raises(StorageFault, match="was removed"):
        storage.check()
    storage.close()


def test_flushes_and_compactions_are_no_removal(tmp_path: Path) -> None:
    storage = open_store(tmp_path)
    for number in range(30):
        put(storage, b"%d" % number)
        storage.flush()
        storage.sync()
        if number % 10 == 0:
            storage.compact()
            storage.check()
            storage.reopen()
            storage.check()
    assert len(keys(storage)) == 30
    storage.close()


@pytest.mark.parametrize(
    ("where", "number"),
    [
        (where, number)
        for where in ("shutil.disk_usage", "Rdict", "newest_log", "DirectoryLock.look")
        for number in (errno.EMFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOSPC)
        # Looking at the lock takes no descriptor, and a want of memory there is left to the next look.
        if where != "DirectoryLock.look" or number not in (errno.EMFILE, errno.ENOMEM)
    ],
)
def test_a_store_that_cannot_be_opened_again_is_a_storage_fault_whatever_the_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int
) -> None:
    storage = open_store(tmp_path)
    put(storage, b"before")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"qrusty_trio.storage.rocksdb.{where}", fail)
    for _ in range(3):
        with pytest.raises(StorageFault) as fault:
            storage.reopen()
        assert "\n" not in str(fault.value)
        fault.value.forget_origin()
    monkeypatch.undo()
    storage.reopen()
    assert keys(storage) == [b"before"]
    storage.close()


def test_a_store_of_another_version_that_is_opened_again_is_a_storage_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_store(tmp_path)
    batch = storage.batch()
    batch.put(b"schema_version", (4).to_bytes(4, "big"), storage.families[Family.META])
    storage.write(batch)
    del batch
    with pytest.raises(StorageFault, match="schema 4"):
        storage.reopen()
    storage.close()


# --- the directory of payloads --------------------------------------------------------------------------------------


def test_a_payload_directory_that_is_away_costs_no_message(tmp_path: Path) -> None:
    path = tmp_path / "payloads"
    store = PayloadStore.open(path, segment_max_bytes=1000)
    refs = [store.append(b"x" * 600) for _ in range(3)]
    store.sync()
    rename(path)
    store.append(b"meanwhile")
    with pytest.raises(StorageFault, match="Put the same one back"):
        store.sync()
    put_back(path)
    store.check_place()
    store.sync()
    assert [store.read(ref) for ref in refs] == [b"x" * 600] * 3
    assert store.recover() == {}
    shutil.rmtree(path)
    for ref in refs[:2]:
        # Not "missing", or the message would go.
        with pytest.raises(StorageFault, match="was removed"):
            PayloadStore.read(_without_readers(store), ref)
    with pytest.raises(StorageFault):
        store.close()


# Verifies: PER-0045
@pytest.mark.parametrize("gone", [rename, rename_and_replace, rename_and_copy])
def test_nobody_is_told_to_start_without_the_payloads(tmp_path: Path, gone: Callable[[Path], None]) -> None:
    """A data directory may be another one, with all of its messages. A part of it may not."""
    path = tmp_path / "payloads"
    store = PayloadStore.open(path, segment_max_bytes=1000)
    store.append(b"x")
    gone(path)
    with pytest.raises(StorageFault, match="Put the same one back") as fault:
        store.check_place()
    assert "use what is there now" not in str(fault.value)
    assert "Do not start it again before" in str(fault.value)
    put_back(path)
    store.close()
    storage = open_store(tmp_path / "data")
    gone(tmp_path / "data")
    with pytest.raises(StorageFault, match="Put the same one back") as fault:
        storage.check()
    assert ("use what is there now" in str(fault.value)) is (gone is not rename)
    assert "Do not" not in str(fault.value)
    put_back(tmp_path / "data")
    storage.close()


# Verifies: PER-0045
@pytest.mark.parametrize("change", ["append", "remove"])
def test_the_first_change_in_a_removed_payload_directory_says_what_to_do(tmp_path: Path, change: str) -> None:
    path = tmp_path / "payloads"
    store = PayloadStore.open(path, segment_max_bytes=1000)
    refs = [store.append(b"x" * 600) for _ in range(2)]
    store.sync()
    store.retire()
    shutil.rmtree(path)
    with pytest.raises(StorageFault, match=r"was removed under the running server.* put back a backup"):
        store.append(b"x" * 600) if change == "append" else store.remove(refs[-1].segment)
    with pytest.raises(StorageFault):
        store.close()


def _without_readers(store: PayloadStore) -> PayloadStore:
    store._readers.clear()
    return store


def test_a_sync_into_a_segment_that_was_removed_is_none(tmp_path: Path) -> None:
    store = PayloadStore.open(tmp_path, segment_max_bytes=1000)
    store.append(b"x")
    store.sync()
    (tmp_path / segment_name(1)).unlink()
    ref = store.append(b"lost")
    for _ in range(2):
        with pytest.raises(StorageFault):
            store.sync()
    assert store.recover() == {1: 0}
    store.append(b"after")
    store.sync()
    with pytest.raises(PayloadBroken):
        store.read(ref)
    store.close()
