"""The two workers of docs/workers.md do more than their page shows: one renews its locks, one stops in order."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.docs.blocks import ANOTHER, blocks_of
from tests.docs.runner import ADDRESS
from tests.http.ws_server import PATIENCE, Running, running
from tests.server.running import ROOT

TEN_LINES, WITH_THE_LIBRARY = (
    block.text
    for block in blocks_of(ROOT / "docs" / "workers.md")
    if block.language == "python" and block.title == ANOTHER
)


@asynccontextmanager
async def program(text: str, server: Running) -> AsyncIterator[trio.Process]:
    """Run a program of the page; killed at the end, if it has not ended."""
    code = text.replace(ADDRESS, f"127.0.0.1:{server.port}").replace('"127.0.0.1", 6784', f'"127.0.0.1", {server.port}')
    assert code != text
    command = [sys.executable, "-u", "-c", code]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + PATIENCE):
            process.kill()
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()


async def printed(process: trio.Process, text: str) -> None:
    """Wait until the program has printed this."""
    assert process.stdout is not None
    found = b""
    with trio.fail_after(PATIENCE):
        while text.encode() not in found:
            data = await process.stdout.receive_some()
            assert data, found
            found += data


async def waiting(server: Running) -> None:
    """Wait until a consume waits at the server."""
    with trio.fail_after(PATIENCE):
        while not len(server.engine.waiters):  # noqa: ASYNC110  # the server announces no such thing
            await trio.sleep(0.002)


async def test_ten_lines_are_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits before each message comes, renews the lock of each, and acks it."""
    assert len([line for line in TEN_LINES.splitlines() if line]) == 10
    renewed: list[str] = []
    async with running(True) as server:
        broker = server.engine.broker
        renew = broker.renew

        def seen(name: str, id: str, consumer: str, lock_seconds: int, now: int) -> int:
            renewed.append(id)
            return renew(name, id, consumer, lock_seconds, now)

        monkeypatch.setattr(broker, "renew", seen)
        await server.create()
        async with program(TEN_LINES, server) as process:
            for payload in ("one", "two", "three"):
                await waiting(server)
                id = await server.publish(payload)
                await printed(process, f"work on {payload}")
                await server.settle_down(0, 0, 0)
                assert renewed[-1:] == [id]


async def test_a_worker_with_the_client_library_stops_in_order() -> None:
    async with running(True) as server:
        await server.create()
        await server.publish("one")
        async with program(WITH_THE_LIBRARY, server) as process:
            await printed(process, "one")
            await server.settle_down(0, 0, 0)
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(PATIENCE):
                assert await process.wait() == 0
