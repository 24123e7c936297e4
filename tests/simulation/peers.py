"""WebSocket peers: connections of the server over a scripted transport, and clients that use them well and badly.

Rule: the server's side is the real one, from `http.websocket.WsConnection` inwards. A peer subscribes, gives credit,
settles, renews, reads slowly, goes silent, breaks off, closes in order, and comes back with a new connection.
"""

from __future__ import annotations

import json
import random
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from qrusty_trio.api.ws_ending import Ending
from qrusty_trio.http.pipe import ConnectionLost
from qrusty_trio.http.websocket import WsConnection
from qrusty_trio.http.websocket_transport import Finished
from tests.simulation.clients import LOCK_SECONDS, NAMES
from tests.simulation.known import Asked, Peer, Publish
from tests.simulation.trace import short

if TYPE_CHECKING:
    from tests.simulation.adapter import Process
    from tests.simulation.world import World

Frame = dict[str, Any]


class ScriptedTransport:
    """See `qrusty_trio.http.websocket_transport.WebSocketTransport`."""

    def __init__(self, on_frame: Any) -> None:
        self.sends = 0
        self.sending = False
        self.held = 0
        self.last_heard = trio.current_time()
        self.answers_pings = True
        self.peer_reads = True
        self.lost = False
        """It was reset: nothing more comes or goes."""
        self.finished = False
        """The peer has sent a close frame, behind what is in the inbox."""
        self.server_closed = trio.Event()
        self._on_frame = on_frame
        self._inbox: deque[str] = deque()
        self._changed = trio.Event()
        self._pinged = False

    def put(self, frames: list[Frame]) -> None:
        """The peer sends."""
        self._inbox += [json.dumps(frame) for frame in frames]
        self._wake()

    def reset(self) -> None:
        self.lost = True
        self.read(True)

    def finish(self) -> None:
        self.finished = True
        self.read(True)

    def read(self, reads: bool) -> None:
        """The peer reads, or does not for now."""
        self.peer_reads = reads
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # What the server calls

    def unread(self) -> int:
        return 0

    def acked(self) -> int:
        return 0

    def farewell(self) -> Ending | None:
        return Ending.LOST if self.lost else Ending.CLOSED if self.finished else None

    def too_big(self) -> str | None:
        return None

    async def receive(self) -> list[str | bytes]:
        await trio.lowlevel.checkpoint()
        while not self._inbox:
            if self.lost:
                raise ConnectionLost
            if self.finished:
                raise Finished
            await self._changed.wait()
        self.last_heard = trio.current_time()
        frames: list[str | bytes] = list(self._inbox)
        self._inbox.clear()
        return frames

    async def send(self, frames: list[bytes]) -> None:
        self._pinged = False
        self.sending = True
        for frame in frames:
            self._on_frame(json.loads(frame), False)
        await trio.lowlevel.checkpoint()
        while not self.peer_reads:
            await self._changed.wait()
        self.sending = False
        if self.lost:
            raise ConnectionLost
        if self.answers_pings:
            self.last_heard = trio.current_time()
        self.sends += 1
        for frame in frames:
            self._on_frame(json.loads(frame), True)

    def control_bytes(self) -> int:
        return int(self._pinged)

    def ping(self) -> None:
        self._pinged = True

    def let_go(self) -> None:
        self._inbox.clear()

    def abort(self) -> None:
        self.reset()

    async def close(self, code: int, reason: str) -> None:
        self.server_closed.set()
        await trio.lowlevel.checkpoint()


