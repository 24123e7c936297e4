"""What arrives over a WebSocket while the disk works: it runs, and is answered in order after its own sync."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from qrusty_trio.api.ws_burst import MESSAGE_BYTES, REQUEST_BYTES, Burst
from qrusty_trio.api.ws_frames import Request
from qrusty_trio.api.ws_session import MAX_FRAME_BYTES, WsSession
from qrusty_trio.config import Fsync
from qrusty_trio.errors import DiskFull
from qrusty_trio.http import websocket
from qrusty_trio.http.fast_websocket import FastWebSocketTransport
from qrusty_trio.http.pipe import ConnectionLost
from qrusty_trio.http.websocket import WebSocketServices, serve_connection
from qrusty_trio.http.websocket_bursts import UNANSWERED_BYTES
from qrusty_trio.http.websocket_notes import TakeNotes
from qrusty_trio.http.websocket_watch import watch_budget
from qrusty_trio.logs import LogRing
from qrusty_trio.server.engine import Engine
from tests.http.ws_raw import CLOSE, PING, TEXT, frame
from tests.server.engines import STEP_SECONDS, WatchedStorage, engine_on, publish, run, until_back

EXTENDED = {126: 2, 127: 8}
"""Bytes of a longer length (RFC 6455, 5.2)."""


class Notes:
    """Keeps what it is told of."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __call__(self, traceparents: Any) -> Notes:
        return self

    def served(self, burst: Burst, begun: int) -> None:
        assert begun
        self.requests += [each for each in burst.requests if isinstance(each, Request)]

    def delivered(self, handed_out: Any, begun: int) -> None:
        raise AssertionError("nothing was")


PAYLOADS = tuple(str(number) for number in range(5))


class Peer:
    """A WebSocket of the engine, on a stream in memory."""

    def __init__(self, engine: Engine, take_notes: TakeNotes | None, services: WebSocketServices | None) -> None:
        ours, self.stream = trio.testing.memory_stream_pair()
        self.logs = LogRing()
        self.services = services or WebSocketServices(
            engine, engine.dispatcher, engine.services.gate, self.logs, 600, 600, take_notes=take_notes
        )
        protocol = ServerProtocol(state=OPEN, max_size=MAX_FRAME_BYTES)
        self.transport = FastWebSocketTransport(ours, protocol, self.services.budget, self.services.turns)
        self._received = b""

    async def send(self, *requests: dict[str, Any]) -> None:
        """Send them as one burst, and let it be served as far as it can be."""
        await self.stream.send_all(b"".join(frame(TEXT, json.dumps(each).encode()) for each in requests))
        await trio.testing.wait_all_tasks_blocked()

    async def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            with trio.fail_after(STEP_SECONDS):
                more = await self.stream.receive_some()
            assert more, "the server closed"
            self._received += more
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    async def read(self) -> dict[str, Any]:
        first, length = await self._take(2)
        if length in EXTENDED:
            length = int.from_bytes(await self._take(EXTENDED[length]), "big")
        data = await self._take(length)
        if first & 0xF == CLOSE:
            return {"closed": int.from_bytes(data[:2], "big")}
        fields: dict[str, Any] = json.loads(data)
        return fields

    async def nothing_came(self) -> bool:
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0):
            self._received += await self.stream.receive_some()
        return not self._received


@asynccontextmanager
async def connected(
    engine: Engine, take_notes: TakeNotes | None = None, services: WebSocketServices | None = None
) -> AsyncIterator[Peer]:
    """`services`: those of another peer, to share its budget."""
    async with trio.open_nursery() as nursery:
        peer = Peer(engine, take_notes, services)
        nursery.start_soon(serve_connection, peer.transport, peer.services)
        yield peer
        await peer.stream.aclose()


def put(payload: str) -> dict[str, Any]:
    return {"type": "publish", "queue": "q", "payload": payload, "req_id": payload}


SUBSCRIBE = {"type": "subscribe", "queue": "q", "req_id": "subscribe"}


