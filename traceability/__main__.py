"""The command behind `make traceability` and `make traceability-report`.

Rule: exit status 0 means that every requirement is implemented, and each one verified by test has a test that passed in
the run. Otherwise a line on stderr says what is wrong: 1 for a fault, 2 for a run that can't be read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path, PurePosixPath

from traceability import report
from traceability.junit import ReportUnreadable, read
from traceability.matrix import trace

ROOT = Path(__file__).parent.parent


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Trace the checkout at `root`. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m traceability")
    parser.add_argument("--junit", type=Path, required=True, nargs="+", help="the JUnit reports of a run of the tests")
    parser.add_argument("--write", help="the Markdown file to write; without it, the matrix is printed")
    options = parser.parse_args(arguments)
    try:
        matrix = trace(root, read(*options.junit))
    except ReportUnreadable as error:
        print(error, file=sys.stderr)
        return 2
    if options.write:
        (root / options.write).write_text(report.markdown(matrix, PurePosixPath(options.write)), encoding="utf-8")
    else:
        print(*report.lines(matrix), sep="\n")
    for fault in matrix.faults:
        print(fault, file=sys.stderr)
    return 1 if matrix.faults else 0


if __name__ == "__main__":
    sys.exit(main())
