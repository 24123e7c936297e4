"""What only a store on disk can get wrong: kill, torn logs, damage, full disks, other owners of the directory."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from qrusty_trio.errors import DiskFull, StartupRefused, StorageFault
from qrusty_trio.storage.base import Family
from qrusty_trio.storage.rocksdb import RocksStorage

END = b"\xff" * 16
MIB = 1024 * 1024


def open_store(path: Path, write_buffer_mb: int = 2) -> RocksStorage:
    return RocksStorage.open(path, cache_mb=8, write_buffer_mb=write_buffer_mb, max_open_files=64)


def write_numbered(storage: RocksStorage, number: int, pairs: int = 3, size: int = 100) -> None:
    """One batch over two families that can be told whole from half."""
    batch = storage.batch()
    for index in range(pairs):
        batch.put(b"%08d/%d" % (number, index), os.urandom(size), storage.families[Family.MESSAGES])
    batch.put(b"%08d" % number, b"%d" % pairs, storage.families[Family.DEAD])
    storage.write(batch)


def whole_batches(storage: RocksStorage) -> int:
    """How many batches of `write_numbered` are there; fails when one is missing before the last, or half there."""
    found: dict[int, int] = {}
    for key, _ in storage.scan(storage.families[Family.MESSAGES], b"", END, 10**9):
        found[int(key[:8])] = found.get(int(key[:8]), 0) + 1
    claimed = {int(key): int(value) for key, value in storage.scan(storage.families[Family.DEAD], b"", END, 10**9)}
    assert found == claimed
    assert sorted(found) == list(range(len(found)))
    return len(found)


def contents(path: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time of change and its bytes."""
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in path.rglob("*") if file.is_file()}


def assert_refused_untouched(path: Path, match: str) -> None:
    before = contents(path)
    with pytest.raises(StartupRefused, match=match) as refusal:
        open_store(path)
    assert "\n" not in str(refusal.value)
    assert contents(path) == before


def run_python(source: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


OPEN_AND_WRITE = """
import os, signal, sys
from qrusty_trio.storage.base import Family
from qrusty_trio.storage.rocksdb import RocksStorage
store = RocksStorage.open(sys.argv[1], cache_mb=8, write_buffer_mb=2, max_open_files=64)
for number in range(int(sys.argv[2])):
    batch = store.batch()
    for index in range(3):
        batch.put(b"%08d/%d" % (number, index), os.urandom(100), store.families[Family.MESSAGES])
    batch.put(b"%08d" % number, b"3", store.families[Family.DEAD])
    store.write(batch)
print("written", flush=True)
signal.pause()
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 24 MiB."""
    point = tmp_path / "disk"
    point.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", point], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("mounting is not possible here")
    yield point
    subprocess.run(["umount", "-l", point], check=True)


# --- what survives ------------------------------------------------------------------------------------------------


# Verifies: PER-0006
def test_every_written_batch_survives_kill_9(tmp_path: Path) -> None:
    with run_python(OPEN_AND_WRITE, str(tmp_path / "store"), "20000") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "written\n"
        child.send_signal(signal.SIGKILL)
    storage = open_store(tmp_path / "store")
    assert whole_batches(storage) == 20_000
    storage.close()


def log_of_killed_store(path: Path) -> Path:
    with run_python(OPEN_AND_WRITE, str(path), "200") as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    return max(path.glob("*.log"), key=lambda file: file.stat().st_size)


# Verifies: PER-0007
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.33, 0.5, 0.9, 0.999])
def test_a_torn_log_gives_the_whole_batches_before_the_tear(tmp_path: Path, fraction: float) -> None:
    log = log_of_killed_store(tmp_path)
    os.truncate(log, int(log.stat().st_size * fraction))
    storage = open_store(tmp_path)
    assert abs(whole_batches(storage) - 200 * fraction) < 5
    write_numbered(storage, whole_batches(storage))
    storage.close()


