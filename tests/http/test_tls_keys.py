"""Peers that change their keys while they are connected (KeyUpdate of TLS 1.3), and those that do nothing else."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from qrusty_trio.http.tls import MAX_WITHOUT_DATA
from tests.certificates import server_context
from tests.http.web import PATHS, Web, running

pytestmark = pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])

PATIENCE = 60
HEALTH = b"GET /health HTTP/1.1\nHost: localhost\n\n"
NEW_KEYS, NEW_KEYS_FOR_BOTH = b"k\n", b"K\n"
"""Commands of `openssl s_client`."""


class Talk:
    """What a client of OpenSSL is told, and what it says."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self.said = b""

    async def tell(self, data: bytes) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(data)

    async def until(self, text: bytes, count: int = 1) -> bool:
        """Whether it has said that so often. False: it has ended before."""
        assert self._process.stdout is not None
        while self.said.count(text) < count:
            more = await self._process.stdout.receive_some()
            if not more:
                return False
            self.said += more
        return True


@asynccontextmanager
async def talking(web: Web) -> AsyncIterator[Talk]:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{web.port}", "-tls1_3", "-crlf"]
    run = partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            talk = Talk(await nursery.start(partial(run, check=False)))
            await talk.until(b"Verify return code")
            yield talk
        nursery.cancel_scope.cancel()


# Verifies: SYS-0040
@pytest.mark.parametrize("command", [NEW_KEYS, NEW_KEYS_FOR_BOTH], ids=["own", "both"])
async def test_a_peer_with_new_keys_is_served(fast_path: bool, tmp_path: Path, command: bytes) -> None:
    context = server_context(tmp_path)
    async with running(fast_path, tls=lambda: context) as web, talking(web) as talk:
        for count in range(1, MAX_WITHOUT_DATA + 3):
            await talk.tell(command)
            assert await talk.until(b"KEYUPDATE", count)
            await talk.tell(HEALTH)
            assert await talk.until(b"200 OK", count)


# Verifies: SYS-0040
@pytest.mark.parametrize("command", [NEW_KEYS, NEW_KEYS_FOR_BOTH], ids=["own", "both"])
async def test_a_peer_that_sends_nothing_but_new_keys_loses_its_connection(
    fast_path: bool, tmp_path: Path, command: bytes
) -> None:
    context = server_context(tmp_path)
    async with running(fast_path, tls=lambda: context) as web, talking(web) as talk:
        # Its handshake is over before the server's is, which may wait for its thread. What is answered has been read.
        await talk.tell(HEALTH)
        assert await talk.until(b"200 OK")
        with pytest.raises(trio.BrokenResourceError):
            for count in itertools.count(1):
                await talk.tell(command)
                if not await talk.until(b"KEYUPDATE", count):
                    raise trio.BrokenResourceError
                if count == MAX_WITHOUT_DATA:
                    assert web.context.connections.value == 1
        while web.context.connections.value:
            await trio.testing.wait_all_tasks_blocked(0.005)
        assert web.context.bulkheads.failures == 0
        assert (await web.ask("GET", "/health")).status == 200