class WebSocketPeer:
    """One client, with one connection after the other."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.model = world.model
        self.name = name
        self.dice = random.Random(f"{world.seed} {name}")
        self.transport: ScriptedTransport
        self.peer: Peer
        self.held: dict[str, str] = {}
        """Id -> name of the queue it was delivered under."""
        self.subscribed: dict[str, int | None] = {}
        """Name -> credit left as far as known; None is without limit."""
        self.over = trio.Event()
        self.obliging = False
        """It acks whatever it gets, at once."""
        self.arrivals: list[tuple[str, str]] | None = None
        """Queue and id of what came, when somebody wants to know."""
        self._requests: dict[str, tuple[Frame, Publish | None, int]] = {}
        """By request id; with the number of the queue that a name meant when it was sent."""
        self._next = 0
        self._unsubscribed: dict[str, int] = {}
        """Name -> the last request that ended a subscription to it."""

    async def run(self) -> None:
        while not self.world.resting:
            process = await self.world.process()
            if process is None:
                continue
            self.connect(process)
            await self._live()
            await self.over.wait()
            await trio.sleep(self.dice.choice((0.0, 0.01, 1.0)))

    def connect(self, process: Process) -> None:
        self.transport = ScriptedTransport(self._sent)
        connection = WsConnection(self.transport, process.websockets)
        self.peer = self.model.peers[connection.consumer] = Peer(
            connection.consumer, self.model.process, fault=self.model.faults
        )
        self.held, self.subscribed, self._requests, self._unsubscribed = {}, {}, {}, {}
        self._process = process
        self._asked = self.model.asked
        self.over = trio.Event()
        self.model.trace.note(self.name, "connects as", connection.consumer)
        process.nursery.start_soon(self._serve, connection, self.peer, self.over)

    async def _serve(self, connection: WsConnection, peer: Peer, over: trio.Event) -> None:
        asked = self._asked
        try:
            await connection.run()
        finally:
            peer.over = True
            if not self.transport.lost:
                peer.closed = True
            self.model.trace.note(self.name, "connection is over:", str(connection.session.ending))
            self.model.unsubscribed(peer, None)
            for frame, publish, _ in self._requests.values():
                self.model.forget_later(partial(self._count, frame, publish, -1, asked, peer.consumer))
            self._requests = {}
            over.set()

    async def _live(self) -> None:
        """Use the connection until it is over, or the world comes to rest."""
        end_at = trio.current_time() + self.dice.choice((0.0, 2.0, 10.0, 40.0, 1000.0))
        while not self.over.is_set() and not self.world.resting:
            if trio.current_time() >= end_at:
                self._break_off()
                return
            self.act()
            await self.world.pause(self.dice.choice((0.0, 0.001, 0.02, 0.2, self.dice.uniform(0, 2))))
        if self.world.resting and not self.over.is_set():
            await self.world.peer_rests(self)

    def _break_off(self) -> None:
        if self.dice.random() < 0.6:
            self.model.trace.note(self.name, "resets the connection")
            self.peer.lost = True
            self.transport.reset()
        else:
            self.model.trace.note(self.name, "closes")
            self.peer.closed = True
            self.transport.finish()

    # What it does

    def act(self) -> None:
        dice = self.dice
        what = dice.random()
        if what < 0.06:
            self.transport.read(False)
        elif what < 0.2 or self.transport.peer_reads:
            if dice.random() < 0.02:
                self.transport.answers_pings = False
            self.send([self._request() for _ in range(dice.choice((1, 1, 2, 5)))])
        if what > 0.85:
            self.transport.read(True)

    def _request(self) -> Frame:
        dice = self.dice
        what = dice.random()
        if what < 0.25 or not self.subscribed:
            frame: Frame = {
                "type": "subscribe",
                "queue": dice.choice(NAMES),
                "lock_timeout_secs": dice.choice(LOCK_SECONDS),
            }
            if dice.random() < 0.7:
                frame["credits"] = dice.choice((0, 1, 2, 5, 20))
            return frame
        name = dice.choice(list(self.subscribed))
        if what < 0.4:
            return {"type": "credit", "queue": name, "credits": dice.choice((1, 2, 5))}
        if what < 0.43:
            return {"type": "unsubscribe", "queue": name}
        if what < 0.5 or not self.held:
            queue, priority, payload, retries = self.world.message(dice, dice.choice(NAMES))
            return {"type": "publish", "queue": queue, "priority": priority, "payload": payload, "max_retries": retries}
        id = dice.choice(list(self.held))
        queue = self.held[id]
        if what < 0.58:
            return {"type": "renew", "queue": queue, "id": id, "lock_timeout_secs": dice.choice(LOCK_SECONDS)}
        if dice.random() < 0.9:
            del self.held[id]
        if what < 0.8:
            return {"type": "ack", "queue": queue, "id": id}
        if what < 0.9:
            return {"type": "nack", "queue": queue, "id": id}
        ids = [id, *(each for each, of in self.held.items() if of == queue and each != id)]
        return {"type": dice.choice(("batch-ack", "batch-nack")), "queue": queue, "ids": ids}

    def send(self, frames: list[Frame]) -> None:
        for frame in frames:
            self._next += 1
            frame["req_id"] = str(self._next)
            publish = None
            if frame["type"] == "ack":
                lock = self.model.picture.lock_of.get(frame["id"])
                # Not one that was delivered anew and has not left yet: the ack is for the delivery before.
                frame["held"] = None
                if lock is not None and lock.consumer == self.peer.consumer:
                    left = self.model.held[lock.name, frame["id"]].left
                    frame["held"] = lock.name if left else None
            if frame["type"] == "publish":
                publish = Publish(frame["queue"], frame["payload"].encode())
            self._requests[frame["req_id"]] = frame, publish, self.model.namings
            self._count(frame, publish, 1, self._asked, self.peer.consumer)
            if frame["type"] == "subscribe":
                self.subscribed.setdefault(frame["queue"], frame.get("credits"))
            elif frame["type"] == "unsubscribe":
                self.subscribed.pop(frame["queue"], None)
                self.model.unsubscribed(self.peer, frame["queue"])
                self._unsubscribed[frame["queue"]] = self._next
            self.model.trace.note(
                self.name, "sends", frame["type"], frame.get("queue"), frame.get("id", frame.get("payload", ""))
            )
        self.transport.put([{key: value for key, value in frame.items() if key != "held"} for frame in frames])

    def _count(self, frame: Frame, publish: Publish | None, by: int, asked: Asked, consumer: str) -> None:
        ids = frame.get("ids", [frame.get("id")])
        counters = {"ack": asked.acks, "nack": asked.nacks}
        counter = counters.get(frame["type"].removeprefix("batch-"))
        if counter is not None:
            for id in ids:
                counter[id, consumer] += by
        if frame["type"] == "renew":
            if by > 0:
                asked.renew_begins((frame["id"], consumer), self.model.now())
            else:
                asked.renew_ends((frame["id"], consumer))
        if publish is not None:
            if by > 0:
                asked.publish_begins(publish)
            else:
                asked.publish_ends(publish, frame.get("published"))

    def oblige(self) -> None:
        """From now on it takes and acks everything, without a limit."""
        self.obliging = True
        self.transport.read(True)
        frames: list[Frame] = [{"type": "ack", "queue": queue, "id": id} for id, queue in self.held.items()]
        names = {each.name: None for each in self.model.subscriptions if each.peer is self.peer}
        frames += [{"type": "credit", "queue": name, "credits": 1_000_000} for name in names]
        self.send(frames)

    # What it gets

    def _sent(self, frame: Frame, arrived: bool) -> None:
        """A frame leaves the server, or has arrived."""
        if frame["type"] == "deliver":
            if not arrived:
                self._delivery_leaves(frame)
            else:
                self.model.trace.note(self.name, "gets", frame["id"], "of", frame["queue"])
                self.held[frame["id"]] = frame["queue"]
                self.model.arrived(self.peer, frame["queue"])
                if self.arrivals is not None:
                    self.arrivals.append((frame["queue"], frame["id"]))
                if self.obliging:
                    self.send([{"type": "ack", "queue": frame["queue"], "id": frame["id"]}])
            return
        if not arrived:
            self._answer_leaves(frame)

    def _delivery_leaves(self, frame: Frame) -> None:
        id = frame["id"]
        if self.model.lock_left(self.peer, id) is None:
            self.model.fail(f"message {id} leaves for {short(self.peer.consumer)}, and no lock was ever stored")
        message = self.model.picture.places.get(id)
        if message is not None:
            sent = frame["payload"].encode(), frame["priority"]
            if sent != (message.payload, message.priority):
                self.model.fail(f"message {id} leaves as another one")

    def _answer_leaves(self, frame: Frame) -> None:
        request, publish, namings = self._requests.pop(frame["req_id"])
        self.model.trace.note(self.name, request["type"], "->", frame.get("code", frame["type"]))
        request["published"] = frame.get("id")
        self._count(request, publish, -1, self._asked, self.peer.consumer)
        if frame["type"] != "ok":
            if request["type"] == "subscribe":
                self.subscribed.pop(request["queue"], None)
            if frame["code"] == "invalid_request":
                self.model.fail(f"{request} was refused: {frame['message']}")
            return
        if request["type"] == "subscribe" and int(frame["req_id"]) > self._unsubscribed.get(request["queue"], 0):
            certain = namings == self.model.namings and self._process.clean
            self.model.subscribed(self.peer, request["queue"], self._process.number_of(request["queue"]), certain)
        elif publish is not None:
            self.model.answered_for(frame["id"])
        elif request["type"] == "ack":
            lock = self.model.picture.lock_of.get(request["id"])
            if lock is not None and request["held"] == lock.name:
                held = self.model.held[lock.name, request["id"]]
                if held.left and not (held.aside or self.model.ended(held)):
                    self.model.fail(f"an ack of {request['id']} was answered, and it is still locked")
