"""`python -m qrusty_trio` is the command `qrusty-trio`."""

import sys

from qrusty_trio.cli import main

if __name__ == "__main__":
    sys.exit(main())
