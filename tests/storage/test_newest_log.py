"""A descriptor in place of RocksDB's own sync: given out only when what it covers is everything."""

from __future__ import annotations

import errno
import gc
import os
import random
import shutil
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from qrusty_trio.storage import rocksdb
from qrusty_trio.storage.base import Family
from qrusty_trio.storage.files import Opened
from qrusty_trio.storage.newest_log import NewestLog
from qrusty_trio.storage.rocksdb import RocksStorage
from tests.storage.test_place import open_store, put

STEPS = 400


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def storage(path: Path) -> Iterator[RocksStorage]:
    storage = open_store(path)
    yield storage
    storage.close()


def newest(storage: RocksStorage) -> NewestLog:
    assert storage._newest is not None
    return storage._newest


def given_out(storage: RocksStorage) -> Opened:
    """The newest log. It may take some more syncs, as RocksDB creates files in the background, too."""
    for _ in range(STEPS):
        if (file := storage.sync_descriptor()) is not None:
            return file
        put(storage, b"more")
        storage.sync()
        put(storage, b"still more")
    raise AssertionError("no log is given out")


def target(file: Opened) -> Path:
    return Path(f"/proc/self/fd/{file.descriptor}").readlink()


def copied(path: Path, left: Path) -> bool:
    """Copy a store that is open, unless a flush in the background ends meanwhile."""
    shutil.rmtree(left, ignore_errors=True)
    names = sorted(os.listdir(path))
    try:
        shutil.copytree(path, left)
    except shutil.Error:
        return False
    return names == sorted(os.listdir(path))


# Verifies: PER-0065
def test_after_a_sync_the_log_that_is_written_is_given_out(storage: RocksStorage, path: Path) -> None:
    assert storage.sync_descriptor() is None
    put(storage, b"one")
    assert storage.sync_descriptor() is None
    storage.sync()
    for key in (b"two", b"three"):
        put(storage, key)
        log = target(given_out(storage))
        assert log == max(path.glob("*.log"))
        assert key in log.read_bytes()


# Verifies: PER-0065
def test_after_a_switch_rocksdb_syncs_first(storage: RocksStorage, path: Path) -> None:
    put(storage, b"one")
    storage.sync()
    put(storage, b"two")
    before = target(given_out(storage))
    storage.flush()
    assert storage.sync_descriptor() is None
    storage.sync()
    # The new log is empty. Whether RocksDB will write it is not certain.
    assert storage.sync_descriptor() is None
    put(storage, b"three")
    assert storage.sync_descriptor() is None
    storage.sync()
    put(storage, b"four")
    assert target(given_out(storage)) > before


# Verifies: PER-0065
def test_a_switch_between_the_look_and_the_sync_is_noticed(storage: RocksStorage) -> None:
    put(storage, b"one")
    candidate = newest(storage).before_sync()
    assert candidate is not None
    storage.flush()
    # What another thread that syncs has read from the queue counts, too.
    newest(storage).drop_old()
    newest(storage).after_sync(candidate)
    assert storage.sync_descriptor() is None


# Verifies: PER-0065
@pytest.mark.parametrize("content", [b"", b"x" * 1000], ids=["empty", "foreign"])
def test_a_log_that_rocksdb_does_not_write_is_not_given_out(storage: RocksStorage, path: Path, content: bytes) -> None:
    (path / "999999.log").write_bytes(content)
    for number in range(5):
        put(storage, b"%d" % number)
        assert storage.sync_descriptor() is None
        storage.sync()
    (path / "999999.log").unlink()


# Verifies: PER-0065
def test_a_directory_that_was_moved_is_noticed(storage: RocksStorage, path: Path) -> None:
    put(storage, b"one")
    storage.sync()
    path.rename(path.with_name("elsewhere"))
    path.with_name("elsewhere").rename(path)
    put(storage, b"two")
    assert storage.sync_descriptor() is None
    storage.sync()
    put(storage, b"three")
    given_out(storage)


# Verifies: PER-0065
def test_lost_events_count_as_a_change(storage: RocksStorage, path: Path) -> None:
    put(storage, b"one")
    storage.sync()
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 100_000:
        pytest.skip(f"the queue takes {most} events")
    outside = path.with_name("outside")
    for number in range(most + 10):
        outside.touch()
        outside.rename(path / f"{number % 2}.tmp")
    put(storage, b"two")
    assert storage.sync_descriptor() is None
    for number in range(2):
        (path / f"{number}.tmp").unlink()


