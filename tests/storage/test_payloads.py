"""The payload store against a dict, its files against their description, threads; the list of removed messages."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from qrusty_trio.errors import StartupRefused, StorageFault
from qrusty_trio.storage import payload_format as form
from qrusty_trio.storage.files import Directory
from qrusty_trio.storage.payloads import MAX_OPEN_SEGMENTS, PayloadBroken, PayloadRef, PayloadStore
from qrusty_trio.storage.removed_log import CURRENT, OLDER, Entry, RemovedLog

SMALL = 256


def open_store(path: Path, segment_max_bytes: int = SMALL) -> PayloadStore:
    return PayloadStore.open(path, segment_max_bytes=segment_max_bytes)


def why_broken(store: PayloadStore, ref: PayloadRef) -> str:
    with pytest.raises(PayloadBroken) as broken:
        store.read(ref)
    assert broken.value.reference == ref
    return broken.value.reason


def open_files(path: Path) -> list[str]:
    """What this process has open below `path`."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            target = str(link.readlink())
            if target.startswith(str(path) + os.sep):
                found.append(target)
    return found


class AgainstADict(RuleBasedStateMachine):
    """Any order of calls and restarts. The model: reference -> bytes, and every number that was ever in use."""

    references = Bundle("references")

    def __init__(self) -> None:
        super().__init__()
        self.place = TemporaryDirectory(prefix="qrusty-")
        self.path = Path(self.place.name, "payloads")
        self.store = open_store(self.path)
        self.abandoned: list[PayloadStore] = []
        self.model: dict[PayloadRef, bytes] = {}
        self.seen: set[int] = set()
        self.removed: set[int] = set()
        self.inherited: set[int] = set()

    def teardown(self) -> None:
        self.store.close()
        for store in self.abandoned:
            with suppress(StorageFault):  # its segments may have been removed by those that came after it
                store.close()
        assert not [name for name in open_files(self.path) if name.endswith(".payloads")]
        self.place.cleanup()

    @rule(target=references, data=st.binary(max_size=SMALL + 50))
    def append(self, data: bytes) -> PayloadRef:
        active = self.store.active
        ref = self.store.append(data)
        assert ref not in self.model
        assert ref.length == len(data)
        assert ref.checksum == crc32(data)
        assert ref.segment == self.store.active
        assert ref.segment not in self.inherited
        assert PayloadRef.unpack(ref.pack()) == ref
        if ref.segment != active:
            assert ref.segment > max(self.seen, default=0)
        elif ref.offset > form.HEADER_BYTES + form.FRAME_BYTES:
            assert ref.offset + ref.length <= SMALL
        self.seen.add(ref.segment)
        self.model[ref] = data
        assert self.store.needs_sync
        return ref

    @rule(ref=references)
    def read(self, ref: PayloadRef) -> None:
        if ref.segment in self.removed:
            assert why_broken(self.store, ref) == "missing segment"
        else:
            assert self.store.read(ref) == self.model[ref]

    @rule()
    def sync(self) -> None:
        self.store.sync()
        assert not self.store.needs_sync
        assert self.store.recover() == {}

    @rule()
    def retire(self) -> None:
        self.store.retire()
        assert self.store.active is None

    @rule(ref=consumes(references))
    def remove(self, ref: PayloadRef) -> None:
        if ref.segment == self.store.active:
            with pytest.raises(ValueError, match="appended to"):
                self.store.remove(ref.segment)
            return
        self.store.remove(ref.segment)
        self.removed.add(ref.segment)
        self.store.remove(ref.segment)

    @precondition(lambda self: self.seen - self.removed)
    @rule()
    def remove_all(self) -> None:
        self.store.retire()
        for segment in self.store.segments():
            self.store.remove(segment)
            self.removed.add(segment)

    @rule(closed=st.booleans())
    def reopen(self, closed: bool) -> None:
        if closed:
            self.store.close()
        else:
            self.abandoned.append(self.store)
        self.store = open_store(self.path)
        self.inherited = set(self.seen)
        least: dict[int, int] = {}
        for ref in self.model:
            if ref.segment not in self.removed:
                least[ref.segment] = max(least.get(ref.segment, 0), ref.offset + ref.length)
        assert self.store.check(least) == {}
        assert not self.store.needs_sync
        assert self.store.active is None

    @invariant()
    def files_are_as_told(self) -> None:
        on_disk = {file.name: file.stat().st_size for file in self.path.glob("*.payloads")}
        told = self.store.segments()
        assert {form.segment_name(number): size for number, size in told.items()} == on_disk
        assert self.store.disk_bytes() == sum(on_disk.values())
        assert set(told) == self.seen - self.removed
        assert len(list(self.path.glob("*.highest"))) <= 1

    @invariant()
    def files_can_be_listed_without_an_index(self) -> None:
        found = {frame.reference for file in self.path.glob("*.payloads") for frame in form.frames(file) if frame.whole}
        assert found == {ref for ref in self.model if ref.segment not in self.removed}


