"""Syncs by the kernel: what they return, what is refused, and that what is begun is awaited."""

from __future__ import annotations

import errno
import gc
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from qrusty_trio.server import kernel_sync
from qrusty_trio.server.kernel_sync import MOST_AT_ONCE, KernelSync
from qrusty_trio.server.sync_ways import open_kernel

MIB = 1024 * 1024


def open_descriptors() -> set[str]:
    gc.collect()  # what earlier tests left might be closed between two looks
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


async def opened() -> KernelSync:
    try:
        return await KernelSync.open()
    except OSError as error:
        pytest.skip(f"the kernel has no syncs here: {error}")


def done(*command: Any) -> bool:
    """Run a command; whether it succeeded."""
    return not subprocess.run(command, capture_output=True, check=False).returncode


class HeldKernel:
    """Stands between a `KernelSync` and the kernel: completions are seen when they may be."""

    def __init__(self, kernel: KernelSync) -> None:
        self.really = kernel._system
        self.getevents = kernel._getevents
        self.held = True
        self.looks = 0
        kernel._system = self  # type: ignore[assignment]  # is called as it is

    def __call__(self, number: int, *arguments: int) -> int:
        if number == self.getevents:
            self.looks += 1
            if self.held:
                return 0
        found: int = self.really(number, *arguments)
        return found


# Verifies: PER-0064
async def test_syncs_one_after_the_other(file: int) -> None:
    before = open_descriptors()
    kernel = await opened()
    for _ in range(50):
        os.write(file, b"x")
        assert kernel.submit([file]) == 1
        assert await kernel.wait() == [None]
    kernel.close()
    kernel.close()
    assert open_descriptors() == before


async def test_the_descriptor_may_be_closed_meanwhile(tmp_path: Path) -> None:
    kernel = await opened()
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"x" * MIB)
    kernel.submit([descriptor])
    os.close(descriptor)
    await kernel.wait()
    kernel.close()


# Verifies: PER-0064
async def test_many_at_once(tmp_path: Path) -> None:
    kernel = await opened()
    descriptors = [os.open(tmp_path / f"{number}", os.O_RDWR | os.O_CREAT) for number in range(MOST_AT_ONCE)]
    for some in (MOST_AT_ONCE, 1, 2, MOST_AT_ONCE):
        for descriptor in descriptors:
            os.write(descriptor, b"x" * MIB)
        assert kernel.submit(descriptors[:some]) == some
        assert await kernel.wait() == [None] * some
    for descriptor in descriptors:
        os.close(descriptor)
    kernel.close()


# Verifies: PER-0064
async def test_those_before_one_that_is_refused_are_begun(file: int) -> None:
    kernel = await opened()
    reading, writing = os.pipe()
    assert kernel.submit([file, writing, file]) == 1
    assert await kernel.wait() == [None]
    assert kernel.submit([file, file]) == 2
    assert await kernel.wait() == [None, None]
    os.close(reading)
    os.close(writing)
    kernel.close()


# Verifies: PER-0064
async def test_a_file_without_syncs_is_refused_before_anything_begins(file: int) -> None:
    kernel = await opened()
    reading, writing = os.pipe()
    with pytest.raises(OSError, match="Invalid argument"):
        kernel.submit([writing])
    os.close(reading)
    os.close(writing)
    with pytest.raises(OSError, match="Bad file descriptor"):
        kernel.submit([writing])
    kernel.submit([file])
    await kernel.wait()
    kernel.close()


# Verifies: PER-0064
async def test_what_is_begun_is_awaited_even_when_cancelled(file: int) -> None:
    kernel = await opened()
    held = HeldKernel(kernel)
    ended = False

    async def sync() -> None:
        nonlocal ended
        kernel.submit([file])
        await kernel.wait()
        ended = True
        await trio.lowlevel.checkpoint()
        raise AssertionError("it was not cancelled")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sync)
        while held.looks < 1:  # noqa: ASYNC110  # what is waited for is a count
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            for _ in range(5):
                # Woken for nothing, it looks again and goes on waiting.
                looks = held.looks
                os.eventfd_write(kernel._signal, 1)
                while held.looks == looks:  # noqa: ASYNC110  # the same
                    await trio.sleep(0.001)
            assert not ended
            held.held = False
            os.eventfd_write(kernel._signal, 1)
    assert ended
    kernel.close()


