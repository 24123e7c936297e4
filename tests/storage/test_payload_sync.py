"""Syncs of payloads: what they cover, and what is left of one that failed."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qrusty_trio.errors import DiskFull, StorageFault
from qrusty_trio.storage import payload_format as form
from qrusty_trio.storage import payloads
from qrusty_trio.storage.files import Directory
from tests.storage.test_payloads import open_files, open_store

LARGE = 1024 * 1024


def failing_once(monkeypatch: pytest.MonkeyPatch, name: str, meanwhile: Callable[[], object] = lambda: None) -> None:
    """The next `os.fsync` or `os.fdatasync` fails, after `meanwhile`."""
    really = getattr(os, name)

    def fail(descriptor: int) -> None:
        monkeypatch.setattr(os, name, really)
        meanwhile()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, name, fail)


def test_what_was_removed_is_in_doubt_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path, LARGE)
    store.append(b"one")
    failing_once(monkeypatch, "fdatasync")
    with pytest.raises(StorageFault):
        store.sync()
    store.remove(1)
    assert store.recover() == {}
    store.append(b"two")
    store.sync()
    store.close()


def test_a_sync_that_waited_for_one_that_failed_fails_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even when the loss is taken note of in between: what its caller appended was lost, and nobody looks again."""
    store = open_store(tmp_path, LARGE)
    store.append(b"one")
    began, may_fail = threading.Event(), threading.Event()

    def fail(descriptor: int) -> None:
        began.set()
        assert may_fail.wait(30)
        raise OSError(errno.EIO, "Input/output error")

    with ThreadPoolExecutor() as pool:
        monkeypatch.setattr(os, "fdatasync", fail)
        first = pool.submit(store.sync)
        assert began.wait(30)
        store.append(b"another")
        # It waits for the first; the loss is taken note of before it has its turn.
        really = store._syncing
        turn = threading.Lock()
        turn.acquire()
        monkeypatch.setattr(store, "_syncing", turn)
        second = pool.submit(store.sync)
        while not second.running():
            time.sleep(0.001)
        time.sleep(0.01)
        monkeypatch.undo()
        may_fail.set()
        with pytest.raises(StorageFault):
            first.result()
        assert really is store._syncing
        assert store.recover() == {1: 0}
        turn.release()
        with pytest.raises(StorageFault, match="earlier sync"):
            second.result()
    store.append(b"after")
    store.sync()
    store.close()


def test_a_new_name_is_entered_durably_and_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[str] = []
    really = os.fsync

    def fsync(descriptor: int) -> None:
        entered.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        really(descriptor)

    def newly() -> list[str]:
        seen = entered.copy()
        entered.clear()
        return seen

    monkeypatch.setattr(os, "fsync", fsync)
    directory = tmp_path / "payloads"
    store = open_store(directory, LARGE)
    assert newly() == [str(tmp_path)]
    store.append(b"one")
    store.sync()
    assert newly() == [str(directory)]
    store.append(b"the same segment")
    store.sync()
    assert newly() == []
    # One that is known to the directory, and one that is not.
    store.append(b"the same segment")
    store.retire()
    store.append(b"the next one")
    store.sync()
    assert newly() == [str(directory)]
    store.close()
    assert newly() == []
    open_store(directory, LARGE).close()
    assert newly() == []


@pytest.mark.parametrize("earlier", [False, True])
def test_a_segment_that_could_not_be_entered_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    store = open_store(tmp_path, LARGE)
    if earlier:
        # It is in the directory for good: only what comes after it is in doubt.
        store.append(b"entered")
        store.sync()
        store.append(b"entered, too")
        store.retire()
    ref = store.append(b"lost")
    failing_once(monkeypatch, "fsync")
    with pytest.raises(StorageFault):
        store.sync()
    with pytest.raises(StorageFault, match="earlier sync"):
        store.sync()
    assert store.recover() == {ref.segment: 0}
    assert store.append(b"after").segment == ref.segment + 1
    store.sync()
    assert not store.needs_sync
    store.close()


@pytest.mark.parametrize("meanwhile", [False, True])
def test_nothing_is_appended_to_a_segment_whose_sync_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: bool
) -> None:
    """Whatever came to it before the failure was known is in doubt with the rest."""
    store = open_store(tmp_path, LARGE)
    synced = store.append(b"synced")
    store.sync()
    store.append(b"lost")
    failing_once(monkeypatch, "fdatasync", lambda: store.append(b"lost with it") if meanwhile else None)
    with pytest.raises(StorageFault):
        store.sync()
    assert store.recover() == {1: synced.offset + synced.length}
    assert not store.needs_sync
    assert store.append(b"after").segment == 2
    store.sync()
    store.close()
    assert open_files(tmp_path) == []