def stored(engine: Engine) -> int:
    return engine.broker.catalog.by_name["q"].available


# Verifies: WS-0054
async def test_requests_run_while_earlier_ones_wait_for_their_sync(store: WatchedStorage) -> None:
    async with engine_on(store) as engine, connected(engine) as peer:
        await run(engine, publish("first"))
        with store.held():
            syncs = store.syncs
            await peer.send(put("0"))
            await store.until_sync_begins()
            for payload in PAYLOADS[1:]:
                await peer.send(put(payload))
            assert stored(engine) == 1 + len(PAYLOADS)
            assert await peer.nothing_came()
        assert [(await peer.read())["req_id"] for _ in PAYLOADS] == list(PAYLOADS)
        assert store.syncs == syncs + 2  # one covers all that came during the first


# Verifies: WS-0054
async def test_an_ack_runs_while_the_publish_waits_for_its_sync(store: WatchedStorage) -> None:
    async with engine_on(store) as engine, connected(engine) as peer:
        await run(engine, publish("first"))
        await peer.send(SUBSCRIBE)
        assert (await peer.read())["req_id"] == "subscribe"
        first = await peer.read()
        with store.held():
            await peer.send(put("x"))
            await store.until_sync_begins()
            delivery = await peer.read()
            assert delivery["payload"] == "x"
            for each in (first, delivery):
                await peer.send({"type": "ack", "queue": "q", "id": each["id"], "req_id": each["payload"]})
            assert engine.broker.locks.count == 0
            assert await peer.nothing_came()
        assert [(await peer.read())["req_id"] for _ in range(3)] == ["x", "first", "x"]


# Verifies: WS-0054
async def test_a_request_that_changes_nothing_is_answered_in_turn(store: WatchedStorage) -> None:
    async with engine_on(store) as engine, connected(engine) as peer:
        await run(engine, publish("first"))
        with store.held():
            await peer.send(put("x"))
            await peer.send({"type": "unsubscribe", "queue": "q", "req_id": "none"})
            await peer.send({"type": "unknown", "req_id": "refused"})
            assert await peer.nothing_came()
        assert [(await peer.read())["req_id"] for _ in range(3)] == ["x", "none", "refused"]


# Verifies: WS-0012, WS-0054
@pytest.mark.parametrize("subscribes", [1, 2])
async def test_no_delivery_passes_the_response_to_its_subscribe(store: WatchedStorage, subscribes: int) -> None:
    async with engine_on(store) as engine, connected(engine) as peer:
        await run(engine, publish("first", queue="q"), publish("first", queue="p"))
        asks = [SUBSCRIBE | {"queue": queue, "req_id": queue} for queue in "qp"[:subscribes]]
        with store.held():
            await peer.send(put("x"))
            for ask in asks:
                await peer.send(ask)
            await peer.send(put("y"))
            assert await peer.nothing_came()
        # Every subscribe, the two publishes, and the messages.
        told: set[str] = set()
        for _ in range(subscribes + 2 + subscribes + 2):
            got = await peer.read()
            if got["type"] == "deliver":
                assert got["queue"] in told
            else:
                told.add(got["req_id"])


# Verifies: PER-0040, WS-0011, WS-0054
async def test_a_sync_that_fails_is_told_to_all_that_waited(store: WatchedStorage) -> None:
    async with engine_on(store) as engine, connected(engine) as peer:
        await run(engine, publish("first"))
        with store.held():
            await peer.send(put("x"))
            await store.until_sync_begins()
            await peer.send(put("y"), {"type": "unsubscribe", "queue": "q", "req_id": "none"})
            await peer.send(put("z"))
            store.sync_fault = DiskFull("No space left on the device.")
        responses = [await peer.read() for _ in range(4)]
        assert [each["req_id"] for each in responses] == ["x", "y", "none", "z"]
        assert [each.get("code") for each in responses] == ["storage_error", "storage_error", None, "storage_error"]
        assert await peer.read() == {"closed": 1013}
        await until_back(engine)


