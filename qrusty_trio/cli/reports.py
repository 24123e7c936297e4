"""`stats`: the whole server in a few lines; `config`: what this command would use.

Rule: nothing is changed.
"""

from __future__ import annotations

import os

import typer

from qrusty_trio import __version__
from qrusty_trio.cli import contexts
from qrusty_trio.cli.command import command
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.session import Session

SUMMARY = (
    "summary.total_queues",
    "summary.total_available",
    "summary.total_locked",
    "summary.total_messages",
    "summary.total_dead_letters",
    "summary.memory_usage_bytes",
    "summary.memory_limit_bytes",
    "summary.memory_pressure",
    "summary.storage.locked_index_size",
    "summary.storage.payload_store_disk_bytes",
)
CONFIG = ("url", "source", "consumer", "read_only", "contexts_file", "version")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "stats")(stats)
    command(app, "config")(config)


def stats(session: Session) -> Exit:
    """Print the counts and the memory of a server; as JSON, of each queue, too.

    \b
    qrusty-trio stats
    qrusty-trio stats -o json --url http://127.0.0.1:6784

    `qrusty-trio queue list` has the queues as a table.
    """
    session.output.one(session.ask(lambda client: client.stats()), SUMMARY, "summary.total_messages")
    return Exit.DONE


def config(session: Session) -> Exit:
    """Print which server the commands talk to, and which word decided that.

    \b
    qrusty-trio config
    qrusty-trio config --context production -o json

    The nearest word counts: --url or --context, then QRUSTY_URL, then the selected context, then the default.
    """
    target = session.target
    row = {
        "url": target.url,
        "source": target.source,
        "consumer": target.consumer,
        "read_only": target.read_only,
        "contexts_file": str(contexts.file_of(os.environ)),
        "version": __version__,
    }
    session.output.one(row, CONFIG, "url")
    return Exit.DONE
