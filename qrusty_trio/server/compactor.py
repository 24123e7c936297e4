"""The segment files of large payloads: checked at start-up, compacted regularly, repaired when something is lost.

Rule: a crash at any step loses nothing. A moved payload is appended and synced before a record refers to its new place,
because the log with that record may reach the disk at any time. A segment file is removed only after the changes that
remove the last reference to it are synced. Files are read, synced and removed in threads. The loop runs only short
steps, and serves requests in between.

Requirements: PER-0035
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

import trio

from qrusty_trio.core import relocation
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.externals import Externals
from qrusty_trio.core.payloads import Removed
from qrusty_trio.core.relocation import Place
from qrusty_trio.errors import StorageFault
from qrusty_trio.server import cut_off
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.trouble import Trouble
from qrusty_trio.storage.files import explained
from qrusty_trio.storage.payload_files import claim
from qrusty_trio.storage.payload_format import CUT_OFF
from qrusty_trio.storage.payloads import PayloadBroken, PayloadRef, PayloadStore
from qrusty_trio.storage.removed_log import CURRENT, RemovedLog
from qrusty_trio.wording import counted

LIVE_SHARE = 0.5
"""A segment is rewritten when messages own a smaller share of its bytes than this."""
LOOK_SECONDS = 1.0
"""Interval for recording removed messages and for checking whether payloads need repair."""
RETRY_SECONDS = 10.0
"""Interval between attempts to repair payloads."""
NOTE_AT = 1000
"""With this many removed messages, they are recorded without waiting for more."""
NOTE_PIECE = 200
"""Removed messages recorded in one write. Formatting more would hold the GIL for over 2 ms, whatever the thread."""
NOTE_SECONDS = 5.0
"""Deadline for recording removed messages when the server stops meanwhile."""

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
        """Held while payloads move. A payload that was appended but has no reference yet looks dead."""
        self._suspects: dict[int, str] = {}
        """Segment -> what is wrong with its file."""
        self._doubtful: dict[int, int] = {}
        """Segment -> offset after which its bytes may not be on disk, although they may be readable."""
        self._doubts = 0
        """Counts the calls of `doubt`."""
        self._trouble = Trouble(log, "payload segments could not be put in order, will try again")

    @property
    def _externals(self) -> Externals:
        externals = self._engine.broker.payloads.index
        assert externals is not None
        return externals

    async def check(self) -> None:
        """Find segments that are missing, short or damaged. Call it at start-up, before anything is appended. Cheap.

        What a power cut took before it was synced is removed before: see `cut_off`.

        Raises StartupRefused for a segment of another version or another directory, StorageFault, and
        PayloadUnreadable.

        Requirements: PER-0037, PER-0066
        """
        externals = self._externals
        externals.marks = self._engine.committer.waits
        used = externals.least_sizes()
        highest = max(used, default=0)
        await trio.to_thread.run_sync(partial(claim, self._store.path, used=bool(used)), limiter=self._limiter)
        if externals.marks:
            await cut_off.settle(self._engine, externals, self._store, self._read, self._limiter)
        else:
            await self._engine.transact(lambda broker, now: externals.drop_mark(), sync=False)
        await self._note()
        expected = externals.least_sizes()
        self._suspects = await trio.to_thread.run_sync(self._store.check, expected, highest, limiter=self._limiter)
        for segment, reason in self._suspects.items():
            log.error("payload segment %d: %s; its messages are checked one by one now", segment, reason)

    def doubt(self) -> None:
        """After a fault, note what a failed sync may have lost, so that the store can be synced again. Any thread.

        `run` moves those payloads to a new segment.

        Requirements: PER-0041
        """
        self._doubts += 1
        for segment, offset in self._store.recover().items():
            log.error("payload segment %d: synced up to %d only; what is behind is written anew", segment, offset)
            self._doubtful[segment] = min(offset, self._doubtful.get(segment, offset))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Repair what `check` and `doubt` found, compact at every interval, and record removals, until cancelled."""
        task_status.started()
        compact_at = trio.current_time() + self._interval
        repair_at = 0.0
        try:
            while True:
                now = trio.current_time()
                if (self._suspects or self._doubtful) and now >= repair_at and self._engine.fault is None:
                    await self._guarded(self.repair)
                    repair_at = trio.current_time() + RETRY_SECONDS
                if now >= compact_at:
                    await self._guarded(self.compact)
                    compact_at = trio.current_time() + self._interval
                await self._note()
                self._mark()
                await trio.sleep(LOOK_SECONDS)
        finally:
            self._mark()
            await self._note()

    def _mark(self) -> None:
        """Let a start know what it need not look at."""
        if self._externals.marks and self._engine.fault is None:
            with suppress(StorageFault):  # the engine knows of it
                self._engine.change(lambda broker, now: self._externals.note_mark(), sync=False)

    async def _guarded(self, step: Callable[[], Awaitable[None]]) -> None:
        """Run a step. An error ends only this step, which is tried again later."""
        try:
            await step()
        except Exception as error:  # noqa: BLE001  # logged there
            self._trouble.note(error)

    async def compact(self) -> None:
        """Drop dead segments, then rewrite those that are mostly dead, one by one. Raises StorageFault.

        Requirements: PER-0034, PER-0036
        """
        async with self._at_work:
            store, externals = self._store, self._externals
            if store.needs_sync:
                # Under policy `never`, every segment would otherwise keep its descriptor.
                await self._engine.committer.sync_now()
            if store.active is not None and not externals.owned(store.active):
                store.retire()
            before = store.disk_bytes()
            dropped = await self._drop_dead(store.segments())
            sparse = await self._sparse()
            for segment in sparse:
                await self._rewrite(segment)
                dropped += await self._drop_dead([segment])
            if dropped or sparse:
                log.info(
                    "payload segments: %d rewritten, %d removed, %.1f MiB given back",
                    len(sparse),
                    dropped,
                    (before - store.disk_bytes()) / 2**20,
                )

    async def _sparse(self) -> list[int]:
        """Segments to rewrite. Those with the least to move come first, because they make room for the others.

        Requirements: PER-0034
        """
        live: dict[int, int] = {}
        for segment, size in self._store.segments().items():
            octets = self._externals.owned_bytes(segment)
            if 0 < octets < size * LIVE_SHARE and segment != self._store.active:
                live[segment] = octets
            await trio.lowlevel.checkpoint()
        return sorted(live, key=live.__getitem__)

    async def _drop_dead(self, segments: Iterable[int]) -> int:
        dead = [
            segment
            for segment in sorted(segments)
            if not self._externals.owned(segment) and segment != self._store.active
        ]
        if dead:
            # Sync the removal of the references before the files are removed.
            await self._engine.committer.sync_now()
        for segment in dead:
            await trio.to_thread.run_sync(self._store.remove, segment, limiter=self._limiter)
        return len(dead)

    async def _rewrite(self, segment: int, first: int = 0) -> None:
        """Move the payloads at offset `first` and later to other segments. Drop messages whose payload is broken.

        Requirements: PER-0027
        """
        begin: bytes | None = b""
        while begin is not None:
            places, begin = await self._places(segment, begin)
            places = [place for place in places if place.owned.offset >= first]
            await self._move(places, await self._read(places))

    async def _move(self, places: list[Place], payloads: list[bytes | PayloadBroken]) -> None:
        broken: list[tuple[Place, PayloadBroken]] = []
        moved: list[tuple[Place, bytes]] = []
        failed: StorageFault | None = None
        doubts = self._doubts
        for place, payload in zip(places, payloads, strict=True):
            if isinstance(payload, PayloadBroken):
                broken.append((place, payload))
                continue
            try:
                moved.append((place, self._store.append(payload).pack()))
            except StorageFault as fault:
                # Finish moving those that found room. Otherwise every attempt would fill more of the disk.
                failed = fault
                break
        if moved:
            await self._engine.committer.sync_now()
            if self._doubts != doubts:
                # Another sync may have failed on these bytes; the one that succeeded did not check them again.
                raise StorageFault("The store was opened again while payloads moved.")
        await self._engine.transact(partial(_settle, moved, broken), sync=False)
        await self._note_many()
        if failed is not None:
            raise failed

    async def repair(self) -> None:
        """Check the payloads that may be lost. Save those that are intact and drop the others. Raises StorageFault.

        Requirements: PER-0037
        """
        async with self._at_work:
            for segment in list(self._suspects):
                doubts = self._doubts
                await self._drop_broken(segment)
                await self._settled(doubts)
                del self._suspects[segment]
            for segment, offset in list(self._doubtful.items()):
                doubts = self._doubts
                await self._rewrite(segment, offset)
                await self._settled(doubts)
                del self._doubtful[segment]
                log.info("payload segment %d: what was behind %d is written anew", segment, offset)
            if not self._doubtful:
                self._store.settled()

    async def _settled(self, doubts: int) -> None:
        """Sync what was done since `_doubts` was `doubts`. Raises StorageFault if it may have been undone.

        A fault undoes what was not synced: records then refer to the old place again, even those of payloads that were
        moved before. It may also have put the same segment in doubt from an earlier offset on.
        """
        await self._engine.committer.sync_now()
        if self._doubts != doubts:
            raise StorageFault("The store was opened again while payloads were put in order.")

    async def _drop_broken(self, segment: int) -> None:
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
            await self._note_many()
        what = counted(total, "message had lost its payload", "messages had lost their payload")
        log.error("payload segment %d: %s", segment, what)

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

    async def _note_many(self) -> None:
        if self._engine.broker.payloads.removed >= NOTE_AT:
            await self._note()

    async def _note(self) -> None:
        """Record the removed messages in the log of removed messages.

        Requirements: PER-0029, PER-0031
        """
        broker = self._engine.broker
        if not broker.payloads.removed:
            return
        removed = broker.payloads.take_removed()
        when = datetime.fromtimestamp(self._engine.clock.now_ms() / 1000, UTC).isoformat(timespec="seconds")
        _tell(
            logging.ERROR,
            [each for each in removed if each.reason != CUT_OFF],
            "message had lost its payload and was",
            "messages had lost their payload and were",
        )
        _tell(
            logging.WARNING,
            [each for each in removed if each.reason == CUT_OFF],
            "message was not synced yet when the power failed, and is",
            "messages were not synced yet when the power failed, and are",
        )
        written = 0
        why: object = f"it took more than {NOTE_SECONDS:.0f} s"
        # Shielded, because they are gone from the store and recorded nowhere else.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + NOTE_SECONDS):
            try:
                while written < len(removed):
                    piece = removed[written : written + NOTE_PIECE]
                    await trio.to_thread.run_sync(self._removed_log.record, when, piece, limiter=self._limiter)
                    written += len(piece)
            except Exception as error:  # noqa: BLE001  # logged below
                why = explained(error)
        if written < len(removed):
            # The server log is the only place left to name them.
            log.error("removed messages could not be written down: %s: %s", why, _listed(removed[written:]))


def _settle(
    moved: list[tuple[Place, bytes]], broken: list[tuple[Place, PayloadBroken]], broker: Broker, now: int
) -> None:
    for place, reference in moved:
        relocation.refer(broker, place, reference)
    _drop(broken, broker, now)


def _drop(broken: list[tuple[Place, PayloadBroken]], broker: Broker, now: int) -> None:
    for place, lost in broken:
        relocation.drop(broker, place, lost.reason)


def _tell(level: int, removed: list[Removed], one: str, many: str) -> None:
    """A log line for all of them, if there are any."""
    if removed:
        what = counted(len(removed), f"{one} removed:", f"{many} removed, the first")
        first = removed[0]
        log.log(level, "%s '%s' of queue '%s' (%s); see %s", what, first.id, first.queue, first.reason, CURRENT)


def _listed(removed: list[Removed]) -> str:
    return ", ".join(f"{each.queue}/{each.id}" for each in removed)
