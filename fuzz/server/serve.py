"""The server as it is, but for one thing: its bulkheads log every traceback, not ten a minute."""

from __future__ import annotations

import sys

from qrusty_trio.cli import main
from qrusty_trio.http import bulkheads

if __name__ == "__main__":
    bulkheads.TRACEBACKS = 2**62
    sys.exit(main())