@pytest.mark.parametrize(("error", "passes"), [(errno.EMFILE, True), (errno.ENOMEM, True), (errno.EIO, False)])
def test_what_passes_is_not_taken_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, passes: bool
) -> None:
    store = open_store(tmp_path, LARGE)
    store.append(b"payload")

    def refuse(self: Directory, name: str, flags: int) -> int:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "open", refuse)
        if passes:
            with pytest.raises(StorageFault):
                store.check({1: 1})
        else:
            assert store.check({1: 1}) == {1: form.UNREADABLE}
    assert store.check({1: 1}) == {}
    store.close()


@pytest.mark.parametrize("size", [10, 5000])
def test_a_segment_in_which_nothing_is_yet_takes_the_next_payload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Also one that is larger than a segment: a payload that found no room leaves no empty files behind."""
    store = open_store(tmp_path, 100)

    def refuse(descriptor: int, parts: list[bytes], offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on the device")

    with monkeypatch.context() as patch:
        patch.setattr(payloads, "write_whole", refuse)
        for _ in range(3):
            with pytest.raises(DiskFull):
                store.append(bytes(size))
    assert store.append(bytes(size)).segment == 1
    assert store.append(bytes(size)).segment == (1 if size == 10 else 2)
    store.close()


# Verifies: PER-0026
def test_a_sync_carried_out_by_its_caller(tmp_path: Path) -> None:
    store = open_store(tmp_path, LARGE)
    store.append(b"one")
    assert store.synced == (0, 0)  # not known yet
    assert store.begin_sync(1) is None  # new: its directory is to be synced
    store.sync()
    size = store.segments()[1]
    assert store.synced == (1, size)
    store.append(b"two")
    sync = store.begin_sync(1)
    assert sync is not None
    assert store.begin_sync(1) is None  # one runs
    store.append(b"behind it")
    for index, descriptor in enumerate(sync.descriptors):
        os.fdatasync(descriptor)
        sync.ended(index, None)
    store.end_sync(sync)
    assert size < store.synced[1] < store.segments()[1]
    assert store.needs_sync
    store.sync()
    assert store.synced == (1, store.segments()[1])
    store.close()


# Verifies: PER-0026
def test_a_sync_of_more_segments_than_its_caller_can(tmp_path: Path) -> None:
    store = open_store(tmp_path, LARGE)
    store.append(b"one")
    store.sync()
    store.append(b"two")
    store.retire()
    store.append(b"three")
    store.sync()
    store.append(b"four")
    assert store.begin_sync(0) is None
    sync = store.begin_sync(1)
    assert sync is not None
    # Nothing of it was carried out.
    store.end_sync(sync)
    assert store.needs_sync
    store.sync()
    store.close()
    assert store.begin_sync(1) is None


# Verifies: PER-0026, PER-0041
def test_a_sync_of_its_caller_that_fails(tmp_path: Path) -> None:
    store = open_store(tmp_path, LARGE)
    store.append(b"one")
    store.sync()
    before = store.synced
    store.append(b"two")
    sync = store.begin_sync(1)
    assert sync is not None
    sync.ended(0, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(DiskFull):
        store.end_sync(sync)
    assert store.synced == before
    assert store.begin_sync(1) is None  # bytes are in doubt
    assert store.recover() == {1: before[1]}
    # What comes after is safe, but what is in doubt lies before it.
    store.append(b"three")
    store.sync()
    assert store.synced == before
    store.settled()
    store.append(b"four")
    store.sync()
    assert store.synced == (2, store.segments()[2])
    store.close()


# Verifies: PER-0066
def test_what_an_earlier_process_left_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path, LARGE)
    for number in range(3):
        store.append(b"%d" % number)
        store.retire()
    store.close()
    synced: list[str] = []
    for name in ("fdatasync", "fsync"):
        really = getattr(os, name)

        def noted(descriptor: int, really: Callable[[int], None] = really) -> None:
            synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
            really(descriptor)

        monkeypatch.setattr(os, name, noted)
    store = open_store(tmp_path, LARGE)
    assert store.synced == (0, 0)
    store.sync_since(2)
    assert synced == [form.segment_name(2), form.segment_name(3), tmp_path.name]
    assert store.synced == (4, 0)
    store.append(b"in the fourth")
    assert store.synced == (4, 0)
    monkeypatch.undo()
    failing_once(monkeypatch, "fdatasync")
    with pytest.raises(StorageFault):
        store.sync_since(1)
    store.close()


# Verifies: PER-0066
def test_a_sync_of_some_says_nothing_of_all(tmp_path: Path) -> None:
    store = open_store(tmp_path, LARGE)
    store.append(b"one")
    store.sync()
    before = store.synced
    store.append(b"two")
    store.retire()
    store.append(b"three")
    store.sync()
    assert store.synced > before
    before = store.synced
    store.append(b"four")
    sync = store.begin_sync(3)
    assert sync is not None
    store.end_sync(sync)  # none of its fdatasyncs has ended
    assert store.synced == before
    store.close()
