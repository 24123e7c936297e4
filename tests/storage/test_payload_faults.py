"""The payload store when the system refuses something: what is lost, what is still there, what is tried again."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from qrusty_trio.errors import DiskFull, PayloadUnreadable, StartupRefused, StorageFault
from qrusty_trio.storage import payload_format as form
from qrusty_trio.storage import payloads
from qrusty_trio.storage.files import Directory
from qrusty_trio.storage.payloads import PayloadBroken
from tests.storage.test_payloads import open_store, why_broken


@pytest.mark.parametrize("missing", [os.R_OK, os.W_OK, os.X_OK])
def test_a_directory_needs_every_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int) -> None:
    """Not as root sees it, who may do everything."""
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & missing)
    with pytest.raises(StartupRefused, match="not readable and writable"):
        open_store(tmp_path)


@pytest.mark.parametrize("octets", [None, 90])
def test_a_file_that_was_cut_short_under_the_store_gives_no_shorter_payload(tmp_path: Path, octets: int | None) -> None:
    store = open_store(tmp_path)
    ref = store.append(b"x" * 100)
    os.truncate(tmp_path / form.segment_name(1), ref.offset + 50)
    assert store.read(ref, 50) == b"x" * 50
    with pytest.raises(PayloadBroken) as broken:
        store.read(ref, octets)
    assert broken.value.reason == "short segment"
    store.close()


def test_a_segment_that_can_not_be_deleted_is_still_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    ref = store.append(b"x")
    store.retire()
    sizes, octets = store.segments(), store.disk_bytes()

    def refuse(self: Directory, name: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "unlink", refuse)
        with pytest.raises(StorageFault, match="not permitted"):
            store.remove(1)
    assert (store.segments(), store.disk_bytes()) == (sizes, octets)
    assert store.read(ref) == b"x"
    store.remove(1)
    assert (store.segments(), store.disk_bytes()) == ({}, 0)
    store.close()


def test_a_segment_that_nothing_could_be_appended_to_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)

    def full(descriptor: int, pieces: object, offset: int) -> int:
        os.pwrite(descriptor, b"torn", offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(payloads, "write_whole", full)
        with pytest.raises(DiskFull):
            store.append(b"x")
    assert (store.segments(), store.disk_bytes()) == ({1: 0}, 0)
    assert (tmp_path / form.segment_name(1)).stat().st_size == 0
    store.retire()
    assert store.active == 1, "it is as good as a new one"
    assert store.append(b"x").segment == 1
    store.close()


def test_a_payload_that_can_not_be_opened_just_now_is_not_lost(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    ref = store.append(b"x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        with pytest.raises(PayloadUnreadable, match="Too many open files"):
            store.read(ref)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert store.read(ref) == b"x"
    store.close()


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.EBADMSG, "Bad message"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), False),
        (MemoryError(), False),
    ],
    ids=["EIO", "EBADMSG", "ENOMEM", "MemoryError"],
)
def test_what_the_disk_lost_is_told_from_what_can_not_be_read_just_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, lost: bool
) -> None:
    store = open_store(tmp_path)
    ref = store.append(b"x")

    def fail(descriptor: int, length: int, offset: int) -> bytes:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        if lost:
            assert why_broken(store, ref) == "unreadable"
        else:
            with pytest.raises(PayloadUnreadable, match=r"can't be read just now.*Try again"):
                store.read(ref)
    assert store.read(ref) == b"x"
    store.close()
