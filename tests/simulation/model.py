"""The promises: what clients asked and were answered, held against what becomes of the store.

Rule: strict where something is known, patient where it is not. Every transition of a message needs a reason that the
model knows of: a client that asked for it and has not been answered yet, a lock that ended, a connection that went, a
fault. A request whose response was an error, or never came, may have had its effect or not; what is seen later decides.
What was answered stands: the batch that made it so must be synced by then (policy `always`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path

from tests.simulation.known import EPOCH, EXACT, TOLERANCE, Asked, Held, Peer, Subscription
from tests.simulation.picture import Picture, StoredQueue
from tests.simulation.storage import Change, Kind, SimulatedStorage
from tests.simulation.stored_form import (
    Decoder,
    LockName,
    Message,
    StoredLock,
    is_config,
    is_whole,
    queue_number,
    references,
)
from tests.simulation.trace import Trace, short
from tests.simulation.trash import Trash

LATEST = 0.1
"""Seconds after its end that a lock may be noticed to have ended, when nothing is slow."""


class Model:
    """See above. Broken promises go to `fail`."""

    def __init__(self, trace: Trace, fail: Callable[[str], None], now: Callable[[], float], *, always: bool) -> None:
        self.trace = trace
        self.fail = fail
        self.now = now
        self.always = always
        self.locks_last = False
        """No message leaves before its lock is synced."""
        self.decoder = Decoder()
        self.trash = Trash(self)
        self.picture = Picture(self, self.decoder)
        self.asked = Asked()
        self.peers: dict[str, Peer] = {}
        self.held: dict[tuple[LockName, str], Held] = {}
        self.process = 0
        self.faults = 0
        self._doubtful: list[range] = []
        """Batches that were not synced when the store failed: nobody may be told that they are safe."""
        self.troubled_until = 0.0
        """Until then nobody had time for locks that end."""
        self.prompt = False
        """Whether everything is written at once."""
        self.boot = 0
        self.ahead = 0.0
        self.max_locked = 0
        self.published: dict[str, int] = {}
        """Messages that were answered for -> the batch that made them."""
        self.made_by: dict[str, int] = {}
        """Messages -> the batch that made them."""
        self.removed_by: dict[str, int] = {}
        """Messages that are gone for a good reason -> the batch that took them."""
        self.gone: dict[str, int] = {}
        """Of them, those whose removal was answered for."""
        self.payload_lost: set[str] = set()
        """Messages whose payload was lost in a power cut."""
        self.subscriptions: list[Subscription] = []
        self.namings = 0
        """Counts queues made, renamed and deleted."""
        self.refusing_since: dict[int, int] = {}
        """Queue number -> the batch since which it holds no duplicates, as far as locks are concerned."""
        self.refused_from: dict[int, int] = {}
        """Queue number -> the batch that last began a search for duplicates: messages equal to one that was handed out
        after it are not."""
        self._numbers: dict[int, int] = {}
        """Number of a queue -> the process that made it, or tried to."""
        self._lock_numbers: dict[LockName, tuple[int, str]] = {}
        self.batch = 0
        self.storage: SimulatedStorage
        """Set by whoever makes both."""
        self._later: list[Callable[[], None]] = []

    # What the store tells

    def attempted(self, changes: list[Change]) -> None:
        numbers = [queue_number(key[1:]) for kind, _, key, _ in changes if kind is Kind.PUT and is_config(key)]
        for number in dict.fromkeys(numbers):
            if number not in self.picture.queues and self._numbers.get(number) == self.process:
                self.fail(f"queue number {number} is used again within a process")
            self._numbers[number] = self.process

    def applied(self, number: int, changes: list[Change]) -> None:
        self.batch = number
        self.picture.apply(changes)
        for queue in self.picture.queues.values():
            self._check_duplicates(queue)

    def lost(self, first: int) -> None:
        """Batches that were not synced are gone: hold what was answered against what is left."""
        self.picture.reload(self.storage)
        self.trash.lost(first)
        self.refusing_since.clear()
        self.refused_from = dict.fromkeys(self.picture.queues, self.batch)
        places = self.picture.places
        for lock in self.picture.lock_of.values():
            held = self.held[lock.name, lock.message.id]
            held.revived |= held.over
            held.over = False
            while held.renewals and held.renewals[-1][0] >= first:
                _, held.ends_at, clock = held.renewals.pop()
                held.boot, held.ahead, held.unsure = clock
        for id in [id for id, batch in self.removed_by.items() if batch >= first]:
            del self.removed_by[id]
        for id in [id for id, batch in self.made_by.items() if batch >= first]:
            del self.made_by[id]
            if self.published.pop(id, None) is not None and self.always:
                self.fail(f"message {id} was answered for, and is lost")
        for id in self.published:
            if id not in places and id not in self.removed_by:
                self.fail(f"message {id} was answered for, and is lost")
        for id, batch in list(self.gone.items()):
            if id in places:
                if self.always or batch < first:
                    self.fail(f"message {id} is back, although its removal was answered for")
                del self.gone[id]

    def payloads_left(self, directory: Path) -> None:
        """Between two runs: some payloads may have been lost, but none that was answered for."""
        for id, reference in references(self.storage):
            if id not in self.payload_lost and not is_whole(directory, reference):
                self.payload_lost.add(id)
                self.trace.note("disk", "has lost the payload of", id)
                if self.always and id in self.published:
                    self.fail(f"message {id} was answered for, and its payload is lost")

    def store_event(self, *words: object) -> None:
        self.trace.note("store", *words)

    # Rules

    def broken(self, what: str) -> None:
        self.fail(what)

    def created(self, message: Message) -> None:
        queue = self.picture.queues[message.queue]
        if queue.kept is not None:
            self.fail(f"message {message.id} is published into queue '{queue.name}', which is kept aside")
        for publish in self.asked.publishes.get((queue.name, message.payload), ()):
            if publish.id is None:
                publish.id = message.id
                self.made_by[message.id] = self.batch
                self.trace.note("store", "message", message.id, "in", queue.name)
                return
        if self.asked.spare[queue.name, message.payload]:
            self.asked.spare[queue.name, message.payload] -= 1
            self.made_by[message.id] = self.batch
            return
        self.fail(f"message {message.id} ({message.payload!r}) is in queue '{queue.name}', and nobody published it")

    def locked(self, lock: StoredLock) -> None:
        id, consumer = lock.message.id, lock.consumer
        self.trace.note(
            "store", "message", id, "locked for", consumer, "for", lock.seconds, "s, delivery", lock.deliveries
        )
        peer = self.peers.get(consumer)
        if peer is None and not self.asked.consumes[consumer]:
            self.fail(f"message {id} is locked for {short(consumer)}, who did not ask for it")
        if peer is not None and (peer.over or peer.process != self.process):
            self.fail(f"message {id} is locked for a connection that is gone")
        before = self._lock_numbers.get(lock.name)
        if before is not None and before[0] == self.process:
            self.fail(f"lock number {lock.name} is used again within a process")
        self._lock_numbers[lock.name] = self.process, id
        if lock.deliveries != lock.message.deliveries + 1:
            self.fail(f"the lock of message {id} counts {lock.deliveries} after {lock.message.deliveries}")
        if self.picture.queues[lock.name[0]].kept is not None:
            self.fail(f"message {id} is handed out, and kept aside")
        locks = sum(len(queue.locks) for queue in self.picture.in_use())
        if locks > self.max_locked:
            self.fail(f"{locks} messages are locked, {self.max_locked} may be")
        self._check_equal(lock)
        ends_at = self._end_of(lock)
        held = self.held[lock.name, id] = Held(
            id, consumer, self.process, self.faults, ends_at, peer, self.batch, self.boot, self.ahead
        )
        if peer is not None:
            peer.locks.setdefault(id, []).append(held)

    def _end_of(self, lock: StoredLock) -> float:
        """When a lock that was just stored ends. Where deliveries wait for a sync, it began before that."""
        ends_at = self.now() + lock.seconds
        return min(ends_at, lock.end / 1000 - EPOCH - self.ahead) if self.locks_last else ends_at

    def _check_equal(self, lock: StoredLock) -> None:
        queue = self.picture.queues[lock.name[0]]
        if not queue.refuses_duplicates:
            return
        since = self.refused_from.get(queue.number, 0)
        for other in queue.locks.values():
            held = self.held.get((other.name, other.message.id))
            if held is not None and held.batch > since and other.message.payload == lock.message.payload:
                self.fail(f"message {lock.message.id} is handed out while its equal {other.message.id} is locked")

    def renewed(self, lock: StoredLock) -> None:
        id = lock.message.id
        held = self.held[lock.name, id]
        if since := self.asked.renews.get((id, lock.consumer)):
            # It counts from when it was run, which may be some time before it is written.
            held.renewals.append((self.batch, held.ends_at, (held.boot, held.ahead, held.unsure)))
            held.ends_at = since[0] + lock.seconds
            held.boot, held.ahead, held.unsure = self.boot, self.ahead, False

    def returned(self, lock: StoredLock, counted: bool) -> None:
        if counted and lock.deliveries >= lock.message.max_retries:
            self.fail(f"message {lock.message.id} is available again after {lock.deliveries} deliveries that count")
        self._judge(lock, counted, "is available again")

    def buried(self, lock: StoredLock, deliveries: int) -> None:
        if deliveries != lock.deliveries or deliveries < lock.message.max_retries:
            self.fail(f"message {lock.message.id} is a dead letter after {deliveries} deliveries")
        self._judge(lock, True, "is a dead letter")

    def _judge(self, lock: StoredLock, counted: bool, what: str) -> None:
        """A message came back from its consumer: is there a reason, and does it count?"""
        id, consumer = lock.message.id, lock.consumer
        held = self.held[lock.name, id]
        peer = held.peer
        here = held.process == self.process
        held.over = True
        self.trace.note("store", "message", id, what, "counted" if counted else "not counted")
        if self.asked.nacks[id, consumer] and counted:
            return
        if self.asked.unlocks and not counted:
            return
        if counted:
            if self.ended(held):
                late = self.now() - max(held.ends_at, self.troubled_until)
                if self.prompt and late > LATEST and not held.unsure and (peer is None or not peer.lost):
                    self.fail(f"message {id} {what} {late:.3f} s after its lock has ended")
                seen = held.left or held.revived or not here or (peer is None and self.asked.consumes[consumer])
                if not seen:
                    self.fail(f"message {id} {what}, counted, although its delivery never left")
            elif peer is None or not peer.lost:
                self.fail(f"message {id} {what}, counted, for no reason: {short(consumer)} holds it")
            elif not held.left:
                self.fail(f"message {id} {what}, counted, although its delivery never left")
        elif peer is None:
            if held.left and here:
                self.fail(f"message {id} {what}, although {short(consumer)} holds it")
            elif held.left:
                self.fail(f"message {id} {what} after a restart, although {short(consumer)} holds it")
        elif here and held.fault == self.faults and held.left:
            if not (peer.lost or peer.closed):
                self.fail(f"message {id} {what}, although {short(consumer)} is connected")
            elif not peer.closed:
                self.fail(f"message {id} {what}, not counted, although its connection was lost")

    def ended(self, held: Held) -> bool:
        """Whether the time of a lock is over."""
        return self.now() >= held.ends_at - (EXACT if held.process == self.process else TOLERANCE)

    def requeued(self, message: Message, before: Message) -> None:
        """A dead letter is available again."""
        self.trace.note("store", "message", message.id, "is requeued")
        if not self.asked.requeues.total():
            self.fail(f"message {message.id} is no dead letter any more, and nobody asked for that")
        if message.deliveries:
            self.fail(f"message {message.id} is requeued with {message.deliveries} deliveries")
        if message.queue == before.queue and message.key != before.key:
            self.fail(f"message {message.id} is requeued to another place in the order")

    def removed(self, message: Message, lock: StoredLock | None, dead: bool) -> None:
        id = message.id
        self.removed_by[id] = self.batch
        queue = self.picture.queues[message.queue]
        self.trace.note("store", "message", id, "is gone")
        if lock is not None:
            self.held[lock.name, id].over = True
        if lock is not None and self.asked.acks[id, lock.consumer]:
            return
        if id in self.payload_lost:
            return
        if dead:
            if not self.asked.dead_purges.total() and not queue.limits_dead:
                self.fail(f"message {id} is no dead letter any more, and nobody asked for that")
            return
        if queue.refuses_duplicates and any(
            each.payload == message.payload
            for each in (*self._live(queue), *self.picture.departing)
            if each.id != id and each.queue == message.queue
        ):
            if lock is not None:
                held = self.held[lock.name, id]
                ended = self.ended(held) or held.fault != self.faults
                over = held.peer is not None and (held.peer.lost or held.peer.closed or held.process != self.process)
                if not (self.asked.nacks[id, lock.consumer] or self.asked.unlocks or ended or over or not held.left):
                    self.fail(f"message {id} is dropped, although {short(lock.consumer)} holds it")
            return
        self.fail(f"message {id} is gone from queue '{queue.name}', and nobody asked for that")

    def swept(self, message: Message, dead: bool) -> None:
        queue = self.picture.queues[message.queue]
        asked = self.asked.deletes if dead else self.asked.sweeps
        self.removed_by[message.id] = self.batch
        if dead and self.asked.dead_purges.total():
            return
        if not asked[queue.name] and not asked[""]:
            self.fail(f"message {message.id} is swept from queue '{queue.name}', and nobody asked for that")

    def queue_named(self, queue: StoredQueue) -> None:
        self.trace.note("store", "queue number", queue.number, "is", queue.name)
        self.namings += 1
        for each in self.subscriptions:
            if each.number is None and each.name == queue.name:
                each.number = queue.number

    def queue_configured(self, queue: StoredQueue) -> None:
        if queue.searching or not queue.refuses_duplicates:
            self.refused_from[queue.number] = self.batch

    def queue_gone(self, queue: StoredQueue) -> None:
        self.trace.note("store", "queue number", queue.number, queue.name, "is gone")
        self.refusing_since.pop(queue.number, None)
        self.namings += 1
        for each in self.subscriptions:
            if each.number == queue.number:
                each.number = None
        if not self.asked.deletes[queue.name] and not self.asked.deletes[""]:
            self.fail(f"queue '{queue.name}' is gone, and nobody asked for that")

    def _live(self, queue: StoredQueue) -> list[Message]:
        return [*queue.available.values(), *(lock.message for lock in queue.locks.values())]

    def _check_duplicates(self, queue: StoredQueue) -> None:
        if not queue.refuses_duplicates or queue.searching:
            self.refusing_since.pop(queue.number, None)
            return
        since = self.refusing_since.setdefault(queue.number, self.batch)
        seen: dict[bytes, str] = {}
        for message in queue.available.values():
            if message.id in self.payload_lost:
                continue  # nobody can tell what it was, and it is removed when its turn comes
            other = seen.setdefault(message.payload, message.id)
            if other != message.id:
                self.fail(f"queue '{queue.name}' refuses duplicates, and has {other} and {message.id} available")
        for lock in queue.locks.values():
            message = lock.message
            entered = max(self.made_by.get(message.id, 0), self.trash.entered_in.get(message.id, 0))
            if entered > since and message.payload in seen:
                self.fail(f"queue '{queue.name}' refuses duplicates, and has {seen[message.payload]} and {message.id}")

    # Requests and answers

    def clock_set(self) -> None:
        """Of locks from before the machine was started nobody knows the end, if the clock was set since."""
        for held in self.held.values():
            if held.boot != self.boot and held.ahead != self.ahead:
                held.ends_at, held.unsure = self.now(), True

    def answered_for(self, id: str) -> None:
        """A publish was answered with this id."""
        made = self.made_by.get(id)
        if made is None:
            if not self.always:
                return  # it was lost, with what was not synced, while the response waited to be read
            self.fail(f"a publish was answered with {id}, which is not in the store")
            return
        self.answered_at(made, f"the publish of {id}")
        if id not in self.removed_by:
            self.published[id] = made

    def answered_gone(self, id: str) -> None:
        """An ack was answered: it must never be seen again."""
        batch = self.removed_by.get(id)
        if batch is None:
            self.fail(f"an ack of {id} was answered, which is still in the store")
            return
        self.answered_at(batch, f"the ack of {id}")
        self.gone[id] = batch
        self.published.pop(id, None)

    def told_of(self, id: str, what: str) -> None:
        """It was answered that this message is there. What was in doubt after a fault, the recovery has synced."""
        if self.always and self.made_by.get(id, 0) > self.storage.synced:
            self.fail(f"{what} was answered before that was synced")

    def answered_at(self, batch: int, what: str) -> None:
        """Something that this batch did was answered."""
        if self.always and batch > self.storage.synced:
            self.fail(f"{what} was answered before it was synced")
        if self.always and any(batch in each for each in self._doubtful):
            self.fail(f"{what} was answered, although the store failed before it was synced")

    # Connections and the process

    def fault_begins(self) -> None:
        self.faults += 1
        self._doubtful.append(range(self.storage.synced + 1, self.storage.batches + 1))
        self.troubled_until = inf
        self.namings += 1
        self.subscriptions.clear()
        for peer in self.peers.values():
            peer.closed = True

    def process_begins(self) -> None:
        self.process += 1
        self.troubled_until = self.now()
        self.asked = Asked()
        self._later.clear()

    def forget_later(self, forget: Callable[[], None]) -> None:
        """Nobody waits for a response any more: the request may have its effect until everything is written."""
        self._later.append(forget)

    def all_written(self) -> None:
        """The engine has nothing that is not written."""
        later, self._later = self._later, []
        for forget in later:
            forget()

    def subscribed(self, peer: Peer, name: str, number: int | None, certain: bool) -> None:
        """A subscribe was answered; `number` is what the name means now. A second one changes nothing."""
        if not any(each.peer is peer and each.name == name for each in self.subscriptions):
            self.subscriptions.append(Subscription(peer, name, number, certain and number is not None))

    def unsubscribed(self, peer: Peer, name: str | None) -> None:
        """From that name, or (None) from all."""
        kept = [each for each in self.subscriptions if each.peer is not peer or name not in (None, each.name)]
        self.subscriptions = kept

    def arrived(self, peer: Peer, name: str) -> None:
        """A delivery of a queue that the peer knows by that name."""
        for each in self.subscriptions:
            if each.peer is peer and each.name == name:
                each.deliveries += 1

    def lock_left(self, peer: Peer, id: str) -> Held | None:
        """A delivery is on its way to its peer. Returns the lock that it stands for; None when there never was one."""
        locks, number = peer.locks.get(id, []), peer.left[id]
        peer.left[id] += 1
        if number >= len(locks):
            return None
        self.left(locks[number])
        return locks[number]

    def left(self, held: Held) -> None:
        """The message of a lock is on its way to its consumer."""
        held.left = True
        if self.locks_last:
            self.answered_at(held.batch, f"the delivery of {held.id}")
