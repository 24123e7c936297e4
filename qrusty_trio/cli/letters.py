"""`dead`: list, show, requeue, purge.

Rule: what is chosen by a filter is counted by a dry run of the server first. The real run is bounded to what that
counted: letters that came later are untouched.

Requirements: API-0128
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal

import typer

from qrusty_trio.cli.asking import confirm
from qrusty_trio.cli.command import command
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed
from qrusty_trio.cli.output import Format, say
from qrusty_trio.cli.parameters import DryRun, Id, Limit, Queue, Raw, Yes
from qrusty_trio.cli.payloads import ids_of
from qrusty_trio.cli.publishing import priority_of
from qrusty_trio.cli.session import Session
from qrusty_trio.client import HttpClient
from qrusty_trio.wording import counted

COLUMNS = ("id", "died_at", "reason", "consumer", "deliveries", "requeues", "error")
SHOWN = (*COLUMNS, "priority", "created_at", "max_retries", "payload")
PAGE = 100

Reason = Annotated[
    Literal["nacked", "expired", "connection_lost", "unknown"] | None,
    typer.Option(help="Why they died.", show_default=False),
]
By = Annotated[str | None, typer.Option("--by", help="The consumer that had them last.", show_default=False)]
OlderThan = Annotated[
    int | None, typer.Option("--older-than", min=0, help="Seconds since they died.", show_default=False)
]
Text = Annotated[str | None, typer.Option(help="In the payload or the error.", show_default=False)]
Every = Annotated[bool, typer.Option("--every", help="All dead letters of the queue.")]
SomeIds = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID]...", help="Ids of dead letters; - reads them from stdin.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the group `dead`."""
    command(app, "list")(list_letters)
    command(app, "show")(show)
    command(app, "requeue")(requeue)
    command(app, "purge")(purge)


async def letters_of(
    client: HttpClient, queue: str, limit: int | None = None, **filters: Any
) -> AsyncIterator[dict[str, Any]]:
    """The dead letters that pass the filters, in the order in which they died, page by page."""
    cursor: str | None = None
    left = limit
    while left is None or left > 0:
        page = await client.dead_letters(queue, limit=min(PAGE, left or PAGE), cursor=cursor, **filters)
        for letter in page["messages"]:
            yield letter
        if left is not None:
            left -= len(page["messages"])
        cursor = page["cursor"]
        if cursor is None:
            return


def list_letters(
    session: Session,
    queue: Queue,
    reason: Reason = None,
    by: By = None,
    older_than: OlderThan = None,
    text: Text = None,
    limit: Limit = None,
) -> Exit:
    """List the dead letters of a queue.

    \b
    qrusty-trio dead list jobs --reason expired
    qrusty-trio dead list jobs --text "no such address" -o name

    Exits with 6 if there is none.
    """

    async def talk(client: HttpClient) -> int:
        count = 0
        with session.output.rows(COLUMNS, "id", best=Format.NDJSON) as rows:
            async for letter in letters_of(client, queue, limit, **_filters(reason, by, older_than, text)):
                rows.add(letter)
                count += 1
        return count

    if not session.ask(talk):
        session.note("no dead letter")
        return Exit.EMPTY
    return Exit.DONE


def show(session: Session, queue: Queue, id: Id, raw: Raw = False) -> Exit:
    """Show a dead letter with its whole payload, and why and when it died.

    \b
    qrusty-trio dead show jobs 3f0e9c1a-6a55-4f5b-9d0e-2b7b8f6d1c11
    qrusty-trio dead show jobs 3f0e9c1a-6a55-4f5b-9d0e-2b7b8f6d1c11 --raw > payload
    """
    letter = session.ask(lambda client: client.dead_letter(queue, id))
    if raw:
        with session.output.payloads() as rows:
            rows.add(letter)
    else:
        session.output.one(letter, SHOWN, "id")
    return Exit.DONE


