"""Losing connections and making new ones: the client against a scripted server, on a test clock."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
import trio.testing

from qrusty_trio import client as q
from qrusty_trio.client.client import BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, STABLE_SECONDS
from tests.client.scripted import URL, Peer, scripted


async def vanish(peer: Peer) -> None:
    """The script's end closes the stream without a word."""


async def lose_a_publish(peer: Peer) -> None:
    await peer.expect("publish")


async def test_the_first_attempt_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(monkeypatch, None, 403, 404, 503) as server:
        for _ in range(4):
            with pytest.raises(q.ConnectFailed):
                async with q.connect(URL):
                    pass
        assert len(server.opened) == 4


# Verifies: WS-0035
async def test_a_request_in_flight_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with scripted(monkeypatch, lose_a_publish, Peer.serve) as server, q.connect(URL) as client:
        with pytest.raises(q.ConnectionLost):
            await client.publish("jobs", "first")
        assert await client.publish("jobs", "second") == "id"
        assert len(server.opened) == 2


# Verifies: WS-0035
async def test_a_request_made_while_away_waits(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with scripted(monkeypatch, vanish, None, None, Peer.serve) as server, q.connect(URL) as client:
        await trio.testing.wait_all_tasks_blocked()
        assert await client.publish("jobs", "p") == "id"
        assert len(server.opened) == 4


# Verifies: WS-0036
@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 1013])
async def test_close_codes_that_lead_to_a_new_connection(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, code: int
) -> None:
    async def script(peer: Peer) -> None:
        await peer.expect("publish")
        await peer.close(code)

    async with scripted(monkeypatch, script, Peer.serve), q.connect(URL) as client:
        with pytest.raises(q.ConnectionLost):
            await client.publish("jobs", "p")
        assert await client.publish("jobs", "p") == "id"


# Verifies: WS-0036
@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009])
async def test_close_codes_that_are_raised(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.subscribed()
        await peer.expect("publish")
        await peer.close(code)

    async with (
        scripted(monkeypatch, script) as server,
        q.connect(URL) as client,
        client.subscribe("jobs") as deliveries,
    ):
        for _ in range(2):
            with pytest.raises(q.ClosedByServer) as caught:
                await client.publish("jobs", "p")
            assert (caught.value.close_code, caught.value.reason) == (code, "because")
            with pytest.raises(q.ClosedByServer):
                await anext(deliveries)
        assert len(server.opened) == 1


# Verifies: WS-0036
async def test_the_waits_grow_and_end(monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock) -> None:
    async with scripted(monkeypatch, vanish) as server, q.connect(URL, reconnect_seconds=120) as client:
        start = trio.current_time()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(q.ConnectionLost, match="nobody listens"):
            await client.publish("jobs", "p")
        assert 120 - MAX_BACKOFF_SECONDS <= trio.current_time() - start <= 120
        waits = [after - before for before, after in pairwise(server.opened)]
        limits = [min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2**number) for number in range(len(waits))]
        assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, limits, strict=True))
        assert limits[-1] == MAX_BACKOFF_SECONDS
        assert len(set(waits)) == len(waits)
        with pytest.raises(q.ConnectionLost):
            await client.publish("jobs", "p")


@pytest.mark.parametrize("refusal", [503, "1013"])
async def test_a_server_that_is_full_is_asked_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, refusal: object
) -> None:
    async def full(peer: Peer) -> None:
        await peer.close(1013)

    busy = refusal if isinstance(refusal, int) else full
    async with scripted(monkeypatch, vanish, *([busy] * 7), Peer.serve) as server, q.connect(URL) as client:
        await trio.testing.wait_all_tasks_blocked()
        await server.attempts(9)
        assert await client.publish("jobs", "p") == "id"
        waits = [after - before for before, after in pairwise(server.opened)]
        assert all(later > earlier for earlier, later in zip(waits, waits[2:], strict=False))


