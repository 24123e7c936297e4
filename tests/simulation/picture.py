"""What the store holds, kept up to date batch by batch, and what each batch did to each message.

Rule: read from the changes alone; nothing is taken from the engine. What a batch did is told to `Rules`, which judge
it. The changes of a batch are looked at in their order: a message that leaves one family is in limbo until it turns up
in another; at the end of the batch nothing may be left there without a reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from sortedcontainers import SortedDict  # type: ignore[import-untyped]  # the package carries no types

from qrusty_trio.storage.base import Family
from tests.simulation import stored_form as form
from tests.simulation.storage import Change, Kind, SimulatedStorage
from tests.simulation.stored_form import Message, StoredKept, StoredLock


@dataclass(slots=True)
class StoredQueue:
    """A queue in the store."""

    number: int
    name: str
    refuses_duplicates: bool
    searching: bool
    limits_dead: bool = False
    """Its dead letters may go by themselves."""
    available: Any = field(default_factory=SortedDict)
    """Key -> Message."""
    locks: dict[int, StoredLock] = field(default_factory=dict)
    dead: Any = field(default_factory=SortedDict)
    """Key -> Message."""
    counters: tuple[int, int, int] = (0, 0, 0)
    dead_number: int = 0
    """In the keys of its dead letters."""
    kept: StoredKept | None = None
    """Set while it is kept aside."""

    @property
    def held(self) -> tuple[int, int, int]:
        return len(self.available), len(self.locks), len(self.dead)


class TrashRules(Protocol):
    """Who judges what a batch did to what is kept aside."""

    def kept_aside(self, queue: StoredQueue) -> None: ...
    def reentered(self, queue: StoredQueue, before: str, kept: StoredKept) -> None: ...
    def moved(self, message: Message, before: Message) -> None: ...
    def returned(self, lock: StoredLock, counted: bool) -> None: ...
    def removed(self, message: Message, lock: StoredLock | None, dead: bool) -> None: ...
    def swept(self, message: Message, queue: StoredQueue) -> None: ...
    def gone(self, queue: StoredQueue) -> None: ...


class Rules(Protocol):
    """Who judges what a batch did."""

    @property
    def trash(self) -> TrashRules: ...

    def created(self, message: Message) -> None: ...
    def locked(self, lock: StoredLock) -> None: ...
    def renewed(self, lock: StoredLock) -> None: ...
    def returned(self, lock: StoredLock, counted: bool) -> None: ...
    def buried(self, lock: StoredLock, deliveries: int) -> None: ...
    def removed(self, message: Message, lock: StoredLock | None, dead: bool) -> None: ...
    def requeued(self, message: Message, before: Message) -> None: ...
    def swept(self, message: Message, dead: bool) -> None: ...
    def queue_named(self, queue: StoredQueue) -> None: ...
    def queue_configured(self, queue: StoredQueue) -> None: ...
    def queue_gone(self, queue: StoredQueue) -> None: ...
    def broken(self, what: str) -> None:
        """The store contradicts itself."""


class Limbo(NamedTuple):
    """A message between two families."""

    message: Message
    lock: StoredLock | None = None
    """That it had."""
    dead: bool = False
    """It was a dead letter."""
    aside: bool = False
    """Its queue was kept aside."""


class Picture:
    """The whole store."""

    def __init__(self, rules: Rules, decode: form.Decoder) -> None:
        self.queues: dict[int, StoredQueue] = {}
        self.places: dict[str, Message] = {}
        """Id -> message, wherever it is."""
        self.lock_of: dict[str, StoredLock] = {}
        self.departing: list[Message] = []
        """Messages that the batch took from their queues, or buried."""
        self._rules = rules
        self._decode = decode
        self._limbo: dict[str, Limbo] = {}
        """By id."""
        self.with_letters: dict[int, int] = {}
        """Number in the keys of dead letters -> number of their queue."""
        self._touched: dict[int, None] = {}

    def in_use(self) -> list[StoredQueue]:
        """The queues that are not kept aside."""
        return [queue for queue in self.queues.values() if queue.kept is None]

    def kept_aside(self) -> list[StoredQueue]:
        return [queue for queue in self.queues.values() if queue.kept is not None]

    def named(self, name: str) -> StoredQueue | None:
        for queue in self.in_use():
            if queue.name == name:
                return queue
        return None

    def reload(self, storage: SimulatedStorage) -> None:
        """Read everything anew; nobody is told."""
        self.queues, self.places, self.lock_of, self.with_letters = {}, {}, {}, {}
        meta = dict(storage.all(Family.META))
        for key, value in meta.items():
            if form.is_config(key):
                number = form.queue_number(key[1:])
                self._decode.queue(number, value)
                name, refuses, searching = form.config(value)
                queue = self.queues[number] = StoredQueue(number, name, refuses, searching, form.limits_dead(value))
                queue.counters = form.counters(meta[form.counters_key(number)])
                queue.dead_number, queue.kept = form.aside(number, value)
                self._take_letters(queue)
        for key, value in storage.all(Family.MESSAGES):
            message = self._decode.message(key, value)
            self.queues[message.queue].available[key] = message
            self.places[message.id] = message
        for key, value in storage.all(Family.LOCKS):
            lock = self._decode.lock(key, value)
            self.queues[lock.name[0]].locks[lock.name[1]] = lock
            self.places[lock.message.id] = lock.message
            self.lock_of[lock.message.id] = lock
        for key, value in storage.all(Family.DEAD):
            if not form.is_dead_letter(key):
                continue
            message = self._decode.dead(self.with_letters[form.queue_number(key)], value)
            self.queues[message.queue].dead[key] = message
            self.places[message.id] = message

    def apply(self, changes: list[Change]) -> None:
        """A batch was stored."""
        self._limbo.clear()
        self._touched.clear()
        self.departing = []
        for kind, family, key, value in changes:
            if family is Family.META:
                self._meta(kind, key, value)
            elif family in (Family.MESSAGES, Family.LOCKS, Family.DEAD):
                number = form.queue_number(key)
                if family is Family.DEAD:
                    number = self.with_letters.get(number, number)
                queue = self.queues.get(number)
                if queue is None:
                    if kind is Kind.PUT:
                        self._rules.broken(f"something was put into queue number {number}, which is not there")
                    continue
                self._touched[number] = None
                _FAMILIES[family](self, kind, queue, key, value)
        self._leave_limbo(list(self._limbo))
        for number in self._touched:
            queue = self.queues.get(number)
            if queue is not None and queue.counters != queue.held:
                self._rules.broken(f"queue '{queue.name}' has stored counters {queue.counters}, but holds {queue.held}")

    def _leave_limbo(self, ids: list[str]) -> None:
        """These turn up nowhere any more."""
        self.departing += [each.message for each in self._limbo.values()]
        for id in ids:
            message, lock, dead, aside = self._limbo.pop(id)
            self.places.pop(id, None)
            self.lock_of.pop(id, None)
            rules = self._rules.trash if aside else self._rules
            rules.removed(message, lock, dead)

    def _meta(self, kind: Kind, key: bytes, value: bytes) -> None:
        if kind is Kind.DELETE_RANGE:
            return
        if form.is_config(key):
            number = form.queue_number(key[1:])
            self._touched[number] = None
            if kind is Kind.DELETE:
                queue = self.queues.get(number)
                if queue is not None:
                    if any(queue.held):
                        self._rules.broken(f"queue '{queue.name}' is gone, what it held is not: {queue.held}")
                    self._leave_limbo([id for id, each in self._limbo.items() if each.message.queue == number])
                    if queue.kept is not None:
                        self._rules.trash.gone(queue)
                    else:
                        self._rules.queue_gone(queue)
                    del self.queues[number]
                    if self.with_letters.get(queue.dead_number) == number:
                        del self.with_letters[queue.dead_number]
                return
            self._decode.queue(number, value)
            name, refuses, searching = form.config(value)
            dead_number, kept = form.aside(number, value)
            queue = self.queues.get(number)
            if queue is None:
                queue = self.queues[number] = StoredQueue(number, name, refuses, searching, form.limits_dead(value))
                queue.dead_number, queue.kept = dead_number, kept
                self._take_letters(queue)
                if dead_number == number:  # One that goes on after a purge is not new to whom waits for its name.
                    self._rules.queue_named(queue)
                self._rules.queue_configured(queue)
                return
            before, was, queue.dead_number, queue.kept = queue.name, queue.kept, dead_number, kept
            queue.name, queue.refuses_duplicates, queue.searching = name, refuses, searching
            queue.limits_dead = form.limits_dead(value)
            self._take_letters(queue)
            if was is not None and kept is None:
                self._rules.trash.reentered(queue, before, was)
            elif was is None and kept is not None:
                self._rules.trash.kept_aside(queue)
            elif name != before:
                self._rules.queue_named(queue)
            self._rules.queue_configured(queue)
        elif form.is_counters(key) and kind is Kind.PUT:
            number = form.queue_number(key[1:])
            if number in self.queues:
                self._touched[number] = None
                self.queues[number].counters = form.counters(value)

    def _take_letters(self, queue: StoredQueue) -> None:
        """The queue that goes on after a purge has the dead letters of the one that is kept aside."""
        if queue.kept is not None and queue.kept.purged:
            return
        number = queue.number
        holder = self.queues.get(self.with_letters.get(queue.dead_number, number))
        self.with_letters[queue.dead_number] = number
        if holder is None or holder is queue:
            return
        queue.dead, holder.dead = holder.dead, queue.dead
        self._touched[holder.number] = None
        for message in queue.dead.values():
            message.queue, message.key = number, number.to_bytes(4, "big") + message.key[4:]

    def _messages(self, kind: Kind, queue: StoredQueue, key: bytes, value: bytes) -> None:
        if kind is Kind.PUT:
            message = self._decode.message(key, value)
            known = queue.available.get(key)
            limbo = self._limbo.pop(message.id, None)
            if known is None and limbo is None:
                if message.id in self.places:
                    self._rules.broken(f"message {message.id} is in two places")
                self._rules.created(message)
            elif limbo is not None:
                self._back(message, limbo)
            elif known.id != message.id or known.deliveries != message.deliveries:
                self._rules.broken(f"the record of message {known.id} was replaced by another one")
            queue.available[key] = message
            self.places[message.id] = message
        elif kind is Kind.DELETE:
            gone = queue.available.pop(key, None)
            if gone is not None:
                self._limbo[gone.id] = Limbo(gone, aside=queue.kept is not None)
        else:
            for each in list(queue.available.irange(key, value, (True, False))):
                self._sweep(queue.available.pop(each))

    def _back(self, message: Message, limbo: Limbo) -> None:
        before, lock, dead, aside = limbo
        if dead:
            self._rules.requeued(message, before)
            return
        if message.queue != before.queue and lock is None:
            self._rules.trash.moved(message, before)
            return
        if message.key != before.key or message.queue != before.queue:
            self._rules.broken(f"message {message.id} came back to another place in the order")
        if lock is None:
            return
        del self.lock_of[message.id]
        if message.deliveries not in (lock.deliveries, lock.deliveries - 1):
            self._rules.broken(f"message {message.id} came back with {message.deliveries} deliveries")
        rules = self._rules.trash if aside else self._rules
        rules.returned(lock, counted=message.deliveries == lock.deliveries)

    def _locks(self, kind: Kind, queue: StoredQueue, key: bytes, value: bytes) -> None:
        number = form.lock_number(key)
        if kind is Kind.PUT:
            lock = self._decode.lock(key, value)
            known = queue.locks.get(number)
            id = lock.message.id
            queue.locks[number] = lock
            if known is not None:
                if known.message.id != id or known.consumer != lock.consumer or known.deliveries != lock.deliveries:
                    self._rules.broken(f"the lock of message {known.message.id} was replaced by another one")
                self.places[id] = lock.message
                self.lock_of[id] = lock
                if lock.end != known.end:
                    self._rules.renewed(lock)
                return
            limbo = self._limbo.pop(id, None)
            if limbo is None or limbo.lock is not None:
                self._rules.broken(f"message {id} was locked, but was not available")
            if queue.available and queue.available.peekitem(0)[0] < lock.message.key:
                self._rules.broken(f"message {id} was handed out before {queue.available.peekitem(0)[1].id}")
            self.places[id] = lock.message
            self.lock_of[id] = lock
            self._rules.locked(lock)
        elif kind is Kind.DELETE:
            gone = queue.locks.pop(number, None)
            if gone is not None:
                self._limbo[gone.message.id] = Limbo(gone.message, gone, aside=queue.kept is not None)
        else:
            end = form.lock_number(value) if value[:4] == key[:4] else 2**64
            for each in [each for each in queue.locks if form.lock_number(key) <= each < end]:
                lock = queue.locks.pop(each)
                self.lock_of.pop(lock.message.id, None)
                self._sweep(lock.message)

    def _dead(self, kind: Kind, queue: StoredQueue, key: bytes, value: bytes) -> None:
        if not form.is_dead_letter(key):
            return
        if kind is Kind.PUT:
            message = self._decode.dead(queue.number, value)
            known = queue.dead.get(key)
            limbo = self._limbo.pop(message.id, None)
            queue.dead[key] = message
            self.places[message.id] = message
            if limbo is not None and limbo.lock is not None:
                self.lock_of.pop(message.id, None)
                self.departing.append(message)
                self._rules.buried(limbo.lock, message.deliveries)
            elif known is None or known.id != message.id:
                self._rules.broken(f"message {message.id} is a dead letter, but was not locked")
        elif kind is Kind.DELETE:
            gone = queue.dead.pop(key, None)
            if gone is not None:
                self._limbo[gone.id] = Limbo(gone, dead=True, aside=queue.kept is not None)
        else:
            for each in list(queue.dead.irange(key, value, (True, False))):
                self._sweep(queue.dead.pop(each), dead=True)

    def _sweep(self, message: Message, dead: bool = False) -> None:
        self.places.pop(message.id, None)
        self.departing.append(message)
        queue = self.queues[message.queue]
        if queue.kept is not None:
            self._rules.trash.swept(message, queue)
        else:
            self._rules.swept(message, dead)


_FAMILIES = {Family.MESSAGES: Picture._messages, Family.LOCKS: Picture._locks, Family.DEAD: Picture._dead}
