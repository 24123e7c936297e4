"""What was found, who did it, and with how little.

Rule: a finding is told with a conversation that shows it alone on a fresh server, where there is one; it is made
smaller by leaving out steps and halves of them, as far as the time allows.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import trio

from fuzz.server import control
from fuzz.server.conversation import Conversation, Player, Step
from fuzz.server.target import Target, target

ATTRIBUTE_SECONDS = 40.0
CONTAINED_SECONDS = 10.0
"""The same for what is no fault."""
MINIMISE_SECONDS = 20.0
SHOWN_CHARS = 3000
SHOWN_SEEDS = 30
AT_ONCE = 10
"""Suspects tried together, before one of those is tried alone."""
AFTER_SECONDS = 0.3
"""After a conversation, for the server to show what is wrong."""


DYING_SECONDS = 0.5
"""After a traceback, for a server that dies of it."""


class What(enum.Enum):
    """The kinds of findings."""

    DEATH = "the server has ended"
    TRACEBACK = "a traceback in the log"
    BROKEN = "a good client was not served"
    HELD = "something is held afterwards"


@dataclass(slots=True)
class Finding:
    """One fault."""

    what: What
    signature: str
    """The same for the same fault."""
    text: str
    suspects: list[Conversation] = field(default_factory=list)
    """The most likely first."""
    culprit: Conversation | None = None
    contained: bool = False
    """It was raised inside a library of the fallback, and nothing came of it but this record: told, but no fault."""

    @property
    def key(self) -> tuple[What, str]:
        return self.what, self.signature

    def tell(self, directory: Path) -> str:
        """What to print. Writes conversations, to be played again, into `directory`."""
        lines = [
            f"{'contained' if self.contained else 'FINDING'}: {self.what.value}: {self.signature}",
            self.text.strip()[-SHOWN_CHARS:],
        ]
        if self.culprit is not None:
            literal = self.culprit.literal()
            path = directory / f"fuzz-finding-{self.culprit.seed}.py"
            path.write_text(literal)
            lines += [f"alone it takes this conversation ({path}; make fuzz REPLAY={path}):", literal[:SHOWN_CHARS]]
            lines.append(f"the whole of it: make fuzz SEED={self.culprit.seed}")
        elif self.suspects:
            seeds = " ".join(str(conversation.seed) for conversation in self.suspects[:SHOWN_SEEDS])
            lines.append(f"no conversation alone showed it again; these went on at the time: SEED={seeds}")
        return "\n".join(lines)


async def shows(conversations: Sequence[Conversation], finding: Finding) -> bool:
    """Whether conversations, all at once, show the finding on a fresh server."""
    async with target(conversations[0].fast) as server:
        return await _shown_by(server, conversations, finding)


async def _shown_by(server: Target, conversations: Sequence[Conversation], finding: Finding) -> bool:
    async with trio.open_nursery() as nursery:
        for conversation in conversations:
            nursery.start_soon(Player(conversation).play, server.control_port)
    with trio.move_on_after(AFTER_SECONDS):
        await server.child.process.wait()
    return finding.key in [found.key for found in await look(server, finding.what)]


async def look(server: Target, what: What | None = None) -> list[Finding]:
    """What a server shows now. `what` BROKEN: a good client tries it, too."""
    tracebacks = server.tracebacks()
    if tracebacks:
        with trio.move_on_after(DYING_SECONDS):
            await server.child.process.wait()
    if server.dead:
        await server.child.log_ended.wait()
    tracebacks += server.tracebacks()
    found = [
        Finding(What.TRACEBACK, traceback.signature, traceback.text, contained=traceback.contained)
        for traceback in tracebacks
        if not server.dead
    ]
    if server.dead:
        status = server.child.process.returncode
        last = server.last_traceback
        if last is not None:
            found.append(Finding(What.DEATH, last.signature, last.text))
        else:
            found.append(Finding(What.DEATH, f"exit {status} without a traceback", server.child.log[-2000:]))
    elif what is What.BROKEN:
        try:
            with trio.move_on_after(3.0):
                await control.over_http(server.control_port, False, Random(0))
        except control.Broken as broken:
            found.append(Finding(What.BROKEN, str(broken)[:60], str(broken)))
    return found


async def attribute(finding: Finding) -> None:
    """Find the culprit among the suspects, and make its conversation smaller."""
    if finding.what is What.HELD:
        finding.culprit = finding.suspects[0] if finding.suspects else None  # It takes too long to show again.
        return
    with trio.move_on_after(CONTAINED_SECONDS if finding.contained else ATTRIBUTE_SECONDS):
        for suspect in await _few(finding):
            if await shows([suspect], finding):
                finding.culprit = suspect
                break
    if finding.culprit is not None and not finding.contained and finding.what in (What.DEATH, What.TRACEBACK):
        with trio.move_on_after(MINIMISE_SECONDS):
            async for smaller in _smaller(finding.culprit, finding):
                finding.culprit = smaller


async def _few(finding: Finding) -> list[Conversation]:
    """A few suspects that show the finding together; nobody when no few do."""
    suspects = finding.suspects
    if len(suspects) <= AT_ONCE:
        return suspects
    async with target(suspects[0].fast) as server:
        for start in range(0, len(suspects), AT_ONCE):
            few = suspects[start : start + AT_ONCE]
            if await _shown_by(server, few, finding) or server.dead:
                return few  # When it has died of something else, it may have had no time to die of this.
    return []


async def _smaller(conversation: Conversation, finding: Finding) -> AsyncIterator[Conversation]:
    steps = list(conversation.steps)
    again = True
    while again:
        again = False
        for candidate in _candidates(steps):
            tried = Conversation(conversation.seed, conversation.fast, conversation.kind, tuple(candidate))
            if await shows([tried], finding):
                steps, again = candidate, True
                yield tried
                break


def _candidates(steps: list[Step]) -> Iterable[list[Step]]:
    """Halves of the conversation, then single steps, then halves and quarters of what is sent, left out."""
    half = len(steps) // 2
    if half > 1:
        yield steps[:half]
        yield steps[half:]
    for at in range(len(steps) - 1, -1, -1):
        if len(steps) > 1:
            yield steps[:at] + steps[at + 1 :]
    for at, (name, value) in enumerate(steps):
        if isinstance(value, bytes):
            for parts in (2, 4, 8):
                size = len(value) // parts
                for start in range(0, len(value), size) if size > 0 else ():
                    less = value[:start] + value[start + size :]
                    yield [*steps[:at], (name, less), *steps[at + 1 :]]
