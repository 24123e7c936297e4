"""The command `qrusty-trio`: without arguments it serves, with a command it talks to a server.

Rule: a server imports `serving` and nothing else from here. Typer, rich and the commands are loaded only when there is
a command.

Requirements: API-0120
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from qrusty_trio import __version__

COMPLETION = "_QRUSTY_TRIO_COMPLETE"
"""Set by a shell that wants completions: it calls the command without arguments, too."""

USAGE, UNKNOWN = 2, 3
"""As `exits.Exit` and `probes.Status` have them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. `arguments` default to those of the command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _replace_closed_streams()
    if given in ([], ["serve"]) and COMPLETION not in os.environ:
        from qrusty_trio.cli.serving import serve

        return serve()
    if sys.stdout is None:
        sys.stderr.write("error: stdout is closed. Redirect it to /dev/null if nothing is to be printed\n")
        return UNKNOWN if given[:1] == ["check"] else USAGE
    if given == ["--version"]:
        sys.stdout.write(f"qrusty-trio {__version__}\n")
        return 0
    from qrusty_trio.cli.program import run

    return run(given)


def _replace_closed_streams() -> None:
    """Python has None for a stream that was closed when the process began."""
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
