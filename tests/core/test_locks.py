"""The index of locks: what is due, and that it costs the same however many there are."""

from __future__ import annotations

import gc
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.core import loading
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.hot_tier import TierLimits
from qrusty_trio.core.lock_table import SPLIT_AT, LockTable
from qrusty_trio.core.locks import CHAIN_PIECE, LockIndex, valid
from qrusty_trio.core.model import NEVER, WS_CONSUMER_PREFIX, QueueConfig
from qrusty_trio.core.queue import Lock, Queue
from qrusty_trio.core.records import ClockFrame
from qrusty_trio.storage.memory import MemoryStorage
from tests.core.brokers import LONG, exhaust, restarted, take

_numbers = count()


def next_end(index: LockIndex) -> int | None:
    index.look_again()
    return index.wake_at if index.wake_at != NEVER else None


def new_queue(number: int = 1) -> Queue:
    return Queue(number, "q", QueueConfig(), TierLimits(1, 1))


def new_lock(queue: Queue, until: int, key: bytes = b"", consumer: str = "c") -> Lock:
    number = next(_numbers)
    return Lock(f"id-{number}", queue, number, key or number.to_bytes(8, "big"), consumer, until, 1, b"", b"", 0)


# Verifies: SCH-0015
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.booleans())), st.integers(0, 20))
def test_due_is_what_has_ended_earliest_first(made: list[tuple[int, int, bool]], now: int) -> None:
    index, queue = LockIndex(), new_queue()
    alive = []
    for until, later, removed in made:
        lock = new_lock(queue, until)
        index.add(lock)
        index.extend(lock, later)
        if removed:
            index.remove(lock)
        else:
            alive.append(lock)
    assert index.count == len(alive)
    assert next_end(index) == min((lock.expires_at_ms for lock in alive), default=None)
    ended = (lock for lock in alive if lock.expires_at_ms <= now)
    expected = sorted(ended, key=lambda lock: (lock.expires_at_ms, lock.key))
    assert index.due(now, 1000) == expected
    assert index.due(now, 1000) == expected  # they stay


# Verifies: SCH-0019
@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 4))
def test_due_in_pieces_misses_nothing(ends: list[int], limit: int) -> None:
    index, queue = LockIndex(), new_queue()
    for until in ends:
        index.add(new_lock(queue, until))
    taken = []
    while due := index.due(5, limit):
        for lock in due:
            index.remove(lock)
            taken.append(lock.expires_at_ms)
    assert taken == sorted(ends)
    assert next_end(index) is None


def test_those_that_end_together_go_by_their_message_keys() -> None:
    index, queue = LockIndex(), new_queue()
    second, first = new_lock(queue, 5, b"b"), new_lock(queue, 5, b"a")
    index.add(second)
    index.add(first)
    assert index.due(5, 10) == [first, second]


def test_ends_without_locks_do_not_pile_up() -> None:
    index, queue = LockIndex(), new_queue()
    stays = new_lock(queue, 10**9)
    index.add(stays)
    for end in range(20_000):
        index.extend(stays, 10**9 + end)
    assert len(index._order) == len(index._windows) == 1
    assert next_end(index) == stays.expires_at_ms


# Verifies: DLV-0008
def test_a_queue_is_forgotten_at_once_and_its_memory_bit_by_bit() -> None:
    index, gone, other = LockIndex(), new_queue(1), new_queue(2)
    for until in range(100):
        index.add(new_lock(gone, until))
    kept = new_lock(other, 50)
    index.add(kept)
    index.forget(gone)
    assert index.count == 1
    assert list(gone.locks) == []
    # Nothing of it is ever due, even before it is tidied; what is looked at is bounded all the same.
    assert index.due(1000, 10) == []
    assert index.due(1000, 1000) == [kept]
    for _ in range(11):
        index.tidy(10)
    assert not index.untidy
    assert [list(window) for window in index._windows.values()] == [[50]]
    assert index.due(1000, 10) == [kept]
    assert next_end(index) == 50


def test_a_queue_goes_on_after_it_was_forgotten() -> None:
    index, queue = LockIndex(), new_queue()
    index.add(new_lock(queue, 5))
    index.forget(queue)
    index.forget(queue)
    again = new_lock(queue, 5)
    index.add(again)
    assert index.due(5, 10) == [again]
    index.tidy(1000)
    assert index.due(5, 10) == [again]
    index.remove(again)
    assert (index.count, next_end(index)) == (0, None)