async def test_a_refusal_later_on_is_raised(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with scripted(monkeypatch, vanish, 403) as server, q.connect(URL) as client:
        await trio.sleep(1)
        with pytest.raises(q.ConnectFailed, match="403"):
            await client.publish("jobs", "p")
        assert len(server.opened) == 2


async def test_a_good_connection_starts_the_waits_anew(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def good(peer: Peer) -> None:
        await trio.sleep(STABLE_SECONDS + 1)

    async with scripted(monkeypatch, vanish, *([None] * 8), good, Peer.serve) as server, q.connect(URL) as client:
        await server.attempts(11)
        assert await client.publish("jobs", "p") == "id"
        lost = server.opened[9] + STABLE_SECONDS + 1
        assert server.opened[10] - lost <= BACKOFF_SECONDS + 0.01


async def test_a_server_that_vanished_without_a_word(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def deaf(peer: Peer) -> None:
        peer.go_deaf()
        await trio.sleep(1000)

    async with scripted(monkeypatch, deaf, Peer.serve) as server, q.connect(URL) as client:
        await server.attempts(2)
        assert 40 <= trio.current_time() - server.opened[0] <= 45
        assert await client.publish("jobs", "p") == "id"


# Verifies: WS-0036
@pytest.mark.parametrize("asks", [False, True], ids=["idle", "waits for a response"])
async def test_a_ping_that_comes_alone_is_answered_at_once(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, asks: bool
) -> None:
    """Not with the next message: the server would have closed the connection by then."""
    answered = []

    async def pings(peer: Peer) -> None:
        request = await peer.expect("publish") if asks else None
        await trio.sleep(1)
        asked = trio.current_time()
        await peer.websocket.ping()
        answered.append(trio.current_time() - asked)
        if request is not None:
            await peer.ok(request, id="id")
        await peer.serve()

    async with scripted(monkeypatch, pings), q.connect(URL) as client:
        if asks:
            assert await client.publish("jobs", "p") == "id"
        await trio.sleep(60)
    assert answered == [0]


async def test_a_quiet_connection_stays(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with scripted(monkeypatch, Peer.serve) as server, q.connect(URL) as client:
        await trio.sleep(3600)
        assert await client.publish("jobs", "p") == "id"
        assert len(server.opened) == 1


# Verifies: WS-0036
async def test_subscriptions_are_made_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def first(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("old-1")
        await peer.deliver("old-2")
        await peer.expect("publish")

    async def second(peer: Peer) -> None:
        request = await peer.subscribed()
        assert (request["credits"], request["lock_timeout_secs"]) == (4, 60)
        for number in range(4):
            await peer.deliver(f"new-{number}")
        await peer.ok(await peer.expect("publish"), id="x")  # Nothing of the first connection's was settled here.
        await peer.serve()

    async with (
        scripted(monkeypatch, first, second),
        q.connect(URL) as client,
        client.subscribe("jobs", prefetch=4, lock_timeout=60) as deliveries,
    ):
        old = await anext(deliveries)
        with pytest.raises(q.ConnectionLost):
            await client.publish("jobs", "p")
        # "old-2" was read ahead and goes to another consumer.
        assert [(await anext(deliveries)).id for _ in range(4)] == [f"new-{number}" for number in range(4)]
        for settle in (old.ack, old.nack, lambda: old.renew(10)):
            with pytest.raises(q.ConnectionLost, match="another consumer"):
                await settle()
        assert await client.publish("jobs", "p") == "x"


# Verifies: WS-0035
async def test_an_ack_in_flight_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(peer: Peer) -> None:
        await peer.subscribed()
        await peer.deliver("m1")
        await peer.expect("ack")

    async with (
        scripted(monkeypatch, script, Peer.serve),
        q.connect(URL) as client,
        client.subscribe("jobs") as deliveries,
    ):
        delivery = await anext(deliveries)
        with pytest.raises(q.ConnectionLost):
            await delivery.ack()


@pytest.mark.parametrize("code", ["starting", "storage_error", "unavailable"])
async def test_subscribing_again_waits_for_a_server_that_starts_or_has_a_fault(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, code: str
) -> None:
    async def first(peer: Peer) -> None:
        await peer.subscribed()

    async def second(peer: Peer) -> None:
        for _ in range(5):
            await peer.refuse(await peer.expect("subscribe"), code)
        await peer.subscribed()
        await peer.deliver("m1")
        await peer.serve()

    async with scripted(monkeypatch, first, second), q.connect(URL) as client, client.subscribe("jobs") as deliveries:
        assert (await anext(deliveries)).id == "m1"


async def test_a_queue_that_is_gone_after_a_reconnect(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def first(peer: Peer) -> None:
        await peer.subscribed()
        await peer.subscribed()

    async def second(peer: Peer) -> None:
        for _ in range(2):
            request = await peer.expect("subscribe")
            if request["queue"] == "gone":
                await peer.refuse(request, "queue_not_found")
            else:
                await peer.ok(request)
        await peer.deliver("m1")
        await peer.serve()

    async with (
        scripted(monkeypatch, first, second),
        q.connect(URL) as client,
        client.subscribe("gone") as gone,
        client.subscribe("jobs") as jobs,
    ):
        for _ in range(2):
            with pytest.raises(q.QueueNotFound):
                await anext(gone)
        assert (await anext(jobs)).id == "m1"


async def test_giving_up_ends_the_subscriptions(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def script(peer: Peer) -> None:
        await peer.subscribed()

    async with (
        scripted(monkeypatch, script),
        q.connect(URL, reconnect_seconds=0) as client,
        client.subscribe("jobs") as deliveries,
    ):
        with pytest.raises(q.ConnectionLost):
            await anext(deliveries)


async def test_closing_while_away_does_not_wait(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with scripted(monkeypatch, vanish) as server:
        async with q.connect(URL):
            await server.attempts(10)
            left = trio.current_time()
        assert trio.current_time() == left


async def test_bytes_that_are_no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(peer: Peer) -> None:
        await peer.subscribed()
        await peer.expect("publish")
        await peer.websocket._stream.send_all(b"\xff\xff\xff\xff")
        await peer.serve()

    async with scripted(monkeypatch, broken), q.connect(URL) as client, client.subscribe("jobs") as deliveries:
        with pytest.raises(q.ClosedByServer, match="1002"):
            await client.publish("jobs", "p")
        with pytest.raises(q.ClosedByServer, match="1002"):
            await anext(deliveries)
