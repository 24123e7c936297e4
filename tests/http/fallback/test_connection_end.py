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


# Verifies: API-0010
async def test_a_close_ends_reading_first_and_is_made_once() -> None:
    end = ConnectionEnd()
    assert (end.is_reading, end.peer_closed, end.too_late, end.closing) == (False, False, False, False)
    order: list[str] = []

    async def read() -> None:
        with end.reading():
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await wait_all_tasks_blocked()
                order.append("read")

    async def close() -> None:
        await wait_all_tasks_blocked()
        order.append("closed")

    async def close_and_tell() -> None:
        await end.close_once(close)
        order.append("told")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        assert end.is_reading
        nursery.start_soon(close_and_tell)
        nursery.start_soon(close_and_tell)
    assert order == ["read", "closed", "told", "told"]
    assert (end.is_reading, end.closing) == (False, True)


async def test_what_does_nothing_is_closed_or_broken_off_at_once() -> None:
    closed, broken = ConnectionEnd(), ConnectionEnd()
    with trio.fail_after(60):
        await closed.close_once(trio.lowlevel.checkpoint)
    broken.break_off()
    assert (closed.broken, broken.broken) == (False, True)
    assert broken.scope.cancel_called


# Verifies: API-0010
async def test_a_close_waits_for_each_send() -> None:
    end, closed = ConnectionEnd(), trio.Event()
    goes_on = [trio.Event(), trio.Event()]

    async def send(event: trio.Event) -> None:
        with end.sending():
            await event.wait()

    async def close() -> None:
        closed.set()

    async with trio.open_nursery() as nursery:
        for event in goes_on:
            nursery.start_soon(send, event)
        await wait_all_tasks_blocked()
        nursery.start_soon(end.close_once, close)
        for event in goes_on:
            await wait_all_tasks_blocked()
            assert not closed.is_set()
            event.set()
    assert closed.is_set()


async def test_a_send_has_its_time_for_each_progress(autojump_clock: MockClock) -> None:
    end = ConnectionEnd()
    begun = trio.current_time()
    with end.sending() as progress:
        for _ in range(3):
            await trio.sleep(SEND_SECONDS - 1)
            progress()
        await trio.Event().wait()
    assert trio.current_time() - begun == 3 * (SEND_SECONDS - 1) + SEND_SECONDS
