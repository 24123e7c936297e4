"""The server under attack: a process of its own, with small limits, and what it shows from outside.

Rule: nothing here looks into the server but what an operator sees: its log, its exit status, its resources.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import trio

from bench.security import certificate
from fuzz.server.tls import forwarder
from tests.server.running import START_SECONDS, Child, child_environment, child_process

LIMITS = {
    "MAX_CONNECTIONS": "48",
    "QRUSTY_HOT_TIER_SIZE": "20",
    "QRUSTY_REFILL_THRESHOLD": "5",
    "QRUSTY_EXTERNALIZE_MIN_BYTES": "256",
    "QRUSTY_SEGMENT_MAX_MB": "4",
    "QRUSTY_COMPACT_INTERVAL_SECS": "2",
    "QRUSTY_MAX_LOCKED_INDEX": "5000",
    "WS_PING_INTERVAL_SECS": "2",
    "WS_PING_TIMEOUT_SECS": "2",
    "QRUSTY_LOG_FORMAT": "json",
}
"""Small, so that their bounds are met soon."""

_FRAME = re.compile(r'File "([^"]+)", line \d+, in (\S+)')
_ERROR = re.compile(r"[\s|+-]*([A-Za-z_]\w*(?:\.\w+)*)(?:: .*)?$")
"""The line that names the error; source lines are indented further and seldom look like that."""
_LIBRARIES = re.compile(r"^(hypercorn|h2|hpack|hyperframe|h11|wsproto|priority|quart|quart_trio|werkzeug)/")
"""What the fallback is made of. What goes wrong in there is contained, logged once and told, but is no finding."""


@dataclass(frozen=True, slots=True)
class Traceback:
    """A traceback in the log."""

    text: str

    @property
    def signature(self) -> str:
        """What went wrong and where, the same for the same fault."""
        error, file, function = self._innermost()
        return f"{error} in {file} {function}"

    @property
    def contained(self) -> bool:
        """Whether it was raised inside a library of the fallback."""
        return _LIBRARIES.match(self._innermost()[1]) is not None

    def _innermost(self) -> tuple[str, str, str]:
        """The last error that is no cancellation, with the file and function that raised it."""
        found = self.text.strip().splitlines()[-1][:100], "?", "?"
        file, function = "?", "?"
        for line in self.text.splitlines():
            if frame := _FRAME.search(line):
                file, function = _short(frame[1]), frame[2]
            elif (error := _ERROR.match(line)) and not error[1].endswith(("Group", "Cancelled", "Traceback")):
                found = error[1], file, function
        return found


def _short(file: str) -> str:
    """The path from the package on: of a library, of the standard library, or of the project."""
    return re.sub(r".*(?:site-packages/|lib/python3\.\d+/|/(?=qrusty_trio/))", "", file)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a process holds."""

    sockets: int
    files: int
    threads: int
    resident: int
    """Bytes."""


class Target:
    """A running server."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.port = self.attack_port = self.control_port = child.port
        self._read = 0
        """Characters of the log that were looked at."""
        self.last_traceback: Traceback | None = None
        self._process = psutil.Process(child.process.pid)

    @property
    def dead(self) -> bool:
        return self.child.process.poll() is not None

    def resources(self) -> Resources:
        """Raises psutil.NoSuchProcess when it is gone."""
        sockets = files = 0
        for descriptor in Path(f"/proc/{self.child.process.pid}/fd").iterdir():
            with suppress(OSError):
                if str(descriptor.readlink()).startswith("socket:"):
                    sockets += 1
                else:
                    files += 1
        return Resources(sockets, files, self._process.num_threads(), self._process.memory_info().rss)

    def tracebacks(self) -> list[Traceback]:
        """Those that were logged since the last call. What is no record of the log counts as one, too."""
        log = self.child.log
        end = len(log) if self.dead else log.rfind("\n") + 1
        lines, self._read = log[self._read : end].splitlines(), end
        found = []
        loose: list[str] = []
        for line in lines:
            record = _record(line)
            if record is None:
                loose.append(line)
            elif "traceback" in record:
                found.append(Traceback(str(record["traceback"])))
        if loose:
            found.append(Traceback("\n".join(loose)))
        if found:
            self.last_traceback = found[-1]
        return found


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


@asynccontextmanager
async def target(fast: bool, tls: bool = False) -> AsyncIterator[Target]:
    """A fresh server in a directory of its own; both are gone afterwards. `tls`: reached through forwarders."""
    with tempfile.TemporaryDirectory(prefix="qrusty-fuzz-") as directory:
        setting = "enabled" if fast else "disabled"
        secured = certificate(Path(directory)) if tls else {}
        environment = child_environment(Path(directory) / "data", QRUSTY_FAST_LANE=setting, **LIMITS, **secured)
        async with child_process(environment, arguments=("-m", "fuzz.server.serve")) as child:
            with trio.fail_after(START_SECONDS):
                await child.listening.wait()
                await child.ready()
            found = Target(child)
            if tls:
                async with (
                    forwarder(child.port, hostile=True) as attack,
                    forwarder(child.port, hostile=False) as honest,
                ):
                    found.attack_port, found.control_port = attack, honest
                    yield found
            else:
                yield found
