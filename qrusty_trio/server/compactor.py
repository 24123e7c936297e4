"""The segment files of large payloads: checked at start-up, compacted regularly, repaired when something is lost.

Rule: a segment file goes only after nothing refers to it and that is synced, so a crash at any step loses nothing: a
payload is where its record says, in the old file or in the new one. Files are read, synced and removed in threads; on
the loop there are short steps, between which everybody else is served.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

import trio

from qrusty_trio.core import relocation
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.externals import Externals
from qrusty_trio.core.registry import Removed
from qrusty_trio.core.relocation import Place
from qrusty_trio.errors import PayloadNotStored, StorageFault
from qrusty_trio.server.engine import Engine
from qrusty_trio.storage.payloads import PayloadBroken, PayloadRef, PayloadStore
from qrusty_trio.storage.removed_log import CURRENT, RemovedLog

LIVE_SHARE = 0.5
"""A segment of which a smaller share is still owned by messages is rewritten."""
NOTE_SECONDS = 1.0
"""How often messages that a consume had to remove are written down."""

log = logging.getLogger(__name__)


class Compactor:
    """Keeps a payload store in order."""

    def __init__(self, engine: Engine, store: PayloadStore, removed_log: RemovedLog, interval_seconds: float) -> None:
        self._engine = engine
        self._store = store
        self._removed_log = removed_log
        self._interval = interval_seconds
        self._limiter = trio.CapacityLimiter(1)
        self._at_work = trio.Lock()
        self._suspects: dict[int, str] = {}

    @property
    def _externals(self) -> Externals:
        externals = self._engine.broker.externals
        assert externals is not None
        return externals

    async def check(self) -> None:
        """At start-up, before anything is appended: which segments are missing, short or damaged. Cheap."""
        expected = self._externals.least_sizes()
        self._suspects = await trio.to_thread.run_sync(self._store.check, expected, limiter=self._limiter)
        for segment, reason in self._suspects.items():
            log.error("payload segment %d: %s; its messages are checked one by one now", segment, reason)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Repair what `check` found, then compact every interval, until cancelled."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._note_removals)
            for segment in list(self._suspects):
                await self._guarded(self._repair, segment)
            while True:
                await trio.sleep(self._interval)
                await self._guarded(self.compact)

    async def _guarded(self, step: Callable[..., Awaitable[None]], *arguments: int) -> None:
        """A fault of the store ends the step only: it is tried again at the next interval."""
        try:
            await step(*arguments)
        except (StorageFault, PayloadNotStored) as fault:
            log.warning("payload segments could not be put in order, will try again: %s", fault)

    async def compact(self) -> None:
        """One round: drop dead segments, rewrite those that are mostly dead. Raises StorageFault, PayloadNotStored."""
        async with self._at_work:
            owned = self._externals.owned_bytes()
            active = self._store.active
            if active is not None and not owned.get(active):
                self._store.retire()
            sizes = self._store.segments()
            before = self._store.disk_bytes()
            rewritten = 0
            for segment, size in sorted(sizes.items()):
                if segment == self._store.active:
                    continue
                live = self._externals.owned_bytes().get(segment, 0)
                if live and live < size * LIVE_SHARE:
                    await self._rewrite(segment)
                    rewritten += 1
            dropped = await self._drop_dead(sorted(sizes))
            if dropped or rewritten:
                log.info(
                    "payload segments: %d rewritten, %d removed, %.1f MiB given back",
                    rewritten,
                    dropped,
                    (before - self._store.disk_bytes()) / 2**20,
                )

    async def _drop_dead(self, segments: list[int]) -> int:
        owned = self._externals.owned_bytes()
        dead = [segment for segment in segments if segment not in owned and segment != self._store.active]
        if dead:
            # That nothing refers to them must be as durable as their removal.
            await self._engine.committer.sync_now()
        for segment in dead:
            await trio.to_thread.run_sync(self._store.remove, segment, limiter=self._limiter)
        return len(dead)

    async def _rewrite(self, segment: int) -> None:
        begin: bytes | None = b""
        while begin is not None:
            places, begin = await self._places(segment, begin)
            payloads = await self._read(places)
            await self._engine.transact(partial(_settle, places, payloads), sync=False)

    async def _repair(self, segment: int) -> None:
        """Look at every payload of a segment that is not as it should be; remove the messages that lost theirs."""
        total = 0
        begin: bytes | None = b""
        while begin is not None:
            places, begin = await self._places(segment, begin)
            payloads = await self._read(places)
            broken = [
                (place, payload)
                for place, payload in zip(places, payloads, strict=True)
                if isinstance(payload, PayloadBroken)
            ]
            await self._engine.transact(partial(_drop, broken), sync=False)
            total += len(broken)
            await self._note()
        log.error("payload segment %d: %d messages had lost their payload and were removed", segment, total)
        self._suspects.pop(segment, None)

    async def _places(self, segment: int, begin: bytes) -> tuple[list[Place], bytes | None]:
        return await self._engine.transact(lambda broker, now: relocation.places(broker, segment, begin), sync=False)

    async def _read(self, places: list[Place]) -> list[bytes | PayloadBroken]:
        return await trio.to_thread.run_sync(self._read_in_thread, places, limiter=self._limiter)

    def _read_in_thread(self, places: list[Place]) -> list[bytes | PayloadBroken]:
        payloads: list[bytes | PayloadBroken] = []
        for place in places:
            try:
                payloads.append(self._store.read(PayloadRef.unpack(place.reference)))
            except PayloadBroken as broken:
                payloads.append(broken)
        return payloads

    async def _note_removals(self) -> None:
        while True:
            await trio.sleep(NOTE_SECONDS)
            await self._note()

    async def _note(self) -> None:
        """Write down the messages that were removed."""
        broker = self._engine.broker
        if not broker.removed:
            return
        removed, broker.removed = broker.removed, []
        when = datetime.fromtimestamp(self._engine.clock.now_ms() / 1000, UTC).isoformat(timespec="seconds")
        log.error(
            "%d messages had lost their payload and were removed, the first '%s' of queue '%s' (%s); see %s",
            len(removed),
            removed[0].id,
            removed[0].queue,
            removed[0].reason,
            CURRENT,
        )
        try:
            await trio.to_thread.run_sync(self._removed_log.record, when, removed, limiter=self._limiter)
        except StorageFault as fault:
            # The log is the only place left to name them.
            log.error("removed messages could not be written down: %s: %s", fault, _listed(removed))  # noqa: TRY400


def _settle(places: list[Place], payloads: list[bytes | PayloadBroken], broker: Broker, now: int) -> None:
    for place, payload in zip(places, payloads, strict=True):
        if isinstance(payload, PayloadBroken):
            relocation.drop(broker, place, payload.reason)
        else:
            relocation.move(broker, place, payload)


def _drop(broken: list[tuple[Place, PayloadBroken]], broker: Broker, now: int) -> None:
    for place, lost in broken:
        relocation.drop(broker, place, lost.reason)


def _listed(removed: list[Removed]) -> str:
    return ", ".join(f"{each.queue}/{each.id}" for each in removed)
