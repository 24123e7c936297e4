"""`smoke`: tries a server from publish to dead letter, in a queue of its own.

Rule: it touches one queue with a name that nobody else has, and removes it in the end, whatever happened.

Requirements: API-0130
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import trio
import typer

from qrusty_trio.cli.command import command
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed
from qrusty_trio.cli.session import Session
from qrusty_trio.client import ClientError, HttpClient

COLUMNS = ("step", "outcome", "milliseconds")
REMOVE_SECONDS = 5.0
"""How long the removal of the queue may take when the command is interrupted."""


class Wrong(Exception):
    """The server answered something else than it promises."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "smoke")(smoke)


def smoke(session: Session) -> Exit:
    """Try a server: publish, order, lock, renew, nack, ack, dead letter, requeue, purge.

    \b
    qrusty-trio smoke
    qrusty-trio smoke --context production -o json

    It works in a queue of its own, which it removes. Exits with 1 and the step that failed.
    """

    async def talk(client: HttpClient) -> None:
        run = _Run(client, f"smoke-{uuid.uuid4()}")
        with session.output.stream(COLUMNS, "step") as rows:
            try:
                for name, step in run.steps():
                    rows.add(await _timed(name, step))
            except BaseException:
                # What failed first is what is said.
                with (
                    trio.CancelScope(shield=True, deadline=trio.current_time() + REMOVE_SECONDS),
                    suppress(ClientError),
                ):
                    await run.remove()
                raise
            rows.add(await _timed("remove the queue", run.remove))

    session.ask(talk, changes=True)
    session.tell("all well")
    return Exit.DONE


async def _timed(name: str, step: Callable[[], Awaitable[None]]) -> dict[str, Any]:
    begin = time.perf_counter()
    try:
        await step()
    except (Wrong, ClientError) as error:
        raise Failed(Exit.REFUSED, f"{name}: {error}") from error
    return {"step": name, "outcome": "ok", "milliseconds": round((time.perf_counter() - begin) * 1000, 1)}


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise Wrong(f"{what}: expected {expected!r}, found {found!r}")


class _Run:
    def __init__(self, client: HttpClient, queue: str) -> None:
        self._client = client
        self._queue = queue
        self._id = ""

    def steps(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        return [
            ("the server is ready", self._ready),
            ("create a queue", self._create),
            ("publish", self._publish),
            ("the highest priority comes first", self._order),
            ("nobody else gets it", self._exclusive),
            ("renew its lock", self._renew),
            ("nack: it comes back", self._nack),
            ("ack: it is gone", self._ack),
            ("the last failure makes a dead letter", self._bury),
            ("requeue it", self._requeue),
            ("purge", self._purge),
        ]

    async def _ready(self) -> None:
        _expect("ready", await self._client.ready(), True)

    async def _create(self) -> None:
        await self._client.create_queue(self._queue)

    async def _publish(self) -> None:
        await self._client.publish(self._queue, "low", 1, max_retries=1)
        self._id = await self._client.publish(self._queue, "high é\n", 2**64 - 1)

    async def _order(self) -> None:
        taken = await self._client.consume(self._queue)
        _expect("the first message", taken and (taken.id, taken.payload), (self._id, "high é\n"))

    async def _exclusive(self) -> None:
        taken = await self._client.consume_batch(self._queue, 10)
        _expect("the rest", [each.payload for each in taken], ["low"])
        _expect("given back", await self._client.force_unlock(self._queue, ids=[taken[0].id]), 1)

    async def _renew(self) -> None:
        await self._client.renew(self._queue, self._id, 60)

    async def _nack(self) -> None:
        await self._client.nack(self._queue, self._id, "as the smoke test wants it")
        taken = await self._client.consume(self._queue)
        _expect("delivered again", taken and (taken.id, taken.retry_count), (self._id, 2))

    async def _ack(self) -> None:
        await self._client.ack(self._queue, self._id)
        _expect("messages", await self._counts(), (1, 0, 0))

    async def _bury(self) -> None:
        taken = await self._client.consume(self._queue)
        _expect("the other message", taken and taken.payload, "low")
        assert taken is not None
        await self._client.nack(self._queue, taken.id, "as the smoke test wants it")
        _expect("messages", await self._counts(), (0, 0, 1))

    async def _requeue(self) -> None:
        outcome = await self._client.requeue_dead_letters(self._queue, all=True)
        _expect("requeued", (outcome["requeued"], await self._counts()), (1, (1, 0, 0)))

    async def _purge(self) -> None:
        _expect("purged", await self._client.purge_queue(self._queue), 1)

    async def remove(self) -> None:
        await self._client.delete_queue(self._queue)

    async def _counts(self) -> tuple[int, int, int]:
        stats = await self._client.queue_stats(self._queue)
        return stats["available"], stats["locked"], stats["dead_letters"]
