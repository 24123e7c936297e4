"""`consume`, `ack`, `nack`, `renew`, `peek` and `find`: what one does by hand with messages.

Rule: the consumer is the same for each call, so what `consume` has locked, `ack` can settle. `peek` and `find` take
nothing.

Requirements: API-0126
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import msgspec
import typer

from qrusty_trio.cli.command import command
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed
from qrusty_trio.cli.output import Format, RowWriter, say
from qrusty_trio.cli.parameters import Consumer, DryRun, Id, Ids, LockSeconds, Queue, Queues, Raw
from qrusty_trio.cli.payloads import ids_of
from qrusty_trio.cli.reading import message_anywhere, message_of, messages_of
from qrusty_trio.cli.session import Session
from qrusty_trio.client import HttpClient, MessageNotFound, Taken
from qrusty_trio.wording import counted

COLUMNS = ("queue", "id", "priority", "retry_count", "payload")
FIND_COLUMNS = ("queue", "id", "state", "priority", "deliveries", "payload")
PEEK_COLUMNS = ("id", "state", "priority", "deliveries", "payload")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "consume")(consume)
    command(app, "ack")(ack)
    command(app, "nack")(nack)
    command(app, "renew")(renew)
    command(app, "peek")(peek)
    command(app, "find")(find)


def consume(
    session: Session,
    queues: Queues,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="Messages to take at most.")] = 1,
    lock: LockSeconds = 30,
    wait: Annotated[float, typer.Option(min=0, max=60, help="Seconds to wait for the first message.")] = 0,
    settle: Annotated[bool, typer.Option("--ack", help="Ack the messages after they were printed.")] = False,
    raw: Raw = False,
    consumer: Consumer = None,
) -> Exit:
    """Lock the first messages of a queue and print them.

    \b
    qrusty-trio consume jobs --wait 30 -o json
    qrusty-trio consume urgent jobs --ack --raw

    Of several queues the first that has a message gives it. Without --ack, settle the messages with `ack` or `nack`
    before their locks end. Exits with 6 if there is no message.
    """
    if count > 1 and len(queues) > 1:
        raise Failed(Exit.USAGE, "--count takes from one queue: name one, or leave it out")

    async def take(client: HttpClient) -> int:
        taken = await _taken(client, queues, count, lock, wait)
        with _messages(session, raw) as rows:
            for each in taken:
                rows.add(msgspec.to_builtins(each))
        if settle:
            # Not before all is written: what only this process has would be lost with it.
            for each in taken:
                await client.ack(each.queue, each.id)
        return len(taken)

    if not session.ask(take, consumer=consumer, changes=True):
        session.note("no message")
        return Exit.EMPTY
    return Exit.DONE


async def _taken(client: HttpClient, queues: list[str], count: int, lock: int, wait: float) -> list[Taken]:
    if count > 1:
        return await client.consume_batch(queues[0], count, lock_seconds=lock, wait_seconds=wait)
    if len(queues) > 1:
        one = await client.consume_from(queues, lock_seconds=lock, wait_seconds=wait)
    else:
        one = await client.consume(queues[0], lock_seconds=lock, wait_seconds=wait)
    return [] if one is None else [one]


def _messages(session: Session, raw: bool, columns: tuple[str, ...] = COLUMNS) -> RowWriter:
    return session.output.payloads() if raw else session.output.rows(columns, "id", best=Format.NDJSON)


def ack(session: Session, queue: Queue, ids: Ids, consumer: Consumer = None, dry_run: DryRun = False) -> Exit:
    """Report success: the messages are deleted.

    \b
    qrusty-trio ack jobs 3f0e9c1a-6a55-4f5b-9d0e-2b7b8f6d1c11
    qrusty-trio consume jobs -n 100 -o name | qrusty-trio ack jobs -

    Exits with 4 if none of them is held by this consumer, with 3 if some are not.
    """

    async def settle(client: HttpClient, ids: list[str]) -> list[dict[str, Any]]:
        outcome = await client.ack_batch(queue, ids)
        return _outcomes(queue, acked=outcome.acked, not_found=outcome.not_found)

    return _settle(session, queue, ids, consumer, dry_run, settle)


def nack(
    session: Session,
    queue: Queue,
    ids: Ids,
    error: Annotated[str | None, typer.Option(help="Why. A dead letter keeps it.", show_default=False)] = None,
    consumer: Consumer = None,
    dry_run: DryRun = False,
) -> Exit:
    """Report failure: the messages go back, or to the dead letters after their last try.

    \b
    qrusty-trio nack jobs 3f0e9c1a-6a55-4f5b-9d0e-2b7b8f6d1c11 --error "no such address"
    qrusty-trio consume jobs -n 100 -o name | qrusty-trio nack jobs -

    Exits with 4 if none of them is held by this consumer, with 3 if some are not.
    """

    async def settle(client: HttpClient, ids: list[str]) -> list[dict[str, Any]]:
        outcome = await client.nack_batch(queue, ids, error)
        return _outcomes(
            queue,
            unlocked=outcome.unlocked,
            dead_lettered=outcome.dead_lettered,
            dropped=outcome.dropped,
            not_found=outcome.not_found,
        )

    return _settle(session, queue, ids, consumer, dry_run, settle)


def renew(
    session: Session,
    queue: Queue,
    ids: Ids,
    lock: LockSeconds = 30,
    consumer: Consumer = None,
    dry_run: DryRun = False,
) -> Exit:
    """Make locks end later: so many seconds from now.

    \b
    qrusty-trio renew jobs 3f0e9c1a-6a55-4f5b-9d0e-2b7b8f6d1c11 --lock 300
    qrusty-trio consume jobs -n 100 -o name | qrusty-trio renew jobs - --lock 60

    Exits with 4 if none of them is held by this consumer, with 3 if some are not.
    """

    async def settle(client: HttpClient, ids: list[str]) -> list[dict[str, Any]]:
        outcome = await client.renew_batch(queue, ids, lock)
        return _outcomes(queue, renewed=outcome.renewed, not_found=outcome.not_found)

    return _settle(session, queue, ids, consumer, dry_run, settle)


def _outcomes(queue: str, **lists: list[str]) -> list[dict[str, Any]]:
    return [{"queue": queue, "id": id, "outcome": outcome} for outcome, ids in lists.items() for id in ids]


def _settle(
    session: Session,
    queue: str,
    given: list[str],
    consumer: str | None,
    dry_run: bool,
    settle: Callable[[HttpClient, list[str]], Awaitable[list[dict[str, Any]]]],
) -> Exit:
    ids = ids_of(given)
    if dry_run:
        rows = session.ask(lambda client: _held(client, queue, ids), consumer=consumer)
    else:
        rows = session.ask(lambda client: settle(client, ids), consumer=consumer, changes=True)
    session.output.many(rows, ("id", "outcome"), "id")
    missing = sum(row["outcome"] == "not_found" for row in rows)
    if not missing:
        return Exit.DONE
    say(
        f"{counted(missing, 'message')} of {len(ids)} not locked by this consumer in '{queue}': the lock has ended, or "
        f"--consumer differs from that of the consume"
    )
    return Exit.NOT_FOUND if missing == len(ids) else Exit.PARTLY


async def _held(client: HttpClient, queue: str, ids: list[str]) -> list[dict[str, Any]]:
    """What each id stands for now: `held` if this consumer can settle it."""
    rows = []
    for id in ids:
        try:
            found = await message_of(client, queue, id)
        except MessageNotFound:
            found = {}
        held = found.get("state") == "locked" and found.get("consumer") == client.consumer_id
        rows.append({"queue": queue, "id": id, "outcome": "held" if held else "not_found"})
    return rows


def peek(
    session: Session,
    queue: Queue,
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One message.", show_default=False)] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Messages to show at most.")] = 10,
    state: Annotated[Literal["available", "locked", "dead"], typer.Option(help="Which messages.")] = "available",
    raw: Raw = False,
) -> Exit:
    """Look at messages without taking them.

    \b
    qrusty-trio peek jobs -n 3
    qrusty-trio peek jobs 3f0e9c1a-6a55-4f5b-9d0e-2b7b8f6d1c11 --raw

    They are shown in the order in which they will be consumed, with their whole payloads. Nothing is locked or counted.
    Exits with 6 if there is no message.
    """

    async def look(client: HttpClient) -> int:
        shown = 0
        with _messages(session, raw, PEEK_COLUMNS) as rows:
            if id is not None:
                rows.add({"queue": queue, **await message_of(client, queue, id)})
                return 1
            async for message in messages_of(client, queue, state, limit=count):
                rows.add({"queue": queue, **message})
                shown += 1
        return shown

    if not session.ask(look):
        session.note("no message")
        return Exit.EMPTY
    return Exit.DONE


def find(session: Session, id: Id, raw: Raw = False) -> Exit:
    """Find a message by its id, whatever queue it is in.

    \b
    qrusty-trio find 3f0e9c1a-6a55-4f5b-9d0e-2b7b8f6d1c11
    qrusty-trio find 3f0e9c1a-6a55-4f5b-9d0e-2b7b8f6d1c11 --raw

    It may be available, locked or a dead letter. Nothing is locked or counted. Exits with 4 if it is in no queue.
    """

    async def look(client: HttpClient) -> None:
        found = await message_anywhere(client, id, session.quiet)
        with _messages(session, raw, FIND_COLUMNS) as rows:
            rows.add(found)

    session.ask(look)
    return Exit.DONE
