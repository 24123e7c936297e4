"""Records in the audit what the engine has done, with who asked for it.

Rule: it is called in the task of the connection that asked, once a change is as durable as it will be. A change that
was broken off is recorded, too, because a part of it may stand.

Requirements: API-0165
"""

from __future__ import annotations

from collections.abc import Sequence

from qrusty_trio.api.auditing import AUDITED, Actor, AuditTrail, Outcome
from qrusty_trio.api.call import Call, Reply, Wait
from qrusty_trio.http import peers
from qrusty_trio.logs import rfc3339
from qrusty_trio.server.bursts import Long
from qrusty_trio.server.clock import Clock

REFUSED = 400
FAILED = 500


class Auditor:
    """What the engine tells the audit."""

    def __init__(self, trail: AuditTrail, clock: Clock) -> None:
        self._trail = trail
        self._clock = clock

    def done(self, calls: Sequence[Call], replies: Sequence[Reply]) -> None:
        """These calls have these replies. Those that were refused have changed nothing."""
        for call, reply in zip(calls, replies, strict=False):
            if call.operation.name in AUDITED and reply.status < REFUSED:
                self._record(call, reply, Outcome.DONE)

    def broke_off(self, long: Long) -> None:
        """A call of several steps was cancelled."""
        if long.operation.name in AUDITED:
            self._record(long.call, None, Outcome.INTERRUPTED, long.so_far)

    def ended(self, long: Long, reply: Reply | Wait) -> None:
        """A call of several steps has ended. One that succeeded is recorded by `done`.

        If a step had ended before, a refusal does not undo what was done.

        Requirements: API-0197
        """
        least = REFUSED if long.begun else FAILED
        if long.operation.name in AUDITED and type(reply) is Reply and reply.status >= least:
            self._record(long.call, reply, Outcome.FAILED, long.so_far)

    def _record(self, call: Call, reply: Reply | None, outcome: Outcome, so_far: dict[str, int] | None = None) -> None:
        peer = peers.current().name
        who = call.principal.name if call.principal is not None else peer
        self._trail.add(rfc3339(self._clock.now_ms() / 1000), Actor(who, peer), call, reply, outcome, so_far)
