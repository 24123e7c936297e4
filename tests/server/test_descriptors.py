"""File descriptors: connections get what the store leaves, and the store gets along with what there is."""

from __future__ import annotations

import logging
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent

import pytest
import trio

from qrusty_trio.config import Settings
from qrusty_trio.errors import StartupRefused
from qrusty_trio.http.context import MAX_TURNED_AWAY
from qrusty_trio.server.descriptors import LEAST, LEAST_TABLES, UNCACHED_TABLES, fit, shares
from tests.server.running import START_SECONDS, Child, child_environment, child_process, client_of
from tests.wire.http_client import HttpClient

LIMITED = dedent(
    """
    import resource, sys
    from qrusty_trio import cli

    resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
    sys.exit(cli.main([]))
    """
)


@asynccontextmanager
async def limited(path: Path, soft: int, hard: int, **variables: str) -> AsyncIterator[Child]:
    """A server under limits of open files."""
    environment = child_environment(path, **variables)
    async with child_process(environment, arguments=["-c", LIMITED.format(soft=soft, hard=hard)]) as server:
        with trio.fail_after(START_SECONDS):
            await server.listening.wait()
            await server.ready()
        yield server


async def post(client: HttpClient, path: str, body: str) -> bytes:
    response = await client.request("POST", path, body.encode())
    assert response.status == 200, response.body
    return response.body


# Verifies: API-0065
@pytest.mark.parametrize("fast_path", ["enabled", "disabled"])
@pytest.mark.parametrize("limit", [LEAST, 128, 256])
async def test_idle_connections_keep_nothing_from_the_store(tmp_path: Path, limit: int, fast_path: str) -> None:
    variables = {"QRUSTY_SEGMENT_MAX_MB": "1", "QRUSTY_COMPACT_INTERVAL_SECS": "1", "QRUSTY_FAST_LANE": fast_path}
    async with limited(tmp_path / "data", limit, limit, **variables) as server, client_of(server) as client:
        assert "connections, not the 10000 of MAX_CONNECTIONS" in server.log
        assert (await client.request("GET", "/health")).status == 200
        idle = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(limit + 100)]
        # What the store writes and reads is in files that it opens now.
        large = "x" * 400_000
        for _ in range(6):
            await post(client, "/publish", f'{{"queue":"q","priority":1,"payload":"{large}"}}')
        for _ in range(6):
            got = await post(client, "/consume/q", '{"consumer_id":"c"}')
            assert large.encode() in got
        assert server.process.poll() is None
        assert "could not be accepted" not in server.log
        assert "Traceback" not in server.log
        for each in idle:
            await trio.aclose_forcefully(each)
        with trio.fail_after(60):
            status = 0
            while status != 200:
                try:
                    async with client_of(server) as another:
                        status = (await another.request("GET", "/health")).status
                except (EOFError, trio.BrokenResourceError):
                    status = 0  # closed without a word: too many are being turned away
        server.process.terminate()
        assert await server.ended() == 0


# Verifies: API-0065
async def test_the_soft_limit_is_raised(tmp_path: Path) -> None:
    async with limited(tmp_path / "data", 100, 1000, MAX_CONNECTIONS="400") as server:
        assert "the limit of open files was raised from 100 to 1000" in server.log
        assert "MAX_CONNECTIONS" not in server.log
        idle = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(300)]
        async with client_of(server) as client:
            assert (await client.request("GET", "/health")).status == 200
        for each in idle:
            await trio.aclose_forcefully(each)


async def test_too_few_to_serve_anybody(tmp_path: Path) -> None:
    environment = child_environment(tmp_path / "data")
    few = LIMITED.format(soft=LEAST - 1, hard=LEAST - 1)
    async with child_process(environment, arguments=["-c", few]) as server:
        assert await server.ended() == 78
    assert server.log == f"The limit of open files (ulimit -n) is {LEAST - 1}; the server needs at least {LEAST}.\n"
    assert not (tmp_path / "data").exists()


# Verifies: API-0065
@pytest.mark.parametrize("tables", [16, 128, 100_000])
def test_the_shares_fit_into_the_limit(tables: int) -> None:
    for limit in [*range(LEAST, 1200), 4096, 65_536, 1_048_576]:
        share = shares(limit, tables)
        own = limit - share.connections - share.turned_away - (share.tables - UNCACHED_TABLES)
        assert own >= LEAST * 3 // 4
        assert LEAST_TABLES <= share.tables <= tables
        assert 1 <= share.turned_away <= MAX_TURNED_AWAY
        assert share.connections >= 8


def under(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> list[tuple[int, int]]:
    """Let the limits be these. What is set."""
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    return limits


def test_enough_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    under(monkeypatch, 1_048_576, 1_048_576)
    assert fit(Settings()) == (Settings(), MAX_TURNED_AWAY, ())


def test_no_limit_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    under(monkeypatch, resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert fit(Settings(max_connections=1_000_000)) == (Settings(max_connections=1_000_000), MAX_TURNED_AWAY, ())


def test_what_can_t_be_raised_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int, both: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    under(monkeypatch, 1024, 4096)
    monkeypatch.setattr(resource, "setrlimit", refuse)
    fitted = fit(Settings())
    assert [level for level, _ in fitted.notes] == [logging.WARNING, logging.WARNING]
    assert fitted.settings.max_connections < 1024


# Verifies: API-0065
def test_too_few_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    under(monkeypatch, LEAST - 1, LEAST - 1)
    with pytest.raises(StartupRefused, match="at least 64"):
        fit(Settings())
