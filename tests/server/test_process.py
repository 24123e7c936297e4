"""The server as a process: signals, crashes, refused starts."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from textwrap import dedent

import pytest
import trio
from trio_websocket import ConnectionClosed

from tests.server.running import Child, child_environment, child_process, child_server, client_of, websocket_of
from tests.wire.http_client import Connection

FAST_PATH = ["enabled", "disabled"]
EXIT_REFUSED = 78
EXIT_CRASHED = 1
PUBLISH = b'{"queue":"q","priority":1,"payload":"in hand"}'


async def connected(server: Child) -> Connection:
    return Connection(await trio.open_tcp_stream("127.0.0.1", server.port))


async def begin_publish(server: Child) -> Connection:
    """A request of which the server has read all but the last byte of the body."""
    connection = await connected(server)
    head = b"POST /publish HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    await connection.stream.send_all(head % len(PUBLISH) + PUBLISH[:-1])
    # A request that was sent after it and is answered: by then it was read.
    for _ in range(3):
        async with client_of(server) as client:
            assert (await client.request("GET", "/health")).status == 200
    return connection


# Verifies: SYS-0015, API-0055
@pytest.mark.parametrize("fast_path", FAST_PATH)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_ends_with_0(tmp_path: Path, fast_path: str, number: signal.Signals) -> None:
    async with child_server(tmp_path / "data", QRUSTY_FAST_LANE=fast_path) as server:
        idle = await connected(server)
        connection = await begin_publish(server)
        async with websocket_of(server) as websocket:
            server.send_signal(number)
            with pytest.raises(ConnectionClosed) as closed:
                await websocket.get_message()
            assert closed.value.reason is not None
            assert closed.value.reason.code == 1001
        # No new connections, but what is in hand is finished.
        with pytest.raises(OSError):  # noqa: PT011  # refused
            await connected(server)
        await connection.stream.send_all(PUBLISH[-1:])
        response = await connection.receive()
        assert response.status == 200
        id = response.json()["id"]
        assert await idle.stream.receive_some() == b""
        assert await server.ended() == 0
        await connection.stream.aclose()
        await idle.stream.aclose()
    assert "Traceback" not in server.log
    assert server.log.rstrip().endswith("stopped"), server.log
    async with child_server(tmp_path / "data") as server, client_of(server) as client:
        assert (await client.request("POST", "/consume/q", b'{"consumer_id":"c"}')).json()["id"] == id
        assert await server.stop() == 0


# Verifies: API-0056
async def test_a_later_signal_waits_for_nothing(tmp_path: Path) -> None:
    async with child_server(tmp_path / "data") as server:
        connection = await begin_publish(server)
        server.send_signal(signal.SIGTERM)
        await server.logged("SIGTERM: stopping")
        with trio.fail_after(60):
            while server.process.poll() is None:
                server.send_signal(signal.SIGTERM)
                await trio.sleep(0.3)
            assert await server.ended() == 0
        await connection.stream.aclose()
    assert "stopping without waiting" in server.log
    assert "Traceback" not in server.log


# Verifies: API-0058
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_it_starts(tmp_path: Path, number: signal.Signals) -> None:
    """Whenever it comes, from the first line of the log on, the store is left in order."""
    async with child_process(child_environment(tmp_path / "data")) as server:
        await server.listening.wait()
        server.send_signal(number)
        assert await server.ended() == 0
    assert "Traceback" not in server.log


# Verifies: API-0057
async def test_a_terminal_that_hangs_up_ends_nothing(tmp_path: Path) -> None:
    async with child_process(child_environment(tmp_path / "data")) as server:
        await server.listening.wait()
        server.send_signal(signal.SIGHUP)
        await server.logged("SIGHUP: there is nothing to be read anew")
        await server.ready()
        async with client_of(server) as client:
            assert (await client.request("POST", "/publish", PUBLISH)).status == 200
        # Nor while it stops.
        server.send_signal(signal.SIGTERM)
        server.send_signal(signal.SIGHUP)
        assert await server.ended() == 0
    assert server.log.rstrip().endswith("stopped"), server.log


# Verifies: API-0059
async def test_a_store_that_can_t_be_closed_is_told_in_a_line(tmp_path: Path) -> None:
    async with child_server(tmp_path / "data") as server:
        async with client_of(server) as client:
            assert (await client.request("POST", "/publish", PUBLISH)).status == 200
            shutil.rmtree(tmp_path / "data")
            assert (await client.request("POST", "/publish", PUBLISH)).status == 503
        assert await server.stop() == EXIT_CRASHED
    assert "The store could not be closed in order: " in server.log
    assert "Traceback" not in server.log


CRASHING = dedent(
    """
    import sys
    import trio
    from qrusty_trio import cli
    from qrusty_trio.server import supervisor

    async def crash(engine, lag, *, task_status):
        task_status.started()
        while "crash" not in engine.broker.catalog.names():
            await trio.sleep(0.01)
        raise ZeroDivisionError("a fault of our own making")

    supervisor.sample = crash
    sys.exit(cli.main([]))
    """
)


STALLING = dedent(
    """
    import os, sys, time
    from pathlib import Path
    from qrusty_trio import cli
    from qrusty_trio.http import listener
    from qrusty_trio.server import ending, kernel_sync, startup
    from qrusty_trio.storage.rocksdb import RocksStorage

    mark, what = Path(os.environ["MARK"]), os.environ["WHAT"]

    def held(function):
        def call(*arguments, **named):
            if mark.exists():
                print("held", file=sys.stderr, flush=True)
                while True:
                    time.sleep(60)
            return function(*arguments, **named)
        return call

    def never(function):
        def completed(self):
            if mark.exists():
                print("held", file=sys.stderr, flush=True)
                return False
            return function(self)
        return completed

    if what in ("kernel", "again"):
        kernel_sync.KernelSync._completed = never(kernel_sync.KernelSync._completed)
    if what != "kernel":
        RocksStorage.sync = held(RocksStorage.sync)
        kernel_sync._NUMBERS = {} if what == "thread" else kernel_sync._NUMBERS
    if what == "open":
        startup.open_stores = held(startup.open_stores)
    startup.Stores.close = held(startup.Stores.close)
    listener.STOP_SECONDS = 60.0 if what == "again" else 0.1
    ending.TELL_SECONDS, ending.CLOSE_SECONDS = 0.05, 0.2
    sys.exit(cli.main([]))
    """
)
"""From the time that a file is there, something does not end: a sync, the opening or the closing of the store."""


# Verifies: API-0200
@pytest.mark.parametrize("what", ["kernel", "thread", "again", "close", "open"])
async def test_a_stop_ends_although_the_disk_does_not_answer(tmp_path: Path, what: str) -> None:
    """As on a disk that stalls, whatever waits for it. A second signal does not have to wait for the drain."""
    mark = tmp_path / "mark"
    environment = child_environment(tmp_path / "data", MARK=str(mark), WHAT=what)
    if what == "open":
        mark.touch()
    async with child_process(environment, arguments=["-c", STALLING]) as server, AsyncExitStack() as stack:
        if what != "open":
            await server.ready()
            async with client_of(server) as client:
                id = (await client.request("POST", "/publish", PUBLISH)).json()["id"]
        mark.touch()
        if what not in ("open", "close"):
            in_hand = await begin_publish(server)
            await in_hand.stream.send_all(PUBLISH[-1:])
            stack.push_async_callback(in_hand.stream.aclose)
        if what != "close":
            await server.logged("held")
        server.send_signal(signal.SIGTERM)
        if what == "again":
            while server.process.poll() is None:
                server.send_signal(signal.SIGTERM)
                await trio.sleep(0.3)
        assert await server.ended() == EXIT_CRASHED
    assert "the stop still waits for the disk" in server.log
    assert "could not be closed within" in server.log.splitlines()[-1]
    assert "Traceback" not in server.log
    if what != "open":
        async with child_server(tmp_path / "data") as server, client_of(server) as client:
            assert (await client.request("POST", "/consume/q", b'{"consumer_id":"c"}')).json()["id"] == id
            assert await server.stop() == 0


# Verifies: SYS-0013
async def test_a_crash_of_a_task_ends_the_server(tmp_path: Path) -> None:
    environment = child_environment(tmp_path / "data")
    async with child_process(environment, arguments=["-c", CRASHING]) as server:
        await server.ready()
        async with client_of(server) as client:
            response = await client.request("POST", "/publish", PUBLISH)
            assert response.status == 200
            with suppress(EOFError, trio.BrokenResourceError):
                await client.request("POST", "/publish", PUBLISH.replace(b'"q"', b'"crash"'))
        assert await server.ended() == EXIT_CRASHED
    assert "The server crashed" in server.log
    assert "Traceback" in server.log
    assert "ZeroDivisionError: a fault of our own making" in server.log
    async with child_server(tmp_path / "data") as server, client_of(server) as client:
        got = (await client.request("POST", "/consume/q", b'{"consumer_id":"c"}')).json()
        assert (got["id"], got["payload"]) == (response.json()["id"], "in hand")


def tree(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything under a path: mode, time of the last change, content."""
    found = {}
    for entry in [path, *sorted(path.rglob("*"))]:
        if entry.exists():
            status = entry.stat()
            content = entry.read_bytes() if entry.is_file() else b""
            found[str(entry.relative_to(path))] = (status.st_mode, status.st_mtime_ns, content)
    return found


