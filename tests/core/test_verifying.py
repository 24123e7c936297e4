"""The verifier: a store in order has no problem, and of each damage it is said in which queue it is, and what is wrong.

`tests/cli/test_stores.py` has the command, and stores on disk.
"""

from __future__ import annotations

import struct

import pytest

from qrusty_trio.core import records, verifying, verifying_sums
from qrusty_trio.core.verifying import Verifier
from qrusty_trio.core.verifying_sums import PAIRS_PER_STEP
from qrusty_trio.storage.base import Family
from tests.core.damages import (
    AGAIN,
    DEAD,
    DEDUP,
    EMPTY,
    EXTERNAL,
    JOBS,
    LOCKS,
    MESSAGES,
    META,
    NAMES,
    NEW,
    NONE,
    SEARCHED,
    STRANGER,
    TWINS,
    Damage,
    Sound,
    Source,
    Told,
    all_of,
    change,
    counters,
    delete,
    earlier,
    head,
    index,
    key,
    move,
    problems_of,
    put,
    sums,
    told,
    u64,
)


# Verifies: API-0133
@pytest.mark.parametrize("pairs_per_step", [PAIRS_PER_STEP, 2])
def test_a_store_in_order(sound: Sound, monkeypatch: pytest.MonkeyPatch, pairs_per_step: int) -> None:
    for module in (verifying, verifying_sums):
        monkeypatch.setattr(module, "PAIRS_PER_STEP", pairs_per_step)
    problems: list[object] = []
    verifier = Verifier(Source(sound.pairs), sound.payloads.read, problems.append)
    steps = list(verifier.run())
    assert problems == []
    assert sum(steps) == sum(map(len, sound.pairs.values()))
    assert max(steps) <= pairs_per_step
    # Two more are kept aside.
    assert (verifier.queues, verifier.messages) == (7, 51)


def test_an_empty_store(sound: Sound) -> None:
    assert problems_of(sound, {family: {} for family in Family}) == []


IN_ORDER: dict[str, Damage] = {
    "the next sequence number is that of the last one and one": counters(JOBS, next_sequence=9),
    "the next number of a lock": counters(JOBS, next_lock=5),
    "locks are removed up to the first one": put(META, b"L" + JOBS, u64(3)),
    "dead letters are removed up to the first one": put(META, b"D" + JOBS, u64(0) + u64(2)),
    "the head is the first message": head(JOBS, key(JOBS, 4, 4), key(JOBS, 4, 4)),
    "a head at the end of the queue": head(EMPTY, SEARCHED[:3] + b"\x08"),
    "requeued as often as can be counted": change(MESSAGES, JOBS, lambda record: b"\xfc" + record[1:]),
    "a dead letter of an earlier version": all_of(change(DEAD, JOBS, earlier), delete(DEAD, JOBS + b"\xff", 1)),
    "duplicates are still searched for": put(DEDUP, SEARCHED + bytes(16), bytes(36)),
    "sums of nothing": put(META, b"S" + struct.pack(">IIB", 7, 1, 0), sums(0, 0, 0)),
    "payloads end before what was appended": change(META, b"S", lambda value: value[:16] + u64(9999)),
}


# Verifies: API-0133
@pytest.mark.parametrize("name", IN_ORDER)
def test_what_is_in_order(sound: Sound, name: str) -> None:
    pairs = sound.copy()
    IN_ORDER[name](pairs)
    assert problems_of(sound, pairs) == []


def not_given_out(*letters: int) -> list[tuple[str, str]]:
    return [
        problem
        for number, letter in enumerate(letters)
        for problem in (
            ("dead_number", f"dead letter empty.{letter} has number {number}, which was not given out"),
            ("sequence", f"message empty.{letter} has sequence number {letter}, which was not given out"),
        )
    ]


