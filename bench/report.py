"""The sections of docs/benchmarks.md, each written by its own tool between two marks.

Rule: a tool replaces its section and touches nothing else, so that the tools can run on different days.
"""

from __future__ import annotations

import datetime as dt
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.driver import ROOT

DOCUMENT = ROOT / "docs" / "benchmarks.md"
SECTIONS = ("peers", "core", "depth", "latency")
EMPTY = "Not measured yet."

HEAD = """# Benchmarks

Every figure here was written by a tool in `bench/`, never by hand. To repeat them:

| command | section | needs |
|---|---|---|
| `make bench-peers` | installs the peers that `make bench` measures beside this server | Debian or Ubuntu, Rust |
| `make bench` | Side by side, Wake-up | Go 1.22 or newer |
| `make bench-core` | The engine alone | Go, for the start-up part |
| `make bench-depth` | Deep queues and large payloads | Go, 20 GB of disk |

How it is measured:

- The load driver (`bench/load`) and the server run on one machine and talk over loopback. The driver is written in Go,
  with the standard library only, and uses one thread.
- The loop is closed: each connection waits for its response before it asks again. Over WebSocket, up to 64
  requests wait. Where messages are "due", the loop is open: they come at a rate that does not depend on the server.
- Requests are built in advance from 64 random texts a connection. Priorities are drawn evenly from ten.
- All connections share one queue.
- The servers take turns in rounds: A B C, A B C, and so on. Each round has a new queue.
- Each figure is the median of the rounds, with the lowest and the highest in brackets. A latency is the median of the
  rounds' percentiles.
- Data is on a disk, not in memory.
- A server is measured as it comes, without tuning, apart from the fsync policy named and what is said of it below.
"""


def section(name: str, text: str) -> None:
    """Put `text` (Markdown) in place of the section `name`; the document is made when there is none."""
    document = DOCUMENT.read_text() if DOCUMENT.exists() else skeleton()
    begin, end = _marks(name)
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{DOCUMENT} has no section {name!r}; delete it to have it made anew")
    DOCUMENT.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}")


def skeleton() -> str:
    parts = [HEAD]
    for name in SECTIONS:
        begin, end = _marks(name)
        parts.append(f"{begin}\n{EMPTY}\n{end}\n")
    return "\n".join(parts)


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- begin: {name} -->", f"<!-- end: {name} -->"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are set to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median (lowest to highest)."""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()


def relative(path: Path) -> str:
    return path.relative_to(DOCUMENT.parent).as_posix()