async def refused(environment: dict[str, str], arguments: Sequence[str] = ("-m", "qrusty_trio")) -> str:
    """Start a server that must refuse; the one line that it says."""
    async with child_process(environment, arguments=arguments) as server:
        assert await server.ended() == EXIT_REFUSED, server.log
    lines = server.log.splitlines()
    assert len(lines) == 1, server.log
    return lines[0]


# Verifies: PER-0015
async def test_refuses_a_directory_that_is_held(tmp_path: Path) -> None:
    path = tmp_path / "data"
    async with child_server(path) as server:
        before = tree(path)
        assert f"{path} is in use" in await refused(child_environment(path))
        assert tree(path) == before
        async with client_of(server) as client:
            assert (await client.request("POST", "/publish", PUBLISH)).status == 200
        assert await server.stop() == 0


async def test_refuses_a_file_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("not a directory")
    assert str(path) in await refused(child_environment(path))
    assert path.read_text() == "not a directory"


NOT_EVERYWHERE = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0):
    sys.exit("the right to write everywhere can't be given up")
os.execv(sys.executable, [sys.executable, "-m", "qrusty_trio"])
"""
"""Starts a server that may not write everywhere, also when root does."""


# Verifies: API-0060
async def test_refuses_a_directory_that_is_not_writable(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir(mode=0o555)
    assert "not readable and writable" in await refused(child_environment(path), ("-c", NOT_EVERYWHERE))
    assert list(path.iterdir()) == []


async def test_refuses_a_file_system_that_is_not_writable(tmp_path: Path) -> None:
    path = Path("/proc/qrusty")
    assert str(path) in await refused(child_environment(path))


# Verifies: PER-0013
async def test_refuses_a_newer_schema(tmp_path: Path) -> None:
    path = tmp_path / "data"
    async with child_server(path) as server:
        assert await server.stop() == 0
    mark = path / "FORMAT"
    mark.write_text(mark.read_text().replace("schema 3", "schema 999"))
    before = tree(path)
    line = await refused(child_environment(path))
    assert "999" in line
    assert str(path) in line
    assert tree(path) == before


# Verifies: API-0060
async def test_refuses_a_bad_setting(tmp_path: Path) -> None:
    path = tmp_path / "data"
    line = await refused(child_environment(path, QRUSTY_FSYNC="sometimes"))
    assert all(part in line for part in ("QRUSTY_FSYNC", "'sometimes'", "always", "everysec", "never"))
    assert not path.exists()


# Verifies: API-0060
async def test_refuses_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        async with child_process(child_environment(tmp_path / "data", BIND_ADDR=f"127.0.0.1:{port}")) as server:
            assert await server.ended() == EXIT_REFUSED
    last = server.log.splitlines()[-1]
    assert f"BIND_ADDR='127.0.0.1:{port}'" in last
    assert "Traceback" not in server.log
    async with child_server(tmp_path / "data") as server:
        assert await server.stop() == 0


# Verifies: PER-0056
async def test_a_store_in_memory_is_warned_of(tmp_path: Path) -> None:
    async with child_server(tmp_path / "data", STORAGE_MODE="memory", QRUSTY_LOG_FORMAT="json") as server:
        assert await server.stop() == 0
    records = [json.loads(line) for line in server.log.splitlines()]
    assert any("lost" in json.dumps(record) for record in records)
    assert not (tmp_path / "data").exists()
