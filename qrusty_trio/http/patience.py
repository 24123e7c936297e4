"""Waits for a peer without blaming it for what held up the server: a busy disk, a stopped process, a slow host.

Requirements: WS-0024
"""

from __future__ import annotations

import trio

PIECES = 4
"""Into which a wait is cut. Fewer notice a shorter standstill as one; each costs a wake-up."""
LATE_SECONDS = 0.05
"""A piece that is late by less counts, however short it is."""


async def wait_while_running(seconds: float) -> None:
    """Sleep for so long, not counting pieces in which the event loop stood still for as long as the piece.

    No more pieces are left out than there are: a server that is always late must let go of those who are gone, too.
    """
    piece = seconds / PIECES
    latest = piece + max(piece, LATE_SECONDS)
    counted = 0
    for _ in range(2 * PIECES):
        begun = trio.current_time()
        await trio.sleep(piece)
        counted += trio.current_time() - begun < latest
        if counted == PIECES:
            return
