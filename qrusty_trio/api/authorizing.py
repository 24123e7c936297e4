"""Whether a call may run, and what its reply may tell: the one place that compares calls with grants.

Rule: `authorize` precedes everything else that a call does. It needs nothing but the call and the time. A call without
a principal is refused here, so a transport that forgets to ask for one lets nobody in.

Requirements: SYS-0023, API-0137
"""

from __future__ import annotations

from qrusty_trio.access.needs import Named
from qrusty_trio.api.call import Call, Reply
from qrusty_trio.api.operations import error_reply
from qrusty_trio.errors import QrustyError, QueueNotFound, Unauthenticated

TOKEN_NEEDED = "A token is needed: send it as 'Authorization: Bearer ...'"


def authorize(call: Call, now: int) -> None:
    """Raise Unauthenticated, RateLimited or Forbidden if the call may not run. `now`: wall milliseconds.

    Where the body names the queues, the operation asks for each of them: `Call.require`.
    """
    needs = call.operation.needs
    if not needs.token:
        return
    principal = call.principal
    if principal is None:
        raise Unauthenticated(TOKEN_NEEDED)
    if now >= principal.expires_ms:
        principal.check_time(now)
    if principal.limit is not None:
        principal.limit.admit(now, needs.refusable)
    grant = needs.grant
    if grant is not None:
        if needs.named is Named.PATH:
            principal.require(grant, call.queue)
        elif needs.named is Named.EVERY:
            principal.require_everywhere(grant)


def uncount(call: Call) -> None:
    """A call that was authorized did not run: it is authorized again when it does."""
    if call.principal is not None and call.principal.limit is not None and call.operation.needs.token:
        call.principal.limit.uncount()


def charge(call: Call, reply: Reply) -> None:
    """Count the messages that a reply hands out."""
    principal = call.principal
    if principal is not None and principal.limit is not None and reply.deliveries:
        principal.limit.charge(len(reply.deliveries))


def refused(call: Call, error: QrustyError) -> Reply:
    """The reply to a call that was refused. It names no queue that the token may not know of."""
    if isinstance(error, QueueNotFound) and error.nearest and call.principal is not None:
        error = error.showing(call.principal.sees)
    return error_reply(error)
