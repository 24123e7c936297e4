"""Sessions of browsers: a cookie stands for a token that was shown at the login.

Rule: the browser never keeps the token, and no script reads the cookie. A session ends with its token, at the logout or
after `SESSION_SECONDS`. With it ends whatever was asked for through it: whoever speaks through a session is a principal
of its own, and the same one until the tokens are read anew. What is kept is bounded for each token, so that no team's
logins end those of another. Sessions are in memory: a restart ends them.

Requirements: API-0191
"""

from __future__ import annotations

import secrets
from bisect import bisect_left, insort
from collections.abc import Mapping

from qrusty_trio.access.grants import Principal
from qrusty_trio.access.tokens_file import digest

COOKIE = "qrusty_session"
SESSION_SECONDS = 12 * 3600
MAX_OF_A_TOKEN = 20
"""Sessions of a token. A further one ends the oldest."""
_RANDOM_BYTES = 32


class _Session:
    """What is remembered of a session."""

    __slots__ = ("ends_ms", "of", "principal", "token")

    def __init__(self, token: bytes, ends_ms: int) -> None:
        self.token = token
        """The SHA-256 of its token."""
        self.ends_ms = ends_ms
        self.of: Principal | None = None
        """The principal of its token when it was asked for last."""
        self.principal: Principal | None = None
        """The same, speaking through the session."""


class Sessions:
    """The open sessions, by the SHA-256 of their cookies. Times are wall milliseconds."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, _Session] = {}
        self._of_token: dict[bytes, list[bytes]] = {}
        self._ends: list[tuple[int, bytes]] = []
        """When each ends, in order."""

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
        session = self._sessions[key] = _Session(token, now + 1000 * SESSION_SECONDS)
        insort(self._ends, (session.ends_ms, key))
        return cookie

    def speaks_for(self, key: bytes, tokens: Mapping[bytes, Principal], now: int) -> Principal | None:
        """For whom the session speaks whose cookie has this SHA-256; None if it is over, or was none.

        `tokens`: the principals, by the SHA-256 of their tokens. The result is the same object until theirs changes.
        """
        session = self._sessions.get(key)
        if session is None or now >= session.ends_ms:
            return None  # It is taken out in `end_over`, whose caller tells others of it.
        found = tokens.get(session.token)
        if found is not session.of:
            session.of = found
            session.principal = found.in_session(key) if found is not None else None
        return session.principal

    def end(self, cookie: bytes) -> bool:
        """The user has logged out. Returns whether there was such a session."""
        return self._end(digest(cookie))

    def end_over(self, now: int) -> bool:
        """End the sessions whose time is over. Returns whether there were any."""
        before = len(self._ends)
        while self._ends and self._ends[0][0] <= now:
            self._end(self._ends[0][1])
        return len(self._ends) < before

    def keep(self, tokens: Mapping[bytes, object]) -> None:
        """End the sessions of all tokens but these."""
        for token in self._of_token.keys() - tokens.keys():
            for key in list(self._of_token[token]):
                self._end(key)

    def _end(self, key: bytes) -> bool:
        session = self._sessions.pop(key, None)
        if session is None:
            return False
        del self._ends[bisect_left(self._ends, (session.ends_ms, key))]
        keys = self._of_token[session.token]
        keys.remove(key)
        if not keys:
            del self._of_token[session.token]
        return True
