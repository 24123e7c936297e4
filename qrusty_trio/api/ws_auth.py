"""Who may send which frame, and the first frame of a WebSocket that shows its token there.

Rule: `{"type": "auth", "token": "..."}` is for clients that can't set a header, such as a page of another origin. It is
asked for only where the server has tokens and the handshake showed none. Until then no other frame is run.

Requirements: WS-0050
"""

from __future__ import annotations

import msgspec

from qrusty_trio.access.grants import Grant, Principal
from qrusty_trio.access.needs import Named, Needs
from qrusty_trio.api.ws_frames import Request
from qrusty_trio.errors import QrustyError, Unauthenticated

MAX_AUTH_CHARACTERS = 4096


class Auth(msgspec.Struct, tag_field="type", tag="auth"):
    token: str
    req_id: str | None = None


_decode = msgspec.json.Decoder(Auth).decode


def read_auth(frame: str | bytes) -> Auth | None:
    """The frame, if it is one of this type; else None."""
    if isinstance(frame, bytes) or len(frame) > MAX_AUTH_CHARACTERS:
        return None
    try:
        return _decode(frame)
    except (msgspec.DecodeError, RecursionError):
        return None


def refusal_of(principal: Principal | None, needs: Needs, request: Request, now: int) -> QrustyError | None:
    """Why a frame may not run: Unauthenticated, RateLimited or Forbidden; None if it may. See `api.authorizing`.

    A queue that is missing is refused later.

    Requirements: API-0137
    """
    if principal is None:
        return Unauthenticated("A token is needed")
    limit, grant = principal.limit, needs.grant
    try:
        principal.check_time(now)
        if limit is not None:
            limit.admit(now, needs.refusable)
        if grant is not None:
            if needs.named is Named.EVERY:
                principal.require_everywhere(grant)
            elif request.queue is not None:
                principal.require(grant, request.queue)
    except QrustyError as refusal:
        return refusal
    if limit is not None and grant is Grant.PUBLISH:
        limit.charge(len(request.messages) if request.messages is not None else 1)
    return None
