"""What the model knows of the trash: what was put aside, when it may go, and what comes of it.

Rule: see `model`. What is kept aside never changes by itself. It gains nothing, and loses something only to a restore,
to an erase, or when its time is over. A restore leaves each message in its old place, in one of two queues.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.simulation.known import EPOCH
from tests.simulation.picture import StoredQueue
from tests.simulation.stored_form import Message, StoredKept, StoredLock

if TYPE_CHECKING:
    from tests.simulation.model import Model

EARLY_MS = 6
"""A wall clock that was set is known to so many milliseconds."""
LATE_SECONDS = 3.0
"""After its time is over, what is kept aside may stay for so long, when there is no fault."""


class Trash:
    """See above."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.kept_in: dict[int, list[int]] = {}
        """Number of a queue -> the batches that put it aside."""
        self.sizes: dict[tuple[int, int], int] = {}
        """Number of a queue, and such a batch -> messages put aside."""
        self.back_in: dict[int, int] = {}
        """Number of a queue -> the last batch that took something out of the trash, or erased it."""
        self.moved_in: dict[int, int] = {}
        """The same -> the last batch that moved a message of it back into its queue."""
        self.aside_in: dict[str, int] = {}
        """Message -> the last batch that put it aside."""
        self.entered_in: dict[str, int] = {}
        """Message -> the last batch that moved it back into its queue."""
        self.dropped: Counter[int] = Counter()
        """Messages of a queue that were not put back: an equal one owns the payload, or it was lost."""
        self.begun: Counter[int] = Counter()
        """Restores and erases so far, by number."""
        self.urgent = 0
        """How often the disk had little room, and nothing was erased yet for that."""

    # What is asked

    def asides(self, number: int) -> int:
        """How often it was put aside so far."""
        return len(self.kept_in.get(number, ()))

    def since(self, number: int, batch: int) -> bool:
        """Whether a queue was put aside after a batch."""
        return any(each > batch for each in self.kept_in.get(number, ()))

    def restoring(self, number: int) -> bool:
        return any(count and of == number for (of, _), count in self._model.asked.restores.items())

    def wall_ms(self) -> float:
        return (EPOCH + self._model.now() + self._model.ahead) * 1000

    def overdue(self) -> list[StoredQueue]:
        """What should have been erased."""
        latest = self.wall_ms() - LATE_SECONDS * 1000
        return [each for each in self._model.picture.kept_aside() if each.kept is not None and each.kept.until < latest]

    # What batches did

    def kept_aside(self, queue: StoredQueue) -> None:
        model, kept = self._model, queue.kept
        assert kept is not None
        batch = model.batch
        seconds, rest = divmod(kept.until - kept.at, 1000)
        model.trace.note("store", "queue number", queue.number, queue.name, "is kept aside for", seconds, "s")
        if rest or not model.asked.asides[queue.name, kept.purged, seconds]:
            model.fail(f"queue '{queue.name}' is kept aside for {seconds} s, and nobody asked for that")
        live = [*queue.available.values(), *(lock.message for lock in queue.locks.values())]
        self.kept_in.setdefault(queue.number, []).append(batch)
        self.sizes[queue.number, batch] = len(live)
        for message in (*live, *queue.dead.values()):
            self.aside_in[message.id] = batch
        for lock in queue.locks.values():
            model.held[lock.name, lock.message.id].aside = True
        successor = self._goes_on(queue)
        if kept.purged and (
            successor is None
            or (successor.name, successor.refuses_duplicates) != (queue.name, queue.refuses_duplicates)
            or queue.dead
            or successor.available
            or successor.locks
        ):
            model.fail(f"queue '{queue.name}' was purged, and does not go on as it was")
        model.namings += 1
        for each in model.subscriptions:
            if each.number == queue.number:
                each.number = successor.number if successor is not None and kept.purged else None

    def _goes_on(self, queue: StoredQueue) -> StoredQueue | None:
        """The queue that has the dead letters, and so the name, of a purged one; None if it is gone."""
        picture = self._model.picture
        number = picture.with_letters.get(queue.dead_number)
        return picture.queues.get(number) if number is not None and number != queue.number else None

    def reentered(self, queue: StoredQueue, before: str, kept: StoredKept) -> None:
        """What was kept aside is a queue of its own again. `before`: its name until then."""
        model = self._model
        model.trace.note("store", "queue number", queue.number, before, "is back as", queue.name)
        self.back_in[queue.number] = model.batch
        asked = model.asked.restores
        same = queue.name == before and not kept.purged
        if not asked[queue.number, queue.name] and not (same and asked[queue.number, None]):
            model.fail(f"queue '{before}' is back as '{queue.name}', and nobody asked for that")
        if queue.locks:
            model.fail(f"queue '{queue.name}' is back with {len(queue.locks)} locks")
        if kept.purged and queue.dead:
            model.fail(f"queue '{queue.name}' is back with dead letters, which stay with the queue that went on")
        for other in model.picture.in_use():
            if other is not queue and other.name == queue.name:
                model.fail(f"there are two queues '{queue.name}'")
            if other is not queue and other.dead_number == queue.dead_number:
                model.fail(f"queue '{queue.name}' shares the dead letters of '{other.name}'")
        model.queue_named(queue)

    def moved(self, message: Message, before: Message) -> None:
        """A message is available in another queue."""
        model = self._model
        id, source, into = message.id, model.picture.queues[before.queue], model.picture.queues[message.queue]
        model.trace.note("store", "message", id, "is put back into", into.name)
        self.back_in[source.number] = self.moved_in[source.number] = self.entered_in[id] = model.batch
        if source.kept is None or not source.kept.purged or into.kept is not None:
            model.fail(f"message {id} went from queue '{source.name}' to '{into.name}'")
        elif not model.asked.restores[source.number, None]:
            model.fail(f"message {id} is put back, and nobody asked for that")
        if self._goes_on(source) is not into:
            model.fail(f"message {id} is put back into '{into.name}', which is not its queue")
        if message.key[4:] != before.key[4:]:
            model.fail(f"message {id} is put back to another place in the order")
        if message.deliveries != before.deliveries:
            model.fail(f"message {id} is put back with {message.deliveries} deliveries")

    def returned(self, lock: StoredLock, counted: bool) -> None:
        """What was locked when it was put aside is available, still there."""
        model, id = self._model, lock.message.id
        model.trace.note("store", "message", id, "is available in the trash")
        model.held[lock.name, id].over = True
        if counted:
            model.fail(f"message {id}, which is kept aside, is available again, and its delivery counts")
        if not self.restoring(lock.name[0]):
            model.fail(f"message {id}, which is kept aside, is available again, and nobody asked for that")

    def removed(self, message: Message, lock: StoredLock | None, dead: bool) -> None:
        """It is gone from what is kept aside, alone."""
        model, id = self._model, message.id
        model.removed_by[id] = model.batch
        model.trace.note("store", "message", id, "is dropped from the trash")
        self.dropped[message.queue] += 1
        if lock is not None:
            model.held[lock.name, id].over = True
        if id in model.payload_lost:
            return
        if lock is None or dead:
            model.fail(f"message {id}, which was kept aside, is gone")
            return
        if not self.restoring(message.queue):
            model.fail(f"message {id}, which was kept aside, is gone, and nobody asked for that")
        others = (*model.picture.places.values(), *model.picture.departing)
        if not any(each.payload == message.payload and each.id != id for each in others):
            model.fail(f"message {id}, which was kept aside, is dropped without an equal one")

    def swept(self, message: Message, queue: StoredQueue) -> None:
        self._model.removed_by[message.id] = self._model.batch
        if not self._may_go(queue):
            self._model.fail(f"message {message.id} is erased with queue '{queue.name}' for no reason")

    def gone(self, queue: StoredQueue) -> None:
        model = self._model
        model.trace.note("store", "queue number", queue.number, queue.name, "is not kept aside any more")
        self.back_in[queue.number] = model.batch
        if queue.kept is not None and queue.kept.purged and self.restoring(queue.number):
            return
        if not self._may_go(queue):
            model.fail(f"queue '{queue.name}' is erased for no reason")
        elif not model.asked.erases[queue.number] and not self._over(queue):
            self.urgent -= 1

    def _over(self, queue: StoredQueue) -> bool:
        return queue.kept is not None and self.wall_ms() >= queue.kept.until - EARLY_MS

    def _may_go(self, queue: StoredQueue) -> bool:
        return bool(self._model.asked.erases[queue.number]) or self._over(queue) or self.urgent > 0

    def lost(self, first: int) -> None:
        """The batches from that one on are gone, and the picture was read anew."""
        model = self._model
        for batches in self.kept_in.values():
            batches[:] = [each for each in batches if each < first]
        self.back_in = {number: batch for number, batch in self.back_in.items() if batch < first}
        self.moved_in = {number: batch for number, batch in self.moved_in.items() if batch < first}
        self.aside_in = {id: batch for id, batch in self.aside_in.items() if batch < first}
        self.entered_in = {id: batch for id, batch in self.entered_in.items() if batch < first}
        for lock in model.picture.lock_of.values():
            model.held[lock.name, lock.message.id].aside = model.picture.queues[lock.name[0]].kept is not None
