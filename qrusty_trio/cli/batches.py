"""Messages in batches on their way to the server, and how far that came.

Rule: a batch is bounded. Batches that were accepted stay, whatever comes after them. Who stops early says how many
messages of how many lines are there, and which may be.

Requirements: API-0125, API-0131
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from qrusty_trio.cli.failures import Failed, explained, leaves
from qrusty_trio.cli.output import say
from qrusty_trio.cli.payloads import MAX_PAYLOAD_BYTES
from qrusty_trio.client import (
    ClientError,
    ConnectFailed,
    HttpClient,
    NewMessage,
    NotSent,
    Published,
    PublishFailed,
    Rejected,
    RequestError,
    StorageError,
)
from qrusty_trio.client.operations import TABLE, request_for
from qrusty_trio.wording import counted

BATCH_MESSAGES = 500
BATCH_BYTES = 512 * 1024
"""Bytes of JSON lines in a batch, or one message. A request may have 2 MiB."""

Numbered = tuple[int, NewMessage]
"""A message and the number of its line, from 1."""


class Sending:
    """The batches of one input. `verb` says what becomes of their messages; a `rehearsal` sends nothing."""

    def __init__(self, url: str, verb: str, rehearsal: bool = False) -> None:
        self._url = url
        self._verb = verb
        self._rehearsal = rehearsal
        self._on_its_way: list[Numbered] = []
        self.published = self.refused = 0
        self.line = 0
        """It is known what became of the lines up to this one."""

    async def send(self, client: HttpClient, queue: str, batch: list[Numbered]) -> Published:
        """Publish a batch. Raises Failed, naming lines, if the server refuses all of it, and the other ClientErrors."""
        messages = [message for _, message in batch]
        self._on_its_way = [] if self._rehearsal else batch
        try:
            outcome = _rehearsed(queue, messages) if self._rehearsal else await _publish(client, queue, messages)
        except RequestError as error:
            if not isinstance(error, StorageError) and not error.code.startswith("http_"):
                self._on_its_way = []
            failed = explained(error, self._url)
            raise Failed(failed.status, f"{_lines_of(batch, error.message)}: {failed}") from error
        except (NotSent, ConnectFailed):
            self._on_its_way = []
            raise
        self._on_its_way = []
        self.published += len(outcome.ids) if not self._rehearsal else len(batch) - len(outcome.rejected)
        self.refused += len(outcome.rejected)
        self.line = batch[-1][0]
        return outcome

    @contextmanager
    def accounted(self) -> Iterator[None]:
        """Say how far it came if the body ends early."""
        try:
            yield
        except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:
            causes = list(leaves(error))
            begun = self.line or self._on_its_way
            if not begun or any(isinstance(each, BrokenPipeError) for each in causes):
                raise
            if not any(isinstance(each, KeyboardInterrupt) for each in causes):
                for cause in causes:
                    failed = explained(cause, self._url) if isinstance(cause, ClientError) else cause
                    if isinstance(failed, Failed):
                        raise Failed(failed.status, f"{failed}. {self._how_far()}") from error
            say(self._how_far())
            raise

    def _how_far(self) -> str:
        parts = [f"{counted(self.published, 'message')} of the first {counted(self.line, 'line')} {self._verb}"]
        if self.refused:
            parts[0] += f", {self.refused} refused"
        if self._on_its_way:
            parts[0] += f"; {_lines(self._on_its_way)} may be, too"
        if not self._rehearsal and (self.published or self._on_its_way):
            parts.append("A second run publishes them again, except in a queue that refuses duplicates")
        return ". ".join(parts)


def _lines(batch: list[Numbered]) -> str:
    first, last = batch[0][0], batch[-1][0]
    return f"line {first}" if first == last else f"lines {first} to {last}"


def _lines_of(batch: list[Numbered], sentence: str) -> str:
    """The line that a refusal is about; all lines of the batch if it names none."""
    found = re.search(r"messages\[(\d+)\]", sentence)
    index = int(found[1]) if found else len(batch)
    if index >= len(batch):
        return f"{_lines(batch)} refused"
    others = f"{_lines(batch)} refused because of " if len(batch) > 1 else ""
    return f"{others}line {batch[index][0]}"


async def _publish(client: HttpClient, queue: str, messages: Sequence[NewMessage]) -> Published:
    """A message alone goes without the frame of a batch, in which one of nearly 2 MiB has no room."""
    if len(messages) > 1:
        return await client.publish_batch(queue, messages)
    if (refused := _rehearsed(queue, messages)).rejected:
        return refused
    (one,) = messages
    try:
        return Published([await client.publish(queue, one.payload, one.priority, one.max_retries)], [])
    except PublishFailed as error:
        return Published([], [Rejected(0, error.message, error.code)])


def _rehearsed(queue: str, messages: Sequence[NewMessage]) -> Published:
    """What can be refused without asking: a message alone that no request has room for."""
    if len(messages) > 1:
        return Published([], [])
    (one,) = messages
    fields = {"queue": queue, "payload": one.payload, "priority": one.priority, "max_retries": one.max_retries}
    if len(request_for(TABLE["publish"], {}, fields).body or b"") <= MAX_PAYLOAD_BYTES:
        return Published([], [])
    sentence = f"its request has more than {MAX_PAYLOAD_BYTES:,} bytes, which no server takes"
    return Published([], [Rejected(0, sentence, "body_too_large")])
