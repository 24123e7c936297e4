"""Dead letters: what they keep, how they are found, and what takes them away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qrusty_trio.core import dead_letters as letters_module
from qrusty_trio.core import queue as queue_module
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.dead_letter_moves import Chosen, Outcome, Target
from qrusty_trio.core.dead_letters import EVERY, DeadLetter, Filter
from qrusty_trio.core.keys import dead_index_key, lock_key
from qrusty_trio.core.model import WS_MARK, DeathReason, Kind, NackOutcome, Ordering, Priority, QueueConfig
from qrusty_trio.core.records import MAX_REQUEUES, repack_dead_letter, requeues_of, unpack_dead_letter
from qrusty_trio.errors import DuplicatePayload, PayloadLost, QueueNotFound
from qrusty_trio.storage.base import Family
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.payloads import PayloadStore
from tests.core.brokers import (
    LONG,
    Disk,
    big,
    break_payload,
    exhaust,
    lock_of,
    payloads_in_order,
    restarted,
    take,
    with_payloads,
)
from tests.core.ownership import check_ownership

NOW = 1_700_000_000_000


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def broker(storage: MemoryStorage) -> Broker:
    return Broker(storage)


def bury(broker: Broker, payload: str = "p", priority: Priority = 1, name: str = "q", now: int = NOW) -> str:
    """A message that died of a nack."""
    id = broker.publish(name, priority, payload, 1, now)
    while take(broker, name) != id:
        pass
    assert broker.nack(name, id, "c", now, "why") is NackOutcome.DEAD_LETTERED
    for lock in list(broker.catalog.by_name[name].locks):
        broker.give_back(lock, counts=False, now=now)
    broker.commit()
    return id


def all_of(broker: Broker, wanted: Filter = EVERY, name: str = "q") -> list[DeadLetter]:
    queue = broker.catalog.by_name[name]
    steps = broker.dead_letters.search(queue, wanted, 0, queue.next_dead, 2)
    return [letter for batch in steps for letter in batch.letters]


def ids_of(broker: Broker, wanted: Filter = EVERY, name: str = "q") -> list[str]:
    return [letter.id for letter in all_of(broker, wanted, name)]


def found(broker: Broker, ids: list[str], most: int | None = None) -> list[str]:
    steps = broker.dead_letters.find(broker.catalog.by_name["q"], ids, most)
    return [letter.id for batch in steps for letter in batch.letters]


def chosen(broker: Broker, ids: list[str] | None = None, wanted: Filter = EVERY, **more: int | bool) -> Chosen:
    end, dry_run = more.get("end", broker.catalog.by_name["q"].next_dead), more.get("dry_run", False)
    return Chosen(ids, wanted, end, bool(dry_run))


def requeue(broker: Broker, which: Chosen | None = None, to: str = "q", priority: Priority | None = None) -> Outcome:
    outcome = Outcome()
    queue, target = broker.catalog.by_name["q"], Target(broker.catalog.by_name[to], priority)
    run(broker, broker.dead_letter_moves.requeue(queue, which or chosen(broker), target, outcome))
    return outcome


def purge(broker: Broker, which: Chosen | None = None) -> Outcome:
    outcome = Outcome()
    run(broker, broker.dead_letter_moves.purge(broker.catalog.by_name["q"], which or chosen(broker), outcome))
    return outcome


def run(broker: Broker, steps: Iterator[None]) -> None:
    for _ in steps:
        broker.commit()
    broker.commit()


# What they keep


# Verifies: DLV-0045
def test_each_says_why_it_died_when_and_from_whom(broker: Broker) -> None:
    ids = [broker.publish("q", 1, "p", 1, NOW) for _ in range(3)]
    consumers = ["wörker", "late", WS_MARK + "ws-7"]
    for id, consumer in zip(ids, consumers, strict=True):
        assert take(broker, consumer=consumer, now=NOW) == id
    broker.nack("q", ids[0], "wörker", NOW + 1, "it is ünable")
    broker.give_back(lock_of(broker, ids[2]), counts=True, now=NOW + 2)
    broker.expire(NOW + LONG * 1000, 10)
    broker.commit()
    assert broker.dead_letters.buried_total == 3
    for again in (broker, restarted(broker)):
        letters = [letter.stored for letter in all_of(again)]
        assert [(each.reason, each.died_ms, each.consumer.decode(), each.error.decode()) for each in letters] == [
            (DeathReason.NACKED, NOW + 1, "wörker", "it is ünable"),
            (DeathReason.CONNECTION_LOST, NOW + 2, "ws-7", ""),
            (DeathReason.EXPIRED, NOW + LONG * 1000, "late", ""),
        ]


def test_they_are_found_by_id(broker: Broker) -> None:
    ids = [bury(broker) for _ in range(5)]
    assert ids_of(broker) == ids
    assert found(broker, [ids[3], "0" * 36, "short", "ü" * 36, "\ud800" * 36, ids[0]]) == [ids[3], ids[0]]
    assert found(restarted(broker), ids[::-1]) == ids[::-1]


def as_before_the_index(broker: Broker, ids: list[str], payloads: PayloadStore | None = None) -> Broker:
    """Store these letters as an earlier version did, and start anew."""
    storage, queue = broker.journal.storage, broker.catalog.by_name["q"]
    batch, family = storage.batch(), storage.families[Family.DEAD]
    for number in range(queue.next_dead):
        value = storage.get(family, lock_key(queue.number, number))
        assert value is not None
        letter = unpack_dead_letter(value)
        id = letter.record[17:53].decode()
        if id in ids:
            old = len(letter.key).to_bytes(2, "big") + letter.key + letter.record
            batch.put(lock_key(queue.number, number), old, family)
            batch.delete(dead_index_key(queue.prefix, id), family)
    storage.write(batch)
    return restarted(broker, payloads)


def test_those_of_an_earlier_version_are_read_found_and_requeued(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters_module, "PER_STEP", 2)
    ids = [bury(broker, str(number), now=NOW + number) for number in range(6)]
    broker = as_before_the_index(broker, ids[:4])
    letters = all_of(broker)
    assert [letter.id for letter in letters] == ids
    old = letters[0]
    assert (old.stored.reason, old.stored.died_ms, old.stored.consumer, old.died_by_ms) == ("unknown", None, b"", NOW)
    assert repack_dead_letter(old.stored)[:1] == b"\0"
    assert found(broker, [ids[5], ids[2], ids[0]]) == [ids[5], ids[0], ids[2]]
    assert [found(broker, ["0" * 36, ids[3]], most) for most in (2, 3)] == [[], [ids[3]]]
    assert requeue(broker, chosen(broker, [ids[1], ids[4], "x"])).not_found == ["x"]
    assert purge(broker, chosen(broker, wanted=Filter(DeathReason.UNKNOWN, None, NOW + 2, None))).taken == 2
    assert ids_of(broker) == [ids[3], ids[5]]
    assert payloads_in_order(broker) == ["1", "4"]


# Verifies: DLV-0046
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (EVERY, "0123"),
        (Filter(reason=DeathReason.NACKED), "013"),
        (Filter(reason=DeathReason.EXPIRED), "2"),
        (Filter(consumer="c"), "013"),
        (Filter(consumer="d"), "2"),
        (Filter(consumer=""), ""),
        (Filter(died_until_ms=NOW + 1), "01"),
        (Filter(died_until_ms=NOW - 1), ""),
        (Filter(text="why"), "013"),
        (Filter(text="2 "), "2"),
        (Filter(text="ü"), "0123"),
        (Filter(DeathReason.NACKED, "c", NOW + 1, "1 "), "1"),
    ],
)
@pytest.mark.parametrize("external", [False, True])
def test_filters(tmp_path: Path, wanted: Filter, expected: str, external: bool) -> None:
    payloads = PayloadStore.open(tmp_path, segment_max_bytes=100_000)
    broker = with_payloads(MemoryStorage(), payloads)
    for number in range(4):
        payload = f"{number} ü".ljust(60 if external else 3)
        if number == 2:
            broker.publish("q", 1, payload, 1, NOW)
            take(broker, consumer="d", now=NOW)
            broker.expire(NOW + LONG * 1000, 10)
        else:
            bury(broker, payload, now=NOW + number)
    broker.commit()
    assert [broker.dead_letters.payload(letter)[:1].decode() for letter in all_of(broker, wanted)] == list(expected)
    payloads.close()


# Verifies: DLV-0049
def test_a_search_is_bounded_by_bytes_and_numbers(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters_module, "NUMBERS_PER_STEP", 4)
    monkeypatch.setattr(letters_module, "STEP_BYTES", 3000)
    ids = [bury(broker, "x" * 1000) for _ in range(12)]
    purge(broker, chosen(broker, ids[1:10]))
    queue = broker.catalog.by_name["q"]
    steps = list(broker.dead_letters.search(queue, EVERY, 0, queue.next_dead, 100))
    assert [(batch.begin, batch.end, len(batch.letters)) for batch in steps] == [(0, 4, 1), (4, 8, 0), (8, 12, 2)]
    assert list(broker.dead_letters.search(queue, EVERY, 0, 11, 1))[-1].end == 11


# Requeue


# Verifies: DLV-0047
@pytest.mark.parametrize("ordering", list(Ordering))
def test_a_requeued_letter_goes_to_its_old_place(broker: Broker, ordering: Ordering) -> None:
    broker.catalog.create("q", QueueConfig(ordering))
    for number, priority in enumerate([2, 1, 3, 2]):
        broker.publish("q", priority, str(number), 1 if number == 0 else 9, NOW)
    before = list(iter(lambda: broker.consume("q", "c", LONG, NOW), None))
    order = [delivery.payload for delivery in before]
    for delivery in before:
        broker.nack("q", delivery.id, "c", NOW)
    outcome = requeue(broker)
    assert (outcome.taken, outcome.refused, broker.catalog.by_name["q"].dead) == (1, [], 0)
    again = restarted(broker)
    deliveries = list(iter(lambda: again.consume("q", "c", LONG, NOW), None))
    assert [delivery.payload for delivery in deliveries] == order
    counts = {delivery.payload: delivery.retry_count for delivery in deliveries}
    assert counts == {"0": 1, "1": 2, "2": 2, "3": 2}


# Verifies: DLV-0047
def test_a_new_priority_keeps_the_age(broker: Broker) -> None:
    bury(broker, "old", 1)
    broker.publish("q", 5, "new", 1, NOW)
    assert requeue(broker, priority=5).taken == 1
    assert payloads_in_order(broker) == ["old", "new"]


# Verifies: DLV-0047
def test_another_queue_has_it_last_of_its_priority(broker: Broker) -> None:
    broker.publish("r", 1, "first", 1, NOW)
    bury(broker, "second", 1)
    bury(broker, "third", 1)
    bury(broker, "before", 2)
    assert requeue(broker, to="r").taken == 3
    assert payloads_in_order(broker, "r") == ["before", "first", "second", "third"]
    broker.catalog.create("text", QueueConfig(Ordering.MIN_FIRST, True, Kind.TEXT))
    bury(broker, "fourth")
    assert requeue(broker, to="text", priority="a").taken == 1
    assert payloads_in_order(broker, "text") == ["fourth"]


def test_requeues_are_counted(broker: Broker) -> None:
    id = bury(broker)
    for count in range(1, MAX_REQUEUES + 3):
        assert requeue(broker).taken == 1
        assert take(broker) == id
        broker.nack("q", id, "c", NOW)
        (letter,) = all_of(broker)
        assert requeues_of(letter.stored.record) == min(count, MAX_REQUEUES)
        assert (letter.deliveries, letter.max_retries, letter.created_ms) == (1, 1, NOW)


def test_a_waiting_subscriber_is_woken(broker: Broker) -> None:
    bury(broker)
    queue = broker.catalog.by_name["q"]
    broker.watched.add(queue.number)
    requeue(broker)
    assert broker.take_ready() == {queue.number}


# Verifies: DLV-0047
def test_duplicates_are_refused_and_stay(broker: Broker) -> None:
    broker.catalog.create("q", QueueConfig(allow_duplicates=False))
    ids = [bury(broker, payload) for payload in ("a", "b", "a")]
    held = broker.publish("q", 1, "b", 1, NOW)
    dry = requeue(broker, chosen(broker, dry_run=True))
    assert (dry.taken, dry.refused_total) == (2, 1)
    outcome = requeue(broker)
    assert (outcome.taken, outcome.refused_total) == (1, 2)
    assert [(id, type(error)) for id, error in outcome.refused] == [(id, DuplicatePayload) for id in ids[1:]]
    assert ids_of(broker) == ids[1:]
    assert take(broker) == ids[0]
    broker.ack("q", ids[0], "c", NOW)
    assert take(broker) == held
    broker.ack("q", held, "c", NOW)
    assert requeue(broker).taken == 2


def test_large_payloads_change_hands_and_are_freed(tmp_path: Path) -> None:
    storage = MemoryStorage()
    payloads = PayloadStore.open(tmp_path / "payloads", segment_max_bytes=100)
    broker = with_payloads(storage, payloads)
    broker.catalog.create("single", QueueConfig(allow_duplicates=False))
    ids = [bury(broker, big(f"payload {number}")) for number in range(6)]
    assert len(check_ownership(storage)) == 6
    assert requeue(broker, chosen(broker, [ids[0]])).taken == 1
    assert requeue(broker, chosen(broker, ids[1:3]), to="single").taken == 2
    check_ownership(storage)
    break_payload(payloads, tmp_path, 3)
    (refused,) = requeue(broker, chosen(broker, [ids[3]]), to="single").refused
    assert (refused[0], type(refused[1])) == (ids[3], PayloadLost)
    assert purge(broker, chosen(broker, [ids[4]])).taken == 1
    assert len(check_ownership(storage)) == 5
    assert purge(broker).taken == 2
    assert len(check_ownership(storage)) == 3
    assert payloads_in_order(broker) == [big("payload 0")]
    assert payloads_in_order(broker, "single") == [big("payload 1"), big("payload 2")]
    payloads.close()


# Verifies: DLV-0048
def test_what_dies_meanwhile_is_not_touched(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qrusty_trio.core.dead_letter_moves.PER_STEP", 2)
    for name in ("requeue", "purge"):
        before = [bury(broker) for _ in range(6)]
        end = broker.catalog.by_name["q"].next_dead
        outcome = Outcome()
        queue = broker.catalog.by_name["q"]
        which = chosen(broker, end=end)._replace(wanted=Filter(consumer="c"))
        steps = (
            broker.dead_letter_moves.requeue(queue, which, Target(queue, 9), outcome)
            if name == "requeue"
            else broker.dead_letter_moves.purge(queue, which, outcome)
        )
        late = [bury(broker, priority=9) for _ in steps]
        assert outcome.taken == len(before)
        assert set(ids_of(broker)) >= set(late[-1:])
        assert not set(ids_of(broker)) & set(before)
        broker.catalog.delete("q")


# Verifies: DLV-0048
def test_an_older_bound_touches_only_what_was_shown(broker: Broker) -> None:
    shown = [bury(broker) for _ in range(3)]
    end = broker.catalog.by_name["q"].next_dead
    late = bury(broker)
    assert purge(broker, chosen(broker, end=end)).taken == 3
    assert ids_of(broker) == [late]
    assert purge(broker, chosen(broker, shown, end=end)).not_found == shown
    assert purge(broker, chosen(broker, [late], end=end)).not_found == [late]


# Verifies: DLV-0048
def test_a_dry_run_changes_nothing(broker: Broker) -> None:
    ids = [bury(broker) for _ in range(17)]
    purge(broker, chosen(broker, ids[:5]))
    del ids[:5]
    for take_away in (requeue, purge):
        # How many there are in all is known without a look at each.
        for looked_at, some, wanted in ((10, None, EVERY), (12, None, Filter(consumer="c")), (12, ids, EVERY)):
            outcome = take_away(broker, chosen(broker, some, wanted, dry_run=True))
            assert (outcome.taken, outcome.looked_at) == (12, looked_at)
            assert [letter.id for letter in outcome.samples] == ids[:10]
    assert ids_of(restarted(broker)) == ids


def test_the_queue_or_the_target_is_deleted_meanwhile(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qrusty_trio.core.dead_letter_moves.PER_STEP", 1)
    broker.catalog.create("r", QueueConfig())
    for _ in range(4):
        bury(broker)
    queue, outcome = broker.catalog.by_name["q"], Outcome()
    which = chosen(broker, wanted=Filter(consumer="c"))
    steps = broker.dead_letter_moves.requeue(queue, which, Target(broker.catalog.by_name["r"], None), outcome)
    next(steps)
    broker.catalog.delete("r")
    with pytest.raises(QueueNotFound, match="'r' was deleted"):
        next(steps)
    assert (outcome.taken, len(ids_of(broker))) == (1, 3)
    steps = broker.dead_letter_moves.purge(queue, which, outcome)
    next(steps)
    broker.catalog.delete("q")
    broker.commit()
    assert list(steps) == []
    assert broker.journal.storage.scan(broker.journal.dead, b"", b"\xff" * 99, 10) == []


# Verifies: DLV-0051
def test_a_fault_leaves_each_letter_in_one_place() -> None:
    disk = Disk()
    broker = Broker(disk)
    ids = {bury(broker) for _ in range(5)}
    steps = broker.dead_letter_moves.requeue(
        broker.catalog.by_name["q"], chosen(broker), Target(broker.catalog.by_name["q"], None), Outcome()
    )
    next(steps)
    disk.full = True
    with pytest.raises(Exception, match="No space"):
        broker.commit()
    disk.full = False
    exhaust(broker.load())
    assert set(ids_of(broker)) == ids
    assert broker.catalog.by_name["q"].available == 0


# Purge, and the space in front


# Verifies: DLV-0049
def test_a_purge_of_all_is_one_change(broker: Broker) -> None:
    for _ in range(500):
        bury(broker)
    before = broker.journal.size
    steps = broker.dead_letter_moves.purge(broker.catalog.by_name["q"], chosen(broker), outcome := Outcome())
    assert list(steps) == []
    assert broker.journal.size - before == 2
    assert outcome.taken == 500
    assert broker.catalog.take_emptied() == {1: 500}
    id = bury(broker)
    assert ids_of(restarted(broker)) == [id]
    assert purge(broker, chosen(broker, dry_run=True)).taken == 1


@pytest.mark.parametrize("take_away", [requeue, purge])
def test_removed_letters_in_front_are_trimmed(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, take_away: Callable[[Broker, Chosen], Outcome]
) -> None:
    monkeypatch.setattr(queue_module, "TRIM_EVERY", 4)
    for _ in range(11):
        bury(broker)
    queue = broker.catalog.by_name["q"]
    assert take_away(broker, chosen(broker, wanted=Filter(consumer="c"), end=6)).taken == 6
    assert (queue.dead_from, queue.dead_trimmed, queue.dead) == (6, 6, 5)
    again = restarted(broker).catalog.by_name["q"]
    assert (again.dead_from, again.dead) == (6, 5)


def test_a_search_learns_where_the_first_letter_is(broker: Broker) -> None:
    ids = [bury(broker) for _ in range(5)]
    requeue(broker, chosen(broker, ids[:3]))
    assert ids_of(broker) == ids[3:]
    assert broker.catalog.by_name["q"].dead_from == 3


# Retention


def retained(broker: Broker, now: int) -> int:
    moves, removed = broker.dead_letter_moves, 0
    for queue in broker.catalog.everything():
        while moves.overdue(queue, now):
            removed += moves.retain(queue, now)
            broker.commit()
    return removed


def test_the_oldest_go_first(broker: Broker) -> None:
    broker.catalog.create("q", QueueConfig(dead_letter_max=3))
    ids = [bury(broker) for _ in range(200)]
    assert retained(broker, NOW) == 197
    assert broker.catalog.by_name["q"].dead_from == 197
    assert ids_of(restarted(broker)) == ids[-3:]
    assert retained(broker, NOW) == 0


def test_those_that_died_long_ago_go(broker: Broker) -> None:
    broker.catalog.create("q", QueueConfig(dead_letter_ttl_seconds=10))
    ids = [bury(broker, now=NOW + number * 1000) for number in range(5)]
    assert retained(broker, NOW + 9_999) == 0
    assert not broker.dead_letter_moves.overdue(broker.catalog.by_name["q"], NOW + 9_999)
    assert [retained(broker, NOW + elapsed) for elapsed in (10_000, 11_000)] == [1, 1]
    assert ids_of(broker) == ids[2:]
    exhaust(broker.catalog.update("q", None, None, NOW, {"dead_letter_ttl_seconds": None}))
    assert retained(broker, NOW + 10**9) == 0
    exhaust(broker.catalog.update("q", None, None, NOW, {"dead_letter_ttl_seconds": 1, "dead_letter_max": 2}))
    broker.commit()
    again = restarted(broker)
    assert again.catalog.by_name["q"].config == QueueConfig(dead_letter_ttl_seconds=1, dead_letter_max=2)
    assert retained(again, NOW) == 1
    assert retained(again, NOW + 10**9) == 2
    id = bury(again, now=NOW + 10**9)
    assert retained(again, NOW + 10**9) == 0
    assert ids_of(again) == [id]


def test_a_wrong_count_is_mended(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    broker.catalog.create("q", QueueConfig(dead_letter_max=1))
    bury(broker)
    queue = broker.catalog.by_name["q"]
    queue.dead = 7
    assert retained(broker, NOW) == 1
    assert queue.dead == 0
    assert "counted 6 dead letters, but the store holds none" in caplog.text


def test_a_shorter_time_holds_at_once(broker: Broker) -> None:
    broker.catalog.create("q", QueueConfig(dead_letter_ttl_seconds=1000))
    bury(broker, now=NOW)
    assert retained(broker, NOW + 5_000) == 0
    exhaust(broker.catalog.update("q", None, None, NOW, {"dead_letter_ttl_seconds": 5}))
    assert retained(broker, NOW + 5_000) == 1
