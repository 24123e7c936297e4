"""Running the calls of a burst, in a transaction and without one: order, bounds, and what goes wrong in one call."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from qrusty_trio.access.limits import Limit
from qrusty_trio.access.needs import OPEN
from qrusty_trio.api.call import Call, Operation, Reply, Services
from qrusty_trio.api.gate import Gate
from qrusty_trio.api.operations import error_reply
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.model import Delivery
from qrusty_trio.core.timings import Timings
from qrusty_trio.errors import BadRequest, StorageFault
from qrusty_trio.server import bursts
from qrusty_trio.storage.memory import MemoryStorage
from tests.access.asking import principal
from tests.server.engines import Memory, call

FAULT = StorageFault("down")


@pytest.fixture
def services() -> Services:
    return Services(Broker(MemoryStorage()), Gate(), Timings(), Memory(), lambda: 0)


@pytest.fixture(params=["in a transaction", "during a fault"])
def run(request: pytest.FixtureRequest, services: Services) -> Callable[..., Any]:
    """Run calls; what `run_calls` or `run_reads` returns."""

    def run(calls: list[Call], replies: list[Reply]) -> Any:
        if request.param == "in a transaction":
            return bursts.run_calls(services, calls, replies, 0)
        return bursts.run_reads(services, calls, replies, 0, FAULT)

    return run


def reading(function: Callable[[], Any], mutating: bool = False) -> Call:
    return Call(Operation("look", "GET", "/look", OPEN, mutating, lambda services, call, now: function()))


def body(text: bytes) -> Call:
    return reading(lambda: Reply(200, text))


def broken() -> Any:
    raise ZeroDivisionError


def refused() -> Any:
    raise BadRequest("no")


# Verifies: API-0138
def test_what_a_burst_hands_out_counts_against_the_limit_of_its_token(services: Services) -> None:
    services.guarded = True
    worker = principal("consume:*", limit=Limit(None, 3))
    for _ in range(6):
        services.broker.publish("q", 1, "p", 3, 0)
    calls = [call("POST", "/consume/q", consumer_id="c", timeout_seconds=30) for _ in range(5)]
    for each in calls:
        each.principal = worker
    replies: list[Reply] = []
    bursts.run_calls(services, calls, replies, 0)
    assert [reply.status for reply in replies] == [200, 200, 200, 429, 429]


# Verifies: PER-0043
def test_a_read_that_fails_fails_alone(run: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    replies: list[Reply] = []
    assert run([body(b"1"), reading(broken), reading(refused), body(b"2")], replies) is None
    assert [reply.status for reply in replies] == [200, 500, 400, 200]
    assert "its log says why" in json.loads(replies[1].body)["error"]
    (record,) = caplog.records
    request_id = record.request_id  # type: ignore[attr-defined]  # what `extra` gave
    assert record.getMessage() == f"look failed in a way that should not be possible (request {request_id})"
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_a_change_that_fails_is_for_the_transaction_to_tell(services: Services) -> None:
    replies: list[Reply] = []
    with pytest.raises(ZeroDivisionError):
        bursts.run_calls(services, [body(b"1"), reading(broken, mutating=True), body(b"2")], replies, 0)
    assert [reply.body for reply in replies] == [b"1"]
    replies.clear()
    assert bursts.run_reads(services, [reading(broken, mutating=True), body(b"2")], replies, 0, FAULT) is None
    assert [reply.status for reply in replies] == [503, 200]
    assert replies[0] == error_reply(FAULT)


def test_a_burst_goes_on_where_it_stopped(run: Callable[..., Any]) -> None:
    half = b"x" * (bursts.REPLY_BYTES // 2)
    calls = [body(half), body(half), body(b"3"), body(half), body(half + b"!"), body(b"6")]
    replies: list[Reply] = []
    lengths = []
    while len(replies) < len(calls):
        assert run(calls, replies) is None
        lengths.append(len(replies))
    assert lengths == [2, 5, 6]
    assert [len(reply.body) for reply in replies] == [len(half), len(half), 1, len(half), len(half) + 1, 1]


def test_one_that_takes_long_is_returned_at_its_turn(run: Callable[..., Any]) -> None:
    def long() -> Any:
        yield
        return Reply(200, b"done")

    replies: list[Reply] = []
    calls = [body(b"1"), reading(long), body(b"3")]
    begun = run(calls, replies)
    assert [reply.body for reply in replies] == [b"1"]
    assert begun.step() is None
    reply = begun.step()
    assert reply is not None
    assert reply.body == b"done"


def test_one_that_takes_long_and_will_not_go_on_is_ended(run: Callable[..., Any]) -> None:
    ended = []

    def long() -> Any:
        try:
            yield
        finally:
            ended.append(True)

    steps = long()
    begun = run([reading(lambda: steps)], [])
    assert begun.step() is None
    assert not ended
    begun.close()
    assert ended


def test_what_waits_for_a_sync_is_known() -> None:
    synced, plain = Reply(200, b"", True), Reply(200, b"")
    assert not bursts.only_synced([])
    assert not bursts.only_synced([plain, plain])
    assert bursts.only_synced([plain, synced])
    assert bursts.only_synced([synced, plain])
    delivered = Reply(200, b"", deliveries=[Delivery(1, "id", "p", 1, 5, 0)])
    assert not bursts.only_synced([synced, delivered])
    assert not bursts.only_synced([delivered, synced])
