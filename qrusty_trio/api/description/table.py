"""The described API: every route of the table of operations, in the order of the documents.

Rule: a test holds this to the table: each operation is described once, and each field, parameter and code is real.

Requirements: API-0111
"""

from __future__ import annotations

from typing import Final, NamedTuple

from qrusty_trio.api.description import looking, messages, queues, reports
from qrusty_trio.api.description.model import Described


class Family(NamedTuple):
    """Routes that belong together."""

    name: str
    title: str
    described: tuple[Described, ...]


_LOOKING = tuple(each for each in looking.DESCRIBED if "dead-letter" not in each.operation.path)
_DEAD = tuple(each for each in looking.DESCRIBED if "dead-letter" in each.operation.path)

FAMILIES: Final = (
    Family("messages", "Messages", messages.DESCRIBED),
    Family("queues", "Queues", queues.DESCRIBED),
    Family("looking", "A look into a queue", _LOOKING),
    Family("dead-letters", "Dead letters", _DEAD),
    Family("reports", "Reports", reports.DESCRIBED),
)
DESCRIBED: Final = tuple(each for family in FAMILIES for each in family.described)
