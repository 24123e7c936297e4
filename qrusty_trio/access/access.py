"""Who asks: from what a request shows to the principal it speaks for.

Rule: a token is looked up by its SHA-256. How long that takes tells nothing of any token: who guesses does not know the
digest of a guess's neighbour. Header values that were accepted are kept, so a further request with the same costs one
look into a dict. Its hash is keyed at random for each process, so its time tells nothing either. When the tokens are
read anew, what is kept is looked up again.

Nothing here waits: whoever asks is told how long to wait before the response.

Requirements: API-0136, API-0189, API-0190
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from qrusty_trio.access.failures import Failures
from qrusty_trio.access.grants import Principal
from qrusty_trio.access.sessions import Sessions
from qrusty_trio.access.tokens_file import MAX_TOKENS, Tokens, digest
from qrusty_trio.errors import Unauthenticated

MAX_KEPT = 2 * 1024
"""Header values kept. When there are more, all are forgotten."""
MAX_TOKEN_BYTES = 256
MAX_ACCEPTED = 2 * MAX_TOKENS
"""Tokens known to have been accepted. When there are more, those that are no longer in the file are forgotten."""
_SCHEME = b"bearer "
MAX_KEPT_BYTES = len(_SCHEME) + MAX_TOKEN_BYTES
"""A longer value, padded with spaces, is not kept: its token is looked up each time."""

NO_SUCH_TOKEN = "This token is none of this server's, or no longer"
SESSION_OVER = "The session is over: log in again"


def token_in(authorization: bytes) -> bytes:
    """The token in a value of Authorization; b"" if it has another scheme."""
    scheme, token = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
    return token.strip(b" ") if scheme.lower() == _SCHEME else b""


class Credentials(NamedTuple):
    """What a request shows."""

    authorization: bytes = b""
    """The value of its header Authorization; b"" if there is none."""
    session: bytes = b""
    """The cookie of its session; b"" if there is none, or if it does not count."""
    certificate: str = ""
    """The name of the token that its client certificate stands for; '' if none."""


class Found(NamedTuple):
    """Whom a request speaks for."""

    principal: Principal | None
    """None: it shows nothing."""
    wait: float = 0.0
    """Seconds to wait before anything is done or answered."""
    refusal: Unauthenticated | None = None
    """What it shows does not count."""


class Access:
    """The tokens and sessions of a server."""

    def __init__(self, tokens: Tokens, now_ms: Callable[[], int]) -> None:
        """`now_ms`: the time in wall milliseconds."""
        self._now_ms = now_ms
        self._looked_ms = now_ms()
        self.tokens = tokens
        self.sessions = Sessions()
        self.failures = Failures()
        self.known: dict[bytes, Principal] = {}
        """Values of Authorization that were accepted."""
        self._digests: dict[bytes, bytes] = {}
        """The digests of their tokens."""
        self._accepted: set[bytes] = set()
        """The digests of tokens that were accepted, however they were shown. Some may be gone for the moment."""
        self.on_change: list[Callable[[], None]] = []
        """Called when a token or session may have ended: it was replaced, has expired, or its user has logged out."""

    def replace(self, tokens: Tokens) -> None:
        """The tokens were read anew. One whose limits are as before goes on with what it has used up of them."""
        for key, principal in tokens.by_digest.items():
            before = self.tokens.by_digest.get(key)
            if before is not None and before.limit is not None and principal.limit is not None:
                principal.limit.go_on_from(before.limit)
        self.tokens = tokens
        found = tokens.by_digest
        self._digests = {value: key for value, key in self._digests.items() if key in found}
        self.known = {value: found[key] for value, key in self._digests.items()}
        self.sessions.keep(found)
        self._tell()

    def _tell(self) -> None:
        for call in self.on_change:
            call()

    def find(self, shown: Credentials, address: str, now: float) -> Found:
        """Whom a request speaks for. Raises TooManyFailures. `now`: monotonic seconds."""
        if shown.authorization:
            principal = self.known.get(shown.authorization)
            if principal is not None:
                return Found(principal)
            token = token_in(shown.authorization)
            found = self.try_token(token, address, now)
            if found.principal is not None and len(shown.authorization) <= MAX_KEPT_BYTES:
                if len(self.known) >= MAX_KEPT:
                    self.known.clear()
                    self._digests.clear()
                self.known[shown.authorization] = found.principal
                self._digests[shown.authorization] = found.principal.key
            return found
        if shown.session:
            principal = self._speaks_for(digest(shown.session))
            return Found(principal) if principal is not None else Found(None, refusal=Unauthenticated(SESSION_OVER))
        if shown.certificate:
            return Found(self.tokens.by_name.get(shown.certificate))
        return Found(None)

    def try_token(self, token: bytes, address: str, now: float) -> Found:
        """Whom a token stands for. Raises TooManyFailures."""
        principal = self.tokens.by_digest.get(digest(token)) if len(token) <= MAX_TOKEN_BYTES else None
        if principal is not None and principal.key in self._accepted:
            return Found(principal)
        wait = self.failures.turn(address, now)
        if principal is None:
            self.failures.failed(address, now)
            return Found(None, wait, Unauthenticated(NO_SUCH_TOKEN))
        if len(self._accepted) >= MAX_ACCEPTED:
            self._accepted &= self.tokens.by_digest.keys()
        self._accepted.add(principal.key)
        return Found(principal, wait)

    def current(self, principal: Principal) -> Principal | None:
        """What a principal may do now; None if its token was revoked or has expired, or if its session is over."""
        found = self.tokens.by_digest.get(principal.key)
        if found is None or self._now_ms() >= found.expires_ms:
            return None
        return self._speaks_for(principal.session) if principal.session else found

    def _speaks_for(self, session: bytes) -> Principal | None:
        return self.sessions.speaks_for(session, self.tokens.by_digest, self._now_ms())

    def require_current(self, principal: Principal) -> Principal:
        """What a principal may do now. Raises Unauthenticated where `current` has None."""
        found = self.current(principal)
        if found is None:
            if principal.session and self._speaks_for(principal.session) is None:
                raise Unauthenticated(SESSION_OVER)
            raise Unauthenticated(f"The token '{principal.name}' was revoked or has expired")
        return found

    def look(self) -> None:
        """Tell those in `on_change` if a token or session has expired since the last look."""
        before, self._looked_ms = self._looked_ms, self._now_ms()
        expired = any(before < each.expires_ms <= self._looked_ms for each in self.tokens.by_name.values())
        if self.sessions.end_over(self._looked_ms) or expired:
            self._tell()

    def begin_session(self, principal: Principal) -> str:
        """The value of the cookie of a new session, which may end the oldest of the token."""
        before = len(self.sessions)
        cookie = self.sessions.begin(principal.key, self._now_ms())
        if len(self.sessions) <= before:
            self._tell()
        return cookie

    def end_session(self, cookie: bytes) -> None:
        """The user has logged out: what runs on the session ends. No effect without such a session."""
        if self.sessions.end(cookie):
            self._tell()
