"""`context`: add, select, ls, rm, show.

Rule: these talk to no server. A context that is replaced or removed is named before and after.

Requirements: API-0124
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from qrusty_trio.cli import contexts
from qrusty_trio.cli.command import command
from qrusty_trio.cli.completion import context_names
from qrusty_trio.cli.contexts import Context
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed
from qrusty_trio.cli.parameters import DryRun
from qrusty_trio.cli.session import Session
from qrusty_trio.cli.targets import checked
from qrusty_trio.client.addresses import authorization_of

COLUMNS = ("name", "url", "selected", "read_only", "consumer")

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The context.", autocompletion=context_names, show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands to the group `context`."""
    command(app, "add", server=False)(add)
    command(app, "select", server=False)(select)
    command(app, "ls", server=False)(list_contexts)
    command(app, "show", server=False)(show)
    command(app, "rm", server=False)(remove)


def add(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.", show_default=False)],
    url: Annotated[str, typer.Argument(metavar="URL", help="Its server.", show_default=False)],
    consumer: Annotated[str | None, typer.Option(help="For whom messages are locked.", show_default=False)] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse commands that change something.")] = False,
    token_file: Annotated[
        Path | None, typer.Option(help="Where its token is; - is stdin. It is copied.", show_default=False)
    ] = None,
    select: Annotated[bool, typer.Option("--select", help="Select it, too.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace one of the same name.")] = False,
    dry_run: DryRun = False,
) -> Exit:
    """Give a server a name.

    \b
    qrusty-trio context add local http://127.0.0.1:6784 --select
    qrusty-trio context add production https://queue.example.com --read-only

    The names are in a file under XDG_CONFIG_HOME that only its owner can read.
    """
    path = contexts.file_of(os.environ)
    known = contexts.load(path)
    if name in known.contexts and not replace:
        raise Failed(Exit.REFUSED, f"there is a context '{name}': give --replace, or another name")
    known.contexts[name] = Context(checked(url, "URL"), consumer, read_only, _read_token(token_file))
    if select:
        known.selected = name
    if not dry_run:
        contexts.save(path, known)
    session.note(f"context '{name}' {'would be' if dry_run else 'was'} written to {path}")
    return Exit.DONE


def select(session: Session, name: Name) -> Exit:
    """Make the commands talk to a server where nothing else is said.

    \b
    qrusty-trio context select production
    qrusty-trio context select local

    --url, --context and QRUSTY_URL go before it.
    """
    path = contexts.file_of(os.environ)
    known = contexts.load(path)
    url = known.get(name).url
    known.selected = name
    contexts.save(path, known)
    session.note(f"context '{name}' is selected: {url}")
    return Exit.DONE


def list_contexts(session: Session) -> Exit:
    """List the contexts.

    \b
    qrusty-trio context ls
    qrusty-trio context ls -o name
    """
    known = contexts.load(contexts.file_of(os.environ))
    rows = [_row(name, known) for name in sorted(known.contexts)]
    session.output.many(rows, COLUMNS, "name")
    return Exit.DONE


def show(session: Session, name: Name) -> Exit:
    """Show a context.

    \b
    qrusty-trio context show production
    qrusty-trio context show production -o json
    """
    known = contexts.load(contexts.file_of(os.environ))
    known.get(name)
    session.output.one(_row(name, known), COLUMNS, "name")
    return Exit.DONE


def remove(session: Session, name: Name, dry_run: DryRun = False) -> Exit:
    """Forget a context. The server stays as it is.

    \b
    qrusty-trio context rm production
    qrusty-trio context rm production --dry-run
    """
    path = contexts.file_of(os.environ)
    known = contexts.load(path)
    url = known.get(name).url
    del known.contexts[name]
    if known.selected == name:
        known.selected = None
    if not dry_run:
        contexts.save(path, known)
    session.note(f"context '{name}' ({url}) {'would be' if dry_run else 'is'} forgotten")
    return Exit.DONE


def _read_token(file: Path | None) -> str | None:
    """The token in a file, without the space around it. Raises Failed."""
    if file is None:
        return None
    try:
        token = (sys.stdin.read() if str(file) == "-" else file.read_text(encoding="ascii")).strip()
        authorization_of(token)
    except OSError as error:
        raise Failed(Exit.USAGE, f"--token-file: {file} can't be read: {error.strerror}") from error
    except ValueError:
        raise Failed(Exit.USAGE, f"--token-file: there is no token in {file}") from None
    return token


def _row(name: str, known: contexts.Contexts) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(known.contexts[name])
    fields["token"] = fields.get("token") is not None
    defaults = {"consumer": None, "read_only": False}
    return {"name": name, **defaults, **fields, "selected": name == known.selected}
