"""What a token may do: grants on patterns of queue names, and the principal that has them.

Rule: a grant implies no other, except that `admin` implies all. In a pattern, `*` stands for any characters, also none.
Everything else stands for itself. A name is compared as it is, upper and lower case included.

Requirements: API-0137
"""

from __future__ import annotations

import copy
import enum
import math
from typing import NamedTuple

from qrusty_trio.access.limits import Limit
from qrusty_trio.errors import Forbidden, Unauthenticated

MAX_PATTERN_CHARACTERS = 255
MAX_KEPT_NAMES = 1024
"""Names of queues kept for each grant of a principal, so that a pattern is not matched anew for each request."""
EVERY_QUEUE = "*"
FOREVER = math.inf


class Grant(enum.StrEnum):
    """What can be granted."""

    READ = "read"
    """Look at queues and messages."""
    PUBLISH = "publish"
    """Publish messages, which creates the queue if there is none."""
    CONSUME = "consume"
    """Take messages, and settle them."""
    MANAGE = "manage"
    """Create, configure, rename, purge and delete queues; put them back; requeue and purge dead letters; end locks."""
    ADMIN = "admin"
    """All of these. On every queue also what is the whole server's: purge-all, delete-all, the audit, the log."""

    __hash__ = str.__hash__  # An enum's own is in Python, and takes 0.2 µs for each look into a dict.


class Granted(NamedTuple):
    """A grant on a pattern of queue names."""

    grant: Grant
    pattern: str

    def __str__(self) -> str:
        return f"{self.grant}:{self.pattern}"

    @classmethod
    def read(cls, text: str) -> Granted:
        """Read `publish:orders.*`. Raises ValueError with a sentence."""
        name, colon, pattern = text.partition(":")
        if name not in set(Grant) or not colon:
            allowed = ", ".join(Grant)
            raise ValueError(f"'{text[:100]}' must be a grant ({allowed}), a colon and a pattern of queue names")
        if not pattern.strip() or len(pattern) > MAX_PATTERN_CHARACTERS:
            most = MAX_PATTERN_CHARACTERS
            raise ValueError(f"the pattern in '{text[:100]}' must have from 1 to {most} characters, and not be blank")
        return cls(Grant(name), pattern)


def matches(pattern: str, name: str) -> bool:
    """Whether a queue's name fits a pattern. Takes time in proportion to both lengths, whatever the pattern."""
    first, *others = pattern.split("*")
    if not others:
        return name == first
    *middle, last = others
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    position, end = len(first), len(name) - len(last)
    for piece in middle:
        found = name.find(piece, position, end)
        if found < 0:
            return False
        position = found + len(piece)
    return True


class Principal:
    """Whom a request speaks for: a token. Made anew whenever the tokens are read."""

    __slots__ = ("_known", "_patterns", "expires_ms", "grants", "key", "limit", "name", "session")

    def __init__(
        self,
        name: str,
        grants: tuple[Granted, ...],
        expires_ms: float = FOREVER,
        limit: Limit | None = None,
        key: bytes = b"",
    ) -> None:
        """`key`: the SHA-256 of the token."""
        self.name = name
        self.key = key
        self.grants = grants
        self.expires_ms = expires_ms
        """When the token ends, wall milliseconds."""
        self.limit = limit
        """How much it may ask for; None: as much as it likes."""
        self.session = b""
        """The SHA-256 of the cookie, if it speaks through a session: it ends with that, too. b"" if it does not."""
        self._patterns: dict[Grant, tuple[str, ...]] = {
            grant: tuple(each.pattern for each in grants if each.grant in (grant, Grant.ADMIN)) for grant in Grant
        }
        self._known: dict[Grant, dict[str, bool]] = {grant: {} for grant in Grant}

    def in_session(self, session: bytes) -> Principal:
        """The same token, speaking through a session; with the same limit, of which both use up."""
        other = copy.copy(self)
        other.session = session
        return other

    def may(self, grant: Grant, queue: str) -> bool:
        """Whether it has this grant on the queue of this name, which need not exist."""
        known = self._known[grant]
        found = known.get(queue)
        if found is None:
            found = self.would(grant, queue)
            if len(known) >= MAX_KEPT_NAMES:
                known.clear()
            known[queue] = found
        return found

    def would(self, grant: Grant, queue: str) -> bool:
        """The same, for one of many queues that are looked through: it is not remembered."""
        return any(matches(pattern, queue) for pattern in self._patterns[grant])

    def require(self, grant: Grant, queue: str) -> None:
        """Raise Forbidden unless it has this grant on this queue."""
        if not (self._known[grant].get(queue) or self.may(grant, queue)):
            raise Forbidden(f"The token '{self.name}' has no grant {grant} on queue '{queue[:MAX_PATTERN_CHARACTERS]}'")

    def everywhere(self, grant: Grant) -> bool:
        """Whether it has this grant on every queue there may be."""
        return EVERY_QUEUE in self._patterns[grant]

    def require_everywhere(self, grant: Grant) -> None:
        """Raise Forbidden unless it has this grant on every queue."""
        if not self.everywhere(grant):
            raise Forbidden(f"The token '{self.name}' has no grant {grant} on all queues, which is {grant}:*")

    def sees(self, queue: str) -> bool:
        """Whether it may know that the queue exists: it has any grant on it."""
        return any(self.would(grant, queue) for grant in Grant)

    def check_time(self, now: int) -> None:
        """Raise Unauthenticated if the token has expired. `now`: wall milliseconds."""
        if now >= self.expires_ms:
            raise Unauthenticated(f"The token '{self.name}' has expired")
