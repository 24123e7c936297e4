"""HTTP requests: connections, what is sent again, timeouts, cancellation; a scripted server, on a test clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
import trio
import trio.testing

from qrusty_trio import client as q
from qrusty_trio.client import exchange
from qrusty_trio.client.retries import BACKOFF_SECONDS, KEEP_SECONDS, MAX_BACKOFF_SECONDS
from tests.client.scripted_http import URL, Peer, scripted

Clock = trio.testing.MockClock
Ask = Callable[[q.HttpClient], Awaitable[object]]


def publish(client: q.HttpClient) -> Awaitable[object]:
    return client.publish("jobs", "p")


def renew(client: q.HttpClient) -> Awaitable[object]:
    return client.renew("jobs", "7")


def publish_again(client: q.HttpClient) -> Awaitable[object]:
    return client.publish("jobs", "p", repeat=True)


def queues(client: q.HttpClient) -> Awaitable[object]:
    return client.queues()


async def serve(peer: Peer) -> None:
    """Answer everything well."""
    while True:
        line, _ = await peer.read()
        if line == "GET /queues":
            await peer.response(200, [])
        else:
            await peer.response(200, {"id": "x", "lock_until": 1000})


async def take_and_break(peer: Peer) -> None:
    await peer.read()


def refuse(status: int, code: str) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        await peer.read()
        await peer.response(status, {"error": "no", "code": code}, "Connection: close")

    return script


async def test_a_connection_serves_one_request_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(peer: Peer) -> None:
        assert await peer.expect("POST /publish") == {
            "queue": "jobs",
            "priority": 2**64 - 1,
            "payload": 'ü "\n\x00',
            "max_retries": 0,
        }
        await peer.response(200, {"id": "id-1"})
        assert await peer.expect("POST /consume/jobs") == {
            "consumer_id": "me",
            "timeout_seconds": 60,
            "wait_seconds": 0.5,
            "details": True,
        }
        await peer.response(200, {"id": "id-1", "payload": "p", "retry_count": 2, "new": [1]})
        assert await peer.expect("POST /nack/jobs/id-1") == {"consumer_id": "me", "error": "why"}
        await peer.response(200)
        await peer.expect("DELETE /delete-queue/jobs")
        await peer.response(200, {"queue": "jobs", "deleted_messages": 3})

    async with scripted(monkeypatch, script) as server, q.HttpClient(URL, consumer_id="me") as client:
        assert await client.publish("jobs", 'ü "\n\x00', 2**64 - 1, 0) == "id-1"
        taken = await client.consume("jobs", lock_seconds=60, wait_seconds=0.5)
        assert taken == q.Taken(id="id-1", payload="p", retry_count=2, queue="jobs")
        assert taken.created_at is None
        await client.nack("jobs", "id-1", "why")
        assert await client.delete_queue("jobs") == 3
        assert len(server.opened) == 1


async def test_connections_are_bounded_and_kept(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    busy = most = 0

    async def script(peer: Peer) -> None:
        nonlocal busy, most
        while True:
            await peer.read()
            busy += 1
            most = max(most, busy)
            await trio.sleep(1)
            busy -= 1
            await peer.response(200, {"id": "x"})

    async with scripted(monkeypatch, *([script] * 3)) as server, q.HttpClient(URL, connections=3) as client:
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(publish, client)
        assert (most, len(server.opened)) == (3, 3)
        assert trio.current_time() < 9


@pytest.mark.parametrize("end", ["closed", "old", "announced"])
async def test_a_connection_that_has_ended_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock, end: str
) -> None:
    async def first(peer: Peer) -> None:
        await peer.read()
        await peer.response(200, {"id": "x"}, *(["Connection: close"] if end == "announced" else []))
        if end == "closed":
            peer.signal_end()
        await peer.read()

    async with scripted(monkeypatch, first, serve) as server, q.HttpClient(URL, patience_seconds=0) as client:
        await publish(client)
        await trio.sleep(KEEP_SECONDS + 1 if end == "old" else 0)
        await publish(client)
        assert len(server.opened) == 2
        await trio.testing.wait_all_tasks_blocked()
        assert server.gone == 1


# Verifies: WS-0046
@pytest.mark.parametrize("ask", [publish, renew, queues])
async def test_a_request_that_had_no_effect_is_sent_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock, ask: Ask
) -> None:
    busy = [None, refuse(503, "starting"), refuse(503, "memory_pressure"), refuse(503, "unavailable"), None, None]
    async with scripted(monkeypatch, *busy, serve) as server, q.HttpClient(URL, patience_seconds=60) as client:
        await ask(client)
        waits = [after - before for before, after in pairwise(server.opened)]
        limits = [min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2**number) for number in range(6)]
        assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, limits, strict=True))


# Verifies: WS-0046
@pytest.mark.parametrize(("ask", "sent"), [(publish, 1), (publish_again, 3), (renew, 3), (queues, 3)])
async def test_a_request_without_a_response_is_sent_again_only_if_that_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock, ask: Ask, sent: int
) -> None:
    async with scripted(monkeypatch, take_and_break, take_and_break, serve) as server, q.HttpClient(URL) as client:
        if sent == 1:
            with pytest.raises(q.ConnectionLost) as caught:
                await ask(client)
            assert type(caught.value) is q.ConnectionLost
        else:
            await ask(client)
        assert len(server.opened) == sent


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (503, "storage_error", q.StorageError),
        (404, "queue_not_found", q.QueueNotFound),
        (422, "wrong_shape", q.InvalidRequest),
    ],
)
async def test_other_refusals_are_raised_at_once(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock, status: int, code: str, kind: type[q.RequestError]
) -> None:
    async with scripted(monkeypatch, refuse(status, code), serve) as server, q.HttpClient(URL) as client:
        with pytest.raises(kind) as caught:
            await client.publish("jobs", "p", repeat=True)
        assert (caught.value.status, caught.value.code) == (status, code)
        assert len(server.opened) == 1


@pytest.mark.parametrize("patience", [0, 20])
async def test_its_patience_ends(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock, patience: int) -> None:
    async with scripted(monkeypatch) as server, q.HttpClient(URL, patience_seconds=patience) as client:
        with pytest.raises(q.NotSent, match=r"broker\.test:6784: nobody listens"):
            await publish(client)
        assert trio.current_time() <= patience
        assert (len(server.opened) == 1) == (patience == 0)


async def test_no_response_in_time(monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock) -> None:
    async def silent(peer: Peer) -> None:
        await peer.read()
        await peer.read()

    async with scripted(monkeypatch, silent, silent) as server, q.HttpClient(URL, timeout_seconds=5) as client:
        with pytest.raises(q.TimedOut, match="no response within 5 s"):
            await publish(client)
        assert trio.current_time() == 5
        with pytest.raises(q.TimedOut):
            await client.consume("jobs", wait_seconds=30)
        assert trio.current_time() == 40
        assert server.gone == 2


async def test_a_cancelled_request_closes_its_connection(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    async def silent(peer: Peer) -> None:
        await peer.read()
        await peer.read()

    async with scripted(monkeypatch, silent, serve) as server, q.HttpClient(URL, connections=1) as client:
        with trio.move_on_after(1) as scope:
            await client.consume("jobs", wait_seconds=30)
        assert scope.cancelled_caught
        await publish(client)  # Its place is free.
        assert server.gone == 1


async def test_a_request_that_outlives_its_client_leaves_no_connection(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    async def slow(peer: Peer) -> None:
        while True:
            await peer.read()
            await trio.sleep(5)
            await peer.response(200, {"id": "x"})

    async with scripted(monkeypatch, slow) as server:
        async with trio.open_nursery() as nursery, q.HttpClient(URL) as client:
            nursery.start_soon(publish, client)
            await trio.sleep(1)
        await trio.testing.wait_all_tasks_blocked()
        assert server.gone == 1


async def test_cancelled_at_any_step_it_leaves_no_connection_and_no_place_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One connection is all there is, so a place that is not given back would stop the next request."""

    async def script(peer: Peer) -> None:
        for _ in range(3):
            await peer.read()
            for part in ("HTTP/1.1 200 OK\r\nContent-", "Length: 10\r\n\r\n{", '"id":"x"}'):
                await trio.lowlevel.checkpoint()
                await peer.send(part)

    step, caught = 0, True
    while caught:
        step += 1
        async with scripted(monkeypatch, script, script, script) as server:
            async with q.HttpClient(URL, connections=1) as client:
                scope = trio.CancelScope()
                async with trio.open_nursery() as nursery:

                    async def cancel(steps: int = step, scope: trio.CancelScope = scope) -> None:
                        for _ in range(steps):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()

                    nursery.start_soon(cancel)
                    with scope:
                        await client.publish("jobs", "p")
                        await client.publish("jobs", "p")
                    nursery.cancel_scope.cancel()
                caught = scope.cancelled_caught
                with trio.fail_after(10):
                    await client.publish("jobs", "p")
            await trio.testing.wait_all_tasks_blocked()
            opened = len(server.opened)
            assert opened <= 3
    assert step > 10


