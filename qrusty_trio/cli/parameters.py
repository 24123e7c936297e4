"""Arguments and options that several commands have, each spelled once.

Rule: the same thing has the same name everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qrusty_trio.cli.completion import queue_names
from qrusty_trio.cli.values import no_empty_name

Queue = Annotated[
    str,
    typer.Argument(
        metavar="QUEUE", help="The queue.", callback=no_empty_name, autocompletion=queue_names, show_default=False
    ),
]
Queues = Annotated[
    list[str],
    typer.Argument(
        metavar="QUEUE...", help="Queues.", callback=no_empty_name, autocompletion=queue_names, show_default=False
    ),
]
AnyQueues = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[QUEUE]...", help="Queues.", callback=no_empty_name, autocompletion=queue_names, show_default=False
    ),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="The id of a message.", show_default=False)]
Ids = Annotated[
    list[str], typer.Argument(metavar="ID...", help="Ids of messages; - reads them from stdin.", show_default=False)
]
Consumer = Annotated[
    str | None,
    typer.Option(help="For whom messages are locked. Else the context's consumer, or cli-USER@HOST."),
]
LockSeconds = Annotated[int, typer.Option("--lock", min=1, help="Seconds until a lock ends.")]
File = Annotated[Path | None, typer.Option("--file", "-f", help="Read from a file; - is stdin.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many.", show_default=False)]
Raw = Annotated[bool, typer.Option("--raw", help="Print payloads alone, unchanged, with nothing between them.")]
Match = Annotated[str | None, typer.Option(help="All queues whose names match: `*`, `?` and `[...]` as in a shell.")]
EveryQueue = Annotated[bool, typer.Option("--all-queues", help="All queues. Needs --yes.")]
