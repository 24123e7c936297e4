"""What the broker means, without anything that makes it fast: lists of messages, sorted when asked.

Rule: written from the contract, not from the broker. Nothing here knows keys, tiers, batches or pieces.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from qrusty_trio.core.model import WS_MARK, Kind, NackOutcome, Ordering, Priority, QueueConfig
from qrusty_trio.errors import (
    DuplicatePayload,
    InvalidQueueName,
    MessageNotLocked,
    PriorityKindMismatch,
    QueueExists,
    QueueNotFound,
    QueueProtected,
    UndoNotPossible,
)


class Message(NamedTuple):
    id: str
    sequence: int
    priority: Priority
    payload: str
    max_retries: int
    deliveries: int
    created: int
    requeues: int = 0


class Held(NamedTuple):
    """A locked message; its deliveries count the one that locked it."""

    message: Message
    consumer: str
    until: int


class Dead(NamedTuple):
    """A dead letter."""

    message: Message
    reason: str
    died: int
    consumer: str
    error: str


class Death(NamedTuple):
    """What a message dies of, if it was delivered often enough."""

    reason: str
    now: int
    error: str = ""


@dataclass
class ModelQueue:
    number: int
    config: QueueConfig
    published: int = 0
    available: list[Message] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    """In the order of the consumes."""
    dead: list[Dead] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)
    """Payload -> the message that keeps equal ones out."""
    origin: int = 0
    """The number in the keys of its dead letters."""

    def __post_init__(self) -> None:
        self.origin = self.origin or self.number

    def copy(self) -> ModelQueue:
        """Nothing in it changes with this one."""
        return replace(
            self,
            available=self.available.copy(),
            held=self.held.copy(),
            dead=self.dead.copy(),
            owners=self.owners.copy(),
        )

    def in_order(self, messages: list[Message]) -> list[Message]:
        """As the queue promises: by priority, then first in, first out."""
        by_age = sorted(messages, key=lambda message: message.sequence)
        if self.config.ordering is Ordering.FIFO:
            return by_age
        reverse = self.config.ordering is Ordering.MAX_FIRST  # a stable sort stays stable
        if self.config.kind is Kind.TEXT:
            return sorted(by_age, key=lambda message: str(message.priority).encode(), reverse=reverse)
        return sorted(by_age, key=lambda message: message.priority, reverse=reverse)

    def release(self, message: Message) -> None:
        if self.owners.get(message.payload) == message.id:
            del self.owners[message.payload]

    def put_back(self, message: Message, consumer: str, death: Death | None) -> NackOutcome:
        """`death`: None when the delivery does not count."""
        if death is not None and message.deliveries >= message.max_retries:
            self.dead.append(Dead(message, death.reason, death.now, consumer.removeprefix(WS_MARK), death.error))
            self.release(message)
            return NackOutcome.DEAD_LETTERED
        if not self.config.allow_duplicates and self.owners.setdefault(message.payload, message.id) != message.id:
            return NackOutcome.DROPPED
        self.available.append(message)
        return NackOutcome.UNLOCKED


class KeptAside(NamedTuple):
    """A purged or deleted queue that can be put back."""

    name: str
    queue: ModelQueue
    purged: bool
    at: int
    until: int


@dataclass
class Model:
    max_locked: int
    queues: dict[str, ModelQueue] = field(default_factory=dict)
    next_number: int = 1
    kept: dict[int, KeptAside] = field(default_factory=dict)
    keeps: bool = True
    """Whether anything can be kept aside."""

    def copy(self) -> Model:
        queues = {name: queue.copy() for name, queue in self.queues.items()}
        kept = {number: each._replace(queue=each.queue.copy()) for number, each in self.kept.items()}
        return Model(self.max_locked, queues, self.next_number, kept, self.keeps)

    def create(self, name: str, config: QueueConfig) -> ModelQueue:
        if name in self.queues:
            raise QueueExists
        queue = self.queues[name] = ModelQueue(self.next_number, config)
        self.next_number += 1
        return queue

    def check_publish(self, name: str, priority: Priority, payload: str, create: bool) -> None:
        """Raises what the broker has to raise."""
        if name not in self.queues and not create:
            raise QueueNotFound
        queue = self.queues.get(name)
        kind = queue.config.kind if queue is not None else QueueConfig().kind
        if isinstance(priority, str) is not (kind is Kind.TEXT):
            raise PriorityKindMismatch
        if queue is not None and not queue.config.allow_duplicates and payload in queue.owners:
            raise DuplicatePayload

    def publish(self, name: str, id: str, priority: Priority, payload: str, max_retries: int, now: int) -> None:
        """After `check_publish`, with the id that the broker chose."""
        queue = self.queues.get(name) or self.create(name, QueueConfig())
        queue.available.append(Message(id, queue.published, priority, payload, max_retries, 0, now))
        queue.published += 1
        if not queue.config.allow_duplicates:
            queue.owners[payload] = id

    def consume(self, name: str, consumer: str, seconds: int, now: int) -> Message | None:
        queue = self.queues.get(name)
        if queue is None or not queue.available or self.locked() >= self.max_locked:
            return None
        first = queue.in_order(queue.available)[0]
        queue.available.remove(first)
        message = first._replace(deliveries=first.deliveries + 1)
        queue.held[message.id] = Held(message, consumer, now + seconds * 1000)
        return message

    def locked(self) -> int:
        return sum(len(queue.held) for queue in self.queues.values())

    def _take(self, name: str, id: str, consumer: str) -> tuple[ModelQueue, Held]:
        queue = self.queues.get(name)
        held = queue.held.get(id) if queue is not None else None
        if queue is None or held is None or held.consumer != consumer:
            raise MessageNotLocked
        return queue, held

    def ack(self, name: str, id: str, consumer: str) -> None:
        queue, held = self._take(name, id, consumer)
        del queue.held[id]
        queue.release(held.message)

    def nack(self, name: str, id: str, consumer: str, now: int, error: str) -> NackOutcome:
        queue, held = self._take(name, id, consumer)
        del queue.held[id]
        return queue.put_back(held.message, consumer, Death("nacked", now, error))

    def renew(self, name: str, id: str, consumer: str, seconds: int, now: int) -> int:
        queue, held = self._take(name, id, consumer)
        end = now + seconds * 1000
        queue.held[id] = held._replace(until=end)
        return end

    def give_back(self, name: str, id: str, consumer: str, counted: bool, now: int) -> None:
        try:
            queue, held = self._take(name, id, consumer)
        except MessageNotLocked:
            return
        del queue.held[id]
        message = held.message
        if counted:
            queue.put_back(message, consumer, Death("connection_lost", now))
        else:
            queue.put_back(message._replace(deliveries=message.deliveries - 1), consumer, None)

    def expire(self, now: int) -> None:
        """Those whose locks have ended go back, first ended first."""
        for end in sorted({held.until for queue in self.queues.values() for held in queue.held.values()}):
            for queue in self.queues.values() if end <= now else ():
                ended = {held.message: held.consumer for held in queue.held.values() if held.until == end}
                for message in queue.in_order(list(ended)):
                    del queue.held[message.id]
                    queue.put_back(message, ended[message], Death("expired", now))

    def chosen(self, name: str, ids: list[str] | None) -> list[Dead]:
        """Those dead letters, in the order of the ids; None: all of them, the oldest first."""
        letters = {letter.message.id: letter for letter in self.queues[name].dead}
        if ids is None:
            return list(letters.values())
        return [letters[id] for id in dict.fromkeys(ids) if id in letters]

    def requeue(self, name: str, ids: list[str] | None, to: str, priority: Priority | None) -> tuple[int, int]:
        """How many were requeued, and how many refused."""
        queue, target = self.queues[name], self.queues[to]
        letters = self.chosen(name, ids)
        refused = 0
        for letter in letters:
            message = letter.message._replace(deliveries=0, requeues=letter.message.requeues + 1)
            if not target.config.allow_duplicates and message.payload in target.owners:
                refused += 1
                continue
            queue.dead.remove(letter)
            if target is not queue:
                message = message._replace(sequence=target.published)
                target.published += 1
            if priority is not None:
                message = message._replace(priority=priority)
            target.available.append(message)
            if not target.config.allow_duplicates:
                target.owners[message.payload] = message.id
        return len(letters) - refused, refused

    def purge_dead(self, name: str, ids: list[str] | None) -> int:
        letters = self.chosen(name, ids)
        for letter in letters:
            self.queues[name].dead.remove(letter)
        return len(letters)

    def retain(self, now: int) -> None:
        """The oldest dead letters go that are too old, or too many."""
        for queue in self.queues.values():
            ttl, most = queue.config.dead_letter_ttl_seconds, queue.config.dead_letter_max
            while queue.dead and (
                (most is not None and len(queue.dead) > most)
                or (ttl is not None and queue.dead[0].died <= now - ttl * 1000)
            ):
                del queue.dead[0]

    def limit_dead(self, name: str, ttl: int | None, most: int | None) -> None:
        if name not in self.queues:
            raise QueueNotFound
        queue = self.queues[name]
        config = queue.config
        limits = (config.dead_letter_ttl_seconds, ttl), (config.dead_letter_max, most)
        if config.protected and any(new is not None and (old is None or new < old) for old, new in limits):
            raise QueueProtected
        queue.config = replace(config, dead_letter_ttl_seconds=ttl, dead_letter_max=most)

    def protect(self, name: str, protected: bool) -> None:
        if name not in self.queues:
            raise QueueNotFound
        queue = self.queues[name]
        queue.config = replace(queue.config, protected=protected)

    def rename(self, name: str, new_name: str) -> None:
        if name not in self.queues:
            raise QueueNotFound
        if not new_name.strip():
            raise InvalidQueueName
        if new_name == name:
            return
        if self.queues[name].config.protected:
            raise QueueProtected
        if new_name in self.queues:
            raise QueueExists
        self.queues[new_name] = self.queues.pop(name)

    def duplicates(self, name: str, allow: bool) -> None:
        """Off: of equal payloads the one that was locked first stays, else the first in order."""
        if name not in self.queues:
            raise QueueNotFound
        queue = self.queues[name]
        if allow == queue.config.allow_duplicates:
            return
        queue.config = replace(queue.config, allow_duplicates=allow)
        queue.owners.clear()
        if not allow:
            for held in queue.held.values():
                queue.owners.setdefault(held.message.payload, held.message.id)
            for message in queue.in_order(queue.available):
                if queue.owners.setdefault(message.payload, message.id) != message.id:
                    queue.available.remove(message)

    def purge(self, name: str) -> int:
        queue = self.queues.get(name)
        if queue is None:
            return 0
        if queue.config.protected:
            raise QueueProtected
        removed = len(queue.available) + len(queue.held)
        queue.available.clear()
        queue.held.clear()
        queue.owners.clear()
        return removed

    def delete(self, name: str) -> int:
        removed = self.purge(name)
        self.queues.pop(name, None)
        return removed

    # Kept aside

    def _aside(self, name: str) -> ModelQueue | None:
        queue = self.queues.get(name)
        if queue is not None and queue.config.protected:
            raise QueueProtected
        if queue is not None and not self.keeps:
            raise UndoNotPossible
        return queue

    def purge_aside(self, name: str, seconds: int, now: int) -> int:
        queue = self._aside(name)
        if queue is None or not (queue.available or queue.held):
            return 0
        kept = queue.copy()
        kept.dead.clear()
        self.kept[queue.number] = KeptAside(name, kept, True, now, now + seconds * 1000)
        queue.number = self.next_number
        self.next_number += 1
        return self.purge(name)

    def delete_aside(self, name: str, seconds: int, now: int) -> int:
        queue = self._aside(name)
        if queue is None:
            return 0
        self.kept[queue.number] = KeptAside(name, self.queues.pop(name), False, now, now + seconds * 1000)
        return len(queue.available) + len(queue.held)

    def erase(self, number: int) -> int:
        queue = self.kept.pop(number).queue
        return len(queue.available) + len(queue.held) + len(queue.dead)

    def restore(self, number: int, to: str | None) -> tuple[str, int, int]:
        """The queue that has the messages then, how many came back, and how many it refused."""
        kept = self.kept[number]
        queue = kept.queue
        if to is not None or not kept.purged:
            name = kept.name if to is None else to
            if not name:
                raise InvalidQueueName
            if name in self.queues:
                raise QueueExists
            self._unlock_all(queue)
            del self.kept[number]
            if kept.purged:
                queue.origin = self.next_number
                self.next_number += 1
            self.queues[name] = queue
            return name, len(queue.available), 0
        name = next((each for each, other in self.queues.items() if other.origin == queue.origin), "")
        if not name:
            raise UndoNotPossible
        self._unlock_all(queue)
        into = self.queues[name]
        restored = 0
        for message in queue.in_order(queue.available):
            if not into.config.allow_duplicates and message.payload in into.owners:
                continue
            queue.available.remove(message)
            queue.release(message)
            into.available.append(message)
            if not into.config.allow_duplicates:
                into.owners[message.payload] = message.id
            restored += 1
        if not queue.available:
            del self.kept[number]
        return name, restored, len(queue.available)

    def _unlock_all(self, queue: ModelQueue) -> None:
        for held in queue.held.values():
            queue.put_back(held.message._replace(deliveries=held.message.deliveries - 1), "", None)
        queue.held.clear()