def test_large_tables_are_split_and_keep_everything() -> None:
    """No dict grows so large that its next growth would be felt, and nothing is lost when a table is split."""
    index, queue = LockIndex(), new_queue()
    locks = [new_lock(queue, number % 977) for number in range(3 * SPLIT_AT)]
    for lock in locks:
        index.add(lock)
    assert max(map(len, queue.locks._shards)) < SPLIT_AT // 16
    assert {lock.number for lock in queue.locks} == {lock.number for lock in locks}
    assert queue.locks.oldest_number() == locks[0].number
    assert sorted(lock.number for page in queue.locks.pages(100) for lock in page) == [lock.number for lock in locks]
    for lock in locks[:-1]:
        assert queue.locks.get(lock.id) is lock
        index.remove(lock)
    assert queue.locks.oldest_number() == locks[-1].number
    assert (index.count, next_end(index)) == (1, locks[-1].expires_at_ms)


@pytest.mark.parametrize("size", [0, 1, SPLIT_AT - 1, SPLIT_AT, SPLIT_AT + 1])
@pytest.mark.parametrize("indexed", [False, True])
def test_a_table_knows_how_many_are_left(size: int, indexed: bool) -> None:
    queue, index = new_queue(), LockIndex()
    table = queue.locks if indexed else LockTable[Lock]()
    locks = [new_lock(queue, 5) for _ in range(size)]
    for lock in locks:
        (index if indexed else table).add(lock)
    assert (table.small is None) == (size >= SPLIT_AT)
    table.discard("unknown")
    assert len(table) == size
    for lock in locks[:10]:
        table.discard(lock.id)
        table.discard(lock.id)
    left = {lock.id for lock in locks[10:]}
    assert len(table) == len(left)
    while (popped := table.pop()) is not None:
        left.remove(popped.id)
        assert len(table) == len(left)
    assert not left
    assert table.pop() is None
    assert table.oldest_number() is None


# Verifies: SCH-0037
def test_locks_hold_no_garbage_for_the_collector() -> None:
    """Nothing that the collector tracks is made for a lock, whether its end is its own or that of others."""
    index, queue = LockIndex(), new_queue()
    gc.collect()
    before = len(gc.get_objects())
    for number in range(3000):
        index.add(new_lock(queue, number))
        index.add(new_lock(queue, 5))
    assert len(gc.get_objects()) - before < 100


# Verifies: DLV-0027
def test_a_websocket_that_goes_leaves_what_it_holds() -> None:
    index, queue, purged = LockIndex(), new_queue(1), new_queue(2)
    consumer = WS_CONSUMER_PREFIX + "1"
    kept, settled, void = (new_lock(each, 5, consumer=consumer) for each in (queue, queue, purged))
    for lock in (kept, settled, void, new_lock(queue, 5)):
        index.add(lock)
    index.remove(settled)
    index.forget(purged)
    assert index.held(consumer, kept.id) is kept
    assert index.held(consumer, settled.id) is None
    assert index.held(consumer, void.id) is None
    assert index.held("other", kept.id) is None
    left = index.disconnect(consumer)
    assert left is not None
    assert [lock for lock in left if valid(lock)] == [kept]
    assert index.disconnect(consumer) is None
    assert not index.websockets
    index.remove(kept)
    index.tidy(10)
    assert (index.count, next_end(index)) == (1, 5)


def test_a_websocket_holds_nothing_after_its_last_lock() -> None:
    index, queue = LockIndex(), new_queue()
    lock = new_lock(queue, 5, consumer=WS_CONSUMER_PREFIX + "1")
    index.add(lock)
    held = index.websockets
    index.remove(lock)
    assert (held, index.websockets) == (True, False)


def test_memory_is_freed_so_many_locks_at_a_time() -> None:
    """Of one queue or of several, and not one more."""
    index = LockIndex()
    queues = [new_queue(number) for number in range(3)]
    for queue in queues:
        for until in range(8):
            index.add(new_lock(queue, until))
        index.forget(queue)
    left = 24

    def held() -> int:
        return sum(_chained(lock) for window in index._windows.values() for lock in window.values())

    assert held() == left
    while left > 10:
        left -= 10
        assert index.tidy(10)
        assert held() == left
    assert not index.tidy(10)
    assert held() == 0
    assert not index.untidy


