"""The access log: a line for each response, and for each WebSocket that opens and ends.

Rule: without QRUSTY_ACCESS_LOG there is none, and a request pays a comparison with None. With it, the event loop only
puts together what happened; a thread writes it to stdout. Lines that are not taken fast enough are dropped and counted
(`lines.py`). No line has anything of a body but the name of its queue, nor a query.

Requirements: API-0164
"""

from __future__ import annotations

import json
import re
import time
from typing import NamedTuple, TextIO
from urllib.parse import quote

import msgspec

from qrusty_trio.access.grants import Principal
from qrusty_trio.api.call import Call, Reply
from qrusty_trio.api.identity import Identity
from qrusty_trio.http.peers import Peer
from qrusty_trio.http.request_line import WEBSOCKET_PATH as _WEBSOCKET_PATH
from qrusty_trio.lines import Lines
from qrusty_trio.logs import AccessFormat, rfc3339
from qrusty_trio.wording import counted

WAITING_LINES = 10_000
"""Lines that may wait for stdout. Further ones are dropped and counted."""
CLOSE_SECONDS = 2.0
"""How long the waiting lines are written for at the end."""
READ_BYTES = 64 * 1024
"""A larger body is not searched for the name of its queue."""
WEBSOCKET = "WEBSOCKET"
"""Stands for the method where a WebSocket opened or ended."""
NONE = "-"
"""Stands for what there is not, or what is not known."""
WEBSOCKET_PATH = _WEBSOCKET_PATH.decode()
_PLAIN = re.compile(r"[!-~]+")
_FIELD = re.compile(r"\{\w+\}")


class Access(NamedTuple):
    """What a line says."""

    time: float
    """Seconds since 1970."""
    peer: str
    token: str
    method: str
    template: str
    """The path without its query, or what `params` make one of, so that only the thread takes time for that."""
    queue: str
    status: int
    """Of HTTP; of a WebSocket that ended, its close code."""
    octets: int
    """Of the body of the response."""
    seconds: float
    """From when the request was there, or the WebSocket open, to when the response was handed to the system."""
    request_id: str
    params: tuple[str, ...] = ()


class _Named(msgspec.Struct):
    """The body of a request, as far as it names a queue."""

    queue: str = NONE
    name: str = NONE


_read_named = msgspec.json.Decoder(_Named).decode


class AccessLog:
    """Writes the lines of a server. `close` must be called, in a thread."""

    def __init__(self, layout: AccessFormat, stream: TextIO) -> None:
        as_json = layout is AccessFormat.JSON
        self._lines: Lines[Access] = Lines(
            stream,
            "access log",
            WAITING_LINES,
            json_line if as_json else console_line,
            _told_json if as_json else _told,
        )

    def close(self) -> None:
        """Write the waiting lines, for up to CLOSE_SECONDS. Blocks."""
        self._lines.close(CLOSE_SECONDS)

    def served(self, peer: Peer, call: Call, reply: Reply, begun: float, head_only: bool = False) -> None:
        """A call was answered. `begun`: `time.perf_counter()` when it was there."""
        method = "HEAD" if head_only else call.operation.method
        token = call.principal.name if call.principal is not None else NONE
        path, octets, queue = call.operation.path, len(reply.body), _queue_of(call)
        self.note(peer, method, path, reply.status, octets, begun, call.identity, token, queue, call.params)

    def websocket(self, peer: Peer, principal: Principal | None, status: int, begun: float) -> None:
        """A WebSocket opened (status 101), or ended with this code."""
        token = principal.name if principal is not None else NONE
        self.note(peer, WEBSOCKET, WEBSOCKET_PATH, status, 0, begun, token=token)

    def note(
        self,
        peer: Peer,
        method: str,
        path: str,
        status: int,
        octets: int,
        begun: float,
        identity: Identity | None = None,
        token: str = NONE,
        queue: str = NONE,
        params: tuple[str, ...] = (),
    ) -> None:
        """A request was answered, or a WebSocket opened or ended. See `Access`, and `served` for `begun`."""
        name = identity.name if identity is not None else ""
        seconds = time.perf_counter() - begun
        self._lines.put(
            Access(time.time(), peer.name, token, method, path, queue, status, octets, seconds, name or NONE, params)
        )


def path_of(template: str, params: tuple[str, ...]) -> str:
    """The path of a call, such as `/ack/jobs/0190...`. A queue's name is written one way, however it was asked for."""
    if not params:
        return template
    values = iter(params)
    return _FIELD.sub(lambda _: quote(next(values), safe=""), template)


def _queue_of(call: Call) -> str:
    """The name of the queue that a call is about."""
    if call.params and "{queue}" in call.operation.path:
        return call.params[0]
    if call.operation.request is None or len(call.body) > READ_BYTES:
        return NONE
    try:
        named = _read_named(call.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return NONE
    return named.queue if named.queue != NONE else named.name


def json_line(access: Access) -> str:
    """A line in JSON."""
    return json.dumps(
        {
            "timestamp": rfc3339(access.time),
            "peer": access.peer,
            "token": access.token,
            "method": access.method,
            "path": path_of(access.template, access.params),
            "queue": access.queue,
            "status": access.status,
            "bytes": access.octets,
            "milliseconds": round(access.seconds * 1000, 3),
            "request_id": access.request_id,
        }
    )


def console_line(access: Access) -> str:
    """A line of words with spaces between them. A word that has spaces itself, or worse, is in JSON."""
    words = (access.peer, access.token, access.method, path_of(access.template, access.params), access.queue)
    return " ".join(
        [
            rfc3339(access.time),
            *map(_word, words),
            f"{access.status} {access.octets} {access.seconds * 1000:.3f}ms",
            _word(access.request_id),
        ]
    )


def _word(text: str) -> str:
    return text if _PLAIN.fullmatch(text) and '"' not in text else json.dumps(text)


def _lost(lost: int, why: str) -> str:
    return f"{counted(lost, 'access record was lost: it was', 'access records were lost: they were')} {why}"


def _told(lost: int, why: str) -> str:
    return f"{rfc3339(time.time())} {_lost(lost, why)}"


def _told_json(lost: int, why: str) -> str:
    return json.dumps({"timestamp": rfc3339(time.time()), "message": _lost(lost, why), "lost": lost})
