"""The throughput table: redrawn in place on a terminal, one line a look elsewhere.

Rule: it shows what it is given, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table


class Row(NamedTuple):
    """One queue at one moment: as /stats has it, and what the ledger has counted."""

    queue: str
    available: int
    locked: int
    publish_rate: float
    ack_rate: float
    published: int
    acked: int
    nacked: int


class Screen:
    """Where the rows go."""

    def __init__(self, console: Console, live: Live | None) -> None:
        self._console = console
        self._live = live

    def show(self, seconds: float, rows: Sequence[Row]) -> None:
        """A look at the queues, `seconds` after the start of the load."""
        if self._live is not None:
            self._live.update(_table(seconds, rows), refresh=True)
            return
        for row in rows:
            self._console.print(
                f"{seconds:5.1f} s {row.queue:<16} {row.publish_rate:7.1f} published/s {row.ack_rate:7.1f} acked/s "
                f"{row.available:>5} available {row.locked:>3} locked {row.published:>7,} published "
                f"{row.acked:>7,} acked",
                highlight=False,
                soft_wrap=True,
            )


@contextmanager
def screen(console: Console) -> Iterator[Screen]:
    """A screen that is left in order."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield Screen(console, live)
    else:
        yield Screen(console, None)


def _table(seconds: float, rows: Sequence[Row]) -> Table:
    table = Table(title=f"{seconds:.0f} s", title_justify="left")
    table.add_column("queue")
    for heading in ("published/s", "acked/s", "available", "locked", "published", "acked", "nacked"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.queue,
            f"{row.publish_rate:,.1f}",
            f"{row.ack_rate:,.1f}",
            f"{row.available:,}",
            f"{row.locked:,}",
            f"{row.published:,}",
            f"{row.acked:,}",
            f"{row.nacked:,}",
        )
    return table
