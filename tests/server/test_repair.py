"""Repair of payload segments while the store fails and comes back: no doubt is forgotten before it is settled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qrusty_trio.config import Fsync
from qrusty_trio.core import relocation
from qrusty_trio.core.broker import Broker
from qrusty_trio.errors import StorageFault
from tests.server.engines import until_back
from tests.server.room import LARGE, room
from tests.server.test_compactor import check, publish_many


@pytest.mark.parametrize("what", ["doubtful", "suspect"])
async def test_a_repair_that_a_recovery_came_into_is_not_taken_for_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What had moved may be back at its old place by then, and the doubt be about more than before."""
    async with room(tmp_path) as it:
        payloads = await publish_many(it, 9)
        it.payloads.retire()
        noted = it.compactor._doubtful if what == "doubtful" else it.compactor._suspects
        noted[1] = 5 * LARGE if what == "doubtful" else "made up"  # type: ignore[assignment]
        method = "_rewrite" if what == "doubtful" else "_drop_broken"
        really = getattr(it.compactor, method)

        async def recovered_meanwhile(*arguments: Any) -> None:
            await really(*arguments)
            monkeypatch.setattr(it.payloads, "recover", lambda: {1: 0, 7: 0})
            it.compactor.doubt()

        monkeypatch.setattr(it.compactor, method, recovered_meanwhile)
        with pytest.raises(StorageFault, match="opened again"):
            await it.compactor.repair()
        monkeypatch.undo()
        assert it.compactor._doubtful == {1: 0, 7: 0}
        assert set(it.compactor._suspects) == (set() if what == "doubtful" else {1})
        await it.compactor.repair()
        assert not it.compactor._doubtful
        assert not it.compactor._suspects
        assert 1 not in check(it)
        assert await it.drain("q") == payloads


async def test_a_repair_is_done_when_it_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with room(tmp_path, fsync=Fsync.NEVER) as it:
        payloads = await publish_many(it, 9)
        it.compactor._doubtful[1] = 0
        moved: list[bytes] = []
        settle = relocation.refer

        def refer(broker: Broker, place: Any, reference: bytes) -> None:
            moved.append(reference)
            settle(broker, place, reference)

        def failing() -> None:
            if moved:
                raise StorageFault("made up")
            really()

        really = it.stores.storage.sync
        monkeypatch.setattr(relocation, "refer", refer)
        monkeypatch.setattr(it.stores.storage, "sync", failing)
        it.payloads.retire()
        with pytest.raises(StorageFault, match="made up"):
            await it.compactor.repair()
        assert 1 in it.compactor._doubtful
        monkeypatch.undo()
        await until_back(it.engine)
        await it.compactor.repair()
        assert it.compactor._doubtful == {}
        assert await it.drain("q") == payloads