# Verifies: WS-0020, WS-0021, WS-0054
async def test_what_waits_is_bounded_and_counted(store: WatchedStorage) -> None:
    size = 20_000
    fit = UNANSWERED_BYTES // (size + REQUEST_BYTES) + 1
    async with engine_on(store) as engine, connected(engine) as peer:
        await run(engine, publish("first"))
        with store.held():
            for _ in range(2 * fit):
                await peer.send(put("x" * size) | {"req_id": "one"})
            assert stored(engine) == 1 + fit
            assert peer.services.budget.held > UNANSWERED_BYTES
            assert next(iter(peer.services.connections)).held >= UNANSWERED_BYTES
        for _ in range(2 * fit):
            assert (await peer.read())["req_id"] == "one"
        assert peer.services.budget.held == 0


# Verifies: WS-0056
@pytest.mark.parametrize("noted", [False, True])
async def test_responses_that_wait_are_counted_and_batches_that_ran_are_not(store: WatchedStorage, noted: bool) -> None:
    count = 1000
    batch = {
        "type": "batch-publish",
        "queue": "q",
        "req_id": "batch",
        "messages": [{"priority": 1, "payload": ""}] * count,
    }
    async with engine_on(store) as engine, connected(engine, Notes() if noted else None) as peer:
        await run(engine, publish("first"))
        with store.held():
            await peer.send(batch)
            await store.until_sync_begins()
            await trio.testing.wait_all_tasks_blocked()
            assert stored(engine) == 1 + count
            held, ids = peer.services.budget.held - peer.transport.held, 36 * count
            assert held == peer.services.budget.decoded
            assert (ids + MESSAGE_BYTES * count < held) if noted else (ids < held < ids + 20 * count)
        assert len((await peer.read())["ids"]) == count
        await trio.testing.wait_all_tasks_blocked()
        assert (peer.services.budget.held, peer.services.budget.decoded) == (0, 0)


# Verifies: WS-0056
async def test_nothing_more_is_decoded_while_much_is_unanswered(store: WatchedStorage) -> None:
    async with (
        engine_on(store) as engine,
        connected(engine) as first,
        connected(engine, services=first.services) as second,
        trio.open_nursery() as nursery,
    ):
        await run(engine, publish("first"))
        budget = first.services.budget
        nursery.start_soon(watch_budget, first.services)
        await trio.testing.wait_all_tasks_blocked()  # Both are being read.
        with store.held():
            await first.send(put("x" * 50_000) | {"req_id": "long"})
            await store.until_sync_begins()
            budget.limit = budget.held // 2
            assert budget.crowded
            for _ in range(3):
                await second.send(put("y"))
            assert stored(engine) == 2
            assert [each.at_work for each in first.services.connections] == [True, True]
        assert (await first.read())["req_id"] == "long"
        assert [(await second.read())["req_id"] for _ in range(3)] == ["y"] * 3
        assert stored(engine) == 5
        nursery.cancel_scope.cancel()


