"""A close waits for a send that is under way: two tasks must not use the sending side of a socket at once."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qrusty_trio.http.fallback.connection_end import ConnectionEnd
from qrusty_trio.http.header_block import SEND_SECONDS


# Verifies: API-0010
async def test_a_close_lets_a_send_come_to_its_end() -> None:
    end, taken = ConnectionEnd(), trio.Event()
    order: list[str] = []

    async def send() -> None:
        with end.sending():
            await taken.wait()
            order.append("sent")

    async def close() -> None:
        order.append("closed")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        nursery.start_soon(end.close_once, close)
        await wait_all_tasks_blocked()
        assert order == []
        taken.set()
    assert order == ["sent", "closed"]


async def test_what_is_broken_off_sends_no_more_and_says_so() -> None:
    end = ConnectionEnd()

    async def send() -> None:
        # As Hypercorn does.
        with trio.CancelScope(shield=True), end.sending():
            await trio.sleep_forever()

    with end.scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(trio.sleep_forever)
            await wait_all_tasks_blocked()
            assert not end.broken
            end.break_off()
    assert end.broken


# Verifies: API-0010
async def test_a_close_does_not_wait_for_a_peer_that_takes_nothing(autojump_clock: MockClock) -> None:
    end, closed = ConnectionEnd(), trio.Event()

    async def send() -> None:
        with end.sending():
            await trio.sleep_forever()

    async def close() -> None:
        closed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        before = trio.current_time()
        await end.close_once(close)
        assert closed.is_set()
        assert trio.current_time() - before <= SEND_SECONDS
