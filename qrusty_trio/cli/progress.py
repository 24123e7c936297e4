"""A progress bar on stderr, if that is a terminal.

Rule: a pipe, a log file and `--quiet` get none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qrusty_trio.cli.output import console

Advance = Callable[[int], None]


@contextmanager
def bar(what: str, total: int | None, quiet: bool) -> Iterator[Advance]:
    """Draw how far `what` came. Yields a function that takes the number of further pieces."""
    if quiet or not sys.stderr.isatty():
        yield lambda pieces: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda pieces: progress.advance(task, pieces)
