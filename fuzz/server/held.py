"""Of a connection that the server holds although its peer has gone: whose it was, and what the server waits for.

Rule: a port of a client is used again, so what used it is told by the time, too.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.server.conversation import Conversation
from fuzz.server.dump import CONNECTION, TASK

SHOWN_TASKS = 40


@dataclass(frozen=True, slots=True)
class Use:
    """A port, while a conversation had it. Seconds of the monotonic clock."""

    conversation: Conversation
    began: float
    """Before it connected."""
    ended: float


class Ports:
    """The local ports of the fuzzer's clients -> who used them, and when."""

    def __init__(self) -> None:
        self._uses: defaultdict[int, list[Use]] = defaultdict(list)

    def note(self, port: int, conversation: Conversation, began: float) -> None:
        """A conversation that began then has just ended."""
        self._uses[port].append(Use(conversation, began, time.monotonic()))

    def uses(self, port: int) -> int:
        """How many conversations have had it."""
        return len(self._uses[port]) if port in self._uses else 0

    def used(self, port: int, accepted: float) -> Use | None:
        """Who had the port when the server accepted it: the last who began before. None: a client that behaves."""
        before = [use for use in self._uses.get(port, []) if use.began <= accepted]
        return max(before, key=lambda use: use.began, default=None)


@dataclass(slots=True)
class Held:
    """What is known of the connections that are open."""

    text: str
    owners: list[Conversation] = field(default_factory=list)
    """The oldest first."""


def explain(log: str, pid: int, ports: Ports) -> Held:
    """Read what the server has dumped into its log, and what the system knows."""
    lines: list[str] = []
    held = Held("")
    now = time.monotonic()
    told, tasks = _told(log)
    for one in sorted(told, key=lambda one: float(one["accepted"])):
        use = ports.used(one["peer_port"], one["accepted"])
        whose = "a client that behaves, or one that had gone when it was accepted"
        if use is not None:
            held.owners.append(use.conversation)
            whose = f"SEED={use.conversation.seed} ({use.conversation.kind}), which ended {now - use.ended:.1f} s ago"
        uses = ports.uses(one["peer_port"])
        lines += [
            f"port {one['peer_port']}, used by {uses} conversations: {whose}",
            f"  descriptor {one['descriptor']}, open for {now - one['accepted']:.1f} s, {one['state']},"
            f" {one['unread']} bytes unread, {one['unsent']} unsent",
            f"  polled: {', '.join(_polled(pid, one['descriptor'])) or 'nowhere'}",
            *([] if one["tasks"] else ["  no task serves it"]),
            *(f"  {task}" for task in one["tasks"]),
            *(f"  {name} = {value}" for name, value in one["served_by"].items()),
        ]
    if not told:
        lines += ["the server tells of no connection; its sockets:", *_sockets(pid)]
    held.text = "\n".join([*lines, f"{len(tasks)} other tasks:", *(f"  {task}" for task in tasks[:SHOWN_TASKS])])
    return held


def _told(log: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The connections and the other tasks in lines of the log."""
    connections, tasks = [], []
    for line in log.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            message = str(json.loads(line)["message"])
            if message.startswith(CONNECTION):
                connections.append(json.loads(message.removeprefix(CONNECTION)))
            elif message.startswith(TASK):
                tasks.append(message.removeprefix(TASK))
    return connections, tasks


def _polled(pid: int, descriptor: int) -> Iterator[str]:
    """Which epoll of the process has a descriptor, and for which events (hexadecimal)."""
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(OSError):
            for line in info.read_text().splitlines():
                words = line.split()
                if words[:2] == ["tfd:", str(descriptor)]:
                    yield f"epoll {info.name} for events {words[3]}"


def _sockets(pid: int) -> Iterator[str]:
    """Those of the process, as the system shows them. One that was reset has no line in the table."""
    table = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        table[columns[9]] = f"local {columns[1]}, remote {columns[2]}, state {columns[3]}"
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            name = str(descriptor.readlink())
            if name.startswith("socket:["):
                inode = name.removeprefix("socket:[").removesuffix("]")
                polled = ", ".join(_polled(pid, int(descriptor.name))) or "nowhere"
                yield f"  descriptor {descriptor.name}: {table.get(inode, 'not in the table')}; polled: {polled}"