# Verifies: WS-0020, WS-0054
async def test_a_peer_that_does_not_read_is_read_on(store: WatchedStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer waits for the peer, so it releases nothing. The peer may write all the while, before it reads."""
    reads = trio.Event()

    async def send(self: FastWebSocketTransport, frames: list[bytes]) -> None:
        await reads.wait()

    monkeypatch.setattr(FastWebSocketTransport, "send", send)
    async with engine_on(store, Fsync.NEVER) as engine, connected(engine) as peer:
        await run(engine, publish("first"))
        many = 3 * UNANSWERED_BYTES // REQUEST_BYTES
        for number in range(many):
            await peer.send(put("x"), SUBSCRIBE if number % 100 == 50 else put("y"))
        total = engine.broker.catalog.by_name["q"]
        assert total.next_sequence > 1.9 * many
        reads.set()


# Verifies: WS-0020, WS-0054
async def test_a_subscribe_waits_for_no_peer_that_does_not_read(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync before it is over, and the writer does not come to release what waited for it."""

    async def send(self: FastWebSocketTransport, frames: list[bytes]) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(FastWebSocketTransport, "send", send)
    async with engine_on(store) as engine, connected(engine) as peer:
        await run(engine, publish("first"))
        await peer.send({"type": "unsubscribe", "queue": "q"})
        with store.held():
            await peer.send(put("x"))
            await store.until_sync_begins()
        await run(engine, publish("second"))
        await peer.send(SUBSCRIBE)
        await peer.send(put("y"))
        assert engine.broker.catalog.by_name["q"].next_sequence == 4


# Verifies: WS-0020, WS-0032, WS-0054
@pytest.mark.parametrize("end", ["sync", "fault"])
async def test_a_peer_that_leaves_meanwhile(store: WatchedStorage, end: str) -> None:
    async with engine_on(store) as engine, connected(engine) as peer:
        await run(engine, publish("first"))
        with store.held():
            await peer.send(put("x"))
            await store.until_sync_begins()
            await peer.send(put("y"))
            await peer.stream.aclose()
            await trio.testing.wait_all_tasks_blocked()
            assert not peer.services.connections
            assert peer.services.budget.held == 0
            if end == "fault":
                store.sync_fault = DiskFull("No space left on the device.")
        if end == "sync":
            assert len(await run(engine, publish("later"))) == 1
            assert stored(engine) == 4
        else:
            with trio.fail_after(STEP_SECONDS):
                await engine.broken.wait()
            await until_back(engine)
        assert peer.services.budget.held == 0


# Verifies: WS-0020, WS-0054
@pytest.mark.contained
async def test_an_error_in_a_response_ends_that_connection_alone(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync calls back, and an error there would end the server."""

    def fail(self: WsSession, burst: Burst) -> None:
        raise RuntimeError("broken")

    async with engine_on(store) as engine, connected(engine) as peer:
        await run(engine, publish("first"))
        with store.held():
            await peer.send(put("x"))
            monkeypatch.setattr(WsSession, "finish", fail)
        assert await peer.read() == {"closed": 1011}
        monkeypatch.undo()
        await run(engine, publish("later"))


# Verifies: WS-0032, WS-0054
async def test_a_peer_that_hears_nothing_any_more_is_let_go_after_its_sync(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last requests are served; then nothing is left to wait for."""

    async def send(self: FastWebSocketTransport, frames: list[bytes]) -> None:
        raise ConnectionLost

    monkeypatch.setattr(FastWebSocketTransport, "send", send)
    monkeypatch.setattr(websocket, "HEAR_SECONDS", 1000)
    async with engine_on(store) as engine, connected(engine) as peer:
        await run(engine, publish("first"))
        with store.held():
            await peer.send(put("x") | {"no_reply": True})
            await store.until_sync_begins()
            await peer.stream.send_all(frame(PING, b""))
            await trio.testing.wait_all_tasks_blocked()
            await peer.stream.send_all(frame(CLOSE, b""))
            await trio.testing.wait_all_tasks_blocked()
            assert peer.services.connections
        await run(engine, publish("later"))
        await trio.testing.wait_all_tasks_blocked()
        assert not peer.services.connections
        assert peer.services.budget.held == 0


# Verifies: WS-0017
@pytest.mark.parametrize(
    ("count", "characters", "more"),
    [
        (2, 300_000, {}),
        (3, 300_000, {}),
        (6, 300_000, {}),
        (1000, 1, {}),
        (1000, 1, {"ids": []}),
        (1000, 1, {"ids": ["a"]}),
    ],
)
async def test_a_batch_is_stored_whole_and_answered(
    store: WatchedStorage, count: int, characters: int, more: dict[str, Any]
) -> None:
    """However it is cut into steps: by the number of its messages, or by their size."""
    messages = [{"priority": 0, "payload": f"{number}".ljust(characters)} for number in range(count)]
    batch = {"type": "batch-publish", "queue": "q", "req_id": "batch", "messages": messages}
    async with engine_on(store) as engine, connected(engine) as peer:
        await run(engine, publish("first"))
        await peer.send(batch | more)
        await peer.send({"type": "unsubscribe", "queue": "q", "req_id": "after"})
        assert [(await peer.read())["req_id"] for _ in range(2)] == ["batch", "after"]
        assert stored(engine) == 1 + count


# Verifies: WS-0021, WS-0054
async def test_a_connection_that_waits_for_its_peer_alone_is_not_at_work(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its burst is done. What it waits for is that the peer takes something; so it may be cut off."""

    async def send(self: FastWebSocketTransport, frames: list[bytes]) -> None:
        await trio.sleep_forever()

    async with engine_on(store) as engine, connected(engine) as peer:
        await run(engine, publish("first"))
        monkeypatch.setattr(FastWebSocketTransport, "send", send)
        await peer.send(SUBSCRIBE)
        (connection,) = peer.services.connections
        with store.held():
            await peer.send(put("x"))
            await store.until_sync_begins()
            assert connection.at_work
        await run(engine, publish("second"))
        assert not connection.at_work


# Verifies: WS-0021
async def test_a_piece_of_a_frame_is_progress(store: WatchedStorage) -> None:
    async with engine_on(store) as engine, connected(engine) as peer:
        await run(engine, publish("first"))
        await trio.testing.wait_all_tasks_blocked()
        (connection,) = peer.services.connections
        seen = {connection.progress}
        data = frame(TEXT, json.dumps(put("x" * 1000)).encode())
        for begin in range(0, len(data), 200):
            await peer.stream.send_all(data[begin : begin + 200])
            await trio.testing.wait_all_tasks_blocked()
            seen.add(connection.progress)
        assert len(seen) >= len(data) // 200


# Verifies: WS-0054
@pytest.mark.parametrize("together", [True, False])
async def test_no_log_passes_the_response_to_its_subscribe(store: WatchedStorage, together: bool) -> None:
    async with engine_on(store) as engine, connected(engine) as peer:
        await run(engine, publish("first"))
        logger = logging.getLogger("qrusty_trio.tests")
        logger.addHandler(peer.logs)
        try:
            logger.warning("one")
        finally:
            logger.removeHandler(peer.logs)
        requests = [put("x"), {"type": "subscribe-logs", "req_id": "logs"}]
        with store.held():
            for some in [requests] if together else [[each] for each in requests]:
                await peer.send(*some)
            assert await peer.nothing_came()
        assert [(await peer.read()).get("req_id") for _ in range(3)] == ["x", "logs", None]


# Verifies: WS-0032, WS-0054
async def test_a_peer_that_left_leaves_nothing_with_the_sync(
    store: WatchedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    bursts: list[Burst] = []
    really = WsSession.run

    def noted(self: WsSession, burst: Burst, *arguments: Any) -> bool:
        bursts.append(burst)
        return really(self, burst, *arguments)

    monkeypatch.setattr(WsSession, "run", noted)
    async with engine_on(store) as engine:
        await run(engine, publish("first"))
        with store.held():
            async with connected(engine) as peer:
                await peer.send(put("x"))
                await store.until_sync_begins()
                await peer.send(put("y"))
            assert len(bursts) == 2
            assert not any(burst.requests or burst.responses or burst.publisher for burst in bursts)
        assert stored(engine) == 3


# Verifies: API-0195
async def test_what_ran_for_a_peer_that_left_is_noted(store: WatchedStorage) -> None:
    notes = Notes()
    async with engine_on(store) as engine:
        await run(engine, publish("first"))
        with store.held():
            async with connected(engine, notes) as peer:
                await peer.send(put("x"))
                await store.until_sync_begins()
                await peer.send(put("y"))
        assert [request.req_id for request in notes.requests] == ["x", "y"]
