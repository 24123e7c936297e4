"""How much of the server's code the tests run, from the JSON report of coverage.py, and whether that is enough.

Rule: lines and branches have a limit each. The total that coverage.py shows mixes the two.

    python -m tests.covered REPORT          says it in a line; exit status 1 when it is not enough
    python -m tests.covered --json REPORT   gives the same as JSON
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

LEAST_LINES = 95
"""Per cent of all lines."""
LEAST_BRANCHES = 90
"""Per cent of all branches."""


@dataclass(frozen=True)
class Covered:
    """Lines and branches: how many ran, and of how many."""

    lines: int
    all_lines: int
    branches: int
    all_branches: int

    @property
    def enough(self) -> bool:
        """Whether both limits are reached."""
        return (
            100 * self.lines >= LEAST_LINES * self.all_lines
            and 100 * self.branches >= LEAST_BRANCHES * self.all_branches
        )

    def __str__(self) -> str:
        return (
            f"{self.lines:,} of {self.all_lines:,} lines ({percent(self.lines, self.all_lines):.2f} %, at least "
            f"{LEAST_LINES}), {self.branches:,} of {self.all_branches:,} branches "
            f"({percent(self.branches, self.all_branches):.2f} %, at least {LEAST_BRANCHES})"
        )


def percent(part: int, whole: int) -> float:
    """Rounded down to hundredths, so that what is shown is reached. 100 for nothing of nothing."""
    return 10_000 * part // whole / 100 if whole else 100.0


def read(path: Path) -> Covered:
    """Read a report. Raises OSError, ValueError or KeyError when it is none."""
    totals = json.loads(path.read_text(encoding="utf-8"))["totals"]
    return Covered(
        totals["covered_lines"], totals["num_statements"], totals["covered_branches"], totals["num_branches"]
    )


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 for enough, 1 for too little, 2 for no report."""
    parser = argparse.ArgumentParser(prog="python -m tests.covered")
    parser.add_argument("report", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        covered = read(options.report)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"{options.report} is no JSON report of coverage.py, run `make coverage` first: {error}\n")
        return 2
    if options.json:
        shares = {
            "percent_lines": percent(covered.lines, covered.all_lines),
            "percent_branches": percent(covered.branches, covered.all_branches),
        }
        sys.stdout.write(json.dumps(asdict(covered) | shares, indent=2) + "\n")
    else:
        sys.stdout.write(f"{covered}\n")
    return 0 if covered.enough else 1


if __name__ == "__main__":
    sys.exit(main())
