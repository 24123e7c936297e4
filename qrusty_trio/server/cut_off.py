"""What a power cut took of payload segments: found at the start, before anybody is answered.

Rule: the log and the segments are synced at the same time, and a response waits for both. So nobody was told that the
messages behind the mark are stored (`core.externals`), and nobody may be told that they are there already. Those whose
payload is broken are removed, even if a consumer holds them. The others are synced. From then on all payloads that
there are have been synced.

Only policy `always` leaves a mark. With the others a response waits for no sync, and what a power cut takes is a loss.

Requirements: PER-0066
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from qrusty_trio.core import relocation
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.externals import Externals, Tail
from qrusty_trio.core.relocation import Place
from qrusty_trio.server.engine import Engine
from qrusty_trio.storage.payload_format import CHECKSUM, CUT_OFF, MISSING_SEGMENT, SHORT_SEGMENT
from qrusty_trio.storage.payloads import PayloadBroken, PayloadRef, PayloadStore

REASONS = frozenset({SHORT_SEGMENT, CHECKSUM})
"""What a power cut leaves of a payload. Of a segment whose name was not synced yet, it leaves nothing."""

Read = Callable[[list[Place]], Awaitable[list[bytes | PayloadBroken]]]
"""Reads payloads in a thread."""


async def settle(
    engine: Engine, externals: Externals, store: PayloadStore, read: Read, limiter: trio.CapacityLimiter
) -> None:
    """Remove what was cut off, and sync the rest. Raises StorageFault, and PayloadUnreadable."""
    since = externals.mark[0]
    for tail in externals.tails():
        if tail is not None:
            await _look_at(engine, externals, tail, read)
        await trio.lowlevel.checkpoint()
    await trio.to_thread.run_sync(store.sync_since, since, limiter=limiter)
    await engine.transact(lambda broker, now: externals.note_mark(), sync=False)


async def _look_at(engine: Engine, externals: Externals, tail: Tail, read: Read) -> None:
    begin: bytes | None = tail.begin
    end, sound = tail.offset, 0
    reasons = REASONS if tail.offset else REASONS | {MISSING_SEGMENT}
    while begin is not None:
        places, begin = await engine.transact(
            partial(_places, segment=tail.segment, begin=begin, end=tail.end), sync=False
        )
        broken: list[Place] = []
        for place, payload in zip(places, await read(places) if places else (), strict=True):
            if isinstance(payload, PayloadBroken) and payload.reason in reasons:
                broken.append(place)
            else:
                ref = PayloadRef.unpack(place.reference)
                end, sound = ref.offset + ref.length, sound + 1
        if broken:
            await engine.transact(partial(_drop, broken), sync=False)
    # What is gone since, such as a message that was acked, is no longer to be expected in the file. Where a message
    # could not be found, it may still be: see `relocation.places`.
    await engine.transact(lambda broker, now: externals.cut(tail, end, sound), sync=False)


def _places(broker: Broker, now: int, segment: int, begin: bytes, end: bytes) -> tuple[list[Place], bytes | None]:
    return relocation.places(broker, segment, begin, end)


def _drop(places: list[Place], broker: Broker, now: int) -> None:
    for place in places:
        relocation.drop(broker, place, CUT_OFF)