def _chained(lock: Lock) -> int:
    return 1 + (_chained(lock.after) if lock.after is not None else 0)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_each_lock_is_loaded_once(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """However many steps it takes."""
    monkeypatch.setattr(loading, "LOCKS_PER_STEP", 2)
    broker = Broker(MemoryStorage())
    for number in range(count):
        broker.publish("q", number, "x", 3, 0)
    ids = [take(broker) for _ in range(count)]
    broker.commit()
    again = restarted(broker)
    assert (again.locks.count, len(again.locks.due(10**9, 99))) == (count, count)
    for id in ids:
        assert id is not None
        again.ack("q", id, "c", 0)
    assert again.locks.count == 0


# Verifies: PER-0009
def test_locks_are_loaded_by_the_clock_of_now() -> None:
    """It is an hour behind the one that they were made by."""
    hour = 3_600_000
    broker = Broker(MemoryStorage())
    broker.clock_frame = ClockFrame(7, hour).pack()
    broker.publish("q", 1, "x", 3, hour)
    assert take(broker, now=hour) is not None
    broker.commit()
    exhaust(broker.load(ClockFrame(7, 0), 10_000))
    assert next_end(broker.locks) == LONG * 1000


# Verifies: PER-0020
@pytest.mark.parametrize(("queues", "steps"), [(7, 2 + 3 + 2), (8, 2 + 3 + 3)])
def test_so_many_queues_are_loaded_in_a_step(monkeypatch: pytest.MonkeyPatch, queues: int, steps: int) -> None:
    """First the old ones are forgotten, then the stored ones read, then it is looked whether one is missing."""
    monkeypatch.setattr(loading, "QUEUES_PER_STEP", 3)
    broker = Broker(MemoryStorage())
    for number in range(queues):
        broker.catalog.create(str(number), QueueConfig())
    broker.commit()
    assert len(list(broker.load())) == steps
    assert broker.catalog.names() == [str(number) for number in range(queues)]


@pytest.mark.parametrize("end", ["ack", "nack", "expire", "purge"])
def test_locks_that_are_over_do_not_pile_up_behind_a_long_one(end: str) -> None:
    """A WebSocket holds one message for an hour, and many others for a moment."""
    broker = Broker(MemoryStorage())
    broker.publish("other", 1, "held", 3, 0)
    assert broker.consume("other", WS_CONSUMER_PREFIX + "1", 3600, 0) is not None
    for _ in range(20):
        for _ in range(50):
            broker.publish("q", 1, "payload", 9, 0)
            delivery = broker.consume("q", WS_CONSUMER_PREFIX + "1", 1 if end == "expire" else 3000, 0)
            assert delivery is not None
            if end in ("ack", "nack"):
                getattr(broker, end)("q", delivery.id, WS_CONSUMER_PREFIX + "1", 0)
        if end == "purge":
            broker.catalog.purge("q")
        broker.expire(1000, 64)
        held = sum(_chained(lock) for window in broker.locks._windows.values() for lock in window.values())
        assert held == 1
        table = broker.locks._connections[WS_CONSUMER_PREFIX + "1"]
        assert len(table) == 1


# Verifies: SCH-0019
@pytest.mark.parametrize("ends", [1, 977])
def test_any_number_of_locks_that_are_due_are_looked_at_in_pieces(ends: int) -> None:
    """After a start with a clock that was set, all of those end together that last too long by it."""
    index, queue = LockIndex(), new_queue()
    count = 8 * CHAIN_PIECE
    asked = 0

    class Asked(dict[str, Lock]):
        def get(self, id: str, default: Lock | None = None) -> Lock | None:  # type: ignore[override]  # as narrow
            nonlocal asked
            asked += 1
            return super().get(id, default)

    for number in range(count):
        index.add(new_lock(queue, number % ends))
    queue.locks._shards = [Asked(shard) for shard in queue.locks._shards]
    taken = 0
    while due := index.due(ends, 64):
        assert asked <= CHAIN_PIECE
        assert due == sorted(due, key=lambda lock: (lock.expires_at_ms, lock.key))
        for lock in due:
            index.remove(lock)
        taken += len(due)
        asked = 0
    assert taken == count


def test_void_locks_that_end_together_are_looked_at_in_pieces() -> None:
    index, queue, other = LockIndex(), new_queue(), new_queue(2)
    index.add(new_lock(other, 5))
    for _ in range(3 * CHAIN_PIECE):
        index.add(new_lock(queue, 5))
    index.forget(queue)
    assert index.due(5, 64) == []
    while index.tidy(CHAIN_PIECE):
        pass
    assert len(index.due(5, 64)) == 1


def test_what_is_freed_bit_by_bit_takes_nothing_from_who_holds_it_anew() -> None:
    """After a fault the locks there were are void, and the same messages are locked by the same WebSockets again."""
    broker = Broker(MemoryStorage())
    here = WS_CONSUMER_PREFIX + "1"
    for number in range(4):
        broker.publish("q", number, "x", 3, 0)
        assert broker.consume("q", here, 30, 0) is not None
    broker.commit()
    exhaust(broker.load())
    broker.locks.tidy(1000)
    held = broker.locks.disconnect(here)
    assert held is not None
    assert len(held) == 4
    assert all(valid(lock) for lock in held)


def test_after_a_load_a_websocket_holds_what_the_store_says() -> None:
    """A delivery that was not written is gone, before its memory is freed, too."""
    broker = Broker(MemoryStorage())
    broker.publish("q", 1, "x", 3, 0)
    broker.commit()
    assert broker.consume("q", WS_CONSUMER_PREFIX + "1", 30, 0) is not None
    exhaust(broker.load())
    assert (broker.locks.count, broker.locks.websockets) == (0, False)
    assert broker.locks.disconnect(WS_CONSUMER_PREFIX + "1") is None
