"""Requests about locks, and looks at what a queue holds.

Rule: see `requests`. A look changes nothing, and never shows what was gone for good before it was asked for.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qrusty_trio.api.call import Reply
from tests.simulation.requests import Ask, call
from tests.simulation.stored_form import LockName

if TYPE_CHECKING:
    from tests.simulation.world import World


class RenewAsk(Ask):
    def __init__(self, world: World, actor: str, queue: str, id: str, consumer: str, seconds: int) -> None:
        body = {"consumer_id": consumer, "timeout_seconds": seconds}
        super().__init__(world, actor, f"renew {id[-8:]} for {seconds} s", call("POST", f"/renew/{queue}/{id}", body))
        self.queue, self.id, self.consumer = queue, id, consumer
        self._holds: LockName | None = None
        self._faults = 0

    def begin(self) -> None:
        super().begin()
        self._holds = self._held()
        self._faults = self.model.faults

    def count(self, by: int) -> None:
        if by > 0:
            self.asked.renew_begins((self.id, self.consumer), self.model.now())
        else:
            self.asked.renew_ends((self.id, self.consumer))

    def _held(self) -> LockName | None:
        lock = self.model.picture.lock_of.get(self.id)
        if lock is None or lock.consumer != self.consumer:
            return None
        held = self.model.held[lock.name, self.id]
        queue = self.model.picture.queues[lock.name[0]]
        return lock.name if queue.name == self.queue and not (held.aside or self.model.ended(held)) else None

    def refused(self, reply: Reply) -> None:
        if self._holds is not None and self._holds == self._held() and self._faults == self.model.faults:
            self.model.fail(f"{self.what} was refused, and {self.consumer} holds it")


class RenewBatchAsk(Ask):
    def __init__(self, world: World, actor: str, queue: str, ids: list[str], consumer: str, seconds: int) -> None:
        body = {"consumer_id": consumer, "message_ids": ids, "timeout_seconds": seconds}
        super().__init__(world, actor, f"renew {len(ids)} for {seconds} s", call("POST", f"/renew-batch/{queue}", body))
        self.ids, self.consumer = ids, consumer

    def count(self, by: int) -> None:
        for id in self.ids:
            if by > 0:
                self.asked.renew_begins((id, self.consumer), self.model.now())
            else:
                self.asked.renew_ends((id, self.consumer))

    def succeeded(self, reply: Reply) -> None:
        outcomes = json.loads(reply.body)
        if sorted(outcomes["renewed"] + outcomes["not_found"]) != sorted(self.ids):
            self.model.fail(f"{self.what} was answered with other ids")


class UnlockAsk(Ask):
    """A force-unlock."""

    def __init__(self, world: World, actor: str, queue: str, body: dict[str, Any]) -> None:
        super().__init__(world, actor, f"unlock {body} in {queue}", call("POST", f"/force-unlock/{queue}", body))

    def count(self, by: int) -> None:
        self.asked.unlocks += by


class LookAsk(Ask):
    """`what`: messages, locks, priorities, or the id of a message."""

    def __init__(self, world: World, actor: str, queue: str, what: str) -> None:
        path = (
            f"/queues/{queue}/{what}"
            if what in ("messages", "locks", "priorities")
            else f"/queues/{queue}/messages/{what}"
        )
        super().__init__(world, actor, f"look at {path}", call("GET", path))
        self._gone: set[str] = set()

    def begin(self) -> None:
        super().begin()
        self._gone = set(self.model.gone)

    def succeeded(self, reply: Reply) -> None:
        response = json.loads(reply.body)
        shown = response.get("messages", response.get("locks", [response] if "id" in response else []))
        ids = [each["id"] for each in shown]
        if len(set(ids)) != len(ids):
            self.model.fail(f"{self.what} showed a message twice")
        for each in shown:
            message = self.model.picture.places.get(each["id"])
            if each["id"] in self._gone and message is None and each.get("state", "locked") is not None:
                self.model.fail(f"{self.what} showed message {each['id']}, which was gone before")
            if message is None or each.get("payload") is None:
                continue
            if (each["payload"].encode(), each["priority"]) != (message.payload, message.priority):
                self.model.fail(f"{self.what} showed message {each['id']} as another one")
