"""A request for each operation of the table, about queues of one's choice: what the matrices of grants are made of."""

from __future__ import annotations

import copy
import json
from typing import Any

from qrusty_trio.access.grants import Grant, Granted, Principal
from qrusty_trio.access.limits import Limit
from qrusty_trio.access.needs import Named
from qrusty_trio.api.call import Operation
from tests.api.test_bad_fields import BODIES

OWN, FOREIGN = "team.jobs", "other.jobs"
_NAMING = ("queue", "queues", "name", "to")
"""Fields that name queues."""


def principal(*grants: str, name: str = "worker", limit: Limit | None = None) -> Principal:
    return Principal(name, tuple(map(Granted.read, grants)), limit=limit)


def request_of(operation: Operation, queue: str) -> tuple[str, bytes]:
    """The path and body of a request about this queue. Other queues in it have names that begin with this one."""
    path = operation.path.replace("{queue}", queue).replace("{id}", "no-such-id")
    if operation.request is None:
        return path, b""
    body = copy.deepcopy(BODIES[operation.name][0])
    for fields in (body, body.get("config", {})):
        for field in fields.keys() & set(_NAMING):
            fields[field] = _renamed(fields[field], queue)
    body.pop("wait_seconds", None)
    return path, json.dumps(body).encode()


def _renamed(value: Any, queue: str) -> Any:
    if isinstance(value, list):
        return [_renamed(each, queue) for each in value]
    return queue if value == "q" else f"{queue}-{value}"


def allowed(operation: Operation, grant: Grant | None, everywhere: bool, own: bool) -> bool:
    """Whether a token with this one grant, on every queue or on one's own, may do this."""
    needs = operation.needs
    if needs.grant is None or needs.named in (Named.SHOWN, Named.KEPT):
        return True
    fits = grant in (needs.grant, Grant.ADMIN)
    return fits and (everywhere or (own and needs.named is not Named.EVERY))
