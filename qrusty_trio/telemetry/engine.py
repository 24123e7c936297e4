"""An engine that notes what it served: the real one, with an inbox beside it.

Rule: it changes nothing about the calls and their replies. A call counts from when it was run until its reply may be
sent: with the policy `always`, that is after the sync. A call that waits for a message is noted once it has its reply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import time_ns

from qrusty_trio.api.call import WAITING, Call, Engine, Pause, Reply
from qrusty_trio.api.operations import error_reply
from qrusty_trio.errors import StorageFault
from qrusty_trio.telemetry.served import PUBLISHES, Served

REQUEST_TELLS = PUBLISHES | {"ack_batch", "nack_batch"}
"""Operations whose request has to be read for their span."""
REPLY_TELLS = PUBLISHES | {"consume_from"}
TRACED = REQUEST_TELLS | REPLY_TELLS | {"consume", "consume_batch", "ack", "nack"}


class NotingEngine:
    """See `api.call.Engine`."""

    def __init__(self, engine: Engine, note: Callable[[Served], None]) -> None:
        self._engine = engine
        self._note = note
        self._unsynced: list[tuple[Call, Reply, int]] = []
        """Calls of `run_nowait` that wait for a sync, and when they began."""

    async def run(self, calls: Sequence[Call], pause: Pause | None = None) -> list[Reply]:
        begun = time_ns()
        replies = await self._engine.run(calls, pause)
        for call, reply in zip(calls, replies, strict=False):
            self._tell(call, reply, begun)
        return replies

    @property
    def waits(self) -> bool:
        return self._engine.waits

    def run_nowait(self, calls: Sequence[Call]) -> list[Reply]:
        begun = time_ns()
        replies = self._engine.run_nowait(calls)
        waits = self._engine.waits
        for call, reply in zip(calls, replies, strict=False):
            if reply.needs_sync and waits:
                self._unsynced.append((call, reply, begun))
            elif reply is not WAITING:
                self._tell(call, reply, begun)
        return replies

    def when_durable(self, callback: Callable[[StorageFault | None], None], peers: Sequence[object]) -> None:
        unsynced, self._unsynced = self._unsynced, []

        def synced(fault: StorageFault | None) -> None:
            for call, reply, begun in unsynced:
                self._tell(call, reply if fault is None else error_reply(fault), begun)
            callback(fault)

        self._engine.when_durable(synced, peers)

    def checked(self, call: Call, reply: Reply) -> Reply:
        return self._engine.checked(call, reply)

    async def end_waits(self) -> None:
        await self._engine.end_waits()

    def give_back(self, reply: Reply) -> None:
        self._engine.give_back(reply)

    def _tell(self, call: Call, reply: Reply, begun: int) -> None:
        name = call.operation.name
        if name not in TRACED:
            return
        self._note(
            Served(
                name,
                call.params,
                call.identity,
                call.body if name in REQUEST_TELLS else b"",
                reply.status,
                reply.body if name in REPLY_TELLS or reply.status >= 400 else b"",
                [delivery.id for delivery in reply.deliveries],
                begun,
                time_ns(),
            )
        )
