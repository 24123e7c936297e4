"""Publishing, errors, many requests in flight: the client against a scripted server."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trio
import trio.testing

from qrusty_trio import client as q
from qrusty_trio.client import connection
from tests.client.scripted import URL, Frame, Peer, scripted


async def test_publish(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Frame] = []

    async def script(peer: Peer) -> None:
        for number in range(2):
            seen.append(await peer.expect("publish"))
            await peer.ok(seen[-1], id=f"id-{number}")

    async with scripted(monkeypatch, script), q.connect(URL) as client:
        assert await client.publish("jobs", 'ü "quoted"\n\x00') == "id-0"
        assert await client.publish("jobs", "p", priority=2**64 - 1, max_retries=0) == "id-1"
    assert [{key: value for key, value in frame.items() if key != "req_id"} for frame in seen] == [
        {"type": "publish", "queue": "jobs", "payload": 'ü "quoted"\n\x00', "priority": 0, "max_retries": 3},
        {"type": "publish", "queue": "jobs", "payload": "p", "priority": 2**64 - 1, "max_retries": 0},
    ]


# Verifies: WS-0034
async def test_answers_find_their_requests_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    got: dict[str, str] = {}

    async def script(peer: Peer) -> None:
        requests = [await peer.expect("publish") for _ in range(100)]
        for request in reversed(requests):
            await peer.ok(request, id=f"id of {request['payload']}")

    async def publish(client: q.Client, payload: str) -> None:
        got[payload] = await client.publish("jobs", payload)

    async with scripted(monkeypatch, script), q.connect(URL) as client, trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(publish, client, str(number))
    assert got == {str(number): f"id of {number}" for number in range(100)}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("invalid_request", q.InvalidRequest),
        ("queue_not_found", q.QueueNotFound),
        ("not_locked", q.NotLocked),
        ("memory_pressure", q.MemoryPressure),
        ("publish_failed", q.PublishFailed),
        ("storage_error", q.StorageError),
        ("starting", q.Starting),
        ("a_new_one", q.RequestError),
    ],
)
async def test_an_error_answer_is_an_exception(
    monkeypatch: pytest.MonkeyPatch, code: str, kind: type[q.RequestError]
) -> None:
    async def script(peer: Peer) -> None:
        await peer.refuse(await peer.read(), code)
        await peer.ok(await peer.read(), id="x")

    async with scripted(monkeypatch, script), q.connect(URL) as client:
        with pytest.raises(q.RequestError) as caught:
            await client.publish("jobs", "p")
        assert type(caught.value) is kind
        assert (caught.value.code, caught.value.message) == (code, "no")
        assert await client.publish("jobs", "p") == "x"  # An error concerns its request only.


# Verifies: WS-0034
async def test_requests_in_flight_are_bounded(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(connection, "MAX_IN_FLIGHT", 3)
    at_once: list[int] = []

    async def script(peer: Peer) -> None:
        left = 10
        while left:
            requests = []
            with trio.move_on_after(1):
                while True:
                    requests.append(await peer.expect("publish"))
            at_once.append(len(requests))
            left -= len(requests)
            for request in requests:
                await peer.ok(request, id="x")

    async with scripted(monkeypatch, script), q.connect(URL) as client, trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(client.publish, "jobs", "p")
    assert at_once == [3, 3, 3, 1]


async def test_a_cancelled_request_that_has_not_left_does_not_leave(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(connection, "MAX_IN_FLIGHT", 1)

    async def script(peer: Peer) -> None:
        first = await peer.expect("publish")
        await trio.sleep(2)
        await peer.ok(first, id="x")
        last = await peer.expect("publish")
        assert last["payload"] == "third"
        await peer.ok(last, id="y")

    async with scripted(monkeypatch, script), q.connect(URL) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.publish, "jobs", "first")
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await client.publish("jobs", "second")
        assert scope.cancelled_caught
        assert await client.publish("jobs", "third") == "y"


async def test_a_cancelled_request_keeps_its_place_until_its_answer(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(connection, "MAX_IN_FLIGHT", 1)

    async def script(peer: Peer) -> None:
        first = await peer.expect("publish")
        with trio.move_on_after(5):
            raise AssertionError(await peer.read())
        await peer.ok(first, id="late")
        await peer.ok(await peer.expect("publish"), id="y")

    async with scripted(monkeypatch, script), q.connect(URL) as client:
        with trio.move_on_after(1):
            await client.publish("jobs", "first")
        assert await client.publish("jobs", "second") == "y"


# Verifies: WS-0049
async def test_no_response_in_time(monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock) -> None:
    """The late one is told so; for the other one the connection is lost with it."""
    errors: dict[str, type[Exception]] = {}

    async def script(peer: Peer) -> None:
        await peer.ok(await peer.expect("publish"), id="x")
        for _ in range(2):
            await peer.expect("publish")
        await trio.sleep(60)

    async def publish(client: q.Client, payload: str) -> None:
        with pytest.raises(q.ConnectionLost) as caught:
            await client.publish("jobs", payload)
        errors[payload] = type(caught.value)

    async with scripted(monkeypatch, script, Peer.serve), q.connect(URL, timeout_seconds=5) as client:
        await client.publish("jobs", "p")
        await trio.sleep(100)  # a quiet connection stays
        begin = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish, client, "late")
            await trio.sleep(3)
            nursery.start_soon(publish, client, "other")
        assert trio.current_time() - begin == 5
        assert errors == {"late": q.TimedOut, "other": q.ConnectionLost}
        assert await client.publish("jobs", "p") == "id"


async def test_what_no_server_takes_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(peer: Peer) -> None:
        await peer.ok(await peer.expect("publish"), id="x")

    async with scripted(monkeypatch, script), q.connect(URL) as client:
        with pytest.raises(q.FrameTooLarge):
            await client.publish("jobs", "x" * (2 * 1024 * 1024))
        with pytest.raises(q.InvalidRequest):
            await client.publish("jobs", "\ud800")
        assert await client.publish("jobs", "p") == "x"


@pytest.mark.parametrize(
    "frame",
    [
        "nope",
        "[]",
        "{}",
        '{"type":"hello"}',
        '{"type":"ok","req_id":"77"}',
        '{"type":"error","code":"x"}',
        '{"x":' * 5_000 + "1" + "}" * 5_000,
    ],
)
async def test_a_server_that_speaks_something_else(monkeypatch: pytest.MonkeyPatch, frame: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.expect("publish")
        await peer.websocket.send_message(frame)
        await peer.serve()

    async with scripted(monkeypatch, script) as server, q.connect(URL) as client:
        for _ in range(2):
            with pytest.raises(q.ProtocolError):
                await client.publish("jobs", "p")
        assert len(server.opened) == 1


async def test_a_delivery_has_the_fields_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(peer: Peer) -> None:
        request = await peer.subscribed()
        assert (request["queue"], request["credits"], request["lock_timeout_secs"]) == ("jobs", 5, 60)
        await peer.deliver("m1", payload="ü")
        for expected in ("renew", "ack", "nack"):
            asked = await peer.expect(expected)
            assert (asked["queue"], asked["id"]) == ("jobs", "m1")
            assert asked.get("lock_timeout_secs") == (90 if expected == "renew" else None)
            await peer.ok(asked)
        await peer.serve()

    async with (
        scripted(monkeypatch, script),
        q.connect(URL) as client,
        client.subscribe("jobs", prefetch=5, lock_timeout=60) as deliveries,
    ):
        delivery = await anext(deliveries)
        assert (delivery.queue, delivery.id, delivery.payload, delivery.priority) == ("jobs", "m1", "ü", 7)
        assert delivery.created_at == datetime(2026, 1, 2, 3, 4, 5, 6000, tzinfo=UTC)
        await delivery.renew(90)
        await delivery.ack()
        await delivery.nack()  # A second time is the server's business.


async def test_what_the_body_raises_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(monkeypatch, Peer.serve, Peer.serve):
        with pytest.raises(KeyError, match="mine"):
            async with q.connect(URL) as client, client.subscribe("jobs"):
                raise KeyError("mine")
        with pytest.RaisesGroup(KeyError):
            async with q.connect(URL):
                raise ExceptionGroup("mine", [KeyError()])


async def test_cancelling_the_body(monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock) -> None:
    async with scripted(monkeypatch, Peer.serve):
        with trio.move_on_after(1) as scope:
            async with q.connect(URL) as client, client.subscribe("jobs") as deliveries:
                await anext(deliveries)
        assert scope.cancelled_caught


async def test_a_closed_client_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.serve()
        assert peer.websocket.closed is not None
        closed.append(peer.websocket.closed.code)

    async with scripted(monkeypatch, script):
        async with q.connect(URL) as client:
            pass
        with pytest.raises(q.ClientClosed, match="closed"):
            await client.publish("jobs", "p")
        await trio.testing.wait_all_tasks_blocked()
    assert closed == [1000]
