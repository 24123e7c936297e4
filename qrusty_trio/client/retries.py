"""What the HTTP clients agree on: when a request is sent again, and how long a connection is kept.

Rule: a request is sent once, unless it is certain that sending it again does no harm: it never left, or the server
refused it before it did anything, or it only looks. No clock here: times are arguments, in seconds.
"""

from __future__ import annotations

import random

from qrusty_trio.client.errors import ClientError, ConnectionLost, NotSent
from qrusty_trio.client.operations import nothing_was_done

BACKOFF_SECONDS = 0.1
"""Wait before a request is sent again; doubled for each further time."""
MAX_BACKOFF_SECONDS = 5.0
CONNECT_SECONDS = 10.0
KEEP_SECONDS = 30.0
"""A connection without a request for longer is not used again. Less than the server's own limit, 75 s, because a
request on a connection that the server is just closing is lost."""


class Retries:
    """The attempts of one request."""

    def __init__(self, repeatable: bool, deadline: float) -> None:
        """`repeatable`: it does no harm if it is carried out twice. After `deadline` it is not sent again."""
        self._repeatable = repeatable
        self._deadline = deadline
        self._pause = BACKOFF_SECONDS

    def pause_after(self, error: ClientError, now: float) -> float | None:
        """How long to wait before it is sent again; None if the error is final."""
        safe = isinstance(error, NotSent) or nothing_was_done(error)
        if not safe and not (self._repeatable and isinstance(error, ConnectionLost)):
            return None
        if now + self._pause > self._deadline:
            return None
        pause = self._pause * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
        self._pause = min(2 * self._pause, MAX_BACKOFF_SECONDS)
        return pause
