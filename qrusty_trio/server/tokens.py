"""The tokens file of a running server: read at the start, and again when it changes.

Rule: a start with a bad file is refused. A bad new file changes nothing: the tokens that were read before stay.

Requirements: API-0189
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path

import trio

from qrusty_trio.access.access import Access
from qrusty_trio.access.tokens_file import MAX_FILE_BYTES, BadTokens, Tokens, read_tokens
from qrusty_trio.errors import StartupRefused
from qrusty_trio.wording import counted

OPEN_TO_ALL = (
    "there are no tokens (QRUSTY_TOKENS_FILE), and the server listens beyond this machine: whoever reaches it may "
    "read, change and delete everything"
)


class TokensFile:
    """The file, and the tokens that were read last. Reading blocks."""

    def __init__(self, path: Path) -> None:
        """Raises StartupRefused."""
        self.path = path
        self._tokens = _read(path)
        self._access: Access | None = None

    def open(self, now_ms: Callable[[], int]) -> Access:
        """What the server asks from now on. `now_ms`: the time in wall milliseconds."""
        self._access = Access(self._tokens, now_ms)
        return self._access

    def read_again(self) -> str:
        """Read the file anew, in a thread of Trio's. Returns how many tokens it has. Raises StartupRefused."""
        tokens = _read(self.path)
        trio.from_thread.run_sync(self._take, tokens)
        return counted(len(tokens.by_name), "token", "tokens")

    def _take(self, tokens: Tokens) -> None:
        self._tokens = tokens
        if self._access is not None:
            self._access.replace(tokens)


def _read(path: Path) -> Tokens:
    try:
        with path.open("rb") as file:
            return read_tokens(file.read(MAX_FILE_BYTES + 1))
    except OSError as error:
        raise StartupRefused(f"QRUSTY_TOKENS_FILE='{path}' can't be read: {error.strerror or error}") from error
    except BadTokens as error:
        raise StartupRefused(f"QRUSTY_TOKENS_FILE='{path}' is not allowed: {error}") from error


def beyond_this_machine(listeners: Iterable[trio.SocketListener]) -> bool:
    """Whether others than programs of this machine can connect."""
    for each in listeners:
        if each.socket.family != socket.AF_UNIX:
            found = ip_address(each.socket.getsockname()[0].partition("%")[0])
            if not found.is_loopback:
                return True
    return False
