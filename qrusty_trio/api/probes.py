"""Probes: whether the process lives, and whether it should get traffic, by status code.

Rule: `/health` is the contract's and always answers 200. These two tell by the status, so that whoever asks need not
read the body. A server that is starting, stopping, or whose store failed lives, but is not ready. One that refuses
publishes for lack of memory is ready: consumers are what helps it.

Requirements: API-0076
"""

from __future__ import annotations

import msgspec

from qrusty_trio.access.needs import OPEN
from qrusty_trio.api.call import Call, Operation, Reply, Services


def live(services: Services, call: Call, now: int) -> Reply:
    """200 for as long as the event loop answers."""
    return Reply(200, b'{"status":"ok"}')


def ready(services: Services, call: Call, now: int) -> Reply:
    """200, or 503 with the state that keeps it from being ready."""
    gate = services.gate
    body: dict[str, object] = {"status": gate.state, "memory_pressure": services.memory.under_pressure}
    if gate.trouble is not None:
        body["message"] = gate.trouble
    return Reply(200 if gate.ready else 503, msgspec.json.encode(body))


OPERATIONS = (
    Operation("live", "GET", "/livez", OPEN, False, live),
    Operation("ready", "GET", "/readyz", OPEN, False, ready),
)
