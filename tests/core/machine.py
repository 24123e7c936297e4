"""The machine of the model test: a broker and its model, and the steps that both take.

Rule: after each step memory is as the model says; after each commit the store is; after a restart the broker is one of
the states that it had since the last commit, whole.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from qrusty_trio.core import broker as broker_module
from qrusty_trio.core import dead_letter_moves as moves_module
from qrusty_trio.core import dead_letters as letters_module
from qrusty_trio.core import deduplication as deduplication_module
from qrusty_trio.core import hot_tier as hot_tier_module
from qrusty_trio.core import queue as queue_module
from qrusty_trio.core import records
from qrusty_trio.core import trash as trash_module
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import U64_MAX, Kind, Ordering, Priority, QueueConfig
from qrusty_trio.errors import QrustyError
from qrusty_trio.storage.base import Family, Storage
from qrusty_trio.storage.payload_format import REFERENCE_BYTES
from qrusty_trio.storage.payloads import PayloadStore
from tests.core import stored
from tests.core.batch_steps import BATCHES, WAITS, BatchSteps
from tests.core.brokers import exhaust, search_to_the_end
from tests.core.dead_letter_steps import DeadLetterSteps
from tests.core.looks import LOCKING, LOOKS, Looks
from tests.core.model import Held, Model, ModelQueue
from tests.core.trash_steps import TrashSteps

EXTERNALIZE_MIN_BYTES = 8
SEGMENT_MAX_BYTES = 200

NAMES = st.sampled_from(["a", "a", "a", "b", "ü/%2F", "n" * 255])
"""Mostly one, so that much happens to it."""
CONSUMERS = st.sampled_from(["c", "d"])
NUMBERS = st.sampled_from([0, 1, 2, 2**53, 2**53 + 1, 2**63, U64_MAX - 1, U64_MAX])
TEXTS = st.sampled_from(
    ["a", "a\0", "a\0\0", "a\0b", "ab", "\0", "\0\0", "é", "\x7f", "\uffff", "\U0001f600", "b" * 1024]
)
PAYLOADS = st.sampled_from(["", "p", "q", "long enough", "ü" * 5, "\0" * 30, "r" * REFERENCE_BYTES])
"""Some shorter than EXTERNALIZE_MIN_BYTES in characters only; one as long as what stands for a payload in a file."""
CONFIGS = st.builds(QueueConfig, st.sampled_from(Ordering), st.booleans(), st.sampled_from(Kind))
ERRORS = st.sampled_from(["", "", "ü", "e" * 1024])
SECONDS = st.sampled_from([300, 300, 300, 30, 2, 1, 0])
PICK = st.integers(0, 15)
STRANGER = st.sampled_from([False, False, False, True])
PUBLISH = st.tuples(
    st.just("publish"),
    NAMES,
    st.lists(NUMBERS, min_size=1, max_size=4),
    TEXTS,
    st.sampled_from([False] * 15 + [True]),
    PAYLOADS,
    st.sampled_from([9, 3, 2, 1, 0]),
    st.booleans(),
)
CONSUME = st.tuples(st.just("consume"), NAMES, CONSUMERS, SECONDS, st.integers(1, 4), st.booleans())
SETTLE = st.one_of(
    st.tuples(st.just("ack"), PICK, STRANGER),
    st.tuples(st.just("nack"), PICK, STRANGER, ERRORS),
    st.tuples(st.just("nack"), PICK, STRANGER, ERRORS),
    st.tuples(st.just("renew"), PICK, STRANGER, SECONDS),
    st.tuples(st.just("give_back"), PICK, st.booleans()),
)
DEAD = st.one_of(
    st.tuples(st.just("requeue"), NAMES, st.none() | st.lists(PICK, max_size=3), NAMES, st.none() | NUMBERS),
    st.tuples(st.just("purge_dead"), NAMES, st.none() | st.lists(PICK, max_size=3)),
    st.tuples(st.just("limit_dead"), NAMES, st.sampled_from([None, 1, 5]), st.sampled_from([None, 1, 3])),
)
ACTIONS = st.sampled_from(
    ["create"] * 4 + ["rename", "rename", "purge", "purge", "delete", "delete", "purge-all", "delete-all"]
)
MANAGE = st.one_of(
    st.tuples(st.just("manage"), ACTIONS, NAMES, st.one_of(NAMES, NAMES, st.just(" ")), CONFIGS),
    st.tuples(st.just("duplicates"), NAMES, st.booleans()),
    st.tuples(st.just("hold_commits"), st.integers(1, 6)),
    st.tuples(st.just("protect"), NAMES, st.sampled_from([False, False, True])),
    st.tuples(st.just("retain")),
    st.tuples(st.just("wait"), st.sampled_from([1, 1, 1, 999, 1000, 1000, 5000, 400_000])),
    st.tuples(st.just("restart"), st.booleans()),
)
TRASH = st.one_of(
    st.tuples(st.just("put_aside"), st.sampled_from(["purge", "purge", "delete"]), NAMES, st.sampled_from([600, 1])),
    st.tuples(st.just("restore"), PICK, st.none() | NAMES),
    st.tuples(st.just("restore"), PICK, st.none()),
    st.tuples(st.just("erase"), PICK),
    st.tuples(st.just("erase_what_is_over")),
)
# One rule draws among them all, so that how often each comes is said here.
STEP = st.sampled_from(
    [PUBLISH] * 3 + [CONSUME] * 3 + [SETTLE] * 4 + [DEAD] + [MANAGE] * 2 + [TRASH, BATCHES, WAITS, LOCKING, LOOKS]
).flatmap(lambda kind: kind)

T = TypeVar("T")


class BrokerMachine(Looks, BatchSteps, DeadLetterSteps, TrashSteps, RuleBasedStateMachine):
    storage: Storage
    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.payloads: PayloadStore | None = None
        self.now = 1_000_000
        self.burst = 0
        self.states: list[Model] = []
        """What a kill may bring back: the state at the last commit and all since."""
        self.settled: list[tuple[str, str, str]] = []
        """Queue, id, consumer of messages that are no longer locked."""

    @initialize(
        tier=st.integers(1, 8),
        low=st.integers(1, 8),
        octets=st.sampled_from([1, 150, 600, 5000]),
        piece=st.integers(1, 4),
        max_locked=st.sampled_from([100, 100, 6, 2]),
        external=st.booleans(),
        config=CONFIGS,
    )
    def begin(
        self, tier: int, low: int, octets: int, piece: int, max_locked: int, external: bool, config: QueueConfig
    ) -> None:
        self.patch.setattr(hot_tier_module, "TIERS_BYTES", octets)
        self.patch.setattr(broker_module, "REFILL_PIECE", piece)
        self.patch.setattr(queue_module, "TRIM_EVERY", 3)
        self.patch.setattr(moves_module, "PER_STEP", 2)
        self.patch.setattr(letters_module, "PER_STEP", 2)
        self.patch.setattr(letters_module, "NUMBERS_PER_STEP", 3)
        self.patch.setattr(trash_module, "PER_STEP", 2)
        self.patch.setattr(trash_module, "LOCK_NUMBERS_PER_STEP", 3)
        self.patch.setattr(deduplication_module, "TRIM_EVERY", 3)
        self.sizes = {"hot_tier_size": tier, "refill_threshold": low, "max_locked_index": max_locked}
        if external and self.storage.persistent:
            self.payloads = PayloadStore.open(self.directory / "payloads", segment_max_bytes=SEGMENT_MAX_BYTES)
        batch = self.storage.batch()
        for family in Family:
            # META keeps the version of the schema, under "schema_version".
            end = b"a" if family is Family.META else b"\xff" * 3000
            batch.delete_range(b"", end, self.storage.families[family])
        self.storage.write(batch)
        self.model = Model(max_locked, keeps=self.storage.persistent)
        self.broker = self.new_broker()
        self.nobody_waits()
        self.model.create("a", config)
        self.broker.catalog.create("a", config)
        self.broker.commit()
        self.states = [self.model.copy()]

    def new_broker(self) -> Broker:
        return Broker(self.storage, payloads=self.payloads, externalize_min_bytes=EXTERNALIZE_MIN_BYTES, **self.sizes)

    def teardown(self) -> None:
        self.broker.journal.detach()
        if self.payloads is not None:
            self.payloads.close()
            shutil.rmtree(self.directory / "payloads")
        self.patch.undo()

    # Steps

    @rule(step=STEP)
    def step(self, step: tuple[Any, ...]) -> None:
        name, *arguments = step
        getattr(self, name)(*arguments)

    def before(self) -> None:
        """Ended locks come first, as in the engine."""
        while self.broker.locks.wake_at <= self.now:
            self.broker.expire(self.now, 2)
        self.model.expire(self.now)
        self.note()

    def note(self) -> None:
        """One operation is done. The broker may commit before the next one of a step, too."""
        self.states.append(self.model.copy())

    def after(self) -> None:
        self.note()
        self.serve_waiting()
        if self.burst:
            self.burst -= 1
        else:
            self.write()

    def write(self) -> None:
        self.broker.commit()
        del self.states[:-1]
        assert stored.of_store(self.storage, self.payloads) == stored.of_model(self.model)

    def same(self, expected: Callable[[], T], actual: Callable[[], T]) -> T | None:
        """Both give the same, or raise the same; None when they raised."""
        try:
            wanted = expected()
        except QrustyError as error:
            with pytest.raises(type(error)):
                actual()
            return None
        assert actual() == wanted
        return wanted

    def pick(self, number: int) -> tuple[str, str, str]:
        """Queue, id, consumer of a lock, else of one that was."""
        locks = [
            (name, id, held.consumer) for name, queue in self.model.queues.items() for id, held in queue.held.items()
        ]
        locks += self.settled[-1:]
        return locks[number % len(locks)] if locks else ("a", "no such id", "c")

    def hold_commits(self, number: int) -> None:
        self.burst = number

    def wait(self, milliseconds: int) -> None:
        self.now += milliseconds
        self.before()
        self.after()

    def manage(self, action: str, name: str, new_name: str, config: QueueConfig) -> None:
        if action.endswith("-all"):
            self.clear_all(action.removesuffix("-all"))
            return
        self.before()
        if action == "create":
            self.same(
                lambda: self.model.create(name, config) and None, lambda: self.broker.catalog.create(name, config)
            )
        elif action == "rename":
            self.same(
                lambda: self.model.rename(name, new_name),
                lambda: exhaust(self.broker.catalog.update(name, new_name, None, self.now)),
            )
        elif action == "purge":
            self.same(lambda: self.model.purge(name), lambda: self.broker.catalog.purge(name))
        else:
            self.same(lambda: self.model.delete(name), lambda: self.broker.catalog.delete(name))
        self.after()

    def protect(self, name: str, protected: bool) -> None:
        self.before()
        self.same(
            lambda: self.model.protect(name, protected),
            lambda: exhaust(self.broker.catalog.update(name, None, None, self.now, None, protected)),
        )
        self.after()

    def clear_all(self, verb: str) -> None:
        """Purge or delete all queues that are not protected."""
        self.before()
        cleared = messages = 0
        clear = self.model.purge if verb == "purge" else self.model.delete
        names = [queue.name for queue in self.broker.catalog.everything()]
        response = self.http("POST", f"/{verb}-all")
        for name in names:
            if not self.model.queues[name].config.protected:
                cleared += 1
                messages += clear(name)
                self.note()
        expected = {f"{verb}d_queues": cleared, f"{verb}d_messages": messages}
        if cleared < len(names):
            expected["protected_queues"] = len(names) - cleared
        assert response == (200, expected)
        self.after()

    def publish(
        self, name: str, numbers: list[int], text: str, wrong: bool, payload: str, max_retries: int, create: bool
    ) -> None:
        self.before()
        for index, number in enumerate(numbers):
            queue = self.model.queues.get(name)
            textual = (queue is not None and queue.config.kind is Kind.TEXT) is not wrong
            priority: Priority = text[: number % 3 + 1] if textual else number
            self.publish_one(name, priority, payload + "x" * index, max_retries, create)
        self.after()

    def publish_one(self, name: str, priority: Priority, payload: str, max_retries: int, create: bool) -> None:
        ids: list[str] = []
        self.same(
            lambda: self.model.check_publish(name, priority, payload, create),
            lambda: ids.append(self.broker.publish(name, priority, payload, max_retries, self.now, create)),
        )
        for id in ids:
            self.model.publish(name, id, priority, payload, max_retries, self.now)
        self.note()

    def consume(self, name: str, consumer: str, seconds: int, times: int, by_number: bool) -> None:
        self.before()
        for _ in range(times):
            self.consume_one(name, consumer, seconds, by_number)
        self.after()

    def consume_one(self, name: str, consumer: str, seconds: int, by_number: bool) -> None:
        queue = self.model.queues.get(name)
        expected = self.model.consume(name, consumer, seconds, self.now)
        if by_number:
            number = queue.number if queue is not None else 999
            delivery = self.broker.consume_number(number, consumer, seconds, self.now)
        else:
            delivery = self.broker.consume(name, consumer, seconds, self.now)
        if expected is None or queue is None:
            assert delivery is None
        else:
            assert delivery is not None
            assert msgspec.structs.astuple(delivery)[:6] == (
                queue.number,
                expected.id,
                expected.payload,
                expected.deliveries,
                expected.priority,
                expected.created,
            )
        self.note()

    def ack(self, number: int, stranger: bool) -> None:
        self.before()
        self.ack_one(number, stranger)
        self.after()

    def ack_one(self, number: int, stranger: bool = False) -> None:
        name, id, consumer = self.pick(number)
        consumer = "stranger" if stranger else consumer
        self.same(lambda: self.model.ack(name, id, consumer), lambda: self.broker.ack(name, id, consumer, self.now))
        self.settled.append((name, id, consumer))
        self.note()

    def nack(self, number: int, stranger: bool, error: str) -> None:
        self.before()
        self.nack_one(number, stranger, error)
        self.after()

    def nack_one(self, number: int, stranger: bool = False, error: str = "") -> None:
        name, id, consumer = self.pick(number)
        consumer = "stranger" if stranger else consumer
        self.same(
            lambda: self.model.nack(name, id, consumer, self.now, error),
            lambda: self.broker.nack(name, id, consumer, self.now, error),
        )
        self.settled.append((name, id, consumer))
        self.note()

    def renew(self, number: int, stranger: bool, seconds: int) -> None:
        self.before()
        name, id, consumer = self.pick(number)
        consumer = "stranger" if stranger else consumer
        self.same(
            lambda: self.model.renew(name, id, consumer, seconds, self.now),
            lambda: self.broker.renew(name, id, consumer, seconds, self.now),
        )
        self.after()

    def give_back(self, number: int, counted: bool) -> None:
        self.before()
        name, id, consumer = self.pick(number)
        self.model.give_back(name, id, consumer, counted, self.now)
        found = self.broker.catalog.by_name.get(name)
        lock = found.locks.get(id) if found is not None else None
        if lock is not None and lock.consumer == consumer:
            self.broker.give_back(lock, counted, self.now)
        self.settled.append((name, id, consumer))
        self.after()

    def duplicates(self, name: str, allow: bool) -> None:
        self.before()
        # Piece by piece, each with a commit in the engine: a kill between them is another test.
        self.write()
        self.same(
            lambda: self.model.duplicates(name, allow),
            lambda: exhaust(self.broker.catalog.update(name, None, allow, self.now)),
        )
        self.write_at_once()

    def write_at_once(self) -> None:
        self.states = [self.model.copy()]
        self.write()

    def restart(self, kill: bool) -> None:
        """A clean one has committed everything. After a kill, what was not is gone, from some operation on."""
        self.burst = 0
        if not kill:
            self.write()
        left = stored.of_store(self.storage, self.payloads)
        self.model = next(state for state in reversed(self.states) if stored.of_model(state) == left)
        self.start()

    def start(self) -> None:
        self.states = [self.model.copy()]
        self.broker.journal.detach()
        if self.now % 7 == 0:
            gc.collect()  # RocksDB stays open as long as anything, garbage included, holds a handle of it
            self.storage.reopen()
        self.broker = self.new_broker()
        exhaust(self.broker.load())
        search_to_the_end(self.broker)
        self.nobody_waits()

    # What holds at any time

    @invariant()
    def memory_is_as_the_model(self) -> None:
        if not self.states:
            return
        broker, model = self.broker, self.model
        assert broker.catalog.names() == sorted(model.queues)
        assert broker.locks.count == model.locked()
        ends = [held.until for queue in model.queues.values() for held in queue.held.values()]
        assert broker.locks.wake_at <= min(ends, default=broker.locks.wake_at)
        for name, expected in model.queues.items():
            self.check_queue(name, expected)

    def check_queue(self, name: str, expected: ModelQueue) -> None:
        queue = self.broker.catalog.by_name[name]
        assert self.broker.catalog.by_number[expected.number] is queue
        assert (queue.available, queue.locked, queue.dead) == (
            len(expected.available),
            len(expected.held),
            len(expected.dead),
        )
        locks = {lock.id: (lock.consumer, lock.expires_at_ms, lock.deliveries) for lock in queue.locks}
        assert locks == {id: held_as_lock(held) for id, held in expected.held.items()}
        stats = self.broker.catalog.stats(name)
        assert stats is not None
        assert stats[:5] == (name, expected.config, queue.available, queue.locked, queue.dead)
        messages = expected.in_order(expected.available)
        keys = [queue.encode(message.priority, message.sequence) for message in messages]
        assert keys == sorted(keys)
        if keys:
            assert queue.head <= keys[0]
        # Every available message before the frontier is in the tier, in order, and no other.
        tier = queue.tier
        assert tier._keys[tier._start :] == [key for key in keys if tier.frontier is None or key < tier.frontier]
        assert len(tier) <= tier._limits.entries
        for key, message in zip(keys, messages, strict=True):
            if key in tier._records:
                _, created, max_retries, deliveries, id_bytes = records.unpack_message(tier._records[key])
                found = (id_bytes.decode(), max_retries, deliveries, created)
                assert found == (message.id, message.max_retries, message.deliveries, message.created)


def held_as_lock(held: Held) -> tuple[str, int, int]:
    return held.consumer, held.until, held.message.deliveries
