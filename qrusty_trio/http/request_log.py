"""What the log says about single requests: those that failed, were refused, or took long.

Rule: a request that succeeds in time is not logged and costs nothing here. A failure is one of the server (status 500
and over) and is a warning, as is a request that took SLOW_SECONDS or more, without what it waited for a message. A
refusal (400 to 499) is the client's affair: it is told at level debug. Many requests may fail at once, so at most
MAX_WARNINGS are logged in PERIOD_SECONDS. Further ones are counted, and the next warning tells how many.

Requirements: API-0078, API-0079
"""

from __future__ import annotations

import logging
import time

from qrusty_trio.api.call import Call, Reply
from qrusty_trio.api.identity import Identity, identified
from qrusty_trio.wording import counted

SLOW_SECONDS = 1.0
"""A request that takes this long is logged."""
MAX_WARNINGS = 100
"""Failed and slow requests logged in `PERIOD_SECONDS`."""
PERIOD_SECONDS = 60.0
SHOWN_BYTES = 1024
"""How much of the body of an error the log shows."""
REFUSED = 400
"""The least status that is worth a line."""
FAILED = 500
UNKNOWN = "a request"
"""What the log calls a request that was refused before its operation was known."""

log = logging.getLogger(__name__)


class RequestLog:
    """Logs the requests of all connections of a server."""

    def __init__(self) -> None:
        self._period_ends = 0.0
        self._logged = 0
        self._unlogged = 0

    def answered(self, call: Call, reply: Reply) -> bytes:
        """Log the response to a call if it is an error. Returns its header line with the request's id, if it has one.

        The line is preceded by CR LF.
        """
        identity = self.note(call.operation.name, call.identity, reply)
        return identity.header if identity is not None else b""

    def note(self, what: str, identity: Identity | None, reply: Reply) -> Identity | None:
        """Log a response if it is an error. Returns the identity with the id that the response is to have.

        A response with status 500 has one always: it leads to the traceback in the log. `what` names the request.
        """
        if reply.status >= REFUSED:
            if reply.status == FAILED:
                identity = identified(identity)
            told = reply.body[:SHOWN_BYTES].decode(errors="replace")
            if reply.status < FAILED:
                if log.isEnabledFor(logging.DEBUG):
                    log.debug(
                        "%s was refused: %d %s%s", what, reply.status, told, _named(identity), extra=_tags(identity)
                    )
            else:
                self._warn(f"{what} failed: {reply.status} {told}", identity)
        return identity

    def took(self, call: Call, seconds: float) -> None:
        """A call took `seconds`, from its request to its response, without what it waited for a message."""
        if seconds >= SLOW_SECONDS:
            self._warn(f"{call.operation.name} took {seconds:.1f} s", call.identity)

    def _warn(self, sentence: str, identity: Identity | None) -> None:
        now = time.monotonic()
        if now >= self._period_ends:
            self._period_ends = now + PERIOD_SECONDS
            self._logged = 0
        if self._logged >= MAX_WARNINGS:
            self._unlogged += 1
            return
        self._logged += 1
        more = ""
        if self._unlogged:
            more = (
                f"; {counted(self._unlogged, 'failed or slow request was', 'failed or slow requests were')} not logged"
            )
            self._unlogged = 0
        log.warning("%s%s%s", sentence, _named(identity), more, extra=_tags(identity))


def _named(identity: Identity | None) -> str:
    """` (request ...)` for a line of the log; '' if the request has no id."""
    name = identity.name if identity is not None else ""
    return f" (request {name})" if name else ""


def _tags(identity: Identity | None) -> dict[str, str]:
    return identity.tags if identity is not None else {}
