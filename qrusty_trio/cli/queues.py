"""`queue`: list, show, create, update, purge, delete, wait.

Rule: what goes is named, counted and confirmed before it goes; protected queues are skipped and counted.

Requirements: API-0128
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import trio
import typer

from qrusty_trio.cli.command import command
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed
from qrusty_trio.cli.output import say
from qrusty_trio.cli.parameters import DryRun, Limit, Queue
from qrusty_trio.cli.session import Session
from qrusty_trio.cli.values import no_empty_name
from qrusty_trio.client import UNCHANGED, HttpClient, QueueExists, QueueNotFound
from qrusty_trio.client.results import Unchanged

PAGE = 200
COLUMNS = ("name", "available", "locked", "dead", "oldest_age_seconds", "ack_rate_per_sec", "trend")
SHOWN = (
    "name",
    "available",
    "locked",
    "dead",
    "oldest_age_seconds",
    "publish_rate_per_sec",
    "ack_rate_per_sec",
    "nack_rate_per_sec",
    "trend",
    "drain_seconds",
    "config.ordering",
    "config.priority_kind",
    "config.allow_duplicates",
    "config.protected",
    "config.dead_letter_ttl_seconds",
    "config.dead_letter_max",
)
LOOK_SECONDS = 0.2
"""Between two looks of `queue wait`."""

Sort = Literal[
    "name",
    "available",
    "locked",
    "dead",
    "total",
    "oldest",
    "publish_rate",
    "ack_rate",
    "nack_rate",
    "trouble",
]


def register(app: typer.Typer) -> None:
    """Add the commands to the group `queue`."""
    command(app, "list")(list_queues)
    command(app, "show")(show)
    command(app, "create")(create)
    command(app, "update")(update)
    command(app, "wait")(wait)


async def queues_of(client: HttpClient, limit: int | None = None, **query: Any) -> AsyncIterator[dict[str, Any]]:
    """The queues, as `GET /queue-list` describes them, page by page."""
    offset = 0
    while limit is None or offset < limit:
        page = await client.queue_list(offset=offset, limit=min(PAGE, (limit or PAGE + offset) - offset), **query)
        for queue in page["queues"]:
            yield queue
        offset += len(page["queues"])
        if len(page["queues"]) < PAGE:
            return


async def queue_of(client: HttpClient, name: str) -> dict[str, Any]:
    """One queue. Raises QueueNotFound."""
    found: list[dict[str, Any]] = (await client.queue_list(name=name))["queues"]
    if not found:
        raise QueueNotFound(f"Queue '{name}' does not exist", "queue_not_found", 404)
    return found[0]


def list_queues(
    session: Session,
    search: Annotated[str | None, typer.Option(help="Only names with this text.", show_default=False)] = None,
    sort: Annotated[Sort, typer.Option(help="What to sort by; trouble: those that need attention.")] = "name",
    desc: Annotated[bool, typer.Option("--desc", help="The greatest first.")] = False,
    limit: Limit = None,
) -> Exit:
    """List the queues.

    \b
    qrusty-trio queue list --sort trouble --desc --limit 10
    qrusty-trio queue list --search mail -o name
    """

    async def talk(client: HttpClient) -> None:
        query = {"search": search, "sort": sort, "order": "desc" if desc else "asc"}
        with session.output.rows(COLUMNS, "name") as rows:
            async for queue in queues_of(client, limit, **query):
                rows.add(queue)

    session.ask(talk)
    return Exit.DONE


def show(session: Session, queue: Queue) -> Exit:
    """Show a queue: counts, rates, configuration.

    \b
    qrusty-trio queue show jobs
    qrusty-trio queue show jobs -o json --url http://127.0.0.1:6784
    """
    session.output.one(session.ask(lambda client: queue_of(client, queue)), SHOWN, "name")
    return Exit.DONE


def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="QUEUE", help="Its name.", callback=no_empty_name, show_default=False)],
    ordering: Annotated[
        Literal["MaxFirst", "MinFirst", "Fifo"], typer.Option(help="Which message is first.")
    ] = "MaxFirst",
    kind: Annotated[Literal["Numeric", "Text"], typer.Option(help="What a priority is.")] = "Numeric",
    duplicates: Annotated[
        bool, typer.Option("--duplicates/--no-duplicates", help="Whether equal payloads may wait together.")
    ] = True,
    dead_letter_ttl: Annotated[
        int | None, typer.Option(min=1, help="Seconds that a dead letter is kept.", show_default=False)
    ] = None,
    dead_letter_max: Annotated[
        int | None, typer.Option(min=1, help="Dead letters that are kept.", show_default=False)
    ] = None,
    protect: Annotated[
        bool, typer.Option("--protect", help="Refuse purge, delete, rename and stricter limits of dead letters.")
    ] = False,
    if_not_exists: Annotated[bool, typer.Option("--if-not-exists", help="No error if there is one.")] = False,
    dry_run: DryRun = False,
) -> Exit:
    """Create a queue.

    \b
    qrusty-trio queue create mail --ordering Fifo --no-duplicates
    qrusty-trio queue create mail --if-not-exists
    """

    async def talk(client: HttpClient) -> bool:
        if dry_run:
            found = (await client.queue_list(name=name))["queues"]
            if found and not if_not_exists:
                raise QueueExists(f"Queue '{name}' exists", "queue_exists", 409)
            return not found
        try:
            await client.create_queue(
                name,
                ordering,
                allow_duplicates=duplicates,
                priority_kind=kind,
                dead_letter_ttl_seconds=dead_letter_ttl,
                dead_letter_max=dead_letter_max,
                protected=protect,
            )
        except QueueExists:
            if not if_not_exists:
                raise
            return False
        return True

    if session.ask(talk, changes=not dry_run):
        session.tell(f"queue '{name}' {'would be' if dry_run else 'was'} created")
    else:
        session.tell(f"queue '{name}' exists, and stays as it is")
    return Exit.DONE


def update(
    session: Session,
    queue: Queue,
    rename: Annotated[
        str | None, typer.Option(metavar="NAME", help="A new name.", callback=no_empty_name, show_default=False)
    ] = None,
    duplicates: Annotated[
        bool | None,
        typer.Option(
            "--duplicates/--no-duplicates", help="Whether equal payloads may wait together.", show_default=False
        ),
    ] = None,
    dead_letter_ttl: Annotated[
        str | None, typer.Option(metavar="SECONDS|none", help="How long dead letters are kept.", show_default=False)
    ] = None,
    dead_letter_max: Annotated[
        str | None, typer.Option(metavar="N|none", help="How many dead letters are kept.", show_default=False)
    ] = None,
    protect: Annotated[
        bool | None,
        typer.Option(
            "--protect/--no-protect",
            help="Whether purge, delete, rename and stricter limits of dead letters are refused.",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRun = False,
) -> Exit:
    """Rename a queue, or change what it allows and keeps.

    \b
    qrusty-trio queue update mail --rename letters
    qrusty-trio queue update letters --dead-letter-max none --protect

    Turning duplicates off removes those that wait: of equal messages the first stays.
    """
    changes = {
        "name": rename,
        "allow_duplicates": duplicates,
        "dead_letter_ttl_seconds": _number_or_none("--dead-letter-ttl", dead_letter_ttl),
        "dead_letter_max": _number_or_none("--dead-letter-max", dead_letter_max),
        "protected": protect,
    }
    given = {
        field: value
        for field, value in changes.items()
        if not isinstance(value, Unchanged) and (value is not None or field.startswith("dead_letter"))
    }
    if not given:
        raise Failed(Exit.USAGE, "nothing to change was given: see `qrusty-trio queue update --help`")

    async def talk(client: HttpClient) -> None:
        if dry_run:
            await queue_of(client, queue)
            return
        await client.update_queue(
            queue,
            new_name=rename,
            allow_duplicates=duplicates,
            dead_letter_ttl_seconds=changes["dead_letter_ttl_seconds"],  # type: ignore[arg-type]  # one of many types
            dead_letter_max=changes["dead_letter_max"],  # type: ignore[arg-type]  # the same
            protected=protect,
        )

    session.ask(talk, changes=not dry_run)
    what = ", ".join(f"{field}={value}" for field, value in given.items())
    session.tell(f"queue '{queue}' {'would be' if dry_run else 'was'} changed: {what}")
    return Exit.DONE


def _number_or_none(option: str, text: str | None) -> int | Unchanged | None:
    if text is None:
        return UNCHANGED
    if text == "none":
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    raise Failed(Exit.USAGE, f"{option} '{text}' is neither a number nor none")


def wait(
    session: Session,
    queue: Queue,
    empty: Annotated[bool, typer.Option("--empty", help="Until nothing is available or locked.")] = False,
    available: Annotated[
        int | None, typer.Option(min=1, help="Until so many messages are available.", show_default=False)
    ] = None,
    within: Annotated[float, typer.Option(min=0, help="Seconds to wait.")] = 60.0,
) -> Exit:
    """Wait until a queue is empty, or has messages.

    \b
    qrusty-trio queue wait jobs --empty --within 60
    qrusty-trio queue wait jobs --available 1 && echo "there is work"

    Exits with 1 if that does not happen in time. A queue that does not exist is empty.
    """
    if empty == (available is not None):
        raise Failed(Exit.USAGE, "give either --empty or --available N")

    async def talk(client: HttpClient) -> bool:
        with trio.move_on_after(within):
            while True:
                page = await client.queue_list(name=queue)
                totals = page["totals"]
                done = not totals["available"] + totals["locked"] if empty else totals["available"] >= (available or 1)
                if done:
                    return True
                await trio.sleep(LOOK_SECONDS)
        return False

    if session.ask(talk):
        return Exit.DONE
    say(f"queue '{queue}' is not {'empty' if empty else 'filled'} after {within:g} s")
    return Exit.REFUSED
