"""Operations that read the store and change nothing: they see what is pending, and are refused during a fault."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from qrusty_trio.access.needs import OPEN
from qrusty_trio.api.call import Call, Operation, Reply, Services
from qrusty_trio.errors import DiskFull, StorageFault
from tests.server.engines import WatchedStorage, call, engine_on, publish, response, run, until_back


def _count(services: Services, call: Call, now: int) -> Reply:
    journal = services.broker.journal
    found = journal.scan(journal.messages, b"", b"\xff" * 8, 100)
    return Reply(200, b"%d" % len(found))


def _count_in_steps(services: Services, call: Call, now: int) -> Generator[None, None, Reply]:
    yield
    return _count(services, call, now)


COUNTS = [
    Call(Operation("count", "GET", "/count", OPEN, False, function, reads_store=True))
    for function in (_count, _count_in_steps)
]


@pytest.mark.parametrize("count", COUNTS)
async def test_a_read_of_the_store_sees_what_is_pending(store: WatchedStorage, count: Call) -> None:
    async with engine_on(store) as engine:
        replies = await engine.run([publish("a"), publish("b"), count, publish("c")])
        assert response(replies[2]) == 2
        assert await run(engine, count) == [3]


@pytest.mark.parametrize("count", COUNTS)
async def test_a_read_of_the_store_is_refused_during_a_fault(store: WatchedStorage, count: Call) -> None:
    async with engine_on(store) as engine:
        await run(engine, publish("a"))
        store.write_fault = store.reopen_fault = DiskFull("No space left on the device.")
        assert [reply.status for reply in await engine.run([publish("b")])] == [507]
        replies = await engine.run([count, call("GET", "/health")])
        assert [reply.status for reply in replies] == [507, 200]
        store.reopen_fault = None
        await until_back(engine)
        assert await run(engine, count) == [1]


@pytest.mark.parametrize("count", COUNTS)
async def test_a_read_that_fails_is_a_fault_of_the_store(
    store: WatchedStorage, count: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine_on(store) as engine:
        await run(engine, publish("a"))

        def scan(*_: Any) -> list[tuple[bytes, bytes]]:
            raise StorageFault("Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(store.inner, "scan", scan)
            replies = await engine.run([count])
        assert [reply.status for reply in replies] == [503]
        await until_back(engine)
        assert await run(engine, count) == [1]
