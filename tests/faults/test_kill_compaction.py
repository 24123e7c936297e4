"""kill -9, and the power cut, in the midst of compaction: every payload is where its record says.

QRUSTY_CRASH_ROUNDS says how often (5).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from qrusty_trio.config import Fsync
from tests.core.ownership import check_ownership
from tests.faults.compacting import name_of
from tests.server.room import room
from tests.server.running import ROOT

ROUNDS = int(os.environ.get("QRUSTY_CRASH_ROUNDS", "5"))
START_SECONDS = 60.0
SHORTEST, LONGEST = 0.05, 0.4
"""Seconds that a process works before it is killed."""


class Books:
    """What the processes said."""

    def __init__(self) -> None:
        self.published: set[str] = set()
        self.acking: set[str] = set()
        self.acked: set[str] = set()

    def note(self, said: bytes) -> None:
        for line in said.decode().splitlines():
            what, _, name = line.partition(" ")
            if name:
                getattr(self, what).add(name)

    def check(self, left: list[str]) -> None:
        """`left` is what is in the store, available or locked."""
        assert len(left) == len(set(left))
        assert not self.acked & set(left)
        assert self.published - self.acking <= set(left)


async def live(path: Path, policy: Fsync, seed: int, seconds: float, end: signal.Signals) -> tuple[trio.Process, bytes]:
    """Let a process work for so long, then send it a signal. What it has said by then."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.faults.compacting", str(path), str(policy), str(seed)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    said = bytearray()
    assert process.stdout is not None
    try:
        with trio.fail_after(START_SECONDS):
            while b"ready\n" not in said:
                some = await process.stdout.receive_some()
                assert some, "it ended by itself"
                said += some
        with trio.move_on_after(seconds):
            while some := await process.stdout.receive_some():
                said += some
    except BaseException:
        process.kill()
        raise
    assert process.poll() is None, "it ended by itself"
    process.send_signal(end)
    return process, bytes(said)


async def left_in(path: Path) -> list[str]:
    """The names of all messages in the store, which is opened, checked and emptied."""
    async with room(path) as it:
        check_ownership(it.stores.storage)
        assert not it.compactor._suspects
        if "q" not in it.broker.catalog.by_name:
            return []
        for lock in list(it.broker.catalog.by_name["q"].locks):
            await it.nack("q", lock.id)
        left = [name_of(payload) for payload in await it.drain("q")]
        assert it.broker.payloads.removed_total == 0
        return left


# Verifies: PER-0035
@pytest.mark.timeout(max(300, 10 * ROUNDS))
async def test_kill_9(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    seed = int(os.environ.get("QRUSTY_CRASH_SEED") or random.SystemRandom().randrange(2**32))
    request.node.add_report_section("call", "seed", f"QRUSTY_CRASH_SEED={seed}")
    chance = random.Random(seed)
    path, books = tmp_path / "data", Books()
    for number in range(ROUNDS):
        policy = list(Fsync)[number % 3]
        process, said = await live(path, policy, number, chance.uniform(SHORTEST, LONGEST), signal.SIGKILL)
        assert process.stdout is not None
        async with process.stdout:
            while some := await process.stdout.receive_some():
                said += some
        assert await process.wait() == -signal.SIGKILL
        books.note(said)
        copy = tmp_path / "copy"
        shutil.copytree(path, copy)
        books.check(await left_in(copy))
        shutil.rmtree(copy)
    assert books.acked


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """An ext4 in an image file, and where it is mounted."""
    image, point = tmp_path / "image", tmp_path / "disk"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4")
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(point)], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not possible here")
    yield image, point
    subprocess.run(["umount", "-l", str(point)], check=True)


# Verifies: PER-0035
async def test_power_cut(tmp_path: Path, disk: tuple[Path, Path]) -> None:
    """What an image holds while the process stands still is what the disk would hold."""
    image, point = disk
    books = Books()
    process, said = await live(point / "data", Fsync.ALWAYS, 1, 1.5, signal.SIGSTOP)
    assert process.stdout is not None
    try:
        with trio.move_on_after(0.2):
            while some := await process.stdout.receive_some():
                said += some
        await trio.to_thread.run_sync(shutil.copyfile, image, tmp_path / "after")
    finally:
        process.kill()
        await process.wait()
        await process.stdout.aclose()
    books.note(said)
    assert books.acked
    after = tmp_path / "after-the-cut"
    after.mkdir()
    await trio.run_process(["mount", "-o", "loop", str(tmp_path / "after"), str(after)])
    try:
        books.check(await left_in(after / "data"))
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + START_SECONDS):
            await trio.run_process(["umount", "-l", str(after)])