# Verifies: PER-0007
def test_a_hole_in_the_log_gives_the_whole_batches_before_it(tmp_path: Path) -> None:
    """A power cut may keep later pages of what was not synced and lose earlier ones."""
    log = log_of_killed_store(tmp_path)
    with log.open("r+b") as file:
        file.seek(log.stat().st_size // 2)
        file.write(bytes(4096))
    storage = open_store(tmp_path)
    count = whole_batches(storage)
    assert 90 < count < 110
    storage.close()
    storage = open_store(tmp_path)
    assert whole_batches(storage) == count
    storage.close()


# Verifies: PER-0018
def test_a_start_that_was_cut_short_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").touch()
    open_store(tmp_path).close()
    for file in tmp_path.iterdir():
        if file.name != "FORMAT":
            file.unlink()
    open_store(tmp_path).close()


# --- whose directory it is ----------------------------------------------------------------------------------------


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("text")
    with pytest.raises(StartupRefused, match="cannot be used: File exists"):
        open_store(tmp_path / "store")
    with pytest.raises(StartupRefused, match="cannot be used: Not a directory"):
        open_store(tmp_path / "store" / "below")
    assert (tmp_path / "store").read_text() == "text"


def test_a_read_only_disk_is_refused(small_disk: Path) -> None:
    open_store(small_disk / "store").close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert_refused_untouched(small_disk / "store", "not readable and writable")


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    with run_python(OPEN_AND_WRITE, str(tmp_path / "store"), "10") as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert_refused_untouched(tmp_path / "store", "in use by another server")
        child.send_signal(signal.SIGKILL)
    storage = open_store(tmp_path / "store")
    with pytest.raises(StartupRefused, match="in use"):
        open_store(tmp_path / "store")
    storage.close()
    open_store(tmp_path / "store").close()


# Verifies: PER-0013
def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    (tmp_path / "FORMAT").write_text("qrusty-trio store, schema 4\n")
    assert_refused_untouched(tmp_path, "another version of the server .schema 4")


def set_schema(path: Path, version: int) -> None:
    storage = open_store(path)
    batch = storage.batch()
    batch.put(b"schema_version", version.to_bytes(4, "big"), storage.families[Family.META])
    storage.write(batch)
    storage.close()


def test_the_schema_is_read_from_the_store_when_the_mark_is_missing(tmp_path: Path) -> None:
    """As in a restored checkpoint."""
    set_schema(tmp_path, 1)
    (tmp_path / "FORMAT").unlink()
    open_store(tmp_path).close()
    set_schema(tmp_path, 4)
    (tmp_path / "FORMAT").unlink()
    assert_refused_untouched(tmp_path, "schema 4")


def test_a_mark_that_contradicts_the_store_is_refused(tmp_path: Path) -> None:
    set_schema(tmp_path, 4)
    with pytest.raises(StartupRefused, match="schema 4"):
        open_store(tmp_path)


def test_an_unknown_mark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").write_text("something else\n")
    assert_refused_untouched(tmp_path, "does not hold a store of this server")


def everything(path: Path) -> dict[str, bytes | None]:
    """Every file and directory there is."""
    return {str(file): file.read_bytes() if file.is_file() else None for file in path.rglob("*")}


FOREIGN = {
    "a configuration": {"passwd": "root:x:0:0\n", "hosts": "127.0.0.1\n", "ssl/cert.pem": "x"},
    "one hidden file": {".profile": "x"},
    "segments only": {"payloads/0000000001.payloads": "x"},
    "photographs": {"payloads/holiday.jpg": "x"},
    "a table": {"000012.sst": "x"},
    "a numbered log": {"000012.log": "x"},
    "a log of the day": {"20240131.log": "x", "server.log": "x"},
    "files of a database": {"LOG": "x", "LOCK": "", "IDENTITY": "x", "MANIFEST-000001": "x"},
    "a file called like a directory of file systems": {"lost+found": "x"},
    "a directory called like a log": {"server.log/0001": "x"},
    "a current of another kind": {"CURRENT": "x"},
    "something beside a log": {"lost+found/x": "x", "server.log": "x", "notes.txt": "x"},
    "a start cut short in the wrong place": {"FORMAT": "", "notes.txt": "x"},
}


# Verifies: PER-0014
@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN)
def test_a_directory_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = everything(tmp_path)
    assert_refused_untouched(tmp_path, "something else|is damaged")
    assert everything(tmp_path) == before


def test_a_refusal_names_what_is_there(tmp_path: Path) -> None:
    for name in "dcba":
        (tmp_path / name).touch()
    with pytest.raises(StartupRefused, match=r"holds something else \(a, b, c, \.\.\.\)"):
        open_store(tmp_path)


