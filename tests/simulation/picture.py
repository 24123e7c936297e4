"""What the store holds, kept up to date batch by batch, and what each batch did to each message.

Rule: read from the changes alone; nothing is taken from the engine. What a batch did is told to `Rules`, which judge
it. The changes of a batch are looked at in their order: a message that leaves one family is in limbo until it turns up
in another; at the end of the batch nothing may be left there without a reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from sortedcontainers import SortedDict  # type: ignore[import-untyped]  # the package carries no types

from qrusty_trio.storage.base import Family
from tests.simulation import stored_form as form
from tests.simulation.storage import Change, Kind, SimulatedStorage
from tests.simulation.stored_form import Message, StoredLock


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

    @property
    def held(self) -> tuple[int, int, int]:
        return len(self.available), len(self.locks), len(self.dead)


class Rules(Protocol):
    """Who judges what a batch did."""

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
        self._limbo: dict[str, tuple[Message, StoredLock | None, bool]] = {}
        """Id -> message, the lock that it had, and whether it was a dead letter."""
        self._touched: dict[int, None] = {}

    def named(self, name: str) -> StoredQueue | None:
        for queue in self.queues.values():
            if queue.name == name:
                return queue
        return None

    def reload(self, storage: SimulatedStorage) -> None:
        """Read everything anew; nobody is told."""
        self.queues, self.places, self.lock_of = {}, {}, {}
        meta = dict(storage.all(Family.META))
        for key, value in meta.items():
            if form.is_config(key):
                number = form.queue_number(key[1:])
                self._decode.queue(number, value)
                name, refuses, searching = form.config(value)
                queue = self.queues[number] = StoredQueue(number, name, refuses, searching, form.limits_dead(value))
                queue.counters = form.counters(meta[form.counters_key(number)])
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
            message = self._decode.dead(key, value)
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
        self.departing += [message for message, _, _ in self._limbo.values()]
        for id in ids:
            message, lock, dead = self._limbo.pop(id)
            self.places.pop(id, None)
            self.lock_of.pop(id, None)
            self._rules.removed(message, lock, dead)

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
                    self._leave_limbo([id for id, (each, _, _) in self._limbo.items() if each.queue == number])
                    self._rules.queue_gone(queue)
                    del self.queues[number]
                return
            self._decode.queue(number, value)
            name, refuses, searching = form.config(value)
            queue = self.queues.get(number)
            if queue is None:
                queue = self.queues[number] = StoredQueue(number, name, refuses, searching, form.limits_dead(value))
                self._rules.queue_named(queue)
                self._rules.queue_configured(queue)
                return
            renamed = queue.name != name
            queue.name, queue.refuses_duplicates, queue.searching = name, refuses, searching
            queue.limits_dead = form.limits_dead(value)
            if renamed:
                self._rules.queue_named(queue)
            self._rules.queue_configured(queue)
        elif form.is_counters(key) and kind is Kind.PUT:
            number = form.queue_number(key[1:])
            if number in self.queues:
                self._touched[number] = None
                self.queues[number].counters = form.counters(value)

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
                self._back(message, *limbo)
            elif known.id != message.id or known.deliveries != message.deliveries:
                self._rules.broken(f"the record of message {known.id} was replaced by another one")
            queue.available[key] = message
            self.places[message.id] = message
        elif kind is Kind.DELETE:
            gone = queue.available.pop(key, None)
            if gone is not None:
                self._limbo[gone.id] = (gone, None, False)
        else:
            for each in list(queue.available.irange(key, value, (True, False))):
                self._sweep(queue.available.pop(each))

    def _back(self, message: Message, before: Message, lock: StoredLock | None, dead: bool) -> None:
        if dead:
            self._rules.requeued(message, before)
            return
        if message.key != before.key or message.queue != before.queue:
            self._rules.broken(f"message {message.id} came back to another place in the order")
        if lock is None:
            return
        del self.lock_of[message.id]
        if message.deliveries not in (lock.deliveries, lock.deliveries - 1):
            self._rules.broken(f"message {message.id} came back with {message.deliveries} deliveries")
        self._rules.returned(lock, counted=message.deliveries == lock.deliveries)

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
            if limbo is None or limbo[1] is not None:
                self._rules.broken(f"message {id} was locked, but was not available")
            if queue.available and queue.available.peekitem(0)[0] < lock.message.key:
                self._rules.broken(f"message {id} was handed out before {queue.available.peekitem(0)[1].id}")
            self.places[id] = lock.message
            self.lock_of[id] = lock
            self._rules.locked(lock)
        elif kind is Kind.DELETE:
            gone = queue.locks.pop(number, None)
            if gone is not None:
                self._limbo[gone.message.id] = (gone.message, gone, False)
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
            message = self._decode.dead(key, value)
            known = queue.dead.get(key)
            limbo = self._limbo.pop(message.id, None)
            queue.dead[key] = message
            self.places[message.id] = message
            if limbo is not None and limbo[1] is not None:
                self.lock_of.pop(message.id, None)
                self.departing.append(message)
                self._rules.buried(limbo[1], message.deliveries)
            elif known is None or known.id != message.id:
                self._rules.broken(f"message {message.id} is a dead letter, but was not locked")
        elif kind is Kind.DELETE:
            gone = queue.dead.pop(key, None)
            if gone is not None:
                self._limbo[gone.id] = (gone, None, True)
        else:
            for each in list(queue.dead.irange(key, value, (True, False))):
                self._sweep(queue.dead.pop(each), dead=True)

    def _sweep(self, message: Message, dead: bool = False) -> None:
        self.places.pop(message.id, None)
        self.departing.append(message)
        self._rules.swept(message, dead)


_FAMILIES = {Family.MESSAGES: Picture._messages, Family.LOCKS: Picture._locks, Family.DEAD: Picture._dead}
