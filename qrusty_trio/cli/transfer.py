"""`export` and `import`: the messages of queues as JSON lines.

Rule: an export only looks: nothing is locked. Both hold one page or one batch, however much there is, and the names of
the queues. What an import has published stays, and where it stopped is said.

Requirements: API-0131
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from qrusty_trio.cli.batches import BATCH_BYTES, BATCH_MESSAGES, Numbered, Sending
from qrusty_trio.cli.command import command
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.export_format import Line, check_header, encode, header, missing, read_line
from qrusty_trio.cli.failures import Failed, explained
from qrusty_trio.cli.output import say, write
from qrusty_trio.cli.parameters import AnyQueues, DryRun, File
from qrusty_trio.cli.payloads import lines, opened
from qrusty_trio.cli.progress import Advance, bar
from qrusty_trio.cli.queues import queue_of, queues_of
from qrusty_trio.cli.reading import State, messages_of
from qrusty_trio.cli.session import Session
from qrusty_trio.client import HttpClient, NewMessage, QueueExists, QueueNotFound, RequestError
from qrusty_trio.wording import counted

STATES: tuple[State, ...] = ("available", "locked")


class StateName(StrEnum):
    """What a message can be."""

    AVAILABLE = "available"
    LOCKED = "locked"
    DEAD = "dead"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "export")(export)
    command(app, "import")(import_)


def export(
    session: Session,
    queues: AnyQueues = None,
    all_queues: Annotated[bool, typer.Option("--all-queues", help="All queues.")] = False,
    state: Annotated[
        list[StateName] | None,
        typer.Option(help="Which messages, once for each; available and locked if not given.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Write to a file that does not exist yet.", show_default=False)
    ] = None,
) -> Exit:
    """Write the messages of queues as JSON lines, to stdout or a file.

    \b
    qrusty-trio export jobs -f jobs.jsonl
    qrusty-trio export --all-queues --state available --state dead | gzip > all.jsonl.gz

    Nothing is locked or changed. Messages that come or go meanwhile may be in it or not, and one that is locked or
    given back meanwhile may be missing or be there twice. Stop the workers for an exact copy.

    Locked messages follow those that wait. So after an import a message that was locked comes after those that waited
    and have the same priority, or after all of them in a queue of ordering Fifo.
    """
    if bool(queues) == all_queues:
        raise Failed(Exit.USAGE, "give the names of queues, or --all-queues")

    async def talk(client: HttpClient) -> tuple[int, int]:
        chosen = [await queue_of(client, each) for each in dict.fromkeys(queues or [])]
        if all_queues:
            chosen = [each async for each in queues_of(client)]
        states = STATES if not state else tuple(dict.fromkeys(each.value for each in state))
        total = sum(each[one] for each in chosen for one in states)
        with _sink(file) as put, bar("export", total, session.quiet) as advance:
            put(header(session.target.url, time.time_ns() // 1_000_000))
            messages = 0
            for each in chosen:
                messages += await _export_queue(client, each, states, put, advance)
            put({"end": True, "queues": len(chosen), "messages": messages})
        return len(chosen), messages

    count, messages = session.ask(talk)
    session.tell(f"{counted(messages, 'message')} of {counted(count, 'queue')} exported")
    return Exit.DONE


async def _export_queue(
    client: HttpClient, queue: dict[str, Any], states: tuple[State, ...], put: Any, advance: Advance
) -> int:
    name = queue["name"]
    put({"queue": name, "config": queue["config"]})
    count = 0
    for state in states:
        try:
            async for message in messages_of(client, name, state):
                if message["payload"] is None:
                    say(f"message {message['id']} of '{name}' has lost its payload, and is left out")
                    continue
                message.pop("priority_text", None)
                put({"queue": name, **message})
                count += 1
                advance(1)
        except QueueNotFound:
            say(f"queue '{name}' was deleted meanwhile")
            break
    return count


@contextmanager
def _sink(file: Path | None) -> Iterator[Any]:
    """Where lines go. A file that could not be written whole is removed."""
    if file is None or str(file) == "-":
        yield lambda row: write(encode(row) + b"\n")
        return
    try:
        stream = file.open("xb")
    except FileExistsError as error:
        raise Failed(Exit.REFUSED, f"{file} exists: give another name, or remove it") from error
    except OSError as error:
        raise _not_written(file, error) from error

    def put(row: dict[str, Any]) -> None:
        try:
            stream.write(encode(row) + b"\n")
        except OSError as error:
            raise _not_written(file, error) from error

    try:
        yield put
        try:
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
        except OSError as error:
            raise _not_written(file, error) from error
    except BaseException:
        with suppress(OSError):  # what could not be written can't be now
            stream.close()
        file.unlink(missing_ok=True)
        raise


def _not_written(file: Path, error: OSError) -> Failed:
    return Failed(Exit.REFUSED, f"{file} can't be written: {error.strerror}")


def import_(
    session: Session,
    file: File = None,
    requeue_dead: Annotated[
        bool, typer.Option("--requeue-dead", help="Publish dead letters, too; else they are skipped.")
    ] = False,
    dry_run: DryRun = False,
) -> Exit:
    """Publish what `export` wrote, from stdin or a file.

    \b
    qrusty-trio import -f jobs.jsonl --dry-run
    gunzip -c all.jsonl.gz | qrusty-trio import --url http://127.0.0.1:6784

    Queues that do not exist are created as they were. The messages get new ids, and their deliveries count from 0.
    Several exports may follow each other. One of another version is refused. If it stops early, it says how many
    messages of how many lines were imported; a second run publishes these again, except in queues that refuse
    duplicates. Exits with 3 if messages were refused, or if an export is not whole.
    """
    if not dry_run:
        session.check_writable()

    verb = "would be imported" if dry_run else "imported"
    sending = Sending(session.target.url, verb, rehearsal=dry_run)

    async def talk(client: HttpClient) -> Exit:
        with opened(file) as stream:
            total = None if stream is sys.stdin.buffer else os.fstat(stream.fileno()).st_size
            with bar("import", total, session.quiet) as advance:
                reader = _Import(client, sending, requeue_dead, dry_run)
                await reader.run(stream, advance)
        session.tell(f"{counted(sending.published, 'message')} of {counted(len(reader.queues), 'queue')} {verb}")
        if reader.skipped:
            session.note(f"{counted(reader.skipped, 'dead letter')} skipped: --requeue-dead publishes them")
        if sending.refused:
            say(f"{counted(sending.refused, 'message')} refused")
        if reader.open:
            say("the end of the export is missing: it is a part of one")
        return Exit.DONE if reader.whole and not reader.open and not sending.refused else Exit.PARTLY

    with sending.accounted():
        return session.ask(talk, changes=not dry_run)


class _Import:
    def __init__(self, client: HttpClient, sending: Sending, requeue_dead: bool, dry_run: bool) -> None:
        self._client = client
        self._sending = sending
        self._requeue_dead = requeue_dead
        self._dry_run = dry_run
        self._queue = ""
        self._batch: list[Numbered] = []
        self._octets = 0
        self._came = [0, 0]
        """Queues and messages of the export that is read."""
        self.queues: set[str] = set()
        self.skipped = 0
        self.open = False
        """The end of the export that is read has not come."""
        self.whole = True
        """Every end said the number of what came."""

    async def run(self, stream: BinaryIO, advance: Advance) -> None:
        """Raises Failed for a line that can't be read, after what precedes it was sent."""
        taken = 0
        try:
            for number, line in lines(stream):
                advance(len(line))
                await self._take(number, line)
                taken = number
                if not self._batch:
                    self._sending.line = taken
        except Failed:
            if self._batch:
                await self._send()
                self._sending.line = taken
            raise
        if not taken:
            raise Failed(Exit.REFUSED, "this is no export: it is empty")
        await self._send()

    async def _take(self, number: int, line: bytes) -> None:
        if not self.open:
            check_header(number, line)
            self.open, self._came = True, [0, 0]
            return
        read = read_line(number, line)
        if read.end:
            self.open = False
            wrong = missing(number, read, *self._came)
            if wrong is not None:
                self.whole = False
                say(wrong)
            return
        assert read.queue is not None
        self.queues.add(read.queue)
        self._came[read.config is None] += 1
        if read.config is not None:
            await self._create(number, read)
        else:
            await self._add(number, read, len(line))

    async def _create(self, number: int, line: Line) -> None:
        assert line.queue is not None
        assert line.config is not None
        if self._dry_run:
            return
        config = line.config
        try:
            await self._client.create_queue(
                line.queue,
                config.ordering,  # type: ignore[arg-type]  # the server says what is wrong with another one
                allow_duplicates=config.allow_duplicates,
                priority_kind=config.priority_kind,  # type: ignore[arg-type]  # the same
                dead_letter_ttl_seconds=config.dead_letter_ttl_seconds,
                dead_letter_max=config.dead_letter_max,
                protected=config.protected,
            )
        except QueueExists:
            say(f"queue '{line.queue}' exists, and keeps its configuration")
        except RequestError as error:
            failed = explained(error, "")
            raise Failed(failed.status, f"line {number}, queue '{line.queue}': {failed}") from error

    async def _add(self, number: int, line: Line, octets: int) -> None:
        assert line.queue is not None
        if line.payload is None:
            self._sending.refused += 1
            say(f"line {number}: the message of queue '{line.queue}' has no payload")
            return
        if line.state == "dead" and not self._requeue_dead:
            self.skipped += 1
            return
        full = len(self._batch) == BATCH_MESSAGES or self._octets + octets > BATCH_BYTES
        if full or line.queue != self._queue:
            await self._send()
        self._queue = line.queue
        message = NewMessage(payload=line.payload, priority=line.priority, max_retries=line.max_retries)
        self._batch.append((number, message))
        self._octets += octets

    async def _send(self) -> None:
        batch, self._batch, self._octets = self._batch, [], 0
        if not batch:
            return
        outcome = await self._sending.send(self._client, self._queue, batch)
        for each in outcome.rejected[:1]:
            count = counted(len(outcome.rejected), "message")
            where = f"line {batch[each.index][0]}" + (" and others" if len(outcome.rejected) > 1 else "")
            say(f"queue '{self._queue}': {count} refused: {each.error} ({where})")