OF_QUEUES: dict[str, tuple[str, Damage, Told]] = {
    "available": ("jobs", counters(JOBS, available=4), [("count", "it counts 4 available, but has 5")]),
    "locked": ("jobs", counters(JOBS, locked=0), [("count", "it counts 0 locked, but has 2")]),
    "dead": ("jobs", counters(JOBS, dead=9), [("count", "it counts 9 dead, but has 2")]),
    "next sequence": (
        "jobs",
        counters(JOBS, next_sequence=8),
        [("sequence", "message jobs.8 has sequence number 8, which was not given out")],
    ),
    "next lock": (
        "jobs",
        counters(JOBS, next_lock=4),
        [("lock_number", "the lock of message jobs.5 has number 4, which was not given out")],
    ),
    "locks from": (
        "jobs",
        put(META, b"L" + JOBS, u64(4)),
        [("lock_number", "the lock of message jobs.6 has number 3, which was not given out")],
    ),
    "next dead": (
        "jobs",
        counters(JOBS, next_dead=1),
        [("dead_number", "dead letter jobs.7 has number 1, which was not given out")],
    ),
    "dead from": (
        "jobs",
        put(META, b"D" + JOBS, u64(1) + u64(0)),
        [("dead_number", "dead letter jobs.8 has number 0, which was not given out")],
    ),
    "no counters": (
        "empty",
        delete(META, b"C" + EMPTY),
        [
            ("no_counters", "its counters are missing"),
            *not_given_out(8, 7),
            ("count", "it counts 0 dead, but has 2"),
        ],
    ),
    "no counters, but messages": (
        "searched",
        delete(META, b"C" + SEARCHED),
        [
            ("no_counters", "its counters are missing"),
            *[
                ("sequence", f"message searched.{number} has sequence number {number}, which was not given out")
                for number in (0, 1)
            ],
            ("count", "it counts 0 available, but has 2"),
        ],
    ),
    "counters cut short": (
        "empty",
        change(META, b"C" + EMPTY, lambda value: value[:50]),
        [
            ("unreadable", "its counters can't be read"),
            *not_given_out(8, 7),
            ("count", "it counts 0 dead, but has 2"),
        ],
    ),
    "a head longer than what is there": (
        "empty",
        all_of(head(EMPTY, EMPTY), counters(EMPTY, head=5)),
        [("head", "its head is no key of it")],
    ),
    "a head of another queue": ("empty", head(EMPTY, JOBS), [("head", "its head is no key of it")]),
    "a head behind the first": (
        "jobs",
        head(JOBS, key(JOBS, 4, 4) + b"\0"),
        [("before_head", "message jobs.4 stands before its head, and is never consumed")],
    ),
    "a head at the end": (
        "jobs",
        head(JOBS, NAMES),
        [
            ("before_head", f"message jobs.{number} stands before its head, and is never consumed")
            for number in (4, 3, 2, 1, 0)
        ],
    ),
    "trimmed": ("jobs", head(JOBS, JOBS, JOBS + b"\0"), [("head", "it is trimmed beyond its head")]),
    "one name": (
        "jobs",
        change(META, b"Q" + EMPTY, lambda value: value.replace(b"empty", b"jobs")),
        [("same_name", "two queues have this name")],
    ),
    "a message less": ("jobs", delete(MESSAGES, JOBS), [("count", "it counts 5 available, but has 4")]),
    "a record cut short": (
        "jobs",
        change(MESSAGES, JOBS, lambda record: record[:30]),
        [("unreadable", "MESSAGES 00000001fffffffffffffffb0000000000000004 can't be read")],
    ),
    "flags": (
        "jobs",
        change(MESSAGES, JOBS, lambda record: b"\x02" + record[1:]),
        [("unreadable", "message jobs.4 has flags that mean nothing: 02")],
    ),
    "no UTF-8": (
        "jobs",
        change(MESSAGES, JOBS, lambda record: record + b"\xff"),
        [("payload", "the payload of message jobs.4 is no UTF-8")],
    ),
    "a key too long": (
        "jobs",
        move(MESSAGES, JOBS, lambda key: key[:4] + b"\xff" + key[4:]),
        [("key", "message jobs.4 has a key that no priority makes: 00000001fffffffffffffffffb0000000000000004")],
    ),
    "a key that is no text": (
        "names",
        move(MESSAGES, NAMES, lambda key: key[:-1] + b"\xff"),
        [
            ("key", "message names.5 has a key that no priority makes: 0000000200000000000000056eff"),
            ("external", "the payload of message names.5 in segment 1 is not noted as its own"),
        ],
    ),
    "a key without its text": (
        "names",
        move(MESSAGES, NAMES, lambda key: key[:-2]),
        [
            ("key", "message names.5 has a key that no priority makes: 000000020000000000000005"),
            ("external", "the payload of message names.5 in segment 1 is not noted as its own"),
        ],
    ),
    "a lock less": ("jobs", delete(LOCKS, JOBS), [("count", "it counts 2 locked, but has 1")]),
    "a lock cut short": (
        "jobs",
        change(LOCKS, JOBS, lambda value: value[:5]),
        [("unreadable", "LOCKS 000000010000000000000003 can't be read")],
    ),
    "deliveries": (
        "jobs",
        change(LOCKS, JOBS, lambda value: value[:8] + (7).to_bytes(4, "big") + value[12:]),
        [("deliveries", "message jobs.6 was delivered 0 + 1 times, its lock says 7")],
    ),
    "locked and available": (
        "jobs",
        lambda pairs: pairs[MESSAGES].update({key(JOBS, 5, 5): pairs[MESSAGES][key(JOBS, 4, 4)]}),
        [
            ("twice", "message jobs.5 of 000000010000000000000004 and message jobs.4 have one place"),
            ("count", "it counts 5 available, but has 6"),
        ],
    ),
    "locked, and available under no id": (
        "jobs",
        lambda pairs: pairs[MESSAGES].update({key(JOBS, 5, 5): bytes(17) + b"\xff" * 36}),
        [
            ("unreadable", "MESSAGES 00000001fffffffffffffffa0000000000000005 can't be read"),
            ("twice", f"message jobs.5 of 000000010000000000000004 and message {'�' * 36} have one place"),
            ("count", "it counts 5 available, but has 6"),
        ],
    ),
    "dead and available under a later number": (
        "again",
        lambda pairs: pairs[MESSAGES].update({NEW + u64(1) * 2: pairs[MESSAGES][AGAIN + u64(5) * 2]}),
        [
            ("twice", "message again.1 of 000000050000000000000000 and message again.5 have one place"),
            ("count", "it counts 0 available, but has 1"),
        ],
    ),
    "a dead letter less": (
        "jobs",
        delete(DEAD, JOBS),
        [
            ("dead_index", "the index leads from jobs.8 to a dead letter that is not there"),
            ("count", "it counts 2 dead, but has 1"),
            ("dead_index", "the index has 2 letters, and 1 are there"),
        ],
    ),
    "a dead letter cut short": (
        "jobs",
        change(DEAD, JOBS, lambda value: value[:5]),
        [
            ("unreadable", "DEAD 000000010000000000000000 can't be read"),
            ("dead_index", "the index has 2 letters, and 1 are there"),
        ],
    ),
    "a dead letter that is not found": (
        "jobs",
        delete(DEAD, JOBS + b"\xff"),
        [("dead_index", "dead letter jobs.7 is not found by its id")],
    ),
    "an index that leads nowhere": (
        "jobs",
        change(DEAD, JOBS + b"\xff", lambda value: u64(99)),
        [
            ("dead_index", "dead letter jobs.7 is not found by its id"),
            ("dead_index", "the index leads from jobs.7 to a dead letter that is not there"),
        ],
    ),
    "an index of a dead letter that needs none": (
        "jobs",
        change(DEAD, JOBS, earlier),
        [("dead_index", "the index has 2 letters, and 1 are there")],
    ),
}


