"""Requests about the trash: put aside, put back, erase, list; and finding a message over all queues.

Rule: see `requests`. What comes of each batch is judged by `trash`; here is what a response has to mean.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from math import ceil, inf
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from qrusty_trio.api.call import Reply
from tests.simulation.picture import StoredQueue
from tests.simulation.requests import Ask, call
from tests.simulation.stored_form import Message

if TYPE_CHECKING:
    from tests.simulation.clients import Client
    from tests.simulation.world import World

UNDO_SECONDS = (1, 2, 5, 20, 3600)
NEVER_USED = "00000000-0000-4000-8000-000000000000"


def undo(world: World, actor: str, dice: random.Random, names: Sequence[str], spare: str) -> Ask:
    """Something that has to do with the trash."""
    what = dice.random()
    kept = world.model.picture.kept_aside()
    if what < 0.4 or not kept:
        kind = dice.choice(("purge-queue", "purge-queue", "delete-queue"))
        return AsideAsk(world, actor, kind, dice.choice((*names, spare)), dice.choice(UNDO_SECONDS))
    number = dice.choice(kept).number if dice.random() < 0.97 else dice.randint(0, 40)
    if what < 0.8:
        return RestoreAsk(world, actor, number, dice.choice((None, None, dice.choice((*names, spare)))))
    if what < 0.9:
        return EraseAsk(world, actor, number)
    return ListAsk(world, actor)


def look_for(world: World, actor: str, dice: random.Random) -> Ask:
    """Find some message, or one that is gone."""
    ids = list(world.model.picture.places) if dice.random() < 0.9 else list(world.model.gone)
    return FindAsk(world, actor, dice.choice(ids) if ids else NEVER_USED)


async def put_back(world: World, client: Client, share: float) -> None:
    """Put back so much of what is kept aside: some under new names, and erase what finds no place."""
    look = ListAsk(world, client.name)
    await client.ask([look], patient=True)
    for each in look.found[: ceil(share * len(look.found))]:
        number = each["id"]
        restore = RestoreAsk(world, client.name, number, None)
        await client.ask([restore], patient=True)
        if restore.outcome is None and number % 4 == 0:
            restore = RestoreAsk(world, client.name, number, f"again-{number}")
            await client.ask([restore], patient=True)
        if restore.outcome is None or restore.outcome["refused"]:
            await client.ask([EraseAsk(world, client.name, number)], patient=True)


class AsideAsk(Ask):
    """A purge or delete that can be undone."""

    def __init__(self, world: World, actor: str, kind: str, queue: str, seconds: int) -> None:
        method = "DELETE" if kind == "delete-queue" else "POST"
        path = f"/{kind}/{queue}?undo_seconds={seconds}"
        super().__init__(world, actor, f"{kind} {queue}, to be undone for {seconds} s", call(method, path))
        self._key = queue, kind == "purge-queue", seconds
        self._since = 0

    def begin(self) -> None:
        super().begin()
        self._since = self.model.batch

    def count(self, by: int) -> None:
        self.asked.asides[self._key] += by

    def succeeded(self, reply: Reply) -> None:
        response = json.loads(reply.body)
        messages = response["purged_messages" if self._key[1] else "deleted_messages"]
        if response["undo"] is None:
            if messages:
                self.model.fail(f"{self.what} was answered with {messages} messages, and no way back")
            return
        number, trash = response["undo"]["id"], self.model.trash
        batch = next((each for each in trash.kept_in.get(number, ()) if each > self._since), None)
        if batch is None:
            if self.model.always:
                self.model.fail(f"{self.what} was answered, and queue number {number} was never kept aside")
            return
        self.model.answered_at(batch, self.what)
        if trash.sizes[number, batch] != messages:
            self.model.fail(f"{self.what} took {trash.sizes[number, batch]} messages, and was answered with {messages}")


class _KeptAsk(Ask):
    """About something that is kept aside."""

    def __init__(self, world: World, actor: str, what: str, path: str, number: int) -> None:
        super().__init__(world, actor, f"{what} {number}", call("POST", path))
        self.number = number
        self._held: set[str] = set()
        """Messages that were aside when it was asked, dead letters left out."""
        self._with_letters = 0
        self._clean = False
        self._asides = self._faults = self._dropped = self._since = self._namings = 0

    def begin(self) -> None:
        super().begin()
        model = self.model
        queue = self.kept
        if queue is not None:
            live = [*queue.available.values(), *(lock.message for lock in queue.locks.values())]
            self._held = {each.id for each in live}
            self._with_letters = sum(queue.held)
        self._clean = self.world.process_clean and queue is not None and self._others() == 1
        model.trash.begun[self.number] += 1
        self._begun = model.trash.begun[self.number]
        self._asides, self._faults = model.trash.asides(self.number), model.faults
        self._dropped, self._since, self._namings = model.trash.dropped[self.number], model.batch, model.namings

    def _others(self) -> int:
        """Requests about it that are under way, this one included."""
        restores = sum(count for (of, _), count in self.asked.restores.items() if of == self.number)
        return restores + self.asked.erases[self.number]

    @property
    def kept(self) -> StoredQueue | None:
        queue = self.model.picture.queues.get(self.number)
        return queue if queue is not None and queue.kept is not None else None

    @property
    def again(self) -> bool:
        """Whether it was put aside once more since this was asked."""
        return self.model.trash.asides(self.number) != self._asides

    @property
    def sole(self) -> bool:
        """Whether nobody else had to do with it since this was asked."""
        return (
            self._clean
            and not self.again
            and self._begun == self.model.trash.begun[self.number]
            and self._faults == self.model.faults
        )

    def refused(self, reply: Reply) -> None:
        queue = self.kept
        if not self.sole or queue is None:
            return
        code = json.loads(reply.body)["code"]
        if code == "not_found":
            self.model.fail(f"{self.what} was refused, and it is kept aside")

    def check_synced(self, batches: dict[int, int]) -> None:
        """`batches`: by number of a queue, the last one that did what was asked."""
        if self.sole and self.number in batches:
            self.model.answered_at(batches[self.number], self.what)


class RestoreAsk(_KeptAsk):
    def __init__(self, world: World, actor: str, number: int, to: str | None) -> None:
        query = f"?to={quote(to)}" if to is not None else ""
        super().__init__(world, actor, "restore", f"/trash/{number}/restore{query}", number)
        self.what += f" as {to}" if to is not None else ""
        self._to = to
        self._name = to or (self.kept.name if self.kept is not None else None)
        """What the queue is to be called, as far as that is known."""
        self.outcome: dict[str, Any] | None = None

    def count(self, by: int) -> None:
        self.asked.restores[self.number, self._to] += by

    def succeeded(self, reply: Reply) -> None:
        self.outcome = response = json.loads(reply.body)
        model = self.model
        restored, refused = response["restored_messages"], response["refused"]
        if not refused and not self.again and self.kept is not None:
            model.fail(f"{self.what} was answered, and it is still kept aside")
        # What it refused may be erased before it is answered, as its time is over.
        self.check_synced(model.trash.moved_in if refused else model.trash.back_in)
        if not self.sole:
            return
        dropped = model.trash.dropped[self.number] - self._dropped
        if restored + refused + dropped != len(self._held):
            model.fail(
                f"{self.what} put back {restored}, refused {refused} and dropped {dropped}, of {len(self._held)}"
            )
        queue = self.kept
        if queue is None:
            return  # what was refused is erased by now
        if len(queue.available) != refused:
            model.fail(f"{self.what} refused {refused} messages, and {len(queue.available)} are in the trash")
        for message in queue.available.values():
            if not self._has_equal(message):
                model.fail(f"{self.what} refused message {message.id}, and there is no equal one")

    def _has_equal(self, message: Message) -> bool:
        """Whether some other message had that payload since this was asked."""
        return any(
            id != message.id and self.model.removed_by.get(id, inf) > self._since
            for id in self.model.decoder.with_payload(message.payload)
        )

    def refused(self, reply: Reply) -> None:
        super().refused(reply)
        if json.loads(reply.body)["code"] != "queue_exists" or not self.sole or self._namings != self.model.namings:
            return
        # It may be erased by now, as the refusal waited for a sync.
        if self._name is not None and self.model.picture.named(self._name) is None:
            self.model.fail(f"{self.what} was refused, and there is no queue '{self._name}'")


class EraseAsk(_KeptAsk):
    def __init__(self, world: World, actor: str, number: int) -> None:
        super().__init__(world, actor, "erase", f"/trash/{number}/erase", number)

    def count(self, by: int) -> None:
        self.asked.erases[self.number] += by

    def succeeded(self, reply: Reply) -> None:
        model = self.model
        self.check_synced(model.trash.back_in)
        if not self.again and self.kept is not None:
            model.fail(f"{self.what} was answered, and it is still kept aside")
        if not self.sole:
            return
        erased = json.loads(reply.body)["erased_messages"]
        if erased != self._with_letters:
            model.fail(f"{self.what} was answered with {erased} messages of {self._with_letters}")
        for id in self._held:
            if id in model.picture.places:
                model.fail(f"{self.what} was answered, and message {id} is still there")
            elif model.always:
                model.gone.setdefault(id, model.removed_by[id])


class ListAsk(Ask):
    """What is kept aside."""

    def __init__(self, world: World, actor: str) -> None:
        super().__init__(world, actor, "list the trash", call("GET", "/trash"))
        self._since = -1
        self.found: list[dict[str, Any]] = []
        """The oldest first."""

    def begin(self) -> None:
        super().begin()
        if self.world.process_clean:
            self._since = self.model.batch

    def succeeded(self, reply: Reply) -> None:
        self.found = json.loads(reply.body)["trash"]
        if self._since != self.model.batch or not self.world.process_clean or not self.alone:
            return
        fields = "queue", "what", "messages", "dead_letters"
        shown = {each["id"]: tuple(each[field] for field in fields) for each in self.found}
        stored = {}
        for queue in self.model.picture.kept_aside():
            available, locked, dead = queue.held
            what = "purged" if queue.kept is not None and queue.kept.purged else "deleted"
            stored[queue.number] = queue.name, what, available + locked, dead
        if shown != stored:
            self.model.fail(f"{self.what} showed {shown}, and the store holds {stored}")


class FindAsk(Ask):
    """One call of a search for a message, whatever queue it is in."""

    def __init__(self, world: World, actor: str, id: str) -> None:
        super().__init__(world, actor, f"find {id[-8:]}", call("GET", f"/find?id={id}"))
        self.id = id
        self._before: Message | None = None
        self._clean = self._aside = self._gone = False
        self._namings = 0

    def begin(self) -> None:
        super().begin()
        self._clean = self.world.process_clean
        self._gone = self.id in self.model.gone
        self._before, self._aside = self._place()
        self._namings = self.model.namings

    def _place(self) -> tuple[Message | None, bool]:
        """The message, and whether it is kept aside."""
        message = self.model.picture.places.get(self.id)
        return message, message is not None and self.model.picture.queues[message.queue].kept is not None

    @property
    def _stayed(self) -> bool:
        """Whether the message was where it is all the time."""
        return self._clean and self._namings == self.model.namings and self._place()[0] is self._before

    def succeeded(self, reply: Reply) -> None:
        response = json.loads(reply.body)
        if response["state"] is None:
            if response["complete"]:
                self.model.fail(f"{self.what} found nothing, and was not refused")
            return
        message, _ = self._place()
        if response["id"] != self.id or (message is None and self._gone):
            self.model.fail(f"{self.what} found {response['id']}, which is another one, or gone")
        if self._stayed and self._aside:
            self.model.fail(f"{self.what} found what is kept aside")
        if message is None or response.get("payload") is None:
            return
        if (response["payload"].encode(), response["priority"]) != (message.payload, message.priority):
            self.model.fail(f"{self.what} found another message under this id")
        queue = self.model.picture.queues[message.queue]
        state = "dead" if message in queue.dead.values() else "locked" if self.id in self.model.picture.lock_of else ""
        if self._stayed and (response["queue"] != queue.name or (state and response["state"] != state)):
            self.model.fail(f"{self.what} found it {response['state']} in '{response['queue']}', not in '{queue.name}'")

    def refused(self, reply: Reply) -> None:
        if self._before is not None and self._stayed and not self._aside:
            self.model.fail(f"{self.what} did not find it, and it was there all the time")
