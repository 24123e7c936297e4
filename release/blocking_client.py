"""Writes `qrusty_trio/client/blocking/http.py` from `qrusty_trio/client/http.py`: the same methods without await.

    python -m release.blocking_client

Rule: the methods are written once, for the event loop. What waits is behind `Caller`, which each client has its own of.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parent.parent / "qrusty_trio" / "client"
SOURCE = CLIENT / "http.py"
TARGET = CLIENT / "blocking" / "http.py"

REPLACED = (
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


def blocking(text: str) -> str:
    """The text of the blocking client, formatted. Raises ValueError if the source has changed in an unknown way."""
    for old, new in REPLACED:
        if old not in text:
            raise ValueError(f"{SOURCE} has no {old!r} any more")
        text = text.replace(old, new)
    ruff = [sys.executable, "-m", "ruff"]
    name = ["--stdin-filename", str(TARGET), "-"]
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        text = subprocess.run([*ruff, *command, *name], input=text, capture_output=True, text=True, check=True).stdout
    return text


if __name__ == "__main__":
    TARGET.write_text(blocking(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
