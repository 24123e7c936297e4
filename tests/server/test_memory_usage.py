"""Where the reading of memory comes from: files as the kernel shows them, under a root of our own."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from qrusty_trio.server.memory_usage import V1, V2, MemoryUsage, find_groups, return_freed

MIB = 2**20
V2_MOUNT = "30 23 0:26 {root} {point} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "36 32 0:31 {root} {point} rw,nosuid - cgroup cgroup rw,{controllers}\n"
OTHER_MOUNT = "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"


class Machine:
    """Files of /proc and of control groups."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def proc(self, memberships: str, mounts: str) -> None:
        directory = self.root / "proc/self"
        directory.mkdir(parents=True)
        (directory / "cgroup").write_text(memberships)
        (directory / "mountinfo").write_text(OTHER_MOUNT + mounts)

    def v2(self, path: str, limit: str | None, usage: int = 0, inactive: int = 0) -> Path:
        group = self.root / path.lstrip("/")
        group.mkdir(parents=True, exist_ok=True)
        if limit is not None:
            (group / "memory.max").write_text(f"{limit}\n")
            (group / "memory.current").write_text(f"{usage}\n")
        (group / "memory.stat").write_text(f"anon 1\nfile 2\ninactive_anon 7\ninactive_file {inactive}\nslab 3\n")
        return group

    def v1(self, path: str, limit: int, usage: int, inactive: int) -> Path:
        group = self.root / path.lstrip("/")
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (group / "memory.usage_in_bytes").write_text(f"{usage}\n")
        (group / "memory.stat").write_text(f"cache 9\ninactive_file 1\ntotal_inactive_file {inactive}\n")
        return group


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# Verifies: SCH-0043
def test_version_2_the_tightest_of_the_group_and_its_parents(machine: Machine) -> None:
    machine.proc("0::/system.slice/queue.service\n", V2_MOUNT.format(root="/", point="/sys/fs/cgroup"))
    machine.v2("/sys/fs/cgroup", None)
    machine.v2("/sys/fs/cgroup/system.slice", str(400 * MIB), 300 * MIB, 100 * MIB)
    inner = machine.v2("/sys/fs/cgroup/system.slice/queue.service", "max", 50 * MIB, 10 * MIB)
    usage = MemoryUsage(root=machine.root)
    assert usage.read() == (200 * MIB, 400 * MIB, "cgroup v2")
    # Limits may change while the process runs.
    (inner / "memory.max").write_text(f"{100 * MIB}\n")
    assert usage.read() == (40 * MIB, 100 * MIB, "cgroup v2")


# Verifies: SCH-0043
def test_version_1_excludes_inactive_file_pages_of_descendants(machine: Machine) -> None:
    machine.proc(
        "12:cpu,cpuacct:/other\n5:memory:/docker/abc\n1:name=systemd:/x\n",
        V1_MOUNT.format(root="/docker/abc", point="/sys/fs/cgroup/memory", controllers="memory")
        + V1_MOUNT.format(root="/", point="/sys/fs/cgroup/cpu", controllers="cpu,cpuacct"),
    )
    machine.v1("/sys/fs/cgroup/memory", 256 * MIB, 200 * MIB, 50 * MIB)
    assert find_groups(machine.root)[0] is V1
    assert MemoryUsage(root=machine.root).read() == (150 * MIB, 256 * MIB, "cgroup v1")


def test_a_hybrid_machine_accounts_memory_in_version_1(machine: Machine) -> None:
    machine.proc(
        "5:memory:/a\n0::/b\n",
        V2_MOUNT.format(root="/", point="/sys/fs/cgroup/unified")
        + V1_MOUNT.format(root="/", point="/sys/fs/cgroup/memory", controllers="memory"),
    )
    machine.v2("/sys/fs/cgroup/unified/b", str(64 * MIB), MIB)
    machine.v1("/sys/fs/cgroup/memory/a", 128 * MIB, 100 * MIB, 0)
    assert MemoryUsage(root=machine.root).read() == (100 * MIB, 128 * MIB, "cgroup v1")


@pytest.mark.parametrize(
    "membership", ["/", "/kubepods/pod1/abc", "/../elsewhere", "/kubepods/pod1/gone"], ids=["own", "root", "up", "gone"]
)
def test_in_a_container_the_top_of_what_is_mounted_is_the_nearest(machine: Machine, membership: str) -> None:
    machine.proc(f"0::{membership}\n", V2_MOUNT.format(root="/", point="/sys/fs/cgroup"))
    machine.v2("/sys/fs/cgroup", str(64 * MIB), 32 * MIB, MIB)
    assert MemoryUsage(root=machine.root).read() == (31 * MIB, 64 * MIB, "cgroup v2")


def test_a_mount_point_with_a_space(machine: Machine) -> None:
    machine.proc("0::/\n", V2_MOUNT.format(root="/", point="/my\\040groups"))
    machine.v2("/my groups", str(64 * MIB), 2 * MIB)
    assert MemoryUsage(root=machine.root).read() == (2 * MIB, 64 * MIB, "cgroup v2")


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096), "0"])
def test_no_limit_or_none_below_the_machine(machine: Machine, limit: str) -> None:
    machine.proc("0::/\n", V2_MOUNT.format(root="/", point="/sys/fs/cgroup"))
    machine.v2("/sys/fs/cgroup", limit, MIB)
    usage = MemoryUsage(root=machine.root).read()
    assert usage.limit_bytes == psutil.virtual_memory().total
    assert usage.source == "machine"
    assert MIB < usage.usage_bytes < usage.limit_bytes


# Verifies: SCH-0043
@pytest.mark.parametrize(
    ("memberships", "mounts"),
    [("0::/\n", ""), ("", V2_MOUNT.format(root="/", point="/sys/fs/cgroup")), ("0::/\n", None)],
    ids=["not mounted", "no group", "hidden"],
)
def test_without_control_groups_it_is_the_machine(machine: Machine, memberships: str, mounts: str | None) -> None:
    if mounts is not None:
        machine.proc(memberships, mounts)
    assert find_groups(machine.root) == (V2, [])
    assert MemoryUsage(root=machine.root).read().source == "machine"


# Verifies: SCH-0043
def test_the_operators_limit_comes_before_all(machine: Machine) -> None:
    machine.proc("0::/\n", V2_MOUNT.format(root="/", point="/sys/fs/cgroup"))
    machine.v2("/sys/fs/cgroup", str(64 * MIB), 60 * MIB)
    usage = MemoryUsage(100, root=machine.root)
    assert usage.read() == (usage.resident_bytes(), 100 * MIB, "configured limit")


def test_this_machine_is_understood() -> None:
    usage = MemoryUsage()
    reading = usage.read()
    assert reading.limit_bytes > 0
    assert reading.usage_bytes > 0
    held = bytearray(os.urandom(1)) * (64 * MIB)
    assert usage.resident_bytes() > 64 * MIB
    del held
    return_freed()
