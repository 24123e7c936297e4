"""Random frames: the session never raises, answers each request once and in order, and never exceeds credit."""

from __future__ import annotations

import json
from math import inf
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.api.ws_burst import CHANGING
from tests.api.ws_peer import Peer, World

QUEUES = ["a", "b", "missing"]

queues = st.sampled_from(QUEUES)
ids = st.integers(0, 5)
"""Index into the messages delivered so far, newest first."""
requests = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("publish"), "queue": queues, "payload": st.text(max_size=5)},
        optional={"priority": st.one_of(st.integers(-1, 3), st.text(max_size=2), st.none()), "max_retries": ids},
    ),
    st.fixed_dictionaries({"type": st.just("subscribe"), "queue": queues}, optional={"credits": st.integers(-1, 3)}),
    st.fixed_dictionaries({"type": st.sampled_from(["unsubscribe", "subscribe-logs"]), "queue": queues}),
    st.fixed_dictionaries({"type": st.just("credit"), "queue": queues, "credits": st.integers(-1, 3)}),
    st.fixed_dictionaries({"type": st.sampled_from(["ack", "nack", "renew"]), "queue": queues, "id": ids}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["batch-ack", "batch-nack"]), "queue": queues, "ids": st.lists(ids, max_size=4)}
    ),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
fields = [
    "type",
    "queue",
    "payload",
    "priority",
    "max_retries",
    "credits",
    "lock_timeout_secs",
    "id",
    "ids",
    "no_reply",
]
junk = st.dictionaries(st.sampled_from(fields), json_values | st.sampled_from([*QUEUES, *CHANGING]), max_size=6)
bursts = st.lists(st.lists(st.one_of(requests, requests, junk), max_size=6), max_size=12)


class Checker:
    """Sends bursts and holds the responses against what was asked."""

    def __init__(self) -> None:
        self.world = World()
        self.world.queue("a")
        self.world.queue("b")
        self.peer = Peer(self.world)
        self.delivered: list[str] = []
        self.credits: dict[str, float] = {}
        self.sent = 0

    def unheld(self) -> int:
        """Messages that are available or dead letters."""
        stats = [self.world.broker.catalog.stats(queue) for queue in ("a", "b")]
        return sum(each.available + each.dead for each in stats if each is not None)

    def run(self, burst: list[dict[str, Any]]) -> None:
        burst = [self._resolve(each) for each in burst]
        expected = [each["req_id"] for each in burst if each.get("no_reply") is not True]
        frames = self.peer.ask(*burst)
        responses = [frame for frame in frames if frame["type"] in ("ok", "error")]
        assert [response["req_id"] for response in responses] == expected
        answer_of = {response["req_id"]: response for response in responses}
        for request in burst:
            self._account(request, answer_of.get(request["req_id"]))
        for frame in frames:
            if frame["type"] == "deliver":
                self.delivered.insert(0, frame["id"])
                self.credits[frame["queue"]] -= 1
                assert self.credits[frame["queue"]] >= 0

    def _resolve(self, request: dict[str, Any]) -> dict[str, Any]:
        self.sent += 1
        request = {**request, "req_id": str(self.sent)}
        if request.get("type") in ("subscribe", "unsubscribe", "credit") and request.get("no_reply") is True:
            del request["no_reply"]  # The checker has to know whether it was accepted.
        if isinstance(request.get("id"), int) and not isinstance(request["id"], bool):
            request["id"] = self._id(request["id"])
        if isinstance(request.get("ids"), list):
            request["ids"] = [self._id(each) if isinstance(each, int) else each for each in request["ids"]]
        return request

    def _id(self, index: int) -> str:
        return self.delivered[index] if 0 <= index < len(self.delivered) else "unknown"

    def _account(self, request: dict[str, Any], response: dict[str, Any] | None) -> None:
        """What each subscription may still be delivered: what it was granted, less what came."""
        queue, credits = request.get("queue"), request.get("credits")
        if response is None or response["type"] != "ok" or not isinstance(queue, str):
            return
        if request["type"] == "subscribe" and queue not in self.credits:
            self.credits[queue] = inf if credits is None else credits
        elif request["type"] == "credit":
            self.credits[queue] += credits or 0
        elif request["type"] == "unsubscribe":
            self.credits.pop(queue, None)


@given(bursts)
def test_random_bursts(sequence: list[list[dict[str, Any]]]) -> None:
    checker = Checker()
    for burst in sequence:
        checker.run(burst)
    session = checker.peer.session
    assert session.close_code is None
    held = len(checker.peer.held)
    before = checker.unheld()
    checker.peer.gone()
    assert checker.unheld() == before + held
    assert checker.world.broker.watched == set()


@given(st.lists(st.one_of(st.text(), st.binary(), json_values.map(json.dumps)), max_size=5))
def test_random_texts(frames: list[str | bytes]) -> None:
    peer = Peer(World())
    responses = peer.ask(*frames)
    assert all(response["type"] == "error" for response in responses)
    assert len(responses) == len(frames) or peer.session.close_code in (1003, 1007)
