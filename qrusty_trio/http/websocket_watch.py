"""Frees memory when all WebSockets together hold more than their budget; see `api.ws_budget`.

Rule: a connection is cut off only if it holds more than a little and has made no progress for STALL_SECONDS, or
EXHAUSTED_STALL_SECONDS when the budget is exhausted. Those that held most for longest go first, and no more of them
than needed. Their messages go back, uncounted.

Requirements: WS-0021
"""

from __future__ import annotations

import logging

import trio

from qrusty_trio.api.ws_outbox import SHORT_ROOM_BYTES
from qrusty_trio.http.websocket import WebSocketServices, WsConnection

STALL_SECONDS = 30.0
"""How long a connection may make no progress while the budget is short."""
EXHAUSTED_STALL_SECONDS = 2.0
"""The same while the budget is exhausted, so that nobody gets deliveries."""
LOOK_SECONDS = 0.25
"""Time between two checks."""
LOOKS_PER_STEP = 500
"""Most connections checked in one step of the event loop: under 1 ms."""

logger = logging.getLogger(__name__)


async def watch_budget(services: WebSocketServices) -> None:
    """Keep the connections within their budget until cancelled.

    Requirements: WS-0022
    """
    budget = services.budget
    short = trio.Event()
    budget.when_short = lambda: short.set()
    while True:
        if not budget.short:
            short = trio.Event()
            await short.wait()
        await _while_short(services)
        try:
            await trio.to_thread.run_sync(services.return_freed)
        except Exception as error:  # noqa: BLE001  # memory is short: even starting a thread may fail
            logger.warning("freed memory could not be given back to the system: %r", error)


async def _while_short(services: WebSocketServices) -> None:
    budget = services.budget
    marks: dict[WsConnection, tuple[int, float]] = {}
    """By connection that holds more than a little: its progress, and when that was first seen."""
    while budget.short:
        marks = await _look(services, marks)
        if not budget.crowded:
            await _relieve(services)
        await trio.sleep(LOOK_SECONDS)
    await _relieve(services)


async def _look(
    services: WebSocketServices, before: dict[WsConnection, tuple[int, float]]
) -> dict[WsConnection, tuple[int, float]]:
    budget = services.budget
    now = trio.current_time()
    patience = EXHAUSTED_STALL_SECONDS if budget.exhausted else STALL_SECONDS
    marks: dict[WsConnection, tuple[int, float]] = {}
    stalled: list[tuple[float, WsConnection]] = []
    for number, connection in enumerate(list(services.connections)):
        if number % LOOKS_PER_STEP == LOOKS_PER_STEP - 1:
            await trio.lowlevel.checkpoint()
        held = connection.held
        if held < SHORT_ROOM_BYTES or connection.at_work:
            continue
        progress, since = before.get(connection, (-1, now))
        if connection.progress != progress:
            since = now
        marks[connection] = connection.progress, since
        if now - since >= patience:
            stalled.append((held * (now - since), connection))
    if stalled:
        stalled.sort(key=lambda each: each[0], reverse=True)
        _cut_off(services, [connection for _, connection in stalled], patience)
    return marks


def _cut_off(services: WebSocketServices, stalled: list[WsConnection], patience: float) -> None:
    budget = services.budget
    surplus = budget.held - budget.limit
    freed = count = 0
    for connection in stalled:
        if freed > surplus:
            break
        if connection in services.connections:
            freed += connection.held
            count += 1
            connection.cut_off()
    logger.warning(
        "WebSockets cut off: %d, which held %d MiB and took nothing for %.0f s, while all of them held %d MiB",
        count,
        freed >> 20,
        patience,
        budget.held >> 20,
    )


async def _relieve(services: WebSocketServices) -> None:
    for number, connection in enumerate(list(services.connections)):
        if number % LOOKS_PER_STEP == LOOKS_PER_STEP - 1:
            await trio.lowlevel.checkpoint()
        connection.relieve()
