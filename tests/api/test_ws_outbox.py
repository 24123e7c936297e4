"""The outbox against a model: which frames it hands out when, and what it counts and tells of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from qrusty_trio.api import ws_outbox
from qrusty_trio.api.ws_budget import Budget
from qrusty_trio.api.ws_frames import END_OF_BATCH
from qrusty_trio.api.ws_outbox import DELIVERY, FULL_BYTES, HandedOut, Outbox
from qrusty_trio.core.unsynced import Unsynced

TAKE_BYTES = 100
BATCH_BYTES = 60
PREFIXES = [DELIVERY + b"-%d:[" % number for number in range(2)]
"""20 bytes, one for each subscription."""
IDS = ["a", "b", "c"]


@dataclass
class Frame:
    data: bytes
    ids: list[str] = field(default_factory=list)
    prefix: bytes | None = None
    """Set where it may get more deliveries, or waits for a sync."""
    unsynced: Unsynced | None = None


class Pair:
    """An outbox, and what it has to hold."""

    def __init__(self) -> None:
        self.woken = 0
        self.budget = Budget()
        self.outbox = Outbox(self._wake, self.budget)
        self.outbox.handed_out = []
        self.told: list[HandedOut] = []
        self.frames: list[Frame] = []
        self.behind: list[Frame] | None = None
        self.on_the_way = 0
        self.unsynced: Unsynced | None = None
        self.syncs: list[Unsynced] = []

    def _wake(self) -> None:
        self.woken += 1

    def _add(self, frame: Frame) -> None:
        (self.frames if self.behind is None else self.behind).append(frame)

    def put(self, octets: int) -> None:
        frame = b"." * octets
        self.outbox.put(frame)
        self._add(Frame(frame))

    def deliver(self, id: str, number: int, octets: int) -> None:
        prefix = PREFIXES[number]
        frame = prefix + b"." * octets
        self.outbox.put_delivery(frame, id, prefix, self.unsynced)
        self._add(Frame(frame, [id], prefix if self.unsynced is not None else None, self.unsynced))

    def batch(self, id: str, number: int, octets: int, most: int) -> None:
        prefix, message = PREFIXES[number], b"." * octets
        self.outbox.put_in_batch(prefix, message, id, most, self.unsynced)
        last = (self.frames if self.behind is None else self.behind)[-1:]
        for frame in last:
            same = frame.prefix is prefix and frame.unsynced is self.unsynced
            if same and len(frame.ids) < most and len(frame.data) < BATCH_BYTES:
                frame.data = frame.data[: -len(END_OF_BATCH)] + b"," + message + END_OF_BATCH
                frame.ids.append(id)
                return
        self._add(Frame(prefix + message + END_OF_BATCH, [id], prefix, self.unsynced))

    def respond(self, sizes: list[int]) -> None:
        responses = [b"!" * size for size in sizes]
        self.outbox.put_responses(responses)
        self.frames += [*map(Frame, responses), *(self.behind or ())]
        self.behind = None

    def hold(self) -> None:
        self.outbox.hold()
        self.behind = self.behind or []

    def take(self) -> None:
        taken: list[Frame] = []
        for frame in self.frames:
            if taken and sum(len(each.data) for each in taken) + len(frame.data) > TAKE_BYTES:
                break
            if frame.unsynced is not None and not frame.unsynced.over:
                break
            taken.append(frame)
        del self.frames[: len(taken)]
        handed_out = self.outbox.take()
        assert handed_out == [frame.data for frame in taken]
        assert all(type(each) is bytes for each in handed_out)
        self.on_the_way += sum(len(frame.data) for frame in taken)
        self.told += [
            HandedOut(frame.data if frame.prefix is None else frame.prefix, frame.ids) for frame in taken if frame.ids
        ]

    def sent(self) -> None:
        self.outbox.sent()
        self.on_the_way = 0

    def sync(self, begin: bool) -> None:
        """Let deliveries wait for another sync, or end the oldest one."""
        if begin:
            self.unsynced = Unsynced()
            self.syncs.append(self.unsynced)
        elif self.syncs:
            oldest = self.syncs.pop(0)
            oldest.finish()
            if self.unsynced is oldest:
                self.unsynced = None

    def withdraw(self) -> None:
        self.outbox.withdraw()
        self.frames = [frame for frame in self.frames if not frame.ids]
        if self.behind is not None:
            self.behind = [frame for frame in self.behind if not frame.ids]

    def check(self) -> None:
        left = [*self.frames, *(self.behind or ())]
        assert self.outbox.size == self.budget.held == sum(len(frame.data) for frame in left) + self.on_the_way
        assert self.outbox.unsent == Counter(id for frame in left for id in frame.ids)
        assert self.outbox.handed_out == self.told
        first = self.frames[0].unsynced if self.frames else None
        assert self.outbox.waits == (first is not None and not first.over)


def some_operation(choose: Random) -> tuple[str, tuple[Any, ...]]:
    """A name of `Pair`, and what it takes."""
    id, number = choose.choice(IDS), choose.randrange(2)
    operations: list[tuple[str, tuple[Any, ...]]] = [
        ("put", (choose.choice([1, 20, 40, 100, 101]),)),
        ("deliver", (id, number, choose.choice([1, 20, 40]))),
        ("batch", (id, number, choose.choice([18, 19, 38]), choose.randint(1, 4))),
        ("batch", (id, 0, choose.choice([1, 18, 19]), 4)),
        ("respond", ([choose.choice([1, 20, 40]) for _ in range(choose.randrange(3))],)),
        *[("take", ()), ("take", ()), ("sent", ()), ("hold", ())],
        ("withdraw", ()) if not choose.randrange(5) else ("take", ()),
        ("sync", (choose.choice([True, False, False]),)),
    ]
    return choose.choice(operations)


# Verifies: WS-0018, PER-0061
@pytest.mark.parametrize("seed", range(20))
def test_frames_leave_in_order_and_are_counted_until_they_are_sent(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ws_outbox, "TAKE_BYTES", TAKE_BYTES)
    monkeypatch.setattr(ws_outbox, "BATCH_BYTES", BATCH_BYTES)
    choose = Random(seed)
    pair = Pair()
    for _ in range(400):
        name, taken = some_operation(choose)
        ready, woken = len(pair.frames), pair.woken
        getattr(pair, name)(*taken)
        pair.check()
        assert pair.woken > woken or len(pair.frames) <= ready
    unsent = dict(pair.outbox.unsent)
    pair.outbox.close()
    assert pair.outbox.size == pair.budget.held == 0
    assert pair.outbox.unsent == unsent
    pair.outbox.put_responses([])
    assert pair.outbox.take() == []


# Verifies: SYS-0007
@pytest.mark.parametrize(
    ("held", "decoded", "marks"),
    [
        (99, 99, set()),
        (100, 99, {"short"}),
        (149, 99, {"short"}),
        (150, 99, {"short", "exhausted"}),
        (199, 99, {"short", "exhausted"}),
        (200, 24, {"short", "exhausted", "full"}),
        (200, 25, {"short", "exhausted", "full", "crowded"}),
    ],
)
def test_the_marks_of_the_budget(held: int, decoded: int, marks: set[str]) -> None:
    budget = Budget(100)
    budget.change(held)
    budget.decoded = decoded
    assert {name for name in ("short", "exhausted", "full", "crowded") if getattr(budget, name)} == marks


def test_each_change_that_leaves_the_budget_short_is_told() -> None:
    told: list[int] = []
    budget = Budget(100)
    budget.when_short = lambda: told.append(budget.held)
    for octets in (99, 1, 50, -50, -1, 1):
        budget.change(octets)
    assert told == [100, 150, 100, 100]


# Verifies: WS-0018
def test_what_is_being_sent_takes_room() -> None:
    outbox = Outbox(lambda: None)
    outbox.put(b"x" * FULL_BYTES)
    assert outbox.take()
    assert (outbox.size, outbox.room(), outbox.full()) == (FULL_BYTES, False, True)
    outbox.sent()
    assert (outbox.size, outbox.room(), outbox.full()) == (0, True, False)