@pytest.mark.parametrize("text", ["", "qrusty-trio st", "\0" * 28], ids=["empty", "torn", "zeros"])
@pytest.mark.parametrize("others", [(), ("server.log", "access.2024-01-31.log", "lost+found/x", ".snapshot/hourly/x")])
def test_logs_of_others_and_what_file_systems_leave_do_not_count(
    tmp_path: Path, text: str, others: tuple[str, ...]
) -> None:
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("of others\n" * 1000)
    (tmp_path / "FORMAT").write_text(text)
    if not text:
        (tmp_path / "FORMAT").unlink()
    before = everything(tmp_path)
    storage = open_store(tmp_path)
    write_numbered(storage, 0)
    storage.reopen()
    storage.close()
    storage = open_store(tmp_path)
    assert whole_batches(storage) == 1
    storage.close()
    after = everything(tmp_path)
    assert {name: after[name] for name in before if not name.endswith("FORMAT")} == {
        name: content for name, content in before.items() if not name.endswith("FORMAT")
    }
    # Nor are they missed, or taken for what is left of a database.
    for file in tmp_path.iterdir():
        if file.is_file() and file.name not in (*others, "FORMAT"):
            file.unlink()
    open_store(tmp_path).close()


@pytest.mark.parametrize("families", [{}, {"meta": Options(raw_mode=True)}, {"strange": Options(raw_mode=True)}])
def test_a_database_of_another_program_is_refused(tmp_path: Path, families: dict[str, Options]) -> None:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    Rdict(str(tmp_path), options, families).close()
    assert_refused_untouched(tmp_path, "another program|does not hold a store")


# --- damage -------------------------------------------------------------------------------------------------------


# Verifies: PER-0016
@pytest.mark.parametrize("damage", ["garbage", "empty", "missing"])
@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*"])
def test_a_damaged_root_file_is_refused(tmp_path: Path, pattern: str, damage: str) -> None:
    storage = open_store(tmp_path)
    write_numbered(storage, 0)
    storage.close()
    (file,) = tmp_path.glob(pattern)
    if damage == "garbage":
        file.write_bytes(b"\x00garbage\n" * 50)
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
    assert_refused_untouched(tmp_path, "is damaged")


# Verifies: PER-0016
def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    storage = open_store(tmp_path)
    write_numbered(storage, 0)
    storage.close()
    for file in tmp_path.glob("*.sst"):
        file.unlink()
    with pytest.raises(StartupRefused, match="damaged"):
        open_store(tmp_path)


