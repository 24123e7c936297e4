"""Credits, settling, the end of a subscription: the client against a scripted server."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from qrusty_trio import client as q
from tests.client.scripted import URL, Frame, Peer, scripted


async def read_all(peer: Peer) -> list[Frame]:
    """What the client sends until it waits for us; every request is confirmed."""
    frames: list[Frame] = []
    with trio.move_on_after(0.5):
        while True:
            frames.append(await peer.read())
            if "req_id" in frames[-1]:
                await peer.ok(frames[-1])
    return frames


def credits_of(frames: list[Frame]) -> list[int]:
    return [frame["credits"] for frame in frames if frame["type"] == "credit"]


# Verifies: WS-0037
@pytest.mark.parametrize(
    ("prefetch", "expected"), [(1, [1] * 12), (2, [1] * 12), (4, [2] * 6), (7, [3] * 4), (100, [])]
)
async def test_credits_come_back_in_chunks(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, prefetch: int, expected: list[int]
) -> None:
    """One message after the other, each settled before the next one is sent."""
    granted: list[int] = []

    async def script(peer: Peer) -> None:
        credit = (await peer.subscribed())["credits"]
        for number in range(12):
            assert credit > 0
            await peer.deliver(f"m{number}")
            credit -= 1
            new = credits_of(await read_all(peer))
            granted.extend(new)
            credit += sum(new)
            assert credit <= prefetch
        await peer.serve()

    async with (
        scripted(monkeypatch, script),
        q.connect(URL) as client,
        client.subscribe("jobs", prefetch=prefetch) as deliveries,
    ):
        for _ in range(12):
            await (await anext(deliveries)).ack()
        await trio.sleep(10)
    assert granted == expected


async def test_the_window_stays_open_while_some_are_in_work(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Nine of ten are never settled; the tenth place must still turn over."""
    granted: list[int] = []

    async def script(peer: Peer) -> None:
        assert (await peer.subscribed())["credits"] == 10
        for number in range(10):
            await peer.deliver(f"m{number}")
        for number in range(10, 15):
            granted.extend(credits_of(await read_all(peer)))
            await peer.deliver(f"m{number}")
        await peer.serve()

    async with (
        scripted(monkeypatch, script),
        q.connect(URL) as client,
        client.subscribe("jobs", prefetch=10, lock_timeout=600) as deliveries,
    ):
        for _ in range(9):
            await anext(deliveries)
        for _ in range(6):
            await (await anext(deliveries)).ack()
    assert granted == [1] * 5


