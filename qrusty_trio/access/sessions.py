"""Sessions of browsers: a cookie stands for a token that was shown at the login.

Rule: the browser never keeps the token, and no script reads the cookie. A session ends with its token, at the logout or
after `SESSION_SECONDS`. What is kept is bounded for each token, so that no team's logins end those of another. Sessions
are in memory: a restart ends them.

Requirements: API-0191
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from qrusty_trio.access.tokens_file import digest

COOKIE = "qrusty_session"
SESSION_SECONDS = 12 * 3600
MAX_OF_A_TOKEN = 20
"""Sessions of a token. A further one ends the oldest."""
_RANDOM_BYTES = 32


class _Session(NamedTuple):
    token: bytes
    """The SHA-256 of its token."""
    ends_ms: int


class Sessions:
    """The open sessions, by the SHA-256 of their cookies. Times are wall milliseconds."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, _Session] = {}
        self._of_token: dict[bytes, list[bytes]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, token: bytes, now: int) -> str:
        """Begin a session of the token with this SHA-256. Returns the value of its cookie."""
        cookie = secrets.token_urlsafe(_RANDOM_BYTES)
        key = digest(cookie.encode())
        others = self._of_token.setdefault(token, [])
        while len(others) >= MAX_OF_A_TOKEN:
            self._end(others[0])
        self._of_token.setdefault(token, others).append(key)
        self._sessions[key] = _Session(token, now + 1000 * SESSION_SECONDS)
        return cookie

    def token_of(self, cookie: bytes, now: int) -> bytes | None:
        """The SHA-256 of the token that a cookie stands for; None if there is no such session."""
        key = digest(cookie)
        session = self._sessions.get(key)
        if session is None:
            return None
        if now >= session.ends_ms:
            self._end(key)
            return None
        return session.token

    def end(self, cookie: bytes) -> None:
        """The user has logged out. No effect without such a session."""
        self._end(digest(cookie))

    def keep(self, tokens: dict[bytes, object]) -> None:
        """End the sessions of all tokens but these."""
        for token in self._of_token.keys() - tokens.keys():
            for key in list(self._of_token[token]):
                self._end(key)

    def _end(self, key: bytes) -> None:
        session = self._sessions.pop(key, None)
        if session is not None:
            keys = self._of_token[session.token]
            keys.remove(key)
            if not keys:
                del self._of_token[session.token]
