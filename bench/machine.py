"""What the figures were measured on.

Rule: read from the machine each time, never from memory of an earlier run.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import psutil
from rocksdict import Rdict

FSYNC_SAMPLES = 200
MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})


def describe(directory: Path) -> dict[str, str]:
    """The machine in words: processor, memory, kernel, versions, and the file system that holds `directory`."""
    return {
        "processor": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} ({_distribution()})",
        "disk": f"{file_system(directory)}, write of 200 bytes and fdatasync {_fsync_ms(directory):.2f} ms (median)",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "RocksDB": f"{_rocksdb_version(directory)} (rocksdict {version('rocksdict')})",
        "Trio": version("trio"),
    }


def sentence(machine: dict[str, str]) -> str:
    """The description on one line of Markdown."""
    parts = (f"{name} {value}" if name[0].isupper() else value for name, value in machine.items())
    return "Machine: " + " · ".join(parts) + "."


def file_system(directory: Path) -> str:
    """The type of the file system that holds `directory`, such as ext4."""
    path = directory.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    for parent in (path, *path.parents):
        if parent in mounts:
            return mounts[parent]
    return "unknown"


def refuse_memory_disk(directory: Path) -> None:
    """End the program when `directory` is in memory: an fsync costs nothing there, and the figures would say so."""
    kind = file_system(directory)
    if kind in MEMORY_FILE_SYSTEMS:
        sys.exit(f"{directory} is on {kind}, where fsync costs nothing; give --dir a directory on a disk")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"


def _fsync_ms(directory: Path) -> float:
    seconds = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(FSYNC_SAMPLES):
            start = time.perf_counter()
            os.write(file.fileno(), b"x" * 200)
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1000


def _rocksdb_version(directory: Path) -> str:
    """RocksDB writes its version into the OPTIONS file of a database."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        Rdict(name).close()
        for options in Path(name).glob("OPTIONS-*"):
            if found := re.search(r"rocksdb_version=([\d.]+)", options.read_text()):
                return found[1]
    return "unknown"
