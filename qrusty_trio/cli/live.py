"""`top` and `watch`: what changes while one looks.

Rule: one connection, and the next request only after the response to the last. A server that is lost is said, its old
numbers stay, and it is asked again. One that was never there is an error, but on a terminal `top` waits for it, too.

Requirements: API-0135
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import trio
import typer

from qrusty_trio.cli.command import command
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.output import Format, console, on_terminal, say, table_of, writing
from qrusty_trio.cli.parameters import AnyQueues
from qrusty_trio.cli.queues import Sort
from qrusty_trio.cli.session import Session
from qrusty_trio.client import ConnectionLost, HttpClient, Unavailable

TOP_COLUMNS = (
    "name",
    "available",
    "locked",
    "dead",
    "oldest_age_seconds",
    "publish_rate_per_sec",
    "ack_rate_per_sec",
    "trend",
)
WATCH_COLUMNS = ("time_ms", "queue", "available", "locked", "dead")
CHROME_LINES = 7
"""Lines of `top` beside the queues."""
MIN_SECONDS = 0.2
"""The server renews its rates once a second; more often only costs it."""
MAX_ROWS = 200

Interval = Annotated[float, typer.Option("--interval", min=MIN_SECONDS, help="Seconds between two looks.")]
Looks = Annotated[
    int | None, typer.Option("--count", "-n", min=1, help="Looks; endless if not given.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "top")(top)
    command(app, "watch")(watch)


class _Looks:
    """Counts looks, with a pause before each but the first: `while await looks.next(): ...`."""

    def __init__(self, interval: float, count: int | None) -> None:
        self._interval = interval
        self._count = count
        self._done = 0

    async def next(self) -> bool:
        if self._done == self._count:
            return False
        if self._done:
            await trio.sleep(self._interval)
        self._done += 1
        return True


def top(
    session: Session,
    sort: Annotated[Sort, typer.Option(help="What to sort by; trouble: those that need attention.")] = "trouble",
    interval: Interval = 1.0,
    count: Looks = None,
) -> Exit:
    """Show the queues that need attention, live.

    \b
    qrusty-trio top
    qrusty-trio top --sort publish_rate --interval 5

    Ctrl-C ends it. Where nobody looks, each look prints a JSON line for each queue.
    """

    async def talk(client: HttpClient) -> None:
        if on_terminal() and session.output.format() is Format.TABLE:
            await _draw(session, client, sort, interval, count)
            return
        with session.output.rows(TOP_COLUMNS, "name", best=Format.NDJSON) as rows:
            looks = _Looks(interval, count)
            seen = False
            while await looks.next():
                try:
                    page = await _page(client, sort, MAX_ROWS)
                except (ConnectionLost, Unavailable) as error:
                    if not seen:
                        raise
                    say(f"not reachable, trying again: {error}")
                    continue
                seen = True
                for queue in page["queues"]:
                    rows.add(queue)

    session.ask(talk)
    return Exit.DONE


async def _page(client: HttpClient, sort: str, rows: int) -> dict[str, Any]:
    order: Any = "asc" if sort == "name" else "desc"
    page: dict[str, Any] = await client.queue_list(sort=sort, order=order, limit=min(rows, MAX_ROWS))
    return page


async def _draw(session: Session, client: HttpClient, sort: str, interval: float, count: int | None) -> None:
    from rich.live import Live

    screen = console()
    page: dict[str, Any] = {"queues": [], "totals": {}}
    with writing(), Live(console=screen, screen=True, auto_refresh=False) as live:
        looks = _Looks(interval, count)
        while await looks.next():
            lost = ""
            try:
                page = await _page(client, sort, max(1, screen.height - CHROME_LINES))
            except (ConnectionLost, Unavailable) as error:
                lost = str(error)
            live.update(_picture(session.target.url, page, lost), refresh=True)


def _picture(url: str, page: dict[str, Any], lost: str) -> Any:
    from rich.console import Group
    from rich.text import Text

    totals = page["totals"]
    counts = "  ".join(f"{name} {totals.get(name, 0):,}" for name in ("queues", "available", "locked", "dead"))
    rates = "  ".join(f"{name} {totals.get(f'{name}_rate_per_sec', 0):,.1f}/s" for name in ("publish", "ack", "nack"))
    state = Text(f"NOT REACHABLE, old numbers: {lost}", style="bold red") if lost else Text(rates)
    title = Text(f"{url}   {time.strftime('%H:%M:%S')}", style="bold")
    body = table_of(TOP_COLUMNS, page["queues"])
    if lost:
        body.style = "dim"
    return Group(title, Text(counts), state, body)


def watch(
    session: Session,
    queues: AnyQueues = None,
    interval: Interval = 1.0,
    count: Looks = None,
) -> Exit:
    """Print a line whenever the counts of queues change.

    \b
    qrusty-trio watch jobs
    qrusty-trio watch jobs mail -o csv --interval 5

    Without queues it watches the sums of all, as the queue `*`. A queue may have that name, too: only one that is given
    by name is watched as such. Ctrl-C ends it.
    """

    async def talk(client: HttpClient) -> None:
        names: list[str] | list[None] = queues or [None]
        seen: dict[str, tuple[int, ...]] = {}
        with session.output.stream(WATCH_COLUMNS, "queue") as rows:
            looks = _Looks(interval, count)
            while await looks.next():
                try:
                    found = [await _totals(client, name) for name in names]
                except (ConnectionLost, Unavailable) as error:
                    if not seen:
                        raise
                    say(f"not reachable, trying again: {error}")
                    continue
                for row in found:
                    counts = row["available"], row["locked"], row["dead"]
                    if seen.get(row["queue"]) != counts:
                        seen[row["queue"]] = counts
                        rows.add(row)

    session.ask(talk)
    return Exit.DONE


async def _totals(client: HttpClient, name: str | None) -> dict[str, Any]:
    totals = (await client.queue_list(name=name, limit=1))["totals"]
    row = {"time_ms": time.time_ns() // 1_000_000, "queue": "*" if name is None else name}
    return {**row, **{each: totals[each] for each in ("available", "locked", "dead")}}