# Verifies: API-0133
@pytest.mark.parametrize("name", OF_QUEUES)
def test_what_is_wrong_in_a_queue(sound: Sound, name: str) -> None:
    queue, damage, expected = OF_QUEUES[name]
    assert told(sound, damage) == [(code, queue, sentence) for code, sentence in expected]


NOT_THERE = "but there is no such queue"
ALL_OF_TWINS: Told = [
    *[("no_queue", f"LOCKS has 00000008000000000000000{number}, {NOT_THERE}") for number in (0, 1)],
    ("no_queue", f"DEDUP has 00000008{records.digest_of(b'equal').hex()}, {NOT_THERE}"),
]
OF_NO_QUEUE: dict[str, tuple[Damage, Told]] = {
    "a configuration that is no JSON": (
        change(META, b"Q" + TWINS, lambda value: b"{"),
        [("unreadable", "META 5100000008 can't be read"), *ALL_OF_TWINS],
    ),
    "no configuration": (
        delete(META, b"Q" + TWINS),
        [("no_queue", "META has C of queue 00000008, but no such queue"), *ALL_OF_TWINS],
    ),
    "the next queue": (
        put(META, b"N", SEARCHED),
        [("next_queue", "the next queue would get number 9, but 9 is in use")],
    ),
    "no next queue": (delete(META, b"N"), [("next_queue", "the next queue would get number 0, but 9 is in use")]),
    "the next queue has dead letters": (
        change(META, b"Q" + SEARCHED, lambda value: value[:-1] + b',"dead_letters":10}'),
        [("next_queue", "the next queue would get number 10, but 10 is in use")],
    ),
    **{
        f"{kind} without a queue": (
            put(META, kind.encode() + NONE, b""),
            [("no_queue", f"META has {kind} of queue 00000063, but no such queue")],
        )
        for kind in "CDL"
    },
    **{
        f"key {unknown!r}": (
            put(META, unknown, b""),
            [("unknown_key", f"META has a key that means nothing: {unknown[:64].hex()}")],
        )
        for unknown in (b"Z" + NONE, b"Q\0\0\0", b"S" + bytes(8), b"S" + bytes(4), b"C" + bytes(9), b"X" * 100)
    },
    **{
        f"{family.name} of no queue": (
            put(family, NONE + bytes(100), b""),
            [("no_queue", f"{family.name} has 00000063{'00' * 60}, {NOT_THERE}")],
        )
        for family in (MESSAGES, LOCKS, DEAD, DEDUP)
    },
    **{
        f"a payload of queue {number}, kind {kind}": (
            put(EXTERNAL, index(1, number, kind, 5), STRANGER),
            [("no_queue", f"EXTERNAL has a payload of queue number {number}, but no such queue")],
        )
        for number, kind in ((99, 0), (99, 1), (6, 1))
    },
    "a payload of nothing": (put(EXTERNAL, JOBS, b""), [("unreadable", "EXTERNAL 00000001 can't be read")]),
    "sums of no queue": (
        put(META, b"S" + struct.pack(">IIB", 7, 99, 1), sums(1, 0, 0)),
        [("sums", "META has 1 payloads with 0 octets of dead letters in segment 7, records have 0 with 0")],
    ),
    "sums cut short": (
        change(META, b"S", lambda value: value[:-1]),
        [("unreadable", "the sums of segments can't be read")],
    ),
}


