"""Reads the web UI's files once, when the server starts, so that no request for one waits for the disk.

Rule: only regular files with plain names are kept, up to limits. Whatever else is asked for, `http.fallback` looks up
when it is asked.

Requirements: API-0140
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from qrusty_trio.http.request_line import DOCS_PATH
from qrusty_trio.http.webui import WebFile, web_file

MAX_FILES = 256
"""Files that are kept."""
MAX_FILE_BYTES = 512 * 1024
"""A larger file is not kept."""
MAX_TOTAL_BYTES = 4 * 1024 * 1024
"""All files that are kept, together."""
MAX_LOOKED_AT = 1000
"""Files of the directory that are looked at."""
UI_PREFIX = "/ui/"
DOCS_FILE = "docs.html"
"""The page to read and try the API. Its addresses are relative to `DOCS_PATH`."""
OTHER_PREFIXES = ("assets/", "favicon.ico")
"""What is also served without `/ui`."""

_PLAIN_NAME = re.compile(r"[-A-Za-z0-9_][-A-Za-z0-9._]*(?:/[-A-Za-z0-9_][-A-Za-z0-9._]*)*")
_TOO_LARGE = "the web UI in %s is too large to be kept in memory as a whole"

logger = logging.getLogger(__name__)


def read_files(directory: Path) -> dict[bytes, WebFile]:
    """The files of a web UI by the paths that they are served under. It blocks; an unreadable file is left out."""
    found: dict[bytes, WebFile] = {}
    total = 0
    for number, (name, path) in enumerate(_plain_files(directory)):
        if number >= MAX_FILES:
            logger.warning(_TOO_LARGE, directory)
            break
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                continue
            body = path.read_bytes()
        except OSError:
            continue
        total += len(body)
        if total > MAX_TOTAL_BYTES:
            logger.warning(_TOO_LARGE, directory)
            break
        file = web_file(name, body)
        found[f"{UI_PREFIX}{name}".encode()] = file
        if name == "index.html":
            found[UI_PREFIX.encode()] = file
        if name == DOCS_FILE:
            found[DOCS_PATH] = file
        if name.startswith(OTHER_PREFIXES):
            found[f"/{name}".encode()] = file
    return found


def _plain_files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Regular files by their names relative to the directory. Links are not followed."""
    looked_at = 0
    for folder, folders, names in os.walk(directory):
        folders.sort()
        for each in sorted(names):
            looked_at += 1
            if looked_at > MAX_LOOKED_AT:
                return
            path = Path(folder, each)
            name = path.relative_to(directory).as_posix()
            if _PLAIN_NAME.fullmatch(name) and not path.is_symlink() and path.is_file():
                yield name, path
