"""The run itself: three queues under load, looked at every three seconds, and the stop at the end.

Rule: every check raises BrokenPromise with what was expected and what was seen.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Any
from urllib.parse import quote

import trio
from trio_websocket import ConnectionClosed, open_websocket_url

from smoke.failures import BrokenPromise
from smoke.ledger import Ledger
from smoke.load import Load, request, websocket_url
from smoke.servers import STOP_SECONDS, Started, ended
from smoke.table import Row, Screen
from tests.wire.http_client import Connection, HttpClient, open_client

POLL_SECONDS = 3.0
IN_HAND = b'{"queue":"in hand","priority":1,"payload":"published while the server stops"}'


def ledgers() -> list[Ledger]:
    """The three queues. Their names are of this run alone, as the server may have others."""
    run = f"smoke-{os.getpid()}"
    numbers = [0, 1, 7, 2**53, 2**53 + 1, 2**64 - 1]
    return [
        Ledger(f"{run}-max", {"ordering": "MaxFirst"}, sorted(numbers, reverse=True)),
        Ledger(f"{run}-min", {"ordering": "MinFirst"}, numbers),
        Ledger(
            f"{run}-text", {"ordering": "MinFirst", "priority_kind": "Text"}, ["", "a", "aa", "b", "z", "ä", "水"][1:]
        ),
    ]


async def under_load(url: str, duration: float, screen: Screen) -> list[Ledger]:
    """Load the server for `duration` seconds and check everything. Returns the ledgers. The queues are gone afterwards.

    Raises BrokenPromise, alone or in a group, and whatever a connection that breaks raises.
    """
    queues = ledgers()
    async with open_client(url) as client:
        for ledger in queues:
            await request(client, "POST", "/create-queue", name=ledger.queue, config=ledger.config)
        try:
            await _load(url, client, queues, duration, screen)
            for ledger in queues:
                ledger.check_order()
            _check_drained(await _rows(client, queues))
        finally:
            # So that nothing is left on a server that goes on. One that is gone has nothing to be deleted.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + POLL_SECONDS):
                await _delete(url, queues)
    return queues


async def _load(url: str, client: HttpClient, queues: Sequence[Ledger], duration: float, screen: Screen) -> None:
    began = trio.current_time()
    enough = trio.Event()
    async with trio.open_nursery() as nursery:
        for ledger in queues:
            nursery.start_soon(Load(url, ledger, Random(ledger.queue)).run, enough)
        number = 0
        while not enough.is_set():
            number += 1
            await trio.sleep_until(began + min(number * POLL_SECONDS, duration))
            rows = await _rows(client, queues)
            screen.show(trio.current_time() - began, rows)
            if number > 1:  # the first look may come before the first sample of the server
                _check_rates(rows)
            if trio.current_time() >= began + duration:
                enough.set()
    screen.show(trio.current_time() - began, await _rows(client, queues))


async def _rows(client: HttpClient, queues: Sequence[Ledger]) -> list[Row]:
    stats = await request(client, "GET", "/stats")
    by_name: dict[str, dict[str, Any]] = {queue["name"]: queue for queue in stats["queues"]}
    missing = [ledger.queue for ledger in queues if ledger.queue not in by_name]
    if missing:
        raise BrokenPromise("/stats", f"the queue {missing[0]}", f"{len(by_name)} others")
    return [
        Row(
            ledger.queue,
            queue["available"],
            queue["locked"],
            queue["publish_rate_per_sec"],
            queue["ack_rate_per_sec"],
            ledger.confirmed,
            ledger.acked,
            ledger.nacked,
        )
        for ledger in queues
        for queue in [by_name[ledger.queue]]
    ]


def _check_rates(rows: Sequence[Row]) -> None:
    for row in rows:
        for field, rate in (("publish_rate_per_sec", row.publish_rate), ("ack_rate_per_sec", row.ack_rate)):
            if not rate > 0:
                raise BrokenPromise(f"{field} of {row.queue} under load", "more than 0", f"{rate}")


def _check_drained(rows: Sequence[Row]) -> None:
    for row in rows:
        if (row.available, row.locked) != (0, 0):
            raise BrokenPromise(
                f"the counters of {row.queue} after its last message was acked",
                "0 available and 0 locked",
                f"{row.available} available and {row.locked} locked",
            )


async def _delete(url: str, queues: Sequence[Ledger]) -> None:
    with suppress(OSError, EOFError, trio.BrokenResourceError, AssertionError):
        async with open_client(url) as client:
            for ledger in queues:
                await client.request("DELETE", f"/delete-queue/{quote(ledger.queue, safe='')}")


async def stopped_in_order(server: Started) -> None:
    """SIGTERM: a request in hand is finished, a WebSocket closed with 1001, the exit status is 0."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    connection = Connection(await trio.open_tcp_stream(host, int(port)))
    async with connection.stream, open_websocket_url(websocket_url(server.url)) as websocket:
        head = (
            f"POST /publish HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(IN_HAND)}\r\n\r\n"
        )
        await connection.stream.send_all(head.encode() + IN_HAND[:-1])
        async with open_client(server.url) as client:
            for _ in range(3):  # once these are answered, what came before them was read
                await request(client, "GET", "/health")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_check_exit, server)
            with trio.move_on_after(STOP_SECONDS):
                await _check_close(websocket)
                await connection.stream.send_all(IN_HAND[-1:])
                response = await connection.receive()
                if response.status != 200:
                    raise BrokenPromise("a request in hand at SIGTERM", "200", f"{response.status}")
                await connection.stream.aclose()  # the server waits a moment for that


async def _check_close(websocket: Any) -> None:
    code = None
    try:
        await websocket.get_message()
    except ConnectionClosed as closed:
        code = closed.reason.code if closed.reason is not None else None
    if code != 1001:
        raise BrokenPromise("a WebSocket at SIGTERM", "close code 1001", f"{code or 'a message'}")


async def _check_exit(server: Started) -> None:
    try:
        status = await server.stop()
    except trio.TooSlowError:
        raise BrokenPromise("SIGTERM", f"exit status 0 within {STOP_SECONDS:.0f} s", "it still runs") from None
    if status != 0:
        raise BrokenPromise("SIGTERM", "exit status 0", f"it {ended(status)}{server.last_words()}")