def test_an_unreadable_block_is_a_fault_and_not_the_end_of_the_range(tmp_path: Path) -> None:
    storage = open_store(tmp_path, write_buffer_mb=8)
    for number in range(1_000):
        write_numbered(storage, number, size=500)
    storage.close()
    table = max(tmp_path.glob("*.sst"), key=lambda file: file.stat().st_size)
    with table.open("r+b") as file:
        file.seek(table.stat().st_size // 2)
        file.write(b"\xff" * 64)
    storage = open_store(tmp_path)
    messages = storage.families[Family.MESSAGES]
    with pytest.raises(StorageFault, match="damaged"):
        storage.scan(messages, b"", END, 10_000)
    with pytest.raises(StorageFault, match="damaged"):
        for number in range(1_000):
            storage.get(messages, b"%08d/0" % number)
    assert len(storage.scan(messages, b"", END, 1_000)) == 1_000
    del messages
    storage.close()


# --- full disk ----------------------------------------------------------------------------------------------------


def fill(storage: RocksStorage, maintain: str) -> tuple[int, int]:
    """Write until the disk is full; how many batches were written and how many of them synced."""
    written = synced = 0
    with pytest.raises(DiskFull, match="No space left"):
        while True:
            write_numbered(storage, written, pairs=1 + written % 64)
            written += 1
            if written % 7 == 0:
                storage.sync()
                synced = written
            if maintain and written % 300 == 0:
                getattr(storage, maintain)()
    return written, synced


# Verifies: PER-0044
@pytest.mark.parametrize(("maintain", "write_buffer_mb"), [("", 1), ("", 16), ("flush", 16), ("compact", 1)])
def test_a_full_disk_loses_nothing_that_was_synced(small_disk: Path, maintain: str, write_buffer_mb: int) -> None:
    storage = open_store(small_disk / "store", write_buffer_mb)
    ballast = small_disk / "ballast"
    # Without the ballast there is room for tables as large as all logs, whatever has been flushed by then.
    ballast.write_bytes(bytes(18 * MIB if write_buffer_mb == 1 else 15 * MIB))
    written, synced = fill(storage, maintain)
    with suppress(DiskFull):  # a full flush or compaction leaves room for small writes
        while True:
            write_numbered(storage, written)
            written += 1
    with pytest.raises(DiskFull):
        storage.write(storage.batch())
    with pytest.raises(DiskFull):
        storage.sync()
    with pytest.raises(DiskFull, match=r"free [0-9]+ MiB"):
        storage.reopen()
    assert storage.get(storage.families[Family.DEAD], b"%08d" % 0) == b"1"
    ballast.unlink()
    storage.reopen()
    assert synced <= whole_batches(storage) <= written + 1
    write_numbered(storage, whole_batches(storage))
    storage.sync()
    storage.flush()
    storage.compact()
    count = whole_batches(storage)
    storage.close()
    storage = open_store(small_disk / "store")
    assert whole_batches(storage) == count
    storage.close()


def test_a_full_disk_at_the_start_is_refused_and_forgotten_once_there_is_room(small_disk: Path) -> None:
    storage = open_store(small_disk / "store")
    write_numbered(storage, 0)
    storage.close()
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    with pytest.raises(StartupRefused, match="No space left"):
        open_store(small_disk / "store")
    ballast.unlink()
    storage = open_store(small_disk / "store")
    assert whole_batches(storage) == 1
    storage.close()


# Verifies: PER-0067
def test_closing_on_a_full_disk_keeps_what_was_written(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = open_store(small_disk / "store", write_buffer_mb=16)
    for number in range(500):
        write_numbered(storage, number)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    storage.close()
    assert "No space left" in caplog.text
    storage.close()
    ballast.unlink()
    storage = open_store(small_disk / "store")
    assert whole_batches(storage) == 500
    storage.close()


# --- handles and threads ------------------------------------------------------------------------------------------


def test_a_family_held_across_reopen_is_named_as_the_obstacle(tmp_path: Path) -> None:
    storage = open_store(tmp_path)
    write_numbered(storage, 0)
    held = storage.families[Family.MESSAGES]
    with pytest.raises(StorageFault, match="something still holds a family"):
        storage.reopen()
    with pytest.raises(StorageFault):
        storage.write(storage.batch())
    del held
    gc.collect()
    storage.reopen()
    assert whole_batches(storage) == 1
    storage.close()


def test_close_waits_for_calls_in_other_threads(tmp_path: Path) -> None:
    def maintain() -> None:
        with suppress(StorageFault):  # the store was closed
            while True:
                storage.compact()
                storage.sync()

    for _ in range(3):
        storage = open_store(tmp_path)
        for number in range(500):
            write_numbered(storage, number)
        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(maintain) for _ in range(2)]
            storage.reopen()
            assert whole_batches(storage) == 500
            storage.close()
            for future in running:
                future.result()


def test_after_close_every_call_is_a_storage_fault(tmp_path: Path) -> None:
    storage = open_store(tmp_path)
    handle = storage.families[Family.MESSAGES]
    batch = storage.batch()
    storage.close()
    calls: list[Callable[[], object]] = [
        lambda: storage.write(batch),
        storage.sync,
        storage.flush,
        storage.compact,
        storage.reopen,
        lambda: storage.get(handle, b""),
        lambda: storage.scan(handle, b"", END, 1),
    ]
    for call in calls:
        with pytest.raises(StorageFault):
            call()


# Verifies: PER-0054
def test_memory_stays_within_the_cache(tmp_path: Path) -> None:
    storage = open_store(tmp_path)
    for number in range(2_000):
        write_numbered(storage, number, pairs=32, size=500)
    assert len(storage.scan(storage.families[Family.MESSAGES], b"", END, 10**9)) == 2_000 * 32
    assert storage._tuning.cache.get_usage() < 9 * MIB
    storage.set_cache_bytes(4 * MIB)
    assert storage._tuning.cache.get_usage() < 5 * MIB
    storage.close()
