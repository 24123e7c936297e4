"""Sockets that systemd passes, handed to a real process as systemd does it: from descriptor 3 on."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
import trio

from qrusty_trio.server.activation import passed_sockets
from tests.server.running import ROOT, Child, child_environment, child_process
from tests.server.test_listening import HEALTH, healthy

SYSTEMD = """
import json, os, sys
descriptors, names, pid = json.loads(sys.argv[1])
for index, descriptor in enumerate(descriptors):
    os.dup2(descriptor, 100 + index)
for index in range(len(descriptors)):
    os.dup2(100 + index, 3 + index)
os.environ.update(LISTEN_FDS=str(len(descriptors)), LISTEN_PID=pid or str(os.getpid()), LISTEN_FDNAMES=names)
os.execv(sys.executable, [sys.executable, "-m", "qrusty_trio"])
"""
"""What systemd does between fork and exec."""


@contextmanager
def bound(*, path: Path | None = None, kind: int = socket.SOCK_STREAM, listen: bool = True) -> Iterator[socket.socket]:
    """A socket as systemd makes one for ListenStream=, or for something else."""
    with closing(socket.socket(socket.AF_INET if path is None else socket.AF_UNIX, kind)) as ours:
        ours.bind(("127.0.0.1", 0) if path is None else str(path))
        if listen:
            ours.listen()
        yield ours


def port_of(ours: socket.socket) -> int:
    port: int = ours.getsockname()[1]
    return port


@asynccontextmanager
async def started(
    data: Path, descriptors: Sequence[int], names: str = "", pid: str = "", **variables: str
) -> AsyncIterator[Child]:
    argument = json.dumps([list(descriptors), names, pid])
    environment = child_environment(data, **variables)
    async with child_process(environment, arguments=("-c", SYSTEMD, argument), pass_fds=descriptors) as child:
        yield child


# Verifies: API-0161
async def test_what_is_passed_is_listened_on_in_place_of_the_address(tmp_path: Path) -> None:
    path = tmp_path / "q.sock"
    with bound() as tcp, bound(path=path) as unix:
        port = port_of(tcp)
        async with started(tmp_path / "data", [tcp.fileno(), unix.fileno()], "http:local") as server:
            await server.logged("ready after")
            assert f"listening on 127.0.0.1:{port}, http of systemd" in server.log
            assert f"listening on unix:{path}, local of systemd" in server.log
            assert server.log.count("listening on") == 2
            assert await healthy(await trio.open_tcp_stream("127.0.0.1", port))
            assert await healthy(await trio.open_unix_socket(path))
            assert await server.stop() == 0
        assert path.is_socket(), "it belongs to systemd"


# Verifies: API-0161
async def test_a_request_waits_in_the_socket_while_the_server_restarts(tmp_path: Path) -> None:
    with bound() as tcp:
        async with started(tmp_path / "data", [tcp.fileno()]) as first:
            await first.logged("ready after")
            assert await first.stop() == 0
        async with await trio.open_tcp_stream("127.0.0.1", port_of(tcp)) as stream:
            await stream.send_all(HEALTH)
            async with started(tmp_path / "data", [tcp.fileno()]) as second:
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK")
                assert await second.stop() == 0


# Verifies: API-0161
async def test_sockets_for_another_process_are_left_alone(tmp_path: Path) -> None:
    with bound() as tcp:
        async with started(tmp_path / "data", [tcp.fileno()], pid="1") as server:
            await server.logged("ready after")
            assert server.port != port_of(tcp)
            assert "of systemd" not in server.log


# Verifies: API-0161
@pytest.mark.parametrize(
    ("kind", "listen"), [(socket.SOCK_STREAM, False), (socket.SOCK_DGRAM, False)], ids=["bound only", "datagrams"]
)
async def test_a_socket_that_does_not_listen_refuses_the_start(tmp_path: Path, kind: int, listen: bool) -> None:
    with bound(kind=kind, listen=listen) as wrong:
        async with started(tmp_path / "data", [wrong.fileno()], "odd") as server:
            assert await server.ended() == 78
    assert server.log == (
        "Descriptor 3, which systemd passed as 'odd', is no socket that listens: the unit needs ListenStream= and "
        "Accept=no.\n"
    )


# Verifies: API-0161
async def test_what_is_no_socket_refuses_the_start(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        async with started(tmp_path / "data", [file.fileno()]) as server:
            assert await server.ended() == 78
    assert server.log == "Descriptor 3, which systemd passed as 'unknown', is no socket.\n"


@pytest.mark.parametrize(
    "variables",
    [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "", "LISTEN_PID": "42"}, {"LISTEN_FDS": "0", "LISTEN_PID": "42"}],
)
def test_nothing_was_passed(variables: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    assert passed_sockets(variables, pid=42) == []
    assert caplog.text == ""


@pytest.mark.parametrize("count", ["-1", "one", "65", "\u0661", "9" * 40])
def test_a_number_that_makes_no_sense(count: str, caplog: pytest.LogCaptureFixture) -> None:
    assert passed_sockets({"LISTEN_FDS": count, "LISTEN_PID": "42"}, pid=42) == []
    assert "is no number up to 64" in caplog.text


# Verifies: API-0161
@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="there is no systemd-socket-activate")
async def test_systemd_passes_a_socket_itself(tmp_path: Path) -> None:
    path = tmp_path / "q.sock"
    # It starts the server for the first connection, and names its sockets in its own environment only.
    command = ["systemd-socket-activate", f"--listen={path}", "--fdname=local"]
    environment = child_environment(tmp_path / "data")
    command += [f"--setenv={name}={environment[name]}" for name in ("DATA_PATH", "ROCKSDB_CACHE_MB")]
    command += ["--setenv=ROCKSDB_WRITE_BUFFER_MB=8", f"--setenv=PYTHONPATH={ROOT}"]
    async with child_process(environment, prefix=command) as server:
        await server.logged("Listening on")
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(HEALTH)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 ")
        await server.logged("ready after")
        assert f"listening on unix:{path}, local of systemd" in server.log
