"""Files that are read anew: on SIGHUP, and when they have changed and are at rest."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from qrusty_trio.errors import StartupRefused
from qrusty_trio.server import reloading
from qrusty_trio.server.reloading import Reloader
from tests.http.ws_server import PATIENCE


class Reads:
    """Counts how often the file was read, and fails if told so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.failure: Exception | None = None

    def __call__(self) -> None:
        self.count += 1
        if self.failure is not None:
            raise self.failure

    async def until(self, count: int) -> None:
        with trio.fail_after(PATIENCE):
            while self.count < count:  # noqa: ASYNC110  # it is counted in a thread
                await trio.sleep(0.002)
        assert self.count == count


class Files(list[Path]):
    """Counts how often the files are looked at."""

    looks = 0

    def __iter__(self) -> Iterator[Path]:
        self.looks += 1
        return super().__iter__()


@asynccontextmanager
async def reloading_of(reads: Reads, files: list[Path] | None = None) -> AsyncIterator[Reloader]:
    reloader = Reloader("the file", [reads.path] if files is None else files, reads)
    async with trio.open_nursery() as nursery:
        await nursery.start(reloader.run)
        yield reloader
        nursery.cancel_scope.cancel()


@pytest.fixture
def reads(tmp_path: Path) -> Reads:
    path = tmp_path / "file"
    path.write_text("1")
    return Reads(path)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == reloading.__name__]


@pytest.fixture(autouse=True)
def _all_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


# Verifies: API-0182
async def test_sighup(reads: Reads, caplog: pytest.LogCaptureFixture) -> None:
    async with reloading_of(reads) as reloader:
        reloader.hang_up()
        await reads.until(1)
        reloader.hang_up()
        await reads.until(2)
    assert told(caplog)[0] == "the file was read anew (SIGHUP)"


# Verifies: API-0182
async def test_a_change_is_read_once(
    reads: Reads, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.005)
    async with reloading_of(reads) as reloader:
        reads.path.write_text("22")
        await reads.until(1)
        reads.path.unlink()
        reads.failure = FileNotFoundError("it is gone")
        await reads.until(2)
        reads.failure = None
        other = reads.path.with_name("other")
        other.write_text("33")
        other.replace(reads.path)
        os.utime(reads.path, ns=(1, 1))
        await reads.until(3)
        reloader.hang_up()
        await reads.until(4)
        await trio.sleep(0.05)
    assert reads.count == 4
    assert "the file was read anew (changed)" in told(caplog)


# Verifies: API-0182
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("hung_up", [False, True])
async def test_what_the_system_refuses_is_read_again(
    reads: Reads, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrapped: bool, hung_up: bool
) -> None:
    """Otherwise a token that was taken out would stay valid until the file changes once more."""
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.005)
    reads.failure = OSError(errno.EMFILE, "Too many open files")
    if wrapped:
        cause, reads.failure = reads.failure, StartupRefused("The file can't be read: Too many open files")
        reads.failure.__cause__ = cause
    async with reloading_of(reads) as reloader:
        if hung_up:
            reloader.hang_up()
        else:
            reads.path.write_text("22")
        with trio.fail_after(PATIENCE):
            while reads.count < 5:  # noqa: ASYNC110  # it is counted in a thread
                await trio.sleep(0.002)
        reads.failure = None
        with trio.fail_after(PATIENCE):
            while not any("was read anew" in line for line in told(caplog)):  # noqa: ASYNC110  # it is logged elsewhere
                await trio.sleep(0.002)
        count = reads.count
        await trio.sleep(0.05)
    assert reads.count == count
    assert len(told(caplog)) == 2
    assert "Too many open files" in told(caplog)[0]


# Verifies: API-0182
async def test_a_file_that_may_be_read_at_last(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the permissions are is no part of what was written, nor of its time."""
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.005)
    async with reloading_of(reads):
        reads.failure = StartupRefused("It has no key.")
        reads.path.write_text("22")
        await reads.until(1)
        reads.failure = None
        reads.path.chmod(0o640)
        await reads.until(2)


# Verifies: API-0182
async def test_what_is_bad_is_told_and_not_taken(reads: Reads, caplog: pytest.LogCaptureFixture) -> None:
    reads.failure = StartupRefused("QRUSTY_TLS_KEY='k' has a broken private key.")
    async with reloading_of(reads) as reloader:
        reloader.hang_up()
        await reads.until(1)
        reads.failure = None
        reloader.hang_up()
        await reads.until(2)
    assert told(caplog)[0] == "the file stays as it was: QRUSTY_TLS_KEY='k' has a broken private key."


# Verifies: SYS-0014
async def test_a_failure_that_nobody_thought_of(reads: Reads, caplog: pytest.LogCaptureFixture) -> None:
    reads.failure = RuntimeError("odd")
    async with reloading_of(reads) as reloader:
        reloader.hang_up()
        await reads.until(1)
        reads.failure = None
        reloader.hang_up()
        await reads.until(2)
    assert "the file could not be read anew" in caplog.text


# Verifies: SYS-0014
async def test_a_look_that_fails_waits_for_the_next_signal(
    reads: Reads, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It went on at once, as the signal was still there."""
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 1000)
    files = Files([reads.path])
    async with reloading_of(reads, files) as reloader:
        files.append(Path("\0"))  # The system takes no such name, and Python raises what is no OSError.
        for count in (1, 2):
            reloader.hang_up()
            with trio.fail_after(PATIENCE):
                while files.looks < 1 + count:  # noqa: ASYNC110  # it is counted in a thread
                    await trio.sleep(0.002)
            await trio.sleep(0.05)
            assert files.looks == 1 + count
        files.pop()
        reloader.hang_up()
        await reads.until(1)
    (line,) = [each for each in told(caplog) if "could not be read anew" in each]
    assert line.startswith("the file could not be read anew, and is looked at again on SIGHUP and every 1000 s: ")


# Verifies: API-0182, SYS-0014
async def test_a_signal_whose_look_failed_counts_at_the_next_one(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.005)
    files = Files([reads.path])
    async with reloading_of(reads, files) as reloader:
        files.append(Path("\0"))
        looks = files.looks
        reloader.hang_up()
        with trio.fail_after(PATIENCE):
            while files.looks < looks + 5:  # noqa: ASYNC110  # it is counted in a thread
                await trio.sleep(0.002)
        assert reads.count == 0
        files.pop()
        await reads.until(1)
        await trio.sleep(0.05)
    assert reads.count == 1
