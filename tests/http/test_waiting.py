"""A consume that waits, over both paths: what wakes it, what ends it, and what becomes of its message."""

from __future__ import annotations

import json
import socket
import struct
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.testing

from qrusty_trio.http.pauses import READ_AHEAD_BYTES
from tests.http.web import PATHS, Client, Web, request, running

pytestmark = pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])

WORKER = {"consumer_id": "w"}
HEALTH = request("GET", "/health")
SOON_SECONDS = 45
"""Less than a consume waits, and far more than it takes to see that its client has gone."""


def waiting(queue: str = "q", seconds: float = 60, **more: Any) -> bytes:
    return request("POST", f"/consume/{queue}", {**WORKER, "wait_seconds": seconds, **more})


def waiting_batch(most: int = 10, seconds: float = 60) -> bytes:
    return request("POST", "/consume-batch/q", {**WORKER, "max_messages": most, "wait_seconds": seconds})


async def publish(web: Web, payload: str = "p", queue: str = "q") -> str:
    response = await web.ask("POST", "/publish", {"queue": queue, "priority": 1, "payload": payload})
    id: str = response.json()["id"]
    return id


async def until_waiting(web: Web, count: int = 1) -> None:
    with trio.fail_after(60):
        while len(web.engine.waiters) != count:  # noqa: ASYNC110  # no event tells of it
            await trio.sleep(0.001)


def counts(web: Web, queue: str = "q") -> tuple[int, int]:
    found = web.engine.broker.catalog.by_name[queue]
    return found.available, found.locked


async def response(client: Client) -> Any:
    with trio.fail_after(60):
        return (await client.response()).json()