# Verifies: WS-0037
async def test_nothing_settled_means_no_credit(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(peer: Peer) -> None:
        assert (await peer.subscribed())["credits"] == 2
        await peer.deliver("m1")
        await peer.deliver("m2")
        assert await read_all(peer) == []
        await peer.serve()

    async with (
        scripted(monkeypatch, script),
        q.connect(URL) as client,
        client.subscribe("jobs", prefetch=2) as deliveries,
    ):
        assert [(await anext(deliveries)).id for _ in range(2)] == ["m1", "m2"]
        with trio.move_on_after(25) as scope:
            await anext(deliveries)
        assert scope.cancelled_caught


# Verifies: WS-0037
async def test_a_message_that_is_forgotten_frees_its_place_when_its_lock_ends(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(peer: Peer) -> None:
        assert (await peer.subscribed())["credits"] == 1
        for number in range(3):
            await peer.deliver(f"m{number}")
            start = trio.current_time()
            assert (await peer.expect("credit"))["credits"] == 1
            assert 29 < trio.current_time() - start < 31
        await peer.deliver("last")
        await peer.serve()

    async with (
        scripted(monkeypatch, script),
        q.connect(URL) as client,
        client.subscribe("jobs", prefetch=1) as deliveries,
    ):
        assert [(await anext(deliveries)).id for _ in range(4)] == ["m0", "m1", "m2", "last"]


async def test_a_renewed_lock_keeps_its_place(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("m1")
        await peer.ok(await peer.expect("renew"))
        start = trio.current_time()
        await peer.expect("credit")
        assert 299 < trio.current_time() - start < 301
        await peer.deliver("m2")
        await peer.serve()

    async with (
        scripted(monkeypatch, script),
        q.connect(URL) as client,
        client.subscribe("jobs", prefetch=1) as deliveries,
    ):
        await (await anext(deliveries)).renew(300)
        assert (await anext(deliveries)).id == "m2"


# Verifies: WS-0038
async def test_what_waited_here_past_its_lock_is_not_handed_out(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("stale")
        await trio.sleep(20)
        await peer.deliver("fresh")
        await peer.serve()

    async with (
        scripted(monkeypatch, script),
        q.connect(URL) as client,
        client.subscribe("jobs", prefetch=4) as deliveries,
    ):
        await trio.sleep(40)
        assert (await anext(deliveries)).id == "fresh"


# Verifies: WS-0037
async def test_a_server_that_sends_without_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(peer: Peer) -> None:
        await peer.subscribed()
        for number in range(3):
            await peer.deliver(f"m{number}")
        await peer.serve()

    async with (
        scripted(monkeypatch, script),
        q.connect(URL) as client,
        client.subscribe("jobs", prefetch=2) as deliveries,
    ):
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(q.ProtocolError):
            await anext(deliveries)


async def test_several_tasks_share_a_subscription(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[tuple[str, str]] = []

    async def script(peer: Peer) -> None:
        await peer.subscribed()
        for number in range(30):
            await peer.deliver(f"m{number}")
        await peer.serve()

    async with (
        scripted(monkeypatch, script),
        q.connect(URL) as client,
        client.subscribe("jobs", prefetch=100) as deliveries,
        trio.open_nursery() as nursery,
    ):

        async def work(name: str) -> None:
            async for delivery in deliveries:
                await delivery.ack()
                got.append((name, delivery.id))
                if len(got) == 30:
                    nursery.cancel_scope.cancel()

        for name in "abc":
            nursery.start_soon(work, name)
    assert sorted(id for _, id in got) == sorted(f"m{number}" for number in range(30))
    assert {name for name, _ in got} == {"a", "b", "c"}


# Verifies: WS-0039
@pytest.mark.parametrize("cancelled", [False, True])
async def test_at_its_end_it_gives_back_what_was_read_ahead(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, cancelled: bool
) -> None:
    async def script(peer: Peer) -> None:
        await peer.subscribed()
        for number in range(3):
            await peer.deliver(f"m{number}")
        request = await peer.expect("unsubscribe")
        assert request["queue"] == "jobs"
        await peer.deliver("m3")  # It was on its way when the client left.
        await peer.ok(request)
        last = await peer.expect("batch-nack")
        assert (last["ids"], last["no_reply"]) == (["m1", "m2", "m3"], True)
        await peer.ok(await peer.expect("publish"), id="x")
        assert (await peer.subscribed())["credits"] == 8
        await peer.serve()

    async with scripted(monkeypatch, script), q.connect(URL) as client:
        with trio.CancelScope() as scope:
            async with client.subscribe("jobs", prefetch=10) as deliveries:
                assert (await anext(deliveries)).id == "m0"
                if cancelled:
                    scope.cancel()
                    await trio.sleep_forever()
        with pytest.raises(StopAsyncIteration):
            await anext(deliveries)
        assert await client.publish("jobs", "p") == "x"
        async with client.subscribe("jobs", prefetch=8):
            pass


async def test_a_server_that_does_not_confirm_the_end(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(peer: Peer) -> None:
        await peer.subscribed()
        await peer.expect("unsubscribe")
        await trio.sleep(60)

    async with scripted(monkeypatch, script, Peer.serve) as server, q.connect(URL) as client:
        async with client.subscribe("jobs"):
            pass
        assert await client.publish("jobs", "p") == "id"
        assert len(server.opened) == 2


async def test_subscribing_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(peer: Peer) -> None:
        await peer.refuse(await peer.expect("subscribe"), "queue_not_found")
        await peer.serve()

    async with scripted(monkeypatch, script), q.connect(URL) as client:
        with pytest.raises(q.QueueNotFound):
            async with client.subscribe("jobs"):
                pass
        async with client.subscribe("jobs"):
            with pytest.raises(q.AlreadySubscribed):
                async with client.subscribe("jobs"):
                    pass
        wrong = [{"prefetch": 0}, {"prefetch": 10_001}, {"lock_timeout": 0}]
        wrong += [{"deadline_soon": 0}, {"deadline_soon": 30}, {"deadline_soon": 3_601, "lock_timeout": 9_999}]
        for fields in wrong:
            with pytest.raises(ValueError, match="must be"):
                async with client.subscribe("jobs", **fields):
                    pass


# Verifies: WS-0049
async def test_a_delivery_is_warned_of_before_its_lock_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(peer: Peer) -> None:
        assert (await peer.subscribed())["deadline_soon_secs"] == 10
        await peer.deliver("m1")
        for id in ("m0", "m1"):  # the first one was settled meanwhile
            await peer.send(type="deadline-soon", queue="jobs", id=id, lock_until=1790000030123)
        await peer.ok(await peer.expect("renew"))
        await peer.send(type="deadline-soon", queue="jobs", id="m1", lock_until=1790000060123)
        await peer.ok(await peer.expect("ack"))
        await peer.ok(await peer.expect("unsubscribe"))
        await peer.send(type="deadline-soon", queue="jobs", id="m1", lock_until=1790000060123)
        await peer.serve()

    async with scripted(monkeypatch, script), q.connect(URL) as client:
        async with client.subscribe("jobs", deadline_soon=10) as deliveries:
            delivery = await anext(deliveries)
            assert await delivery.deadline_soon()
            assert await delivery.deadline_soon()
            await delivery.renew(30)
            assert await delivery.deadline_soon()
            await delivery.ack()
        assert await client.publish("jobs", "p") == "id"


# Verifies: WS-0049
@pytest.mark.parametrize("end", ["settled", "expired", "unlocked", "lost"])
async def test_what_ends_the_wait_for_a_warning(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, end: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("m1")
        if end == "lost":
            await trio.sleep(5)
        else:
            await peer.serve()

    async with (
        scripted(monkeypatch, script, Peer.serve),
        q.connect(URL) as client,
        client.subscribe("jobs", deadline_soon=10) as deliveries,
        trio.open_nursery() as nursery,
    ):
        delivery = await anext(deliveries)
        if end == "settled":
            nursery.start_soon(delivery.ack)
        elif end == "expired":
            nursery.start_soon(anext, deliveries)  # which looks whose lock has expired
        # Else somebody has ended its lock: that is not told, and nobody looks.
        if end == "lost":
            with pytest.raises(q.ConnectionLost):
                await delivery.deadline_soon()
        else:
            assert not await delivery.deadline_soon()
        nursery.cancel_scope.cancel()


# Verifies: WS-0037, WS-0049
@pytest.mark.parametrize("seconds", [5, 60])
async def test_waiting_for_a_warning_ends_with_the_renewed_lock(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, seconds: int
) -> None:
    """Without a warning, too. Then the place is free again."""
    renewed_at: list[float] = []

    async def script(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("m1")
        await peer.ok(await peer.expect("renew"))
        renewed_at.append(trio.current_time())
        await peer.expect("credit")
        await peer.serve()

    async with (
        scripted(monkeypatch, script),
        q.connect(URL) as client,
        client.subscribe("jobs", prefetch=1, deadline_soon=1) as deliveries,
        trio.open_nursery() as nursery,
    ):
        delivery = await anext(deliveries)

        async def renew() -> None:
            await trio.sleep(20)
            await delivery.renew(seconds)

        nursery.start_soon(renew)
        assert not await delivery.deadline_soon()
        assert trio.current_time() - renewed_at[0] == pytest.approx(seconds, abs=0.1)


# Verifies: WS-0037
async def test_an_ack_that_never_left_gives_back_no_place(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("m1")
        assert await read_all(peer) == []
        await peer.ok(await peer.expect("ack"))
        assert (await peer.expect("credit"))["credits"] == 1
        await peer.serve()

    async with (
        scripted(monkeypatch, script),
        q.connect(URL) as client,
        client.subscribe("jobs", prefetch=1) as deliveries,
    ):
        delivery = await anext(deliveries)
        with trio.CancelScope() as scope:
            scope.cancel()
            await delivery.ack()
        with pytest.raises(q.FrameTooLarge):
            await delivery.nack("x" * 3_000_000)
        await trio.sleep(5)
        await delivery.ack()
        await trio.sleep(5)


# Verifies: WS-0037
async def test_an_ack_that_left_gives_back_its_place_although_its_caller_was_cancelled(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("m1")
        ack = await peer.expect("ack")
        assert (await peer.expect("credit"))["credits"] == 1
        await peer.ok(ack)
        await peer.deliver("m2")
        await peer.serve()

    async with (
        scripted(monkeypatch, script),
        q.connect(URL) as client,
        client.subscribe("jobs", prefetch=1) as deliveries,
    ):
        delivery = await anext(deliveries)
        with trio.move_on_after(1) as scope:
            await delivery.ack()
        assert scope.cancelled_caught
        assert (await anext(deliveries)).id == "m2"


async def test_a_subscription_that_asked_for_no_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(peer: Peer) -> None:
        assert "deadline_soon_secs" not in await peer.subscribed()
        await peer.deliver("m1")
        await peer.serve()

    async with scripted(monkeypatch, script), q.connect(URL) as client, client.subscribe("jobs") as deliveries:
        with pytest.raises(ValueError, match="deadline_soon"):
            await (await anext(deliveries)).deadline_soon()


# Verifies: WS-0037
async def test_a_message_that_comes_again_gives_back_its_first_place(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("m1")
        await trio.sleep(40)
        await peer.deliver("m1")
        assert credits_of(await read_all(peer)) == [1]
        await peer.serve()

    async with (
        scripted(monkeypatch, script),
        q.connect(URL) as client,
        client.subscribe("jobs", prefetch=2) as deliveries,
    ):
        first = await anext(deliveries)
        await trio.sleep(45)
        second = await anext(deliveries)
        assert (first.id, second.id) == ("m1", "m1")
        assert first is not second
