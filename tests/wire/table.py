"""The operation table with a broker and no engine: what a request does, one at a time.

Rule: it does for one call what the engine does for a burst (gate, steps, commit), so tests see the table and the real
broker and nothing else. Time stands still unless a test moves it.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from qrusty_trio.access.grants import Principal
from qrusty_trio.api.authorizing import authorize, refused
from qrusty_trio.api.call import Call, Reply, Services, Wait
from qrusty_trio.api.gate import Gate
from qrusty_trio.api.operations import check_content_type, error_reply, resolve
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.pressure import Level
from qrusty_trio.core.timings import Timings
from qrusty_trio.errors import QrustyError
from qrusty_trio.storage.base import Storage
from qrusty_trio.storage.memory import MemoryStorage
from tests.wire.http_client import Response


class Memory(NamedTuple):
    level: Level = Level.NORMAL
    under_pressure: bool = False
    usage_bytes: int = 50
    limit_bytes: int = 100


class Table:
    """Takes requests as `http` would hand them over."""

    def __init__(self, storage: Storage | None = None) -> None:
        self.broker = Broker(storage if storage is not None else MemoryStorage())
        self.gate = Gate()
        self.timings = Timings()
        self.services = Services(self.broker, self.gate, self.timings, Memory(), lambda: 7)
        self.principal: Principal | None = None
        """Whom the calls speak for, if `services.guarded`."""
        self.now = 1_700_000_000_000
        self.steps = 0
        """How often the last operation let others run."""
        for _ in self.broker.load():
            pass

    def run(
        self, method: str, target: str | bytes, body: bytes = b"", content_type: str | None = "application/json"
    ) -> Reply:
        raw = target if isinstance(target, bytes) else target.encode()
        call = None
        raw_path, _, query = raw.partition(b"?")
        try:
            operation, params = resolve(method, raw_path, query.decode())
            call = Call(operation, params, body, query.decode(), principal=self.principal)
            if self.services.guarded:
                authorize(call, self.now)
            check_content_type(operation, content_type, not body)
            refusal = self.gate.refusal(operation.mutating)
            if operation.needs_store and refusal is not None:
                raise refusal
            response = operation.function(self.services, call, self.now)
            self.steps = 0
            while not isinstance(response, Reply):
                if isinstance(response, Wait):
                    response = Reply(200, response.nothing)  # nobody waits here
                    break
                try:
                    next(response)
                except StopIteration as stop:
                    response = stop.value
                else:
                    self.steps += 1
                    self.broker.commit()
        except QrustyError as error:
            response = refused(call, error) if call is not None else error_reply(error)
        self.broker.commit()
        return response

    def post(self, target: str, body: Any = None) -> Reply:
        """POST a value as JSON."""
        return self.run("POST", target, b"" if body is None else json.dumps(body).encode())

    def get(self, target: str) -> Any:
        """GET a value; the status must be 200."""
        reply = self.run("GET", target)
        assert reply.status == 200, reply.body
        return json.loads(reply.body)

    async def request(
        self, method: str, target: str, body: bytes | None = None, content_type: str | None = "application/json"
    ) -> Response:
        """The same as over a socket, for the recorded scenarios."""
        reply = self.run(method, target, body or b"", content_type)
        return Response(reply.status, {"content-type": "application/json"} if reply.body else {}, reply.body)