async def test_a_signal_for_nothing_is_harmless_between_syncs(file: int) -> None:
    kernel = await opened()
    for _ in range(20):
        os.eventfd_write(kernel._signal, 1)
        kernel.submit([file])
        await kernel.wait()
    kernel.close()


# Verifies: PER-0064
@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (platform, "machine", lambda: "riscv64"),
        (kernel_sync, "_NUMBERS", {platform.machine(): (9999, 9999, 9999, 9999)}),
        (os, "eventfd", OSError(errno.EMFILE, "Too many open files")),
        (os, "memfd_create", OSError(errno.EMFILE, "Too many open files")),
        (KernelSync, "submit", OSError(errno.EINVAL, "Invalid argument")),
        (KernelSync, "submit", OSError(errno.EPERM, "Operation not permitted")),
    ],
    ids=["machine", "ENOSYS", "no eventfd", "no descriptor", "EINVAL", "EPERM"],
)
async def test_without_it_syncs_run_in_a_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, owner: Any, name: str, value: Any
) -> None:
    caplog.set_level("INFO")
    await opened_once()
    before = open_descriptors()
    monkeypatch.setattr(owner, name, failing_with(value) if isinstance(value, OSError) else value)
    assert await open_kernel() is None
    assert "syncs run in a thread" in caplog.text
    assert open_descriptors() == before


# Verifies: PER-0064
@pytest.mark.parametrize("name", ["eventfd", "memfd_create"])
async def test_a_python_built_without_what_it_needs_syncs_in_a_thread(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delattr(os, name)
    assert await open_kernel() is None


# Verifies: PER-0064
async def test_a_context_that_is_not_taken_back_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    before = open_descriptors()
    kernel = await opened()
    context = kernel._context
    kernel._context += 1
    kernel.close()
    assert "the kernel did not take back what it syncs with: Invalid argument" in caplog.text
    assert open_descriptors() == before
    kernel._call(kernel._destroy, context)


async def opened_once() -> None:
    (await opened()).close()


def failing_with(error: OSError) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


# Verifies: PER-0064
async def test_an_error_is_that_of_the_disk(tmp_path: Path) -> None:
    """A file system in an image whose own disk is full takes writes, and fails their sync."""
    kernel = await opened()
    around, disk = tmp_path / "around", tmp_path / "disk"
    image = around / "image"
    around.mkdir()
    disk.mkdir()
    commands: list[list[Any]] = [
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", around],
        ["truncate", "--size=20M", image],
        ["mkfs.ext4", "-q", image],
        ["mount", "-o", "loop", image, disk],
    ]
    mounted: list[Path] = []
    try:
        for command in commands:
            if not done(*command):
                pytest.skip(f"this can't be done here: {command[0]}")
            if command[0] == "mount":
                mounted.append(command[-1])
        writer = os.open(disk / "file", os.O_RDWR | os.O_CREAT)
        other = os.open(disk / "file", os.O_RDWR)
        os.write(writer, os.urandom(6 * MIB))
        healthy = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        os.write(healthy, b"x")
        assert kernel.submit([healthy, other, healthy]) == 3
        before, error, after = await kernel.wait()
        os.close(healthy)
        assert (before, after) == (None, None)
        assert error is not None
        assert error.errno in (errno.ENOSPC, errno.EIO)  # which one is for the file system to say
        # It is told to each descriptor that was open at the time.
        with pytest.raises(OSError):  # noqa: PT011  # the same
            os.fdatasync(writer)
        os.close(writer)
        os.close(other)
    finally:
        kernel.close()
        for path in reversed(mounted):
            assert done("umount", "--lazy", path)
