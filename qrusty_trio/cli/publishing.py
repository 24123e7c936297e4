"""`publish`: one message, or many as JSON lines.

Rule: many messages go in batches of bounded size, and nothing is read ahead of the batch that is sent. What precedes a
line that can't be read is published.

Requirements: API-0125
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import typer

from qrusty_trio.cli.batches import BATCH_BYTES, BATCH_MESSAGES, Numbered, Sending
from qrusty_trio.cli.command import command
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed
from qrusty_trio.cli.output import Format, say
from qrusty_trio.cli.parameters import DryRun, File, Queue
from qrusty_trio.cli.payloads import Unreadable, decoded, lines, opened, payload_of
from qrusty_trio.cli.session import Session
from qrusty_trio.client import HttpClient, NewMessage
from qrusty_trio.wording import counted

U64_DIGITS = 20
"""Of 2^64 - 1, the largest priority that is a number."""


class _Line(msgspec.Struct):
    """A JSON line. Other members are ignored, so that what `peek` prints can be published."""

    payload: str
    priority: int | str | None = None
    max_retries: int | None = None


_decode = msgspec.json.Decoder(_Line | str).decode


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "publish")(publish)


def publish(
    session: Session,
    queue: Queue,
    payload: Annotated[
        str | None, typer.Argument(metavar="[PAYLOAD]", help="The payload; - is stdin.", show_default=False)
    ] = None,
    file: File = None,
    priority: Annotated[
        str | None, typer.Option("--priority", "-p", help="A number; 0 if not given.", show_default=False)
    ] = None,
    text_priority: Annotated[
        str | None, typer.Option(help="The priority in a queue of kind Text.", show_default=False)
    ] = None,
    max_retries: Annotated[int, typer.Option(min=0, help="Deliveries that may fail.")] = 3,
    ndjson: Annotated[
        bool,
        typer.Option(
            "--ndjson",
            help="Many messages: each line is a JSON string, or an object with payload, priority, max_retries.",
        ),
    ] = False,
    dry_run: DryRun = False,
) -> Exit:
    """Put a message into a queue, or many.

    \b
    qrusty-trio publish jobs "hello" --priority 7
    printf '"one"\\n{"payload": "two", "priority": 9}\\n' | qrusty-trio publish jobs --ndjson

    The payload is an argument, a file or stdin. Its bytes are published as they are. The ids are printed.
    """
    chosen = priority_of(priority, text_priority)
    if ndjson:
        if payload not in (None, "-"):
            raise Failed(Exit.USAGE, "--ndjson reads a file or stdin: leave out the payload")
        with opened(file if payload is None else Path("-")) as stream:
            return _publish_many(
                session, queue, stream, NewMessage(payload="", priority=chosen, max_retries=max_retries), dry_run
            )
    text = payload_of(payload, file)
    if dry_run:
        return _rehearse(session, queue, [NewMessage(payload=text, priority=chosen, max_retries=max_retries)])
    id = session.ask(lambda client: client.publish(queue, text, chosen, max_retries), changes=True)
    session.output.one({"queue": queue, "id": id}, ("queue", "id"), "id", best=Format.NAME)
    return Exit.DONE


def priority_of(number: str | None, text: str | None) -> int | str:
    """A priority that was given in one of two forms; 0 for none. Raises Failed."""
    if number is not None and text is not None:
        raise Failed(Exit.USAGE, "--priority and --text-priority were given: give one of them")
    if text is not None:
        return text
    if number is None:
        return 0
    if not (number.isascii() and number.isdigit()):
        raise Failed(
            Exit.USAGE, f"--priority '{number}' is no number from 0 on. A queue of kind Text takes --text-priority"
        )
    if len(number.lstrip("0")) > U64_DIGITS:
        raise Failed(Exit.USAGE, f"--priority has {len(number):,} digits, and the largest one is 18446744073709551615")
    return int(number)


def _publish_many(session: Session, queue: str, stream: BinaryIO, default: NewMessage, dry_run: bool) -> Exit:
    if dry_run:
        return _rehearse(session, queue, (message for batch in batches(stream, default) for _, message in batch))

    sending = Sending(session.target.url, "published")

    async def send(client: HttpClient) -> None:
        with session.output.rows(("queue", "id"), "id", best=Format.NAME) as rows:
            for batch in batches(stream, default):
                outcome = await sending.send(client, queue, batch)
                for id in outcome.ids:
                    rows.add({"queue": queue, "id": id})
                for each in outcome.rejected:
                    say(f"line {batch[each.index][0]} was refused: {each.error}")

    with sending.accounted():
        session.ask(send, changes=True)
    published, refused = sending.published, sending.refused
    if refused:
        say(f"{counted(published, 'message')} published, {refused} refused")
        return Exit.PARTLY if published else Exit.REFUSED
    session.tell(f"{counted(published, 'message')} published in '{queue}'")
    return Exit.DONE


def batches(stream: BinaryIO, default: NewMessage) -> Iterator[list[Numbered]]:
    """JSON lines in batches, each message with the number of its line. `default` has what a line leaves out.

    Raises Failed for a line that can't be read, after what precedes it.
    """
    batch: list[Numbered] = []
    octets = 0
    try:
        for number, line in lines(stream):
            message = _message(number, line, default)
            if batch and (len(batch) == BATCH_MESSAGES or octets + len(line) > BATCH_BYTES):
                yield batch
                batch, octets = [], 0
            batch.append((number, message))
            octets += len(line)
    except Failed:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _message(number: int, line: bytes, default: NewMessage) -> NewMessage:
    try:
        read = decoded(_decode, line)
    except Unreadable as error:
        raise Failed(
            Exit.REFUSED, f"line {number} is neither a JSON string nor an object with a payload: {error}"
        ) from error
    if isinstance(read, str):
        return NewMessage(payload=read, priority=default.priority, max_retries=default.max_retries)
    return NewMessage(
        payload=read.payload,
        priority=default.priority if read.priority is None else read.priority,
        max_retries=default.max_retries if read.max_retries is None else read.max_retries,
    )


def _rehearse(session: Session, queue: str, messages: Any) -> Exit:
    """Read everything, and look at the queue, but publish nothing."""
    stats = session.ask(lambda client: client.queue_list(name=queue))
    kind = stats["queues"][0]["config"]["priority_kind"] if stats["queues"] else "Numeric"
    count = wrong = 0
    for message in messages:
        count += 1
        if isinstance(message.priority, str) != (kind == "Text"):
            wrong += 1
    made = "" if stats["queues"] else ", which would be made"
    session.tell(f"{counted(count - wrong, 'message')} would be published in '{queue}'{made}")
    if wrong:
        say(f"{counted(wrong, 'message')} would be refused: the priority is not of kind {kind}")
        return Exit.PARTLY if count > wrong else Exit.REFUSED
    return Exit.DONE
