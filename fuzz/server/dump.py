"""What the server has of each connection, told from inside: whose it is, how long it is open, and what it waits for.

Rule: this only looks. It is for a server under attack, and for nothing else: it keeps a note of every accepted socket.
"""

from __future__ import annotations

import fcntl
import json
import logging
import socket
import struct
import termios
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import trio

from qrusty_trio.http import peers
from qrusty_trio.http.peers import Peer

CONNECTION = "a connection that is open: "
"""Begins the line of one connection. Its JSON follows."""
TASK = "a task: "
"""Begins the line of a task that serves none."""
ENDED = "these are all of them"
"""The last line."""
_STATES = (
    "", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK",
    "LISTEN", "CLOSING",
)  # fmt: skip
"""By the first byte of Linux's struct tcp_info. After a reset it is CLOSE."""
_SHOWN = (
    "phase", "since", "task", "reading_paused", "served_parked", "timed_out", "closing", "broken", "peer_closed",
    "is_reading", "between_requests", "waiting", "last", "opaque", "requests", "end", "filter", "stream",
)  # fmt: skip
"""Attributes of what serves a connection that tell how far it is."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Connection:
    """One that is open."""

    descriptor: int
    peer_port: int
    """0 if it had gone when it was accepted."""
    accepted: float
    """Seconds of the monotonic clock, which all processes share."""
    state: str
    unread: int
    """Bytes."""
    unsent: int
    """Bytes."""
    tasks: list[str] = field(default_factory=list)
    """The stacks of the tasks that serve it, innermost first. None: nobody closes it any more."""
    served_by: dict[str, str] = field(default_factory=dict)


class Accepted:
    """Every socket that the server accepted, as long as it lives."""

    def __init__(self) -> None:
        self._peers: WeakKeyDictionary[trio.SocketStream, tuple[Peer, float]] = WeakKeyDictionary()
        self._peer_of = peers.peer_of

    def install(self) -> None:
        """Note what the listener accepts from now on: it asks for the peer of each."""
        peers.peer_of = self.peer_of

    def peer_of(self, stream: trio.SocketStream) -> Peer:
        """In the place of `peers.peer_of`."""
        peer = self._peer_of(stream)
        self._peers[stream] = peer, time.monotonic()
        return peer

    def open(self) -> dict[trio.SocketStream, Connection]:
        """Those that are not closed."""
        return {
            stream: Connection(stream.socket.fileno(), peer.port, accepted, *_kernel(stream.socket))
            for stream, (peer, accepted) in list(self._peers.items())
            if stream.socket.fileno() >= 0
        }


def _kernel(sock: trio.socket.SocketType) -> tuple[str, int, int]:
    """State, and bytes that are unread and unsent."""
    try:
        state = _STATES[sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]]
        return state, _count(sock, termios.FIONREAD), _count(sock, termios.TIOCOUTQ)
    except OSError as error:
        return str(error), 0, 0


def _count(sock: trio.socket.SocketType, request: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), request, bytes(4)))[0])


def connections(accepted: Accepted) -> tuple[list[Connection], list[str]]:
    """The open connections with the tasks that serve them, and the stacks of all other tasks."""
    found = accepted.open()
    others: list[str] = []
    root = trio.lowlevel.current_root_task()
    waiting: list[tuple[trio.lowlevel.Task, Connection | None]] = [(root, None)] if root is not None else []
    for task, connection in waiting:
        frames = list(task.iter_await_frames())
        for frame, _ in frames:
            for value in list(frame.f_locals.values()):
                if isinstance(value, trio.SocketStream) and value in found:
                    connection = found[value]
                elif connection is not None and type(value).__module__.startswith("qrusty_trio.http."):
                    connection.served_by |= _shown(value)
        (others if connection is None else connection.tasks).append(_stack(task, frames))
        waiting += [(child, connection) for nursery in task.child_nurseries for child in nursery.child_tasks]
    return list(found.values()), others


def _stack(task: trio.lowlevel.Task, frames: list[tuple[FrameType, int]]) -> str:
    """Where it waits, innermost first."""
    places = " < ".join(f"{frame.f_code.co_qualname}:{line}" for frame, line in reversed(frames))
    return f"{task.name}: {places}"


def _shown(value: object) -> dict[str, str]:
    return dict(_attributes(type(value).__name__, value))


def _attributes(name: str, value: object) -> Iterator[tuple[str, str]]:
    for attribute in _SHOWN:
        found: Any = getattr(value, attribute, None)
        if isinstance(found, bool | int | float | str):
            yield f"{name}.{attribute}", str(found)
        elif attribute == "task" and hasattr(value, "task"):
            yield f"{name}.{attribute}", "none" if found is None else "parked"
        elif type(found).__module__.startswith("qrusty_trio.http."):
            yield f"{name}.{attribute}", str(bool(found))
            yield from _attributes(f"{name}.{attribute}", found)


def dump(accepted: Accepted) -> None:
    """Log one line for each connection, one for each other task, and one that ends them."""
    found, others = connections(accepted)
    # As a warning: of other loggers than the server's own, less is not logged.
    for connection in found:
        log.warning("%s%s", CONNECTION, json.dumps(asdict(connection)))
    for other in others:
        log.warning("%s%s", TASK, other)
    log.warning(ENDED)
