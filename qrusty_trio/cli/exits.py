"""The exit statuses of the commands.

Rule: a script can tell outcomes apart without reading text. `serve` and `check` have their own: see `serving` and
`probes`.

Requirements: API-0121
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What a command returns."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    PARTLY = 3
    NOT_FOUND = 4
    UNREACHABLE = 5
    EMPTY = 6
    INTERRUPTED = 130
    BROKEN_PIPE = 141


MEANINGS = {
    Exit.DONE: "done",
    Exit.REFUSED: "refused: by the server, by a person who was asked, or because something is not in order",
    Exit.USAGE: "wrong usage, or a question that nobody was there to answer: give `--yes`",
    Exit.PARTLY: "partly done: stderr says what was not",
    Exit.NOT_FOUND: "not found: the queue, the message, or its lock",
    Exit.UNREACHABLE: "the server can't be reached, or is starting",
    Exit.EMPTY: "no message (`consume`, `peek`, `dead list`)",
    Exit.INTERRUPTED: "interrupted by Ctrl-C or SIGTERM",
    Exit.BROKEN_PIPE: "whoever read the output ended first",
}
