"""Writes `http.py` and `caller.py` of `qrusty_trio/client/blocking` from those of `qrusty_trio/client`, without await.

    python -m release.blocking_client

Rule: what a client does is written once, for the event loop. The sockets are behind `Pool`, which each has its own of.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parent.parent / "qrusty_trio" / "client"

OF_HTTP = (
    ("async with ", "with "),
    ("async def __aenter__", "def __enter__"),
    ("async def __aexit__", "def __exit__"),
    ("async def aclose", "def close"),
    ("async def ", "def "),
    ("await self._caller.aclose()", "self._caller.close()"),
    ("await self.aclose()", "self.close()"),
    ("await ", ""),
    ("qrusty_trio.client.caller", "qrusty_trio.client.blocking.caller"),
    ("A client for the HTTP API: a method", "A client for the HTTP API that blocks: a method"),
    ("Any number of tasks may", "Any number of threads may"),
    ("or the caller cancelled,", "or the caller interrupted,"),
    ("`make blocking` writes the same for threads.", "Written by `make blocking`: change `client/http.py`."),
    ("Requirements: WS-0046", "Requirements: WS-0048"),
)

OF_CALLER = (
    ("async def aclose", "def close"),
    ("async def ", "def "),
    ("await self._pool.aclose()", "self._pool.close()"),
    ("await anyio.sleep(", "time.sleep("),
    ("await ", ""),
    ("anyio.current_time()", "time.monotonic()"),
    ("import anyio\n", ""),
    ("from collections.abc import", "import time\nfrom collections.abc import"),
    ("qrusty_trio.client.pool", "qrusty_trio.client.blocking.pool"),
    ("One request of the HTTP client", "One request of the blocking client"),
    ("`make blocking` writes the same for threads.", "Written by `make blocking`: change `client/caller.py`."),
)
WRITTEN = {"http.py": OF_HTTP, "caller.py": OF_CALLER}


def source(name: str) -> Path:
    return CLIENT / name


def target(name: str) -> Path:
    return CLIENT / "blocking" / name


def blocking(name: str, text: str) -> str:
    """The text of a file of the blocking client, formatted, from that of its source.

    Raises ValueError if the source has changed in an unknown way.
    """
    for old, new in WRITTEN[name]:
        if old not in text:
            raise ValueError(f"{name} has no {old!r} any more")
        text = text.replace(old, new)
    ruff = [sys.executable, "-m", "ruff"]
    shown = ["--stdin-filename", str(target(name)), "-"]
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        text = subprocess.run([*ruff, *command, *shown], input=text, capture_output=True, text=True, check=True).stdout
    return text


if __name__ == "__main__":
    for each in WRITTEN:
        target(each).write_text(blocking(each, source(each).read_text(encoding="utf-8")), encoding="utf-8")
