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


def confirm(what: str, answer: str, yes: bool) -> None:
    """Go on only if a person types `answer`, or `--yes` was given. `what` says what happens, with count and server.

    Raises Failed.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failed(Exit.USAGE, f"{what}: this can't be undone. Nobody is there to be asked, so give --yes")
    say(f"{what}. This can't be undone.")
    sys.stderr.write(f"Type {visible(answer)} to go on: ")
    sys.stderr.flush()
    typed = sys.stdin.readline()
    if typed.rstrip("\n") != answer:
        raise Failed(Exit.REFUSED, "nothing was done, as something else was typed")