def requeue(
    session: Session,
    queue: Queue,
    ids: SomeIds = None,
    reason: Reason = None,
    by: By = None,
    older_than: OlderThan = None,
    text: Text = None,
    every: Every = False,
    to: Annotated[str | None, typer.Option(help="Another queue.", show_default=False)] = None,
    priority: Annotated[str | None, typer.Option(help="A new priority.", show_default=False)] = None,
    text_priority: Annotated[
        str | None, typer.Option(help="The same for a queue of kind Text.", show_default=False)
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> Exit:
    """Make dead letters available again.

    \b
    qrusty-trio dead requeue jobs --reason expired --dry-run
    qrusty-trio dead requeue jobs --every --to jobs-again --yes

    They are chosen by ids, by filters, or all. Exits with 3 if some could not be requeued.
    """
    changed = priority_of(priority, text_priority) if priority is not None or text_priority is not None else None
    more: dict[str, Any] = {"to": to, "priority": changed}

    async def move(client: HttpClient, choice: Mapping[str, Any]) -> dict[str, Any]:
        return await client.requeue_dead_letters(queue, **choice, **more)

    choice = _choice(ids, _filters(reason, by, older_than, text), every)
    return _take(session, queue, "requeue", choice, move, dry_run, yes or "ids" in choice)


def purge(
    session: Session,
    queue: Queue,
    ids: SomeIds = None,
    reason: Reason = None,
    by: By = None,
    older_than: OlderThan = None,
    text: Text = None,
    every: Every = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> Exit:
    """Remove dead letters for good.

    \b
    qrusty-trio dead purge jobs --older-than 604800 --dry-run
    qrusty-trio dead purge jobs --every --yes

    They are chosen by ids, by filters, or all. It asks for the queue's name.
    """

    async def move(client: HttpClient, choice: Mapping[str, Any]) -> dict[str, Any]:
        return await client.purge_dead_letters(queue, **choice)

    choice = _choice(ids, _filters(reason, by, older_than, text), every)
    return _take(session, queue, "purge", choice, move, dry_run, yes)


def _filters(reason: str | None, by: str | None, older_than: int | None, text: str | None) -> dict[str, Any]:
    given = {"reason": reason, "consumer": by, "older_than_secs": older_than, "text": text}
    return {name: value for name, value in given.items() if value is not None}


def _choice(ids: list[str] | None, filters: dict[str, Any], every: bool) -> dict[str, Any]:
    if bool(ids) + bool(filters) + every != 1:
        raise Failed(Exit.USAGE, "give ids, filters (--reason, --by, --older-than, --text) or --every: exactly one")
    if ids:
        return {"ids": ids_of(ids)}
    return {"all": True} if every else {"filter": filters}


def _take(session: Session, queue: str, verb: str, choice: dict[str, Any], move: Any, dry_run: bool, yes: bool) -> Exit:
    if not dry_run:
        session.check_writable()
    seen = session.ask(lambda client: move(client, {**choice, "dry_run": True}))
    done = "requeued" if verb == "requeue" else "purged"
    if dry_run:
        session.output.one(seen, ("count", "looked_at"), "count", best=Format.JSON)
        session.tell(f"{counted(seen['count'], 'dead letter')} of '{queue}' would be {done}")
        return _status(seen, seen["count"])
    if seen["count"]:
        what = f"{verb} {counted(seen['count'], 'dead letter')} of '{queue}' on {session.target.url}"
        confirm(what, queue, yes)
    bounded = {**choice, "up_to": seen["up_to"]}
    outcome = session.ask(lambda client: move(client, bounded), changes=True)
    session.output.one(outcome, (done, "looked_at"), done, best=Format.JSON)
    session.tell(f"{counted(outcome[done], 'dead letter')} of '{queue}' {done}")
    return _status(outcome, outcome[done])


def _status(outcome: Mapping[str, Any], hit: int) -> Exit:
    missing = outcome.get("not_found") or []
    refused = outcome.get("not_eligible") or []
    for id in missing:
        say(f"{id}: no dead letter of this queue")
    for each in refused:
        say(f"{each['id']}: {each['error']}")
    if not missing and not outcome.get("refused"):
        return Exit.DONE
    if hit:
        return Exit.PARTLY
    return Exit.NOT_FOUND if missing else Exit.REFUSED
