"""`store`: check and dump, for the directory of a server that is stopped.

Rule: nothing is changed, and nothing is repaired. No server can start on a store that is being read.

Requirements: API-0133
"""

from __future__ import annotations

import base64
import itertools
import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from qrusty_trio.cli.command import command
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed
from qrusty_trio.cli.output import Format, say
from qrusty_trio.cli.progress import bar
from qrusty_trio.cli.session import Session
from qrusty_trio.wording import counted

PROBLEMS = ("code", "queue", "sentence")
DUMPED = ("family", "key", "value")
SHOWN_PROBLEMS = 100
"""More are counted, but not printed, unless the output is for programs."""
PAIRS_PER_SCAN = 500

Directory = Annotated[
    Path | None, typer.Argument(metavar="[DIRECTORY]", help="The store; DATA_PATH if not given.", show_default=False)
]


class FamilyName(StrEnum):
    """The families of the store, by the names they have on disk."""

    META = "meta"
    MESSAGES = "messages"
    LOCKS = "locks"
    DEAD = "dead"
    DEDUP = "dedup"
    EXTERNAL = "external"


def register(app: typer.Typer) -> None:
    """Add the commands to the group `store`."""
    command(app, "check", server=False)(check)
    command(app, "dump", server=False)(dump)


def check(session: Session, directory: Directory = None) -> Exit:
    """Verify a stopped store: counters, order, records, references, payloads.

    \b
    qrusty-trio store check ./data
    DATA_PATH=/data qrusty-trio store check -o json

    Every record and every payload is read. Nothing is changed or repaired. Exits with 1 if the store contradicts
    itself, and prints where. It can't tell that the newest records are missing because RocksDB's log was damaged or
    removed: after a power cut, too, a store begins with what is before the first hole in its log.
    """
    from qrusty_trio.core.verifying import Problem, Verifier
    from qrusty_trio.storage.rocksdb_reading import PayloadFiles

    with _opened(directory) as (store, path), session.output.rows(PROBLEMS, "code", best=Format.TABLE) as rows:
        total = 0

        def found(problem: Problem) -> None:
            nonlocal total
            total += 1
            if total <= SHOWN_PROBLEMS or session.output.format() is not Format.TABLE:
                rows.add(problem._asdict())

        payloads = PayloadFiles(path / "payloads")
        verifier = Verifier(store, payloads.read, found)
        try:
            with bar("check", None, session.quiet) as advance:
                for looked_at in verifier.run():
                    advance(looked_at)
        finally:
            payloads.close()
    what = f"{counted(verifier.queues, 'queue')} and {counted(verifier.messages, 'message')} in {path}"
    if total > SHOWN_PROBLEMS and session.output.format() is Format.TABLE:
        say(f"{total - SHOWN_PROBLEMS} more: -o ndjson prints all")
    if total:
        say(f"{what}: {counted(total, 'problem')}. Put back a backup, or ask before you start a server on it")
        return Exit.REFUSED
    session.note(f"{what}: all in order")
    return Exit.DONE


def dump(
    session: Session,
    directory: Directory = None,
    family: Annotated[
        list[FamilyName] | None, typer.Option(help="Only these families; once for each.", show_default=False)
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Entries of a family at most.", show_default=False)] = None,
) -> Exit:
    """Print every key and value of a stopped store, as hex and base64.

    \b
    qrusty-trio store dump ./data --family meta
    qrusty-trio store dump ./data -o ndjson | head -n 100

    docs/format.md says what they mean.
    """
    from qrusty_trio.storage.base import Family

    chosen = [each for each in Family if not family or each.name.lower() in family]
    with _opened(directory) as (store, _), session.output.stream(DUMPED, "key") as rows:
        for each in chosen:
            for key, value in itertools.islice(_pairs(store, each), limit):
                rows.add({"family": each.name.lower(), "key": key.hex(), "value": base64.b64encode(value).decode()})
    return Exit.DONE


def _pairs(store: Any, family: Any) -> Iterator[tuple[bytes, bytes]]:
    begin, end = b"", b"\xff" * 3000
    while pairs := store.scan(family, begin, end, PAIRS_PER_SCAN):
        yield from pairs
        begin = pairs[-1][0] + b"\0"


class _Opened:
    """An open store and its path. The faults of the store become `Failed`."""

    def __init__(self, directory: Path | None) -> None:
        given = directory or os.environ.get("DATA_PATH")
        if not given:
            raise Failed(Exit.USAGE, "give the directory of the store, or set DATA_PATH")
        self._path = Path(given)

    def __enter__(self) -> tuple[Any, Path]:
        from qrusty_trio.errors import StartupRefused
        from qrusty_trio.storage.rocksdb_reading import StoppedStore

        try:
            self._store = StoppedStore(self._path)
        except StartupRefused as refusal:
            raise Failed(Exit.REFUSED, str(refusal)) from refusal
        return self._store, self._path

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        from qrusty_trio.errors import StorageFault

        self._store.close()
        if isinstance(error, StorageFault):
            raise Failed(Exit.REFUSED, str(error)) from error


def _opened(directory: Path | None) -> _Opened:
    return _Opened(directory)
