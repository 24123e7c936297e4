"""What is noted of frames: no payloads, and nothing that a peer makes as long as it likes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qrusty_trio.api.ws_outbox import Outbox
from qrusty_trio.telemetry.frames import FrameNotes
from qrusty_trio.telemetry.served import ENTRY_BYTES, ID_BYTES, WEBSOCKET, Served
from tests.api.ws_peer import Peer, World, publish, subscribe

UUID_CHARACTERS = 36


def noted(*frames: dict[str, Any], peer: Peer | None = None) -> list[Served]:
    """What is noted of a burst of these frames."""
    if peer is None:
        peer = Peer(World())
        peer.world.queue("jobs")
    found: list[Served] = []
    burst = peer.session.receive([json.dumps(frame) for frame in frames])
    while peer.session.run(burst, peer.world.broker, peer.world.now, 128):
        pass
    FrameNotes(found.append, ()).served(burst, 1)
    return found


# Verifies: API-0195
def test_a_burst_is_noted_request_by_request() -> None:
    entries = noted(
        publish(no_reply=True),
        {"type": "ack", "queue": "jobs", "id": "m"},
        {"type": "batch-nack", "queue": "jobs", "ids": ["a", "b"]},
        subscribe(),
        {"type": "publish", "queue": 7},
        {"type": "nack"},
    )
    assert [(each.operation, each.params, list(each.messages)) for each in entries] == [
        ("publish", ("jobs",), []),
        ("ack", ("jobs", "m"), []),
        ("nack_batch", ("jobs",), ["a", "b"]),
        ("nack", (), []),
    ]
    assert all((each.status, each.request, each.begun_ns) == (WEBSOCKET, b"", 1) for each in entries)
    assert len(json.loads(entries[0].reply)["id"]) == UUID_CHARACTERS
    assert [each.reply for each in entries[1:3]] == [b"", b""]
    assert json.loads(entries[3].reply)["code"] == "invalid_request"


# Verifies: API-0195
@pytest.mark.parametrize(
    "frame",
    [
        {"type": "ack", "queue": "x" * 10**6, "id": "x" * 10**6},
        {"type": "batch-ack", "queue": "jobs", "ids": ["x" * 10**6]},
        publish(queue="x" * 10**6),
        publish(payload="x" * 10**6, traceparent="01-" + "1" * 32 + "-" + "1" * 16 + "-01-" + "x" * 10**6),
        {"type": "nack", "queue": "jobs", "id": "m", "error": "x" * 10**6, "traceparent": "x" * 10**6},
    ],
    ids=["name and id", "ids", "unknown queue", "payload", "error"],
)
def test_what_is_too_long_is_not_kept(frame: dict[str, Any]) -> None:
    (entry,) = noted(frame)
    kept = [*entry.params, *entry.messages, entry.request, entry.reply]
    if entry.identity is not None:
        kept.append(entry.identity.traceparent)
    assert sum(map(len, kept)) < 2000
    assert entry.size < ENTRY_BYTES + 2000


# Verifies: API-0195
@pytest.mark.parametrize("name", ["jobs", '","id":"', ',"messages":[', "\\", '\\",'])
@pytest.mark.parametrize("batch", [None, 3])
def test_of_a_delivery_its_queue_and_ids_are_noted(name: str, batch: int | None) -> None:
    world = World()
    world.queue(name)
    peer = Peer(world)
    handed_out = peer.session.outbox.handed_out = []
    peer.ask(subscribe(queue=name, batch=batch))
    ids = [world.publish(name, "x" * 10_000) for _ in range(4)]
    sent = [frame for frame in peer.read() if frame["type"].startswith("deliver")]
    found: list[Served] = []
    FrameNotes(found.append, ()).delivered(handed_out, 1)
    assert [json.loads(each.reply) for each in found] == [{"type": frame["type"], "queue": name} for frame in sent]
    assert [id for each in found for id in each.messages] == ids
    assert all(each.size <= ENTRY_BYTES + 100 + ID_BYTES * len(each.messages) for each in found)


# Verifies: API-0195
def test_only_what_is_handed_out_is_told_and_only_to_whom_asks() -> None:
    outbox = Outbox(lambda: None)
    outbox.put_delivery(b'{"type":"deliver"' + b" " * 50_000 + b"}", "first")
    outbox.put(b'{"type":"ok"}')
    outbox.put_delivery(b'{"type":"deliver"' + b" " * 50_000 + b"}", "second")
    outbox.put_delivery(b'{"type":"deliver"}', "third")
    outbox.take()
    assert outbox.handed_out is None
    outbox.handed_out = []
    outbox.take()
    assert [each.ids for each in outbox.handed_out] == [["second"], ["third"]]
    outbox.put_delivery(b'{"type":"deliver"}', "fourth")
    outbox.withdraw()
    outbox.take()
    assert [each.ids for each in outbox.handed_out] == [["second"], ["third"]]