AgainstADict.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAgainstADict = AgainstADict.TestCase


# --- references and files -------------------------------------------------------------------------------------------


def test_references_sort_by_place() -> None:
    refs = [PayloadRef(2, 24, 9, 7), PayloadRef(1, 2**33, 1, 0), PayloadRef(1, 300, 2**31, 2**32 - 1)]
    assert sorted(refs, key=PayloadRef.pack) == sorted(refs)
    assert len(refs[0].pack()) == form.REFERENCE_BYTES == 20


# Verifies: PER-0024
def test_a_segment_is_what_the_description_says(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    ref = store.append(b"hello")
    store.close()
    head = b"QPAY" + (1).to_bytes(4, "big") + (1).to_bytes(4, "big")
    expected = head + crc32(head).to_bytes(4, "big") + (5).to_bytes(4, "big") + crc32(b"hello").to_bytes(4, "big")
    assert (tmp_path / "0000000001.payloads").read_bytes() == expected + b"hello"
    assert ref == PayloadRef(1, 24, 5, crc32(b"hello"))


# Verifies: PER-0032
def test_segments_rotate_before_they_pass_the_limit(tmp_path: Path) -> None:
    store = open_store(tmp_path, 16 + 3 * (8 + 100))
    refs = [store.append(bytes([number]) * 100) for number in range(7)]
    assert [ref.segment for ref in refs] == [1, 1, 1, 2, 2, 2, 3]
    assert store.append(b"x" * 5000).segment == 4
    store.sync()
    assert store.append(b"x").segment == 5
    assert len(open_files(tmp_path)) == 1, "those that are full and synced are closed"
    store.close()


# Verifies: PER-0033
def test_the_highest_number_outlives_its_file_and_records_that_name_a_lost_one(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for _ in range(3):
        store.append(b"x")
        store.retire()
    for segment in (3, 1, 2):
        store.remove(segment)
    store.close()
    assert [file.name for file in tmp_path.iterdir()] == ["0000000003.highest"]
    store = open_store(tmp_path)
    assert store.append(b"x").segment == 4
    store.close()
    store = open_store(tmp_path / "new")
    assert store.check({}) == {}
    assert store.append(b"x").segment == 1
    store.close()
    # Both file and mark lost: records that still name segment 9 are enough.
    store = open_store(tmp_path)
    assert store.check({9: 30, 4: 25}) == {9: "missing segment"}
    assert store.append(b"x").segment == 10
    store.retire()
    assert store.check({}, 20) == {}
    assert store.append(b"x").segment == 21
    store.close()


def test_a_store_without_numbers_left_refuses(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.check({form.MAX_SEGMENT: 0})
    with pytest.raises(StorageFault, match="numbers"):
        store.append(b"x")
    assert store.segments() == {}
    store.close()


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("notes.txt", "1.payloads", "9999999999.payloads", "0000000007.payloads.bak"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "0000000008.payloads").mkdir()
    store = open_store(tmp_path)
    assert store.segments() == {}
    assert store.disk_bytes() == 0
    store.close()


def test_check_names_what_is_missing_short_or_damaged(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    least = {}
    for _ in range(6):
        ref = store.append(b"p" * 50)
        least[ref.segment] = ref.offset + ref.length
        store.retire()
    store.close()
    (tmp_path / form.segment_name(2)).unlink()
    os.truncate(tmp_path / form.segment_name(3), 73)
    (tmp_path / form.segment_name(4)).write_bytes((tmp_path / form.segment_name(5)).read_bytes())
    with (tmp_path / form.segment_name(6)).open("ab") as file:
        file.write(b"torn")
    store = open_store(tmp_path)
    assert store.check(least) == {2: "missing segment", 3: "short segment", 4: "damaged header"}
    store.close()


def test_a_segment_of_another_version_is_refused_rather_than_called_damaged(tmp_path: Path) -> None:
    head = b"QPAY" + (2).to_bytes(4, "big") + (1).to_bytes(4, "big")
    (tmp_path / form.segment_name(1)).write_bytes(head + crc32(head).to_bytes(4, "big"))
    store = open_store(tmp_path)
    with pytest.raises(StartupRefused, match=r"another version of the server .format 2"):
        store.check({1: 16})
    store.close()


def test_a_directory_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StartupRefused):
            open_store(path)


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    ref = store.append(b"x")
    store.close()
    store.close()
    assert store.active is None
    for call in (lambda: store.append(b"y"), lambda: store.read(ref), store.sync, lambda: store.remove(1)):
        with pytest.raises(StorageFault, match="closed"):
            call()


# Verifies: PER-0039
def test_reading_holds_a_bounded_number_of_files_open(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    refs = []
    for number in range(MAX_OPEN_SEGMENTS + 10):
        refs.append(store.append(b"%d" % number))
        store.retire()
    store.sync()
    for number, ref in enumerate(refs):
        assert store.read(ref) == b"%d" % number
    assert len(open_files(tmp_path)) == MAX_OPEN_SEGMENTS
    assert open_files(tmp_path).count(str(tmp_path / form.segment_name(refs[-1].segment))) == 1
    # The one read longest ago goes, not the one opened longest ago.
    oldest = refs[-MAX_OPEN_SEGMENTS]
    store.read(oldest)
    assert store.read(refs[0]) == b"0"
    assert len(open_files(tmp_path)) == MAX_OPEN_SEGMENTS
    assert str(tmp_path / form.segment_name(oldest.segment)) in open_files(tmp_path)
    store.close()
    assert open_files(tmp_path) == []


# --- threads --------------------------------------------------------------------------------------------------------


def until(stop: threading.Event, function: Callable[[], None]) -> int:
    """Call it again and again until told to stop, at least once; returns how often."""
    rounds = 0
    while not rounds or not stop.is_set():
        function()
        rounds += 1
    return rounds


def test_append_read_sync_and_remove_at_the_same_time(tmp_path: Path) -> None:
    store = open_store(tmp_path, 64 * 1024)
    kept: dict[PayloadRef, bytes] = {}
    stop = threading.Event()

    def read_some() -> None:
        for ref in list(kept)[-20:]:
            assert store.read(ref) == kept[ref]

    def remove_one() -> None:
        """The oldest segment of those whose number can be divided by three; nobody reads these."""
        for segment in sorted(store.segments()):
            if segment % 3 == 0 and segment != store.active:
                store.remove(segment)
                return

    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(until, stop, job) for job in (store.sync, store.sync, read_some, remove_one)]
        try:
            for number in range(1500):
                data = b"%06d" % number * (number % 1000)
                ref = store.append(data)
                if ref.segment % 3:
                    kept[ref] = data
        finally:
            stop.set()
        assert all(job.result() for job in jobs)
    store.sync()
    assert not store.needs_sync
    assert [name for name in open_files(tmp_path) if name.endswith("(deleted)")] == []
    store.close()
    store = open_store(tmp_path)
    assert {ref: store.read(ref) for ref in kept} == kept
    store.close()


def test_what_is_appended_during_a_sync_needs_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path, 1024 * 1024)
    store.append(b"before")
    files: list[int] = []
    fdatasync = os.fdatasync

    def append_behind(descriptor: int) -> None:
        """The real call, and an append at the worst moment."""
        fdatasync(descriptor)
        files.append(descriptor)
        if len(files) == 1:
            store.append(b"during")

    monkeypatch.setattr(os, "fdatasync", append_behind)
    store.sync()
    needs_another = store.needs_sync
    store.sync()
    assert needs_another
    assert not store.needs_sync
    assert len(files) == 2
    store.close()


def test_a_segment_removed_while_it_is_opened_is_not_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    ref = store.append(b"payload")
    store.retire()
    store.sync()
    really_open = Directory.open

    def remove_behind(directory: Directory, name: str, flags: int) -> int:
        """The real call, and a removal at the worst moment."""
        monkeypatch.undo()
        descriptor = really_open(directory, name, flags)
        store.remove(ref.segment)
        return descriptor

    monkeypatch.setattr(Directory, "open", remove_behind)
    assert store.read(ref) == b"payload"
    assert [name for name in open_files(tmp_path) if name.endswith("(deleted)")] == []
    assert why_broken(store, ref) == "missing segment"
    store.close()


def test_a_read_during_remove_gives_the_payload_or_says_it_is_missing(tmp_path: Path) -> None:
    store = open_store(tmp_path, 10 * 1024 * 1024)
    data = os.urandom(200_000)
    for _ in range(10):
        refs = [store.append(data) for _ in range(5)]
        store.retire()
        started = threading.Barrier(3)

        def read_until_missing(refs: list[PayloadRef] = refs, started: threading.Barrier = started) -> str:
            started.wait(30)
            while True:
                for ref in refs:
                    try:
                        assert store.read(ref) == data
                    except PayloadBroken as broken:
                        return broken.reason

        with ThreadPoolExecutor() as pool:
            readers = [pool.submit(read_until_missing) for _ in range(2)]
            started.wait(30)
            store.remove(refs[0].segment)
            assert [reader.result() for reader in readers] == ["missing segment"] * 2
    assert [name for name in open_files(tmp_path) if name.endswith("(deleted)")] == []
    assert store.disk_bytes() == 0
    store.close()


# --- the list of removed messages -----------------------------------------------------------------------------------


def entry(number: int) -> Entry:
    return ('Büro "A"\n', f"id-{number}", 2**64 - 1, "checksum", 7, number, 5000)


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


# Verifies: PER-0029
def test_removed_messages_are_listed_line_by_line(tmp_path: Path) -> None:
    log = RemovedLog(tmp_path)
    log.record("2026-01-31T12:00:00Z", [])
    assert list(tmp_path.iterdir()) == []
    log.record("2026-01-31T12:00:00Z", [entry(1), ("q", "id-2", "text \udc80", "short segment", 1, 2, 3)])
    RemovedLog(tmp_path).record("2026-01-31T12:00:01Z", [entry(3)])
    assert lines(tmp_path / CURRENT) == [
        {"time": "2026-01-31T12:00:00Z", "queue": 'Büro "A"\n', "id": "id-1", "priority": 2**64 - 1,
         "reason": "checksum", "segment": 7, "offset": 1, "length": 5000},
        {"time": "2026-01-31T12:00:00Z", "queue": "q", "id": "id-2", "priority": "text \udc80",
         "reason": "short segment", "segment": 1, "offset": 2, "length": 3},
        {"time": "2026-01-31T12:00:01Z", "queue": 'Büro "A"\n', "id": "id-3", "priority": 2**64 - 1,
         "reason": "checksum", "segment": 7, "offset": 3, "length": 5000},
    ]  # fmt: skip
    assert "Büro" in (tmp_path / CURRENT).read_text()


# Verifies: PER-0030
@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_the_list_is_bounded_and_keeps_the_newest(tmp_path: Path, at_once: int) -> None:
    log = RemovedLog(tmp_path, max_bytes=2000)
    for first in range(0, 100, at_once):
        log.record("2026-01-31T12:00:00Z", [entry(number) for number in range(first, min(100, first + at_once))])
        assert all(file.stat().st_size <= 2000 for file in tmp_path.iterdir())
    offsets = [line["offset"] for file in (OLDER, CURRENT) for line in lines(tmp_path / file)]
    assert offsets == list(range(100 - len(offsets), 100))
    assert len(offsets) > 10
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([OLDER, CURRENT])


def test_many_removals_at_once_are_all_listed(tmp_path: Path) -> None:
    RemovedLog(tmp_path).record("2026-01-31T12:00:00Z", map(entry, range(5000)))
    assert [line["offset"] for line in lines(tmp_path / CURRENT)] == list(range(5000))


def test_a_line_torn_by_a_crash_spoils_only_itself(tmp_path: Path) -> None:
    log = RemovedLog(tmp_path)
    log.record("2026-01-31T12:00:00Z", [entry(1), entry(2)])
    os.truncate(tmp_path / CURRENT, (tmp_path / CURRENT).stat().st_size - 10)
    log.record("2026-01-31T12:00:00Z", [entry(3)])
    text = (tmp_path / CURRENT).read_text().splitlines()
    assert [json.loads(text[index])["offset"] for index in (0, 2)] == [1, 3]
    assert len(text) == 3


def test_a_list_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / CURRENT).mkdir()
    with pytest.raises(StorageFault, match="list of removed messages"):
        RemovedLog(tmp_path).record("2026-01-31T12:00:00Z", [entry(1)])