# Verifies: API-0133
@pytest.mark.parametrize("name", OF_NO_QUEUE)
def test_what_is_wrong_in_no_queue(sound: Sound, name: str) -> None:
    damage, expected = OF_NO_QUEUE[name]
    assert told(sound, damage) == [(code, None, sentence) for code, sentence in expected]


# Verifies: API-0133
def test_two_queues_with_the_same_dead_letters(sound: Sound) -> None:
    found = told(sound, change(META, b"Q" + SEARCHED, lambda value: value[:-1] + b',"dead_letters":7}'))
    assert found[0] == ("dead_number", "searched", "another queue has its dead letters, too")
    assert {queue for _, queue, _ in found} == {"empty", "searched"}


# Verifies: API-0133
@pytest.mark.parametrize("family", Family)
def test_what_can_not_be_read_is_told_and_the_rest_is_verified(sound: Sound, family: Family) -> None:
    found = problems_of(sound, sound.copy(), {family})
    assert found[0] == ("unreadable", None, f"{family.name} can't be read. What follows was not looked at")
    counted = {MESSAGES: "available", LOCKS: "locked", DEAD: "dead"}.get(family)
    counts = [sentence for code, _, sentence in found if code == "count"]
    assert bool(counts) == bool(counted)
    assert all(sentence.split()[3] == f"{counted}," for sentence in counts)
    if counted is None:
        assert len(found) == 1
