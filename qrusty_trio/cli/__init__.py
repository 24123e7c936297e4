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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. `arguments` default to those of the command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        sys.stdout.write(f"qrusty-trio {__version__}\n")
        return 0
    if given in ([], ["serve"]) and COMPLETION not in os.environ:
        from qrusty_trio.cli.serving import serve

        return serve()
    from qrusty_trio.cli.program import run

    return run(given)
