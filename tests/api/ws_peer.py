"""A WebSocket session with its broker and no socket: frames in, parsed frames out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from qrusty_trio.api.gate import Gate
from qrusty_trio.api.ws_session import WsSession
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.dispatch import Dispatcher
from qrusty_trio.core.lock_table import LockTable
from qrusty_trio.core.model import WS_CONSUMER_PREFIX, Kind, QueueConfig
from qrusty_trio.storage.memory import MemoryStorage

Frame = dict[str, Any]
OK = {"type": "ok"}


class Ring:
    """The server's log, for tests: the last `size` records."""

    def __init__(self, size: int = 1000) -> None:
        self.size = size
        self.records: list[tuple[str, str, str]] = []
        self.listeners: list[Callable[[], None]] = []

    def write(self, count: int = 1) -> None:
        for _ in range(count):
            number = len(self.records)
            self.records.append((f"2026-01-01T00:{number // 60:02}:{number % 60:02}.000Z", "info", f"record {number}"))
        for listener in self.listeners:
            listener()

    def oldest(self) -> int:
        return max(0, len(self.records) - self.size)

    def read(self, position: int, limit: int) -> tuple[int, list[tuple[str, str, str]]]:
        start = max(position, self.oldest())
        records = self.records[start : start + limit]
        return start + len(records), records

    def add_listener(self, listener: Callable[[], None]) -> None:
        self.listeners.append(listener)

    def remove_listener(self, listener: Callable[[], None]) -> None:
        self.listeners.remove(listener)


class World:
    """A broker, a dispatcher and a clock, for any number of peers."""

    def __init__(self) -> None:
        self.broker = Broker(MemoryStorage())
        self.dispatcher = Dispatcher()
        self.gate = Gate()
        self.ring = Ring()
        self.now = 1_700_000_000_000

    def queue(self, name: str, kind: Kind = Kind.NUMERIC) -> None:
        self.broker.catalog.create(name, QueueConfig(kind=kind))

    def publish(self, queue: str, payload: str = "x", priority: int = 0, retries: int = 3) -> str:
        id = self.broker.publish(queue, priority, payload, retries, self.now)
        self.dispatch()
        return id

    def dispatch(self) -> None:
        """The end of a transaction."""
        while self.dispatcher.dispatch(self.broker, self.now, 64):
            pass
        self.broker.commit()
        self.dispatcher.uncommitted = False

    def available(self, queue: str) -> int:
        return self.broker.catalog.by_name[queue].available


class Peer:
    """One connection. What it is sent is read only by `read`, as a peer that reads when it likes."""

    def __init__(self, world: World, name: str = "c1") -> None:
        self.world = world
        self.woken = 0
        self.session = WsSession(WS_CONSUMER_PREFIX + name, world.dispatcher, world.gate, world.ring, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def send(self, *frames: Frame | str | bytes) -> None:
        """Frames that arrive together: one burst, stored."""
        burst = self.session.receive([json.dumps(each) if isinstance(each, dict) else each for each in frames])
        while self.session.run(burst, self.world.broker, self.world.now, 128):
            self.world.dispatch()
        self.world.dispatch()
        self.session.finish(burst)

    def read(self) -> list[Frame]:
        """Everything that is on its way."""
        frames: list[Frame] = []
        while taken := self.session.take():
            frames += [json.loads(each) for each in taken]
            if self.session.sent():
                self.session.resume()
                self.world.dispatch()
        return frames

    def ask(self, *frames: Frame | str | bytes) -> list[Frame]:
        self.send(*frames)
        return self.read()

    def gone(self) -> None:
        self.session.leave()
        held = self.world.broker.locks.disconnect(self.session.consumer) or LockTable()
        while (lock := held.pop()) is not None:
            self.world.broker.give_back(lock, counts=self.session.has_left(lock.id), now=self.world.now)
        self.world.dispatch()

    @property
    def held(self) -> list[str]:
        """Ids of the messages that the connection holds."""
        locks = (lock for queue in self.world.broker.catalog.by_number.values() for lock in queue.locks)
        return [lock.id for lock in locks if lock.consumer == self.session.consumer]


def code(frames: list[Frame]) -> str:
    """The code of the one frame there is, which is an error."""
    (frame,) = frames
    assert frame["type"] == "error"
    assert frame["message"]
    return str(frame["code"])


def subscribe(**fields: object) -> Frame:
    return {"type": "subscribe", "queue": "jobs", **fields}


def publish(**fields: object) -> Frame:
    return {"type": "publish", "queue": "jobs", "payload": "hello", **fields}


def delivered(world: World, peer: Peer, count: int = 1, **fields: Any) -> list[str]:
    """The ids of new messages, after `peer` has subscribed."""
    ids = [world.publish("jobs", **fields) for _ in range(count)]
    peer.ask(subscribe())
    return ids