@pytest.mark.parametrize(
    "text",
    [
        "what?\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1,",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"id":3}',
        "HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + "x" * 101,
        "HTTP/1.1 200 OK\r\n" + "X: y\r\n" * 20_000,
    ],
)
async def test_what_is_no_response(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.read()
        await peer.send(text)
        await peer.read()

    monkeypatch.setattr(exchange, "MAX_RESPONSE_BYTES", 100)
    async with scripted(monkeypatch, script), q.HttpClient(URL) as client:
        with pytest.raises(q.ProtocolError):
            await client.consume("jobs")


@pytest.mark.parametrize("text", ["", "HTTP/1.1 200 OK\r\nCont", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12345"])
async def test_a_response_that_breaks_off(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.read()
        await peer.send(text)

    async with scripted(monkeypatch, script), q.HttpClient(URL) as client:
        with pytest.raises(q.ConnectionLost):
            await publish(client)


@pytest.mark.parametrize("text", ['HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"id":"x"}'])
async def test_a_response_of_unknown_length(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.read()
        await peer.send(text)

    async with scripted(monkeypatch, script), q.HttpClient(URL) as client:
        assert await client.publish("jobs", "p") == "x"


async def test_a_client_that_was_closed_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(peer: Peer) -> None:
        await peer.read()
        await trio.testing.wait_all_tasks_blocked()
        await peer.response(200, {"id": "x"})

    async with scripted(monkeypatch, slow, serve) as server:
        async with trio.open_nursery() as nursery, q.HttpClient(URL, connections=1) as client:
            begun, waiting = trio.Event(), trio.Event()

            async def finish() -> None:
                assert await client.publish("jobs", "on its way") == "x"
                begun.set()

            async def wait() -> None:
                with pytest.raises(q.ClientClosed):
                    await client.publish("jobs", "waits for a connection")
                waiting.set()

            nursery.start_soon(finish)
            while not server.opened:
                await trio.lowlevel.checkpoint()
            nursery.start_soon(wait)
            await trio.lowlevel.checkpoint()
            await client.aclose()
            with pytest.raises(q.ClientClosed, match="was closed"):
                await client.queues()
            await begun.wait()
            await waiting.wait()
        with pytest.raises(q.ClientClosed):
            await client.publish("jobs", "p", repeat=True)
        assert len(server.opened) == 1