# Verifies: PER-0065
def test_a_watch_that_is_refused_leaves_all_syncs_to_rocksdb(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: Path) -> NewestLog:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rocksdb, "NewestLog", refuse)
    with caplog.at_level("INFO"):
        storage = open_store(path)
    assert "can't be watched" in caplog.text
    for number in range(5):
        put(storage, b"%d" % number)
        assert storage.sync_descriptor() is None
        storage.sync()
    storage.close()


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    gc.collect()
    before = own_descriptors(tmp_path)
    (tmp_path / "file").touch()
    for missing in ("nothing", "file"):
        with pytest.raises(OSError, match="directory"):
            NewestLog(tmp_path / missing)
    assert own_descriptors(tmp_path) == before


def own_descriptors(path: Path) -> list[str]:
    """What is open of the store's directory, and watches of any."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(str(Path(f"/proc/self/fd/{name}").readlink()))
    return [each for each in found if each.startswith(str(path)) or "inotify" in each]


def test_no_descriptor_is_left(path: Path) -> None:
    gc.collect()  # stores that other tests have left
    before = own_descriptors(path)
    storage = open_store(path)
    for number in range(5):
        put(storage, b"%d" % number)
        storage.sync()
        put(storage, b"x%d" % number)
        given_out(storage)
        storage.reopen()
        assert storage.sync_descriptor() is None
    storage.flush()
    storage.close()
    assert own_descriptors(path) == before


def left_behind(storage: RocksStorage) -> weakref.ref[Opened]:
    """A log that is the newest one and will not be any more."""
    put(storage, b"one")
    storage.sync()
    put(storage, b"two")
    return weakref.ref(given_out(storage))


# Verifies: PER-0065
def test_the_space_of_a_log_that_rocksdb_has_removed_is_free(storage: RocksStorage) -> None:
    held = left_behind(storage)
    storage.flush()
    assert held() is None


# Verifies: PER-0065
def test_a_log_is_not_closed_by_who_asks_for_the_newest(storage: RocksStorage) -> None:
    """That is the event loop, and the file system frees the whole log then."""
    held = left_behind(storage)
    for column in storage._columns.values():
        column.flush(True)
    assert storage.sync_descriptor() is None
    storage.check()
    assert held() is not None
    storage.sync()
    assert held() is None


# Verifies: PER-0065
def test_a_system_without_inotify_leaves_all_syncs_to_rocksdb(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "qrusty_trio.storage.newest_log.ctypes.PyDLL", lambda name, use_errno: SimpleNamespace(read=None)
    )
    with pytest.raises(OSError, match="no inotify"):
        NewestLog(path)


# Verifies: PER-0065
@pytest.mark.parametrize("seed", range(5))
def test_a_power_cut_takes_nothing_that_was_synced_either_way(path: Path, tmp_path: Path, seed: int) -> None:
    """Of each log there is what it held when it, or all of RocksDB, was last synced."""
    dice = random.Random(seed)
    storage = RocksStorage.open(path, cache_mb=8, write_buffer_mb=1, max_open_files=64)
    synced: dict[str, int] = {}
    ways = {True: 0, False: 0}
    sure: list[bytes] = []
    written: list[bytes] = []
    for number in range(STEPS):
        if dice.random() < 0.05:
            storage.flush()
        for _ in range(dice.randint(0, 3)):
            batch = storage.batch()
            written.append(b"%d-%d" % (number, len(written)))
            batch.put(written[-1], dice.randbytes(dice.choice([10, 20_000])), storage.families[Family.MESSAGES])
            storage.write(batch)
        if dice.random() < 0.1:
            continue
        file = storage.sync_descriptor()
        ways[file is not None] += 1
        if file is None:
            storage.sync()
            for log in path.glob("*.log"):
                with suppress(FileNotFoundError):  # RocksDB has just removed it: what it held is in tables
                    synced[log.name] = log.stat().st_size
        else:
            synced[target(file).name] = os.fstat(file.descriptor).st_size
        sure = list(written)
    assert min(ways.values()) > 10, ways
    left = tmp_path / "left"
    while not copied(path, left):
        pass
    for log in left.glob("*.log"):
        os.truncate(log, synced.get(log.name, 0))
    storage.close()
    after = open_store(left)
    found = {key for key, _ in after.scan(after.families[Family.MESSAGES], b"", b"\xff", 10_000)}
    assert found >= set(sure)
    after.close()
