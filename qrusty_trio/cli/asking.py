"""Asking before something is done that can't be undone.

Rule: a person types the name of what goes. Without a person, `--yes` has to be there. Nothing is asked where nothing
would change.

Requirements: API-0128
"""

from __future__ import annotations

import sys

from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed
from qrusty_trio.cli.output import say, visible
from qrusty_trio.wording import counted


def confirm(what: str, answer: str, yes: bool, undo_seconds: int = 0) -> None:
    """Go on only if a person types `answer`, or `--yes` was given. `what` says what happens, with count and server.
    `undo_seconds`: how long it can be undone.

    Raises Failed.
    """
    if yes:
        return
    warning = f"this can be undone for {counted(undo_seconds, 'second')}" if undo_seconds else "this can't be undone"
    if not sys.stdin.isatty():
        raise Failed(Exit.USAGE, f"{what}: {warning}. Nobody is there to be asked, so give --yes")
    say(f"{what}. {warning[0].upper()}{warning[1:]}.")
    sys.stderr.write(f"Type {visible(answer)} to go on: ")
    sys.stderr.flush()
    typed = sys.stdin.readline()
    if typed.rstrip("\n") != answer:
        raise Failed(Exit.REFUSED, "nothing was done, as something else was typed")
