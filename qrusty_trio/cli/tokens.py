"""`token`: create. Makes a token for the tokens file of a server.

Rule: this talks to no server. The token is printed once, and is in no file and no argument.

Requirements: API-0192
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from qrusty_trio.access.grants import Granted
from qrusty_trio.access.tokens_file import BadTokens, check_name, entry_of, new_token, read_tokens
from qrusty_trio.cli.command import command
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed
from qrusty_trio.cli.output import say
from qrusty_trio.cli.parameters import DryRun
from qrusty_trio.cli.session import Session

FILE_MODE = 0o640


def register(app: typer.Typer) -> None:
    """Add the commands to the group `token`."""
    app.callback()(_group)
    command(app, "create", server=False)(create)


def _group() -> None:
    """Tokens of a server: create."""


def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.", show_default=False)],
    grant: Annotated[list[str], typer.Option(help="Such as publish:orders.*; any number.", show_default=False)],
    expires: Annotated[
        datetime | None, typer.Option(help="When it ends, in UTC.", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"])
    ] = None,
    requests: Annotated[float | None, typer.Option(min=0.001, help="Most requests a second.")] = None,
    messages: Annotated[float | None, typer.Option(min=0.001, help="Most messages a second.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="The tokens file to add it to.", show_default=False)
    ] = None,
    dry_run: DryRun = False,
) -> Exit:
    """Make a token, print it, and say what belongs into the tokens file.

    \b
    qrusty-trio token create orders-worker --grant consume:orders.* --grant read:orders.*
    qrusty-trio token create ci --grant "publish:*" --expires 2027-01-31 --file /etc/qrusty/tokens.toml

    The token goes to stdout. The lines for the file go to stderr, or are added to --file. The server reads that by
    itself. Nobody can find the token again in there: keep it now.
    """
    try:
        grants = [Granted.read(each) for each in grant]
        token = new_token()
        entry = entry_of(
            check_name(name), token, grants, expires.replace(tzinfo=UTC) if expires else None, requests, messages
        )
        if file is not None:
            _add(file, entry, dry_run)
    except (ValueError, BadTokens) as error:
        raise Failed(Exit.USAGE, str(error)) from None
    if file is None:
        for line in entry.splitlines():
            say(line)
    else:
        session.note(f"token '{name}' {'would be' if dry_run else 'was'} added to {file}")
    if not dry_run:
        typer.echo(token)
    return Exit.DONE


def _add(file: Path, entry: str, dry_run: bool) -> None:
    """Add an entry to a tokens file, which is made if it is not there. Raises Failed and BadTokens."""
    try:
        before = file.read_bytes() if file.exists() else b""
        separator = b"\n" if before.strip() else b""
        whole = before + (b"" if before.endswith(b"\n") or not before else b"\n") + separator + entry.encode()
        read_tokens(whole)
        if dry_run:
            return
        beside = file.with_name(f".{file.name}.new")
        descriptor = os.open(
            beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, file.stat().st_mode & 0o777 if before else FILE_MODE
        )
        with os.fdopen(descriptor, "wb") as written:
            written.write(whole)
            written.flush()
            os.fsync(written.fileno())
        beside.replace(file)
    except OSError as error:
        raise Failed(Exit.REFUSED, f"{file} can't be written: {error.strerror}") from error
