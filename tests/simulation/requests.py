"""What HTTP clients and managers ask, and what each response has to mean.

Rule: an `Ask` tells the model what it asks for before it is run (`begin`), what it was answered (`answered`), or that
no response came (`unanswered`). After any of the two the model expects no more effects of it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qrusty_trio.api.call import Call, Reply
from qrusty_trio.api.operations import resolve
from tests.simulation.known import Publish
from tests.simulation.stored_form import LockName

if TYPE_CHECKING:
    from tests.simulation.world import World

REFUSED = (400, 404, 409, 422)


def call(method: str, path: str, body: dict[str, Any] | None = None) -> Call:
    path, _, query = path.partition("?")
    operation, params = resolve(method, path.encode())
    return Call(operation, params, json.dumps(body).encode() if body is not None else b"", query)


class Ask:
    """A request."""

    batchable = False
    """Whether it may be part of a round."""

    def __init__(self, world: World, actor: str, what: str, call: Call) -> None:
        self.world = world
        self.model = world.model
        self.actor = actor
        self.what = what
        self.call = call
        self.asked = world.model.asked
        self.alone = False
        """Whether it is a burst of its own."""

    def begin(self) -> None:
        """It is about to be run."""
        self.asked = self.model.asked
        self.count(1)

    def count(self, by: int) -> None:
        """What it asks for is on its way, or (-1) is not any more."""

    def end(self) -> None:
        """It can have no more effects."""
        self.count(-1)

    def succeeded(self, reply: Reply) -> None:
        """It was answered with status 200."""

    def refused(self, reply: Reply) -> None:
        """It was answered with a status that says that it did nothing."""

    def answered(self, reply: Reply) -> None:
        text = reply.body.decode()[:60] if reply.status != 200 or reply.body[:1] != b"{" else ""
        self.model.trace.note(self.actor, self.what, "->", reply.status, text)
        if reply.status == 200:
            self.succeeded(reply)
        elif reply.status in REFUSED:
            self.refused(reply)
        elif reply.status not in (503, 507):
            self.model.fail(f"{self.what} was answered with {reply.status}: {reply.body.decode()}")
        self.end()

    def unanswered(self) -> None:
        self.model.trace.note(self.actor, self.what, "-> no answer")
        self.model.forget_later(self.end)


class PublishAsk(Ask):
    batchable = True

    def __init__(self, world: World, actor: str, queue: str, priority: int | str, payload: str, retries: int) -> None:
        body = {"queue": queue, "priority": priority, "payload": payload, "max_retries": retries}
        super().__init__(world, actor, f"publish {payload} to {queue}", call("POST", "/publish", body))
        self.publish = Publish(queue, payload.encode())
        self._priority, self._retries = priority, retries
        self._equal = False
        self._equals: set[str] = set()
        """Ids of the equal messages that were there when it was asked."""
        self._id: str | None = None

    def begin(self) -> None:
        super().begin()
        self._equal = self._equal_there()
        self._equals = self._equal_ids()

    def count(self, by: int) -> None:
        if by > 0:
            self.asked.publish_begins(self.publish)
        else:
            self.asked.publish_ends(self.publish, self._id)

    def succeeded(self, reply: Reply) -> None:
        self._id = id = json.loads(reply.body)["id"]
        self.model.answered_for(id)
        message = self.model.picture.places.get(id)
        if message is not None and (message.payload, message.priority, message.max_retries) != (
            self.publish.payload,
            self._priority,
            self._retries,
        ):
            self.model.fail(f"message {id} is not what was published")

    def refused(self, reply: Reply) -> None:
        duplicate = json.loads(reply.body)["code"] == "duplicate_payload"
        if duplicate and self.alone and not self._equal and not self._equal_there():
            self.model.fail(f"{self.what} was refused as a duplicate, and there is none")
        equals = self._equal_ids()
        if duplicate and self.alone and len(equals) == 1 and equals == self._equals:
            (id,) = equals
            self.model.told_of(id, f"the refusal of an equal of {id}")

    def _equal_ids(self) -> set[str]:
        queue = self.model.picture.named(self.publish.queue)
        if queue is None or queue.searching or not queue.refuses_duplicates:
            return set()
        there = [*queue.available.values(), *(lock.message for lock in queue.locks.values())]
        return {each.id for each in there if each.payload == self.publish.payload}

    def _equal_there(self) -> bool:
        queue = self.model.picture.named(self.publish.queue)
        if queue is None:
            return False
        return (
            queue.searching
            or any(each.payload == self.publish.payload for each in queue.available.values())
            or any(each.message.payload == self.publish.payload for each in queue.locks.values())
            or not self.world.process_clean
        )


class ConsumeAsk(Ask):
    batchable = True

    def __init__(self, world: World, actor: str, queue: str, consumer: str, seconds: int) -> None:
        body = {"consumer_id": consumer, "timeout_seconds": seconds}
        super().__init__(world, actor, f"consume from {queue} as {consumer}", call("POST", f"/consume/{queue}", body))
        self.queue, self.consumer = queue, consumer
        self.given_back = False
        self.handed_out: list[tuple[str, str]] = []
        """Queues and ids of what it was handed out."""
        self.expects = False
        """Whether there was certainly a message to be had."""

    def count(self, by: int) -> None:
        self.asked.consumes[self.consumer] += by

    def succeeded(self, reply: Reply) -> None:
        if not reply.deliveries:
            if self.expects:
                self.model.fail(f"{self.what} found nothing, and there is something")
            return
        response = json.loads(reply.body)
        for delivery, message in zip(reply.deliveries, response.get("messages", [response]), strict=True):
            self._handed_out((delivery.queue_number, delivery.lock_number), message)

    def _handed_out(self, name: LockName, message: dict[str, Any]) -> None:
        id = message["id"]
        self.handed_out.append((message.get("queue", self.queue), id))
        self.model.trace.note(self.actor, "got", id, "delivery", message["retry_count"])
        held = self.model.held.get((name, id))
        if held is None:
            self.model.fail(f"message {id} was handed to {self.consumer}, and no lock was ever stored")
            return
        if not self.given_back:
            self.model.left(held)
        lock = self.model.picture.lock_of.get(id)
        if lock is not None and lock.name == name:
            if lock.consumer != self.consumer:
                self.model.fail(f"message {id} was handed to {self.consumer}, and {lock.consumer} holds it")
            if (message["payload"].encode(), message["retry_count"]) != (lock.message.payload, lock.deliveries):
                self.model.fail(f"message {id} was handed out as another one")


class ConsumeBatchAsk(ConsumeAsk):
    """A consume of many, or of one from several queues; it may wait."""

    batchable = False

    def __init__(self, world: World, actor: str, queues: list[str], consumer: str, most: int, wait: float) -> None:
        super().__init__(world, actor, queues[0], consumer, 5)
        body: dict[str, Any] = {"consumer_id": consumer, "timeout_seconds": 5, "wait_seconds": wait}
        self.what = f"consume {most} from {queues} as {consumer}, wait {wait}"
        if len(queues) > 1:
            self.call = call("POST", "/consume", {**body, "queues": queues})
        elif most > 1:
            self.call = call("POST", f"/consume-batch/{queues[0]}", {**body, "max_messages": most})
        else:
            self.call = call("POST", f"/consume/{queues[0]}", body)


class PublishBatchAsk(Ask):
    """Publishes many. As long as it runs, the steps done so far may be there."""

    def __init__(self, world: World, actor: str, queue: str, messages: list[tuple[int, str, int]]) -> None:
        body = {
            "queue": queue,
            "messages": [
                {"priority": priority, "payload": payload, "max_retries": retries}
                for priority, payload, retries in messages
            ],
        }
        super().__init__(world, actor, f"publish {len(messages)} to {queue}", call("POST", "/publish-batch", body))
        self.publishes = [Publish(queue, payload.encode()) for _, payload, _ in messages]
        self._messages = messages
        self._ids: list[str | None] = [None] * len(messages)

    def count(self, by: int) -> None:
        for publish, id in zip(self.publishes, self._ids, strict=True):
            if by > 0:
                self.asked.publish_begins(publish)
            else:
                self.asked.publish_ends(publish, id)

    def succeeded(self, reply: Reply) -> None:
        response = json.loads(reply.body)
        rejected = {each["index"] for each in response["rejected"]}
        ids = iter(response["ids"])
        for index, (priority, payload, retries) in enumerate(self._messages):
            if index in rejected:
                continue
            self._ids[index] = id = next(ids)
            self.model.answered_for(id)
            message = self.model.picture.places.get(id)
            found = message and (message.payload, message.priority, message.max_retries)
            if found and found != (payload.encode(), priority, retries):
                self.model.fail(f"message {id} is not what was published")
        if next(ids, None) is not None:
            self.model.fail(f"{self.what} was answered with more ids than messages")


class SettleAsk(Ask):
    """An ack or a nack."""

    batchable = True

    def __init__(self, world: World, actor: str, kind: str, queue: str, id: str, consumer: str) -> None:
        body = {"consumer_id": consumer}
        super().__init__(world, actor, f"{kind} {id[-8:]}", call("POST", f"/{kind}/{queue}/{id}", body))
        self.queue, self.id, self.consumer = queue, id, consumer
        self._ack = kind == "ack"
        self._holds: LockName | None = None
        self._faults = 0

    def begin(self) -> None:
        super().begin()
        self._holds = self._held()
        self._faults = self.model.faults

    def count(self, by: int) -> None:
        (self.asked.acks if self._ack else self.asked.nacks)[self.id, self.consumer] += by

    def _held(self) -> LockName | None:
        lock = self.model.picture.lock_of.get(self.id)
        if lock is None or lock.consumer != self.consumer:
            return None
        held = self.model.held[lock.name, self.id]
        queue = self.model.picture.queues[lock.name[0]]
        return lock.name if queue.name == self.queue and not (held.aside or self.model.ended(held)) else None

    def succeeded(self, reply: Reply) -> None:
        if self._ack:
            self.model.answered_gone(self.id)

    def refused(self, reply: Reply) -> None:
        if self._holds is not None and self._holds == self._held() and self._faults == self.model.faults:
            self.model.fail(f"{self.what} was refused, and {self.consumer} holds it")


class SettleBatchAsk(Ask):
    """An ack-batch or a nack-batch."""

    def __init__(self, world: World, actor: str, kind: str, queue: str, ids: list[str], consumer: str) -> None:
        body = {"consumer_id": consumer, "message_ids": ids}
        super().__init__(world, actor, f"{kind} of {len(ids)}", call("POST", f"/{kind}/{queue}", body))
        self.ids, self.consumer = ids, consumer
        self._ack = kind == "ack-batch"

    def count(self, by: int) -> None:
        for id in self.ids:
            (self.asked.acks if self._ack else self.asked.nacks)[id, self.consumer] += by

    def succeeded(self, reply: Reply) -> None:
        for id in json.loads(reply.body).get("acked", ()):
            self.model.answered_gone(id)


class SweepAsk(Ask):
    """Purge or delete one queue, or all of them."""

    def __init__(self, world: World, actor: str, kind: str, queue: str) -> None:
        method = "DELETE" if kind == "delete-queue" else "POST"
        path = f"/{kind}/{queue}" if queue else f"/{kind}"
        super().__init__(world, actor, f"{kind} {queue}", call(method, path))
        self.queue = queue
        self._delete = kind.startswith("delete")
        self._doomed_queues: list[int] = []
        self._doomed: set[str] = set()
        self._since = 0

    def begin(self) -> None:
        super().begin()
        self._since = self.model.batch
        if self.world.process_clean:
            self._doomed_queues = self.world.numbers(self.queue)
            for number in self._doomed_queues:
                there = self.model.picture.queues[number]
                self._doomed |= {each.id for each in there.available.values()}
                self._doomed |= {each.message.id for each in there.locks.values()}

    def count(self, by: int) -> None:
        self.asked.sweeps[self.queue] += by
        if self._delete:
            self.asked.deletes[self.queue] += by

    def succeeded(self, reply: Reply) -> None:
        picture, trash = self.model.picture, self.model.trash
        there = [each for each in self._doomed_queues if each in picture.queues and not trash.since(each, self._since)]
        if self._delete and there:
            self.model.fail(f"{self.what} was answered, and a queue that was there before still is")
        dead = {each.id for queue in picture.queues.values() for each in queue.dead.values()}
        for id in self._doomed:
            if trash.aside_in.get(id, 0) > self._since:
                continue  # another one put it aside, and it may be back
            if id in picture.places and id not in dead:
                self.model.fail(f"{self.what} was answered, and message {id} is still there")
            elif id not in picture.places and self.model.always:
                if self.model.removed_by[id] > self.world.storage.synced:
                    self.model.fail(f"{self.what} was answered before it was synced")
                self.model.gone.setdefault(id, self.model.removed_by[id])


class DeadLettersAsk(Ask):
    """Requeue or purge dead letters of a queue."""

    def __init__(self, world: World, actor: str, kind: str, queue: str, body: dict[str, Any]) -> None:
        path = f"/queues/{queue}/dead-letters/{kind}"
        super().__init__(world, actor, f"{kind} dead letters of {queue} {body}", call("POST", path, body))
        self.queue = queue
        self._purge = kind == "purge"
        self._all = body.get("all") is True
        self._doomed: set[str] = set()
        self._since = 0

    def begin(self) -> None:
        super().begin()
        self._since = self.model.batch
        if self.world.process_clean and self._all:
            for number in self.world.numbers(self.queue):
                self._doomed |= {each.id for each in self.model.picture.queues[number].dead.values()}

    def count(self, by: int) -> None:
        (self.asked.dead_purges if self._purge else self.asked.requeues)[self.queue] += by

    def succeeded(self, reply: Reply) -> None:
        if not self._purge:
            return
        for id in self._doomed:
            if self.model.trash.aside_in.get(id, 0) > self._since:
                continue
            if id in self.model.picture.places:
                self.model.fail(f"{self.what} was answered, and message {id} is still there")
            elif self.model.always and self.model.removed_by.get(id, 0) > self.world.storage.synced:
                self.model.fail(f"{self.what} was answered before it was synced")


class ManageAsk(Ask):
    """Create or update a queue, or read something."""
