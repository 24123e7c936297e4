"""Waits for a peer without blaming it for what held up the server: a busy disk, a stopped process, a slow host.

Requirements: WS-0024
"""

from __future__ import annotations

import trio

PIECES = 4
"""Into which a wait is cut. Fewer notice a shorter standstill as one; each costs a wake-up."""


async def wait_while_running(seconds: float) -> None:
    """Sleep for so long, not counting pieces in which the event loop stood still for as long as the piece."""
    piece = seconds / PIECES
    left = PIECES
    while left > 0:
        begun = trio.current_time()
        await trio.sleep(piece)
        if trio.current_time() - begun < 2 * piece:
            left -= 1
