"""Clients and commands over a Unix socket: on Trio and asyncio, blocking, over WebSocket, and where nobody listens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio
import pytest
import trio

from qrusty_trio import client as q
from qrusty_trio.addresses import UnixAddress
from qrusty_trio.client import blocking
from tests.server.running import ROOT, running, settings_for, until_ready


async def use(url: str, queue: str) -> list[str]:
    """Publish over HTTP, and take the message over a WebSocket."""
    async with q.HttpClient(url) as http:
        await http.publish(queue, "over HTTP")
    async with q.connect(url) as client, client.subscribe(queue) as subscription:
        async for delivery in subscription:
            await delivery.ack()
            return [delivery.payload]
    return []


def use_blocking(url: str) -> object:
    with blocking.HttpClient(url, patience_seconds=0) as http:
        http.publish("blocking", "x")
        return http.queues()


def command(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    done = [sys.executable, "-m", "qrusty_trio", *words, "--url", url]
    return subprocess.run(
        done, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "QRUSTY_URL": ""}
    )


# Verifies: API-0168
async def test_everything_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "q.sock"
    url = f"unix:{path}"
    async with running(settings_for(tmp_path / "data", bind_addr=(UnixAddress(str(path)),))) as server:
        await until_ready(server)
        assert await use(url, "trio") == ["over HTTP"]
        on_asyncio = partial(anyio.run, use, url, "asyncio", backend="asyncio")
        assert await trio.to_thread.run_sync(on_asyncio) == ["over HTTP"]
        names = await trio.to_thread.run_sync(use_blocking, url)
        assert names == ["asyncio", "blocking", "trio"]
        done = await trio.to_thread.run_sync(command, url, "stats", "-o", "json")
        assert done.returncode == 0, done.stderr
        assert "blocking" in json.dumps(json.loads(done.stdout))


# Verifies: API-0168
async def test_where_nobody_listens(tmp_path: Path) -> None:
    url = f"unix:{tmp_path}/q.sock"
    with pytest.raises(q.NotSent, match="No such file or directory"):
        async with q.HttpClient(url, patience_seconds=0) as http:
            await http.queues()
    with pytest.raises(q.NotSent, match="No such file or directory"):
        await trio.to_thread.run_sync(use_blocking, url)
    with pytest.raises(q.ConnectFailed):
        async with q.connect(url):
            pass
