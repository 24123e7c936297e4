"""How much memory is in use and how much is allowed, from where the kernel accounts it.

Rule: what is reported is what counts against the limit that would kill the process. Order of preference:

1. A limit set by the operator: resident memory of this process against it.
2. The tightest limit among the process's control group (version 1 or 2) and its parents: what that group has charged,
   inactive file pages excluded (the kernel takes those back at once), against it. Others in the group count, too.
3. No limit, or none below the machine's memory: resident memory of this process against the machine's memory.

Limits are read anew each time: they may be changed while the process runs. A reading takes about 0.1 ms. The files stay
open from the first reading on, so that memory is watched when there are no descriptors left, too.
Formats: cgroups(7), proc_pid_mountinfo(5), and the kernel's admin-guide/cgroup-v1/memory and admin-guide/cgroup-v2.
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
        """Now. Well under 2 ms: called on the event loop."""

    def resident_bytes(self) -> int:
        """Resident memory of this process, in bytes. Microseconds."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The files of one version of control groups."""

    name: str
    current: str
    limit: str
    inactive: str
    """The line of `memory.stat` with the inactive file pages, descendants included."""


V1 = Hierarchy("cgroup v1", "memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file")
V2 = Hierarchy("cgroup v2", "memory.current", "memory.max", "inactive_file")


READ_BYTES = 64 * 1024
PAGE_BYTES = os.sysconf("SC_PAGESIZE")


class _Source:
    """A file of the kernel's that is read again and again."""

    __slots__ = ("_file", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Opened | None = None

    def read(self) -> str:
        """Raises `OSError`."""
        if self._file is not None:
            try:
                return self._read(self._file)
            except OSError:
                # The group was removed, and perhaps made again.
                self._file = None
        self._file = Opened(os.open(self._path, os.O_RDONLY))
        return self._read(self._file)

    def close(self) -> None:
        """Let go of the descriptor; reading opens the file again."""
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

    `limit_mb` is QRUSTY_MEMORY_LIMIT_MB in MiB, None for automatic. `root` is where proc and the mount points of
    control groups are looked for.
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
        """Let go of the descriptors, which are kept open as there may be none to be had when memory is short."""
        for source in (self._statm, *(file for group in self._groups for file in group)):
            source.close()

    def resident_bytes(self) -> int:
        return int(self._statm.read().split()[1]) * PAGE_BYTES

    def _tightest(self) -> tuple[_Group | None, int]:
        """The group with the lowest limit, the innermost of equals; None when none is below the machine's memory."""
        tightest, lowest = None, self._machine
        for group in self._groups:
            limit = _limit(group.limit)
            if limit is not None and 0 < limit < lowest:
                tightest, lowest = group, limit
        return tightest, lowest


def find_groups(root: Path = Path("/")) -> tuple[Hierarchy, list[Path]]:
    """The directories of this process's memory control group and its parents, innermost first; none without groups.

    A process is in one group of each hierarchy; memory is accounted in version 1 exactly when /proc/self/cgroup has a
    line for that controller.
    """
    try:
        memberships = (root / "proc/self/cgroup").read_text()
        mounts = (root / "proc/self/mountinfo").read_text()
    except (FileNotFoundError, PermissionError):  # not Linux, or hidden: there is nothing to be limited by that we see
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
    # In a container only a part of the hierarchy may be mounted, and the group may lie outside of it (or above: `..`);
    # the top of what is mounted is the nearest then.
    if inside.is_relative_to(mount_root) and ".." not in inside.parts:
        inner = top / inside.relative_to(mount_root)
    if not inner.is_dir():
        inner = top
    return hierarchy, [parent for parent in (inner, *inner.parents) if parent.is_relative_to(top)]


def _mount(mounts: str, hierarchy: Hierarchy) -> tuple[str, str] | None:
    """(which part of the hierarchy is mounted, where), of the last such line: later mounts cover earlier ones."""
    found = None
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(), right.split(maxsplit=2)
        wanted = kind == "cgroup2" if hierarchy is V2 else kind == "cgroup" and "memory" in options.split(",")
        if wanted:
            found = _unescape(fields[3]), _unescape(fields[4])
    return found


def _unescape(field: str) -> str:
    """Spaces and their like are octal in mountinfo: `\\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _limit(file: _Source) -> int | None:
    """The limit in bytes; None for `max`, and where the file is hidden or does not exist (the root of version 2)."""
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
    """Give back to the system what is freed but kept by the C allocator. Blocks for milliseconds; releases the GIL.

    glibc keeps freed blocks between those in use: after the block cache went from 128 MiB to 1 MiB, resident memory was
    157 MiB as before, and 31 MiB after this call. It holds the allocator's lock meanwhile (0.13 ms for each MiB given
    back), so threads that allocate may wait for it. Other allocators have no such call: then nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
