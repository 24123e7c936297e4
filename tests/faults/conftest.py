"""A disk so small that it is soon full."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

DISK_MIB = 64


class SmallDisk:
    """A tmpfs of `DISK_MIB` MiB with a ballast that can be dropped and put back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path / "data"
        self._ballast = path / "ballast"

    def load(self, octets: int) -> None:
        """Take some room; all there is when there is less."""
        with self._ballast.open("ab", buffering=0) as file, suppress(OSError):
            while octets > 0:
                octets -= file.write(bytes(min(octets, 2**16)))

    def leave(self, octets: int) -> None:
        """Take all room but this."""
        self.load(shutil.disk_usage(self.path).free - octets)

    def unload(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Gone after the test, whoever still has a file of it open."""
    point = tmp_path / "disk"
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "none", str(point)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not possible here")
    yield SmallDisk(point)
    subprocess.run(["umount", "-l", point], check=True)
