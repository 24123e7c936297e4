"""Whom a WebSocket speaks for: from its handshake or its first frame to the end of its token.

Rule: a connection that showed nothing in its handshake runs no frame until it has shown a token, and has `AUTH_SECONDS`
for that. One whose token or session ends is closed with 1008 within a second, and so is one that has lost the grant for
a queue that it is subscribed to.

Requirements: WS-0050, API-0189
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

import trio

from qrusty_trio.access.access import Access, Found
from qrusty_trio.access.grants import Principal
from qrusty_trio.api import ws_frames
from qrusty_trio.api.ws_auth import read_auth
from qrusty_trio.api.ws_session import POLICY_VIOLATION, WsSession
from qrusty_trio.errors import QrustyError, TooManyFailures, Unauthenticated
from qrusty_trio.http.authenticating import hold
from qrusty_trio.http.peers import current
from qrusty_trio.http.websocket_transport import WebSocketTransport

AUTH_SECONDS = 10.0
"""Time to send the first frame, with the token."""
PONG_BYTES = 4096
"""Once more bytes of pongs wait to be sent, no token is waited for."""
LOOK_SECONDS = 1.0
"""How often it is looked whether a token has expired."""
LOOKED_AT_PER_STEP = 64
"""Connections and subscriptions whose tokens are looked at in one step, which takes under 1 ms."""


class Connected(Protocol):
    """What this needs of an open connection."""

    session: WsSession


def admitted(access: Access, found: Found) -> Principal | None:
    """Whom a handshake speaks for; None if it shows nothing. Raises Unauthenticated for what does not count."""
    if found.refusal is not None:
        raise found.refusal
    return access.require_current(found.principal) if found.principal is not None else None


async def authenticate(
    transport: WebSocketTransport,
    session: WsSession,
    access: Access | None,
    stopping: trio.Event,
    wake: Callable[[], None],
) -> list[str | bytes]:
    """Read the first frame, which has the token, unless it is not needed. Returns the frames that came with it.

    `wake` is called when pongs wait to be sent. Ends the session if there is no token that counts. Raises what
    `transport.receive` does.
    """
    if access is None or session.principal is not None:
        return []
    frames: list[str | bytes] = []
    with trio.move_on_after(AUTH_SECONDS) as scope:
        # Pings may come first.
        while not frames and transport.control_bytes() <= PONG_BYTES:
            frames = await transport.receive()
            if transport.control_bytes():
                wake()
    if scope.cancelled_caught:
        session.end(POLICY_VIOLATION, "no token came in time")
        return []
    auth = read_auth(frames[0]) if frames else None
    try:
        if auth is None:
            raise Unauthenticated('The first frame must be {"type":"auth","token":"..."}')
        found = access.try_token(auth.token.strip().encode(errors="replace"), current().host, trio.current_time())
        await hold(found.wait, stopping)
        session.principal = admitted(access, found)
    except QrustyError as error:
        reason = "too many failures" if isinstance(error, TooManyFailures) else "no token that counts"
        req_id = auth.req_id if auth is not None else None
        session.outbox.put(ws_frames.error(error.code, str(error), req_id))
        session.end(POLICY_VIOLATION, reason)
        return []
    assert auth is not None
    session.outbox.put(ws_frames.ok(auth.req_id))
    return frames[1:]


async def watch_tokens(access: Access, connections: Collection[Connected]) -> None:
    """Close connections whose tokens end, until cancelled."""
    changed = trio.Event()
    access.on_change.append(lambda: changed.set())
    while True:
        with trio.move_on_after(LOOK_SECONDS):
            await changed.wait()
        access.look()
        if changed.is_set():
            changed = trio.Event()
            await _look(access, connections)


def look_again(access: Access | None, session: WsSession) -> None:
    """Give a session what its token may do now, or end it; for a connection that was not watched so far."""
    principal = session.principal
    if access is not None and principal is not None:
        current = access.current(principal)
        if current is not principal:
            session.replace_principal(current)


async def _look(access: Access, connections: Collection[Connected]) -> None:
    looked_at = 0
    for connection in list(connections):
        if connection in connections:
            look_again(access, connection.session)
        looked_at += 1 + len(connection.session.subscriptions)
        if looked_at >= LOOKED_AT_PER_STEP:
            looked_at = 0
            await trio.lowlevel.checkpoint()
