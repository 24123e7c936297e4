"""The system calls of a server, as strace saw them, and the disk that a power cut would leave.

Rule: strace notes the start of a call before the kernel does it and its end before the program goes on. So whatever
ended on an earlier line than another began came before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

WRITES = frozenset({"write", "writev", "pwrite64", "pwritev", "pwritev2", "sendto", "sendmsg"})
SYNCS = frozenset({"fsync", "fdatasync"})
BY_KERNEL = frozenset({"io_submit", "io_getevents"})
"""The two ends of a sync by Linux AIO. `read_trace` makes one call of them, an fdatasync."""
OTHERS = frozenset(
    {"openat", "mkdir", "mkdirat", "rename", "renameat", "unlink", "unlinkat", "rmdir", "ftruncate", "link"}
)
MOST_BYTES = 4_000_000
"""Of the data of one call."""
TRACER = (
    "strace",
    "--follow-forks",
    "--quiet=all",
    "--decode-fds",
    "--strings-in-hex=all",
    f"--string-limit={MOST_BYTES}",
)

_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(.*)", re.DOTALL)
_DATA = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"\(?(\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>")
_SUBMITTED = re.compile(r"aio_data=(0x\w+), aio_lio_opcode=IOCB_CMD_FDSYNC, aio_fildes=(\d+<(?:\\x[0-9a-f]{2})*>)")
_COMPLETED = re.compile(r"\{data=(0x\w+), obj=0x\w+, res=(-?\d+)")
_RESULT = re.compile(r"= (-?\d+)[^=]*$")


@dataclass(slots=True)
class SystemCall:
    name: str
    text: str
    """Its arguments and result."""
    begin: int
    end: float
    """Lines of the trace; inf: it never ended."""
    by_kernel: bool = False
    """A sync by Linux AIO."""

    @property
    def result(self) -> int:
        found = _RESULT.search(self.text)
        return int(found[1]) if found else -1

    @property
    def descriptor(self) -> str:
        """The first argument as strace prints it: number and path."""
        found = _DESCRIPTOR.match(self.text)
        return f"{found[1]}<{_decoded(found[2]).decode()}>" if found else ""

    @property
    def path(self) -> str:
        """What the descriptor of the first argument stands for."""
        return self.descriptor.partition("<")[2][:-1]

    @property
    def strings(self) -> list[bytes]:
        return [_decoded(text) for text in _DATA.findall(self.text)]

    @property
    def data(self) -> bytes:
        """What it wrote."""
        return b"".join(self.strings)[: max(0, self.result)]


def _decoded(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def traced(output: Path, *, kernel_syncs: bool = True) -> list[str]:
    """The command to put before a server's. Without `kernel_syncs` the kernel seems to have none."""
    without = () if kernel_syncs else ("--inject=io_setup:error=ENOSYS",)
    return [
        *TRACER,
        *without,
        f"--output={output}",
        f"--trace={','.join(sorted(WRITES | SYNCS | BY_KERNEL | OTHERS | {'io_setup'}))}",
    ]


def read_trace(output: Path) -> list[SystemCall]:
    """All calls, in the order of their beginning."""
    calls: list[SystemCall] = []
    pending: dict[str, SystemCall] = {}
    for number, line in enumerate(output.read_text(errors="replace").splitlines()):
        found = _LINE.fullmatch(line)
        if found is None or found[2] not in WRITES | SYNCS | BY_KERNEL | OTHERS:
            continue
        process, name, rest = found.groups()
        if rest.startswith(" resumed>"):
            call = pending.pop(process)
            call.text += rest.removeprefix(" resumed>")
            call.end = number
        else:
            call = SystemCall(name, rest.removesuffix(" <unfinished ...>"), number, number)
            calls.append(call)
            if rest.endswith("<unfinished ...>"):
                call.end = inf
                pending[process] = call
    return _with_kernel_syncs(calls)


