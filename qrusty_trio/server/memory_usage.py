"""How much memory is in use and how much is allowed, according to the kernel's accounting.

Rule: the reported usage is what counts against the limit that would kill the process. In order of preference:

1. A limit set by the operator: resident memory of this process against that limit.
2. The tightest limit of the process's control group (version 1 or 2) and its parents: the memory charged to that group,
   other processes included, against its limit. Inactive file pages are excluded, because the kernel reclaims them at
   once.
3. No limit below the machine's memory: resident memory of this process against the machine's memory.

Limits are read again each time, because they may change while the process runs. A reading takes about 0.1 ms. The files
stay open after the first reading, so that memory is still watched when no descriptors are left.
Formats: cgroups(7), proc_pid_mountinfo(5), and the kernel's admin-guide/cgroup-v1/memory and admin-guide/cgroup-v2.

Requirements: SCH-0043
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import psutil

from qrusty_trio.storage.files import Opened


class Usage(NamedTuple):
    """One reading, in bytes."""

    usage_bytes: int
    limit_bytes: int
    """More than 0."""
    source: str
    """`configured limit`, `cgroup v1`, `cgroup v2` or `machine`."""


class UsageSource(Protocol):
    """Where readings come from."""

    def read(self) -> Usage:
        """Take a reading. Well under 2 ms, because it is called on the event loop. May raise OSError."""

    def resident_bytes(self) -> int:
        """Resident memory of this process, in bytes. Microseconds."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The files of one version of control groups."""

    name: str
    current: str
    limit: str
    inactive: str
    """The line of `memory.stat` with the inactive file pages, including those of descendants."""


V1 = Hierarchy("cgroup v1", "memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file")
V2 = Hierarchy("cgroup v2", "memory.current", "memory.max", "inactive_file")


READ_BYTES = 64 * 1024
PAGE_BYTES = os.sysconf("SC_PAGESIZE")


class _Source:
    """A kernel file that is read repeatedly."""

    __slots__ = ("_file", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Opened | None = None

    def read(self) -> str:
        """The whole text of the file. Raises `OSError`."""
        if self._file is not None:
            try:
                return self._read(self._file)
            except OSError:
                # The group was removed and may have been created again.
                self._file = None
        self._file = Opened(os.open(self._path, os.O_RDONLY))
        return self._read(self._file)

    def close(self) -> None:
        """Close the file. The next read opens it again."""
        self._file = None

    @staticmethod
    def _read(file: Opened) -> str:
        text = b""
        while block := os.pread(file.descriptor, READ_BYTES, len(text)):
            text += block
        return text.decode()


class _Group(NamedTuple):
    """The files of one control group."""

    limit: _Source
    current: _Source
    stat: _Source


class MemoryUsage:
    """The `UsageSource` of the running process.

    `limit_mb` is QRUSTY_MEMORY_LIMIT_MB in MiB; None means automatic. `root` is the directory that contains proc and
    the mount points of control groups.
    """

    def __init__(self, limit_mb: int | None = None, root: Path = Path("/")) -> None:
        self._configured = None if limit_mb is None else limit_mb * 1024 * 1024
        self._machine = psutil.virtual_memory().total
        self._statm = _Source(Path("/proc/self/statm"))
        self._hierarchy, groups = find_groups(root)
        names = (self._hierarchy.limit, self._hierarchy.current, "memory.stat")
        self._groups = [_Group(*(_Source(group / name) for name in names)) for group in groups]

    def read(self) -> Usage:
        if self._configured is not None:
            return Usage(self.resident_bytes(), self._configured, "configured limit")
        group, limit = self._tightest()
        if group is None:
            return Usage(self.resident_bytes(), self._machine, "machine")
        return Usage(_working_set(group, self._hierarchy), limit, self._hierarchy.name)

    def close(self) -> None:
        """Close the files. They were kept open because there may be no descriptors left when memory is short."""
        for source in (self._statm, *(file for group in self._groups for file in group)):
            source.close()

    def resident_bytes(self) -> int:
        return int(self._statm.read().split()[1]) * PAGE_BYTES

    def _tightest(self) -> tuple[_Group | None, int]:
        """The group with the lowest limit (the innermost of equals) and that limit in bytes.

        The group is None when no limit is below the machine's memory.
        """
        tightest, lowest = None, self._machine
        for group in self._groups:
            limit = _limit(group.limit)
            if limit is not None and 0 < limit < lowest:
                tightest, lowest = group, limit
        return tightest, lowest


def find_groups(root: Path = Path("/")) -> tuple[Hierarchy, list[Path]]:
    """The directories of this process's memory control group and its parents, innermost first.

    The list is empty without control groups. A process is in one group of each hierarchy. Memory is accounted in
    version 1 exactly when /proc/self/cgroup has a line for that controller.

    Requirements: SCH-0043
    """
    try:
        memberships = (root / "proc/self/cgroup").read_text()
        mounts = (root / "proc/self/mountinfo").read_text()
    except (FileNotFoundError, PermissionError):  # not Linux, or hidden: no limit is visible
        return V2, []
    paths = {}
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    hierarchy = V1 if "memory" in paths else V2
    group = paths.get("memory" if hierarchy is V1 else "")
    mount = _mount(mounts, hierarchy)
    if group is None or mount is None:
        return hierarchy, []
    inside, (mount_root, mount_point) = PurePosixPath(group), mount
    top = root / mount_point.lstrip("/")
    inner = top
    # In a container only a part of the hierarchy may be mounted, and the group may be outside of it (or above: `..`).
    # The top of the mounted part is the nearest directory then.
    if inside.is_relative_to(mount_root) and ".." not in inside.parts:
        inner = top / inside.relative_to(mount_root)
    if not inner.is_dir():
        inner = top
    return hierarchy, [parent for parent in (inner, *inner.parents) if parent.is_relative_to(top)]


def _mount(mounts: str, hierarchy: Hierarchy) -> tuple[str, str] | None:
    """(mounted part of the hierarchy, mount point) of the last matching line: later mounts hide earlier ones."""
    found = None
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(), right.split(maxsplit=2)
        wanted = kind == "cgroup2" if hierarchy is V2 else kind == "cgroup" and "memory" in options.split(",")
        if wanted:
            found = _unescape(fields[3]), _unescape(fields[4])
    return found


def _unescape(field: str) -> str:
    """Decode a mountinfo field, in which spaces and similar characters are octal: `\\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _limit(file: _Source) -> int | None:
    """The limit in bytes. None for `max`, and if the file is hidden or missing (as in the root of version 2)."""
    try:
        text = file.read().strip()
    except (FileNotFoundError, PermissionError):
        return None
    return None if text == "max" else int(text)


def _working_set(group: _Group, hierarchy: Hierarchy) -> int:
    current = int(group.current.read())
    for line in group.stat.read().splitlines():
        name, _, value = line.partition(" ")
        if name == hierarchy.inactive:
            return max(0, current - int(value))
    return current


def return_freed() -> None:
    """Return memory to the system that was freed but is kept by the C allocator.

    Blocks for milliseconds; releases the GIL.

    glibc keeps freed blocks that lie between used ones. After the block cache was reduced from 128 MiB to 1 MiB,
    resident memory was still 157 MiB; after this call it was 31 MiB. The call holds the allocator's lock (0.13 ms for
    each MiB returned), so threads that allocate may have to wait. With an allocator that has no such call, nothing
    happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
