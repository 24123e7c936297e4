"""The share of the byte budgets that a request holds which Hypercorn serves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from qrusty_trio.api.operations import MAX_BODY_BYTES
from qrusty_trio.errors import Unavailable
from qrusty_trio.http.byte_budget import LARGE_BYTES, SMALL_BYTES, STALL_SECONDS, Budget, Holding
from qrusty_trio.http.fallback.share import LARGE_RESPONSES, ConnectionShare, Share

LIMIT = 2 * MAX_BODY_BYTES
SMALL, LAST = b"x" * SMALL_BYTES, b"x"


async def receive(share: Share, bodies: Iterable[bytes]) -> list[bytes]:
    """What the app gets of these pieces of a body."""
    found = []
    for body in bodies:
        message = {"type": "http.request", "body": body}

        async def next_message(message: dict[str, Any] = message) -> dict[str, Any]:
            return message

        found.append((await share.receive(next_message))["body"])
    return found


# Verifies: API-0040
@pytest.mark.parametrize("http2", [False, True])
async def test_a_small_body_needs_no_room_and_a_larger_one_does(http2: bool) -> None:
    received = Budget(LIMIT)
    share = Share(ConnectionShare(received, Budget()), http2)
    assert await receive(share, [SMALL[:-1], LAST]) == [SMALL[:-1], LAST]
    assert received.held == 0
    assert await receive(share, [LAST, SMALL]) == [LAST, SMALL]
    assert received.held == MAX_BODY_BYTES
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Holding(received).reserve, LIMIT)
        await wait_all_tasks_blocked()
        assert await receive(share, [SMALL]) == [SMALL], "it has its room, whoever waits"
        assert received.held == MAX_BODY_BYTES
        share.check()
        share.close()
    assert received.held == LIMIT


# Verifies: API-0040
async def test_without_room_a_body_of_http_2_is_dropped_and_one_of_http_1_waits() -> None:
    received = Budget(LIMIT)
    other = Holding(received)
    other.set(LIMIT)
    whole = ConnectionShare(received, Budget())
    dropped, waits = Share(whole, True), Share(whole, False)
    assert await receive(dropped, [SMALL]) == [SMALL]
    dropped.check()
    assert await receive(dropped, [LAST, SMALL]) == [b"", b""]
    with pytest.raises(Unavailable):
        dropped.check()
    other.set(0)
    assert await receive(dropped, [SMALL]) == [b""], "a part of it is missing"
    other.set(LIMIT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, waits, [SMALL, LAST])
        await wait_all_tasks_blocked()
        assert len(received.waiting) == 1
        other.set(0)
    assert received.held == MAX_BODY_BYTES
    waits.close()
    dropped.close()
    assert received.held == 0


async def test_other_messages_pass() -> None:
    async def disconnect() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def nothing() -> dict[str, Any]:
        return {"type": "http.request"}

    share = Share(ConnectionShare(Budget(), Budget()), True)
    assert await share.receive(disconnect) == {"type": "http.disconnect"}
    assert await share.receive(nothing) == {"type": "http.request"}


# Verifies: API-0041
@pytest.mark.parametrize("which", ["received", "unsent"])
async def test_it_lags_while_others_wait_for_what_it_holds(which: str) -> None:
    whole = ConnectionShare(Budget(LIMIT), Budget(LIMIT))
    idle, holding = Share(whole, False), Share(whole, False)
    budget, held = getattr(whole, which), getattr(holding, which)
    held.set(LIMIT)
    assert not whole.lags(0, 0)
    assert not whole.lags(STALL_SECONDS, 0), "nobody waits"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Holding(budget).reserve, LARGE_BYTES)
        await wait_all_tasks_blocked()
        assert not whole.lags(10, 0)
        assert whole.lags(10 + STALL_SECONDS, 0)
        holding.close()
    assert not whole.lags(100, 0)
    idle.close()
    assert not whole.shares


# Verifies: API-0040
async def test_of_one_connection_only_some_hold_a_large_response() -> None:
    whole = ConnectionShare(Budget(), Budget())
    shares = [Share(whole, True) for _ in range(LARGE_RESPONSES + 1)]
    for share in shares[:-1]:
        await share.unsent.reserve(LARGE_BYTES)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shares[-1].unsent.reserve, LARGE_BYTES)
        await wait_all_tasks_blocked()
        assert shares[-1].unsent.held == 0
        shares[0].close()
    assert shares[-1].unsent.held == LARGE_BYTES