def _with_kernel_syncs(calls: list[SystemCall]) -> list[SystemCall]:
    """The calls, with each sync by the kernel as one that began when it was submitted and ended when that was told."""
    others: list[SystemCall] = []
    running: dict[str, SystemCall] = {}
    for call in calls:
        if call.name not in BY_KERNEL:
            others.append(call)
        elif call.name == "io_submit":
            for number, descriptor in _SUBMITTED.findall(call.text)[: max(0, call.result)]:
                running[number] = SystemCall("fdatasync", f"({descriptor}", call.begin, inf, by_kernel=True)
                others.append(running[number])
        else:
            for number, result in _COMPLETED.findall(call.text)[: max(0, call.result)]:
                sync = running.pop(number)
                sync.end = call.end
                sync.text += f") = {result}"
    return others


def until(calls: Iterable[SystemCall], line: int, done: Callable[[SystemCall], bool]) -> list[SystemCall]:
    """What had begun by that line of the trace. What had not ended then has, if it is `done`, and else never does."""
    begun = [call for call in calls if call.begin <= line]
    return [replace(call, end=line if done(call) else inf) if call.end > line else call for call in begun]


class File:
    """A file as it was written, and how much of it a power cut can't take."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.synced = 0


def after_power_cut(calls: Iterable[SystemCall], root: Path, target: Path) -> None:
    """Make `target` what a power cut at the end of the trace leaves of the directory `root`, which began empty.

    Of every file there is what was written before its last finished sync began; the rest of it is zeroes, as of a
    file system that had grown the file and not written it. Names are as they were: file systems log those in order.
    """
    files: dict[str, File] = {}
    directories: list[str] = []
    steps: list[tuple[float, SystemCall, int]] = []
    for call in calls:
        steps.append((call.begin, call, 0))
        if call.name in SYNCS and call.end < inf:
            steps.append((call.end + 0.5, call, 1))
    seen: dict[int, tuple[File, int]] = {}
    for _, call, ended in sorted(steps, key=lambda step: step[0]):
        if ended:
            file, size = seen.pop(id(call), (File(), 0))
            file.synced = max(file.synced, size)
        elif call.name in SYNCS:
            if call.path in files:
                seen[id(call)] = files[call.path], len(files[call.path].content)
        elif call.result >= 0:
            _replay(call, files, directories, str(root))
    for directory in [str(root), *directories]:
        target.joinpath(Path(directory).relative_to(root)).mkdir(parents=True)
    for path, file in files.items():
        lost = len(file.content) - file.synced
        target.joinpath(Path(path).relative_to(root)).write_bytes(bytes(file.content[: file.synced]) + bytes(lost))


def _replay(call: SystemCall, files: dict[str, File], directories: list[str], root: str) -> None:
    if call.name in WRITES:
        if not call.path.startswith(root):
            return
        file = files[call.path]
        if call.name in ("write", "writev"):
            # All that is written without an offset here is written at the end.
            file.content += call.data
        else:
            offset = int(re.findall(r", (\d+)(?:, 0)?\) +=", call.text)[-1])
            file.content[offset : offset + len(call.data)] = call.data
            assert offset >= file.synced, f"{call.path} was changed where it had been synced"
        return
    if call.name == "ftruncate":
        size = int(re.findall(r", (\d+)\)", call.text)[-1])
        if call.path in files:
            del files[call.path].content[size:]
        return
    names = [_absolute(call, name) for name in call.strings if name]
    if not names or not names[0].startswith(root):
        return
    if call.name == "openat":
        if "O_CREAT" in call.text and (names[0] not in files or "O_TRUNC" in call.text):
            files[names[0]] = File()
    elif call.name in ("mkdir", "mkdirat"):
        if names[0] != root:
            directories.append(names[0])
    elif call.name == "rmdir" or "AT_REMOVEDIR" in call.text:
        directories.remove(names[0])
    elif call.name in ("rename", "renameat"):
        files[names[1]] = files.pop(names[0])
    elif call.name == "link":
        files[names[1]] = files[names[0]]
    else:
        files.pop(names[0], None)


def _absolute(call: SystemCall, name: bytes) -> str:
    path = name.decode()
    return path if path.startswith("/") else f"{call.path}/{path}"
