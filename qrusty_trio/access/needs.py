"""What an operation needs: which grant, and on which queues.

Rule: every operation says it, as `Operation` has no default for it. Where the path names the queue, nothing of the
operation runs before the check. Where the body does, its function calls `Call.require` for each name before it changes
anything.

Requirements: API-0137
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from qrusty_trio.access.grants import Grant


class Named(enum.Enum):
    """How an operation names its queues."""

    PATH = "the queue in the path"
    BODY = "each queue in the body"
    EVERY = "every queue there may be, which is the pattern `*`"
    SHOWN = "only the queues on which the token has the grant are shown"
    KEPT = "the queue of what is kept aside; without the grant on it, there is no such thing"
    NONE = "it concerns no queue"


class Needs(NamedTuple):
    """A row's demand."""

    grant: Grant | None
    """None: no grant is needed."""
    named: Named
    token: bool = True
    """Whether a token is needed at all."""
    refusable: bool = True
    """Whether a rate limit may refuse it. What settles a message is let through: refused, it would come again."""


OPEN: Final = Needs(None, Named.NONE, token=False)
"""Anyone may ask, without a token."""
ANY_TOKEN: Final = Needs(None, Named.NONE)
"""Whoever has a token may ask."""
SETTLES: Final = Needs(Grant.CONSUME, Named.PATH, refusable=False)


def in_path(grant: Grant) -> Needs:
    return Needs(grant, Named.PATH)


def in_body(grant: Grant) -> Needs:
    return Needs(grant, Named.BODY)


def on_every(grant: Grant) -> Needs:
    return Needs(grant, Named.EVERY)


def on_kept(grant: Grant) -> Needs:
    return Needs(grant, Named.KEPT)


def shown(grant: Grant) -> Needs:
    return Needs(grant, Named.SHOWN)
