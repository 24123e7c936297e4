"""A start with another directory in the place of the payloads."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qrusty_trio.core.model import QueueConfig
from qrusty_trio.errors import StartupRefused
from qrusty_trio.server.startup import PAYLOADS_DIRECTORY
from qrusty_trio.storage.files import Directory
from qrusty_trio.storage.payload_files import KNOWN, claim
from tests.server.room import large, room

SENTENCE = "there are none: another directory is in its place, or its disk is not mounted"


async def one_large_message(path: Path) -> None:
    async with room(path) as it:
        it.broker.catalog.create("q", QueueConfig())
        await it.publish("q", large("kept"))


def empty(payloads: Path) -> None:
    payloads.mkdir()


def with_other_files(payloads: Path) -> None:
    payloads.mkdir()
    (payloads / "lost+found").mkdir()
    (payloads / "notes.txt").touch()


def gone(payloads: Path) -> None:
    pass


# Verifies: PER-0070
@pytest.mark.parametrize("replace", [empty, with_other_files, gone])
async def test_nothing_is_removed(tmp_path: Path, replace: Callable[[Path], None]) -> None:
    await one_large_message(tmp_path / "data")
    payloads, aside = tmp_path / "data" / PAYLOADS_DIRECTORY, tmp_path / "aside"
    payloads.rename(aside)
    replace(payloads)
    for _ in range(2):
        with pytest.RaisesGroup(pytest.RaisesExc(StartupRefused, match=SENTENCE)):
            async with room(tmp_path / "data"):
                pass
    shutil.rmtree(payloads)
    aside.rename(payloads)
    async with room(tmp_path / "data") as it:
        assert (await it.drain("q"), it.removed()) == ([large("kept")], [])


# Verifies: PER-0070
async def test_the_operator_says_that_it_is_lost(tmp_path: Path) -> None:
    await one_large_message(tmp_path / "data")
    payloads = tmp_path / "data" / PAYLOADS_DIRECTORY
    shutil.rmtree(payloads)
    payloads.mkdir()
    (payloads / KNOWN).touch()
    async with room(tmp_path / "data") as it:
        assert (await it.drain("q"), len(it.removed())) == ([], 1)
        await it.publish("q", large("new"))
        assert await it.drain("q") == [large("new")]


# Verifies: PER-0070
async def test_a_directory_of_an_earlier_version_is_known_by_its_segments(tmp_path: Path) -> None:
    await one_large_message(tmp_path / "data")
    (tmp_path / "data" / PAYLOADS_DIRECTORY / KNOWN).unlink()
    async with room(tmp_path / "data") as it:
        assert await it.drain("q") == [large("kept")]


# Verifies: PER-0070
async def test_an_empty_directory_of_an_earlier_version_is_taken(tmp_path: Path) -> None:
    async with room(tmp_path / "data") as it:
        it.broker.catalog.create("q", QueueConfig())
        await it.publish("q", "small")
    shutil.rmtree(tmp_path / "data" / PAYLOADS_DIRECTORY)
    known = tmp_path / "data" / PAYLOADS_DIRECTORY / KNOWN
    async with room(tmp_path / "data") as it:
        assert known.exists()
        assert await it.drain("q") == ["small"]


# Verifies: PER-0070
async def test_a_full_disk_keeps_no_server_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Directory.open

    def full(self: Directory, name: str, flags: int) -> int:
        if name == KNOWN:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(self, name, flags)

    with monkeypatch.context() as patched:
        patched.setattr(Directory, "open", full)
        await one_large_message(tmp_path / "data")
    assert f"{KNOWN} could not be made, a later start tries again: No space left on device" in caplog.text
    async with room(tmp_path / "data") as it:
        assert await it.drain("q") == [large("kept")]


# Verifies: PER-0070
@pytest.mark.parametrize("used", [True, False])
def test_a_directory_that_can_not_be_listed_is_refused(tmp_path: Path, used: bool) -> None:
    """Nobody knows then what is in it."""
    (tmp_path / "payloads").touch()
    with pytest.raises(StartupRefused, match="cannot be used: Not a directory"):
        claim(tmp_path / "payloads", used=used)