# Verifies: DLV-0055
async def test_a_publish_wakes_it(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        for _ in range(3):
            await client.send(waiting())
            await until_waiting(web)
            id = await publish(web)
            assert await response(client) == {"id": id, "payload": "p", "retry_count": 1}
            await until_waiting(web, 0)
            acked = await client.ask("POST", f"/ack/q/{id}", WORKER)
            assert acked.status == 200


async def test_what_is_there_is_not_waited_for(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        id = await publish(web)
        await client.send(waiting())
        assert (await response(client))["id"] == id
        await client.send(waiting(seconds=0))
        assert await response(client) is None
        assert (await client.ask("POST", "/consume/unknown", {**WORKER, "wait_seconds": None})).json() is None


async def test_the_time_passes(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        for _ in range(2):
            await client.send(waiting(seconds=0.01) + waiting("other", seconds=0.01))
            assert await response(client) is None
            assert await response(client) is None
        await client.send(waiting_batch(seconds=0.01))
        assert await response(client) == {"messages": []}
        assert not len(web.engine.waiters)


async def test_a_queue_that_does_not_exist_yet(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        await client.send(waiting("later"))
        await until_waiting(web)
        await publish(web, queue="other")
        id = await publish(web, queue="later")
        assert (await response(client))["id"] == id


# Verifies: DLV-0055
async def test_several_queues(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        asked = request("POST", "/consume", {**WORKER, "queues": ["a", "b", "c"], "wait_seconds": 60, "details": True})
        await publish(web, "second", "c")
        await publish(web, "first", "b")
        got = []
        for _ in range(2):
            await client.send(asked)
            got.append(await response(client))
        assert [(each["payload"], each["queue"]) for each in got] == [("first", "b"), ("second", "c")]
        await client.send(asked)
        await until_waiting(web)
        id = await publish(web, "third", "a")
        third = await response(client)
        assert (third["id"], third["queue"], third["priority"]) == (id, "a", 1)
        assert third["lock_until"] - third["created_at"] >= 30_000
        assert third.keys() == {*("id", "payload", "retry_count", "queue", "priority", "created_at", "lock_until")}


# Verifies: DLV-0055
async def test_a_nack_and_an_expiry_wake_it(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client, web.client() as other:
        id = await publish(web)
        await other.ask("POST", "/consume/q", {"consumer_id": "o", "timeout_seconds": 30})
        await client.send(waiting(timeout_seconds=30))
        await until_waiting(web)
        await other.ask("POST", f"/nack/q/{id}", {"consumer_id": "o"})
        assert (await response(client))["retry_count"] == 2
        await other.send(waiting())
        await until_waiting(web)
        await web.engine.transact(lambda broker, now: broker.renew("q", id, "w", 0, now), sync=False)
        await trio.sleep(0.005)
        # There is no reaper here. Any transaction looks for locks that have ended.
        await web.ask("POST", "/publish", {"queue": "x", "priority": 1, "payload": "p"})
        assert (await response(other))["retry_count"] == 3


# Verifies: DLV-0056
async def test_they_are_served_in_turn(fast_path: bool) -> None:
    async with running(fast_path) as web, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(web.client()) for _ in range(5)]
        for number, client in enumerate(clients, 1):
            await client.send(waiting())
            await until_waiting(web, number)
        for number, client in enumerate(clients):
            await publish(web, str(number))
            assert (await response(client))["payload"] == str(number)


async def test_a_batch_takes_what_is_there(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        await client.send(waiting_batch())
        await until_waiting(web)
        messages = [{"priority": 1, "payload": str(number)} for number in range(15)]
        await web.ask("POST", "/publish-batch", {"queue": "q", "messages": messages})
        got = (await response(client))["messages"]
        assert [each["payload"] for each in got] == [str(number) for number in range(10)]
        assert counts(web) == (5, 10)


# Verifies: DLV-0057
@pytest.mark.parametrize("behind", [0, 1, 2, 64], ids=lambda number: f"{number} behind it")
@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
async def test_a_client_that_goes_away_takes_nothing(fast_path: bool, reset: bool, behind: int) -> None:
    async with running(fast_path) as web:
        async with web.client() as client:
            await client.send(waiting() + HEALTH * behind)
            await until_waiting(web)
            if reset:
                client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with trio.fail_after(SOON_SECONDS):
            await until_waiting(web, 0)
        await publish(web)
        assert counts(web) == (1, 0)


@pytest.mark.parametrize("behind", [0, 1, 2, 64], ids=lambda number: f"{number} behind it")
async def test_a_client_that_closes_its_side_is_answered_at_once(fast_path: bool, behind: int) -> None:
    async with running(fast_path) as web, web.client() as client:
        await client.send(waiting() + HEALTH * behind)
        await until_waiting(web)
        await client.stream.send_eof()
        with trio.fail_after(SOON_SECONDS):
            assert await response(client) is None
            for _ in range(behind):
                assert (await response(client))["status"] == "ok"
            assert await client.ended()


async def test_a_client_that_closes_its_side_at_once(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        await client.send(waiting())
        await client.stream.send_eof()
        assert await response(client) is None
        assert await client.ended()


async def test_requests_behind_it_wait_too(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        await client.send(HEALTH + waiting() + HEALTH)
        assert (await response(client))["status"] == "ok"
        await until_waiting(web)
        for _ in range(10):
            await client.send(HEALTH)
        await client.send(waiting("other"))
        id = await publish(web)
        assert (await response(client))["id"] == id
        for _ in range(11):
            assert (await response(client))["status"] == "ok"
        await until_waiting(web)
        id = await publish(web, queue="other")
        assert (await response(client))["id"] == id


async def test_what_comes_meanwhile_is_bounded(fast_path: bool) -> None:
    """Far more than is read ahead; all of it is served in the end."""
    async with running(fast_path) as web, web.client() as client:
        await client.send(waiting())
        await until_waiting(web)
        many = 3 * READ_AHEAD_BYTES // len(HEALTH)
        await client.send(HEALTH * many)
        await trio.testing.wait_all_tasks_blocked(0.01)
        id = await publish(web)
        assert (await response(client))["id"] == id
        for _ in range(many):
            assert (await response(client))["status"] == "ok"


# Verifies: DLV-0058
async def test_a_server_that_stops_answers_it(fast_path: bool) -> None:
    async with running(fast_path) as web, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(web.client()) for _ in range(3)]
        await clients[0].send(waiting())
        await clients[1].send(waiting_batch())
        await clients[2].send(waiting("unknown"))
        await until_waiting(web, 3)
        web.context.stopping.set()
        assert [await response(client) for client in clients] == [None, {"messages": []}, None]
        for client in clients:
            assert await client.ended()


async def test_those_with_less_patience(fast_path: bool) -> None:
    """Each with its own time, and messages for the others."""
    async with running(fast_path) as web, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(web.client()) for _ in range(4)]
        for number, client in enumerate(clients):
            await client.send(waiting(seconds=0.02 if number % 2 else 60))
        assert [await response(clients[number]) for number in (1, 3)] == [None, None]
        await until_waiting(web, 2)
        ids = {await publish(web), await publish(web)}
        assert {(await response(clients[number]))["id"] for number in (0, 2)} == ids


async def test_bodies_that_are_refused(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        for value in ("-1", "60.001", '"5"', "true", "[]", "1e400", "1e300"):
            raw = b'{"consumer_id":"w","wait_seconds":%b}' % value.encode()
            refused = await client.ask("POST", "/consume/q", raw)
            assert (refused.status, refused.json()["error"]) == (422, "'wait_seconds' must be a number from 0 to 60")
        assert (await client.ask("POST", "/consume/q", b'{"consumer_id":"w","wait_seconds":NaN}')).status == 400
        assert json.loads((await client.ask("POST", "/consume/q", WORKER)).body) is None
