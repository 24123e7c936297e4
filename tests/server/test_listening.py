"""Where the server listens, and what it says of that."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio

from qrusty_trio.addresses import Address, UnixAddress
from qrusty_trio.errors import StartupRefused
from qrusty_trio.server.listening import Listening
from tests.server.running import child_environment, child_process, child_server, running, settings_for

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def opened(*addresses: Address | UnixAddress) -> AsyncIterator[Listening]:
    listening = Listening()
    with closing(listening):
        for address in addresses:
            await listening.open(address)
        yield listening


async def healthy(stream: trio.SocketStream) -> bool:
    """Whether a server answers on this stream. Closes it."""
    async with stream:
        await stream.send_all(HEALTH)
        return (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK")


# Verifies: API-0064
async def test_every_address_includes_those_of_ipv4(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running(settings_for(tmp_path / "data", bind_addr=(Address("::", 0),))) as server:
        for host in ["127.0.0.1", "::1"]:
            assert await healthy(await trio.open_tcp_stream(host, server.port))
    assert f"listening on [::]:{server.port} (IPv4, too)" in caplog.messages


# Verifies: API-0064
@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1:{}"), ("::1", "[::1]:{}"), ("0.0.0.0", "0.0.0.0:{}")]
)
async def test_an_address_is_shown_as_it_is_written(host: str, shown: str) -> None:
    async with opened(Address(host, 0)) as listening:
        assert listening.described() == [shown.format(listening.port)]


@pytest.mark.parametrize("host", ["::1", "::"])
async def test_a_port_in_use_is_named_with_brackets(host: str) -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind((host, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartupRefused, match=rf"^BIND_ADDR='\[{host}\]:{port}' can't be listened on"):
            async with opened(Address(host, port)):
                pass


# Verifies: API-0160
async def test_several_addresses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "q.sock"
    addresses = (UnixAddress(str(path)), Address("127.0.0.1", 0), Address("::1", 0))
    async with running(settings_for(tmp_path / "data", bind_addr=addresses)) as server:
        lines = [message for message in caplog.messages if message.startswith("listening on ")]
        assert lines[:2] == [f"listening on unix:{path}", f"listening on 127.0.0.1:{server.port}"]
        port = int(lines[2].removeprefix("listening on [::1]:"))
        for stream in [
            await trio.open_unix_socket(path),
            await trio.open_tcp_stream("127.0.0.1", server.port),
            await trio.open_tcp_stream("::1", port),
        ]:
            assert await healthy(stream)
    assert len(lines) == 3


# Verifies: API-0160
async def test_one_of_several_that_is_taken_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "q.sock"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartupRefused, match=rf"^BIND_ADDR='127.0.0.1:{port}' can't be listened on"):
            async with opened(UnixAddress(str(path)), Address("127.0.0.1", port)):
                pass
    assert not path.exists()


# Verifies: API-0160
@pytest.mark.parametrize("umask", [0o000, 0o077])
async def test_the_file_is_for_the_user_and_the_group(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "q.sock"
    before = os.umask(umask)
    try:
        async with opened(UnixAddress(str(path))) as listening:
            found = path.stat()
            assert stat.S_IMODE(found.st_mode) == 0o660
            assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())
            assert listening.port == 0
    finally:
        os.umask(before)
    assert not path.exists()


# Verifies: API-0160
async def test_a_file_that_was_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "q.sock"
    environment = child_environment(tmp_path / "data", BIND_ADDR=f"unix:{path}")
    async with child_process(environment) as first:
        await first.logged("ready after")
        await first.kill()
    assert path.is_socket()
    async with child_process(environment) as second:
        await second.logged("ready after")
        assert await healthy(await trio.open_unix_socket(path))
        assert await second.stop() == 0
    assert f"{path} was left by a server that listens no more: it is removed" in second.log
    assert f"listening on unix:{path}" in second.log
    assert not path.exists()


# Verifies: API-0160
async def test_a_file_on_which_somebody_listens_stays(tmp_path: Path) -> None:
    path = tmp_path / "q.sock"
    async with child_server(tmp_path / "data", BIND_ADDR=f"127.0.0.1:0,unix:{path}") as first:
        async with child_process(child_environment(tmp_path / "other", BIND_ADDR=f"unix:{path}")) as second:
            assert await second.ended() == 78
        assert f"BIND_ADDR='unix:{path}' can't be listened on: another process listens there" in second.log
        assert await healthy(await trio.open_unix_socket(path))
        assert await first.stop() == 0


# Verifies: API-0160
async def test_a_full_backlog_is_no_sign_that_nobody_listens(tmp_path: Path) -> None:
    path = tmp_path / "q.sock"
    with closing(socket.socket(socket.AF_UNIX)) as busy, closing(socket.socket(socket.AF_UNIX)) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(StartupRefused, match="another process listens there"):
            async with opened(UnixAddress(str(path))):
                pass
    assert path.is_socket()


# Verifies: API-0160
@pytest.mark.parametrize("kind", ["file", "directory", "link", "datagrams", "no directory"])
async def test_what_is_in_the_way_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "there" / "q.sock"
    if kind != "no directory":
        path.parent.mkdir()
    if kind == "file":
        path.write_text("mine")
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "nowhere")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as datagrams:
        if kind == "datagrams":
            datagrams.bind(str(path))
        with pytest.raises(StartupRefused, match=f"^BIND_ADDR='unix:{path}' can't be listened on: "):
            async with opened(UnixAddress(str(path))):
                pass
    assert (path.is_symlink() or path.exists()) == (kind != "no directory")


# Verifies: API-0160
async def test_a_path_that_another_took_over_stays(tmp_path: Path) -> None:
    path = tmp_path / "q.sock"
    async with opened(UnixAddress(str(path))):
        path.unlink()
        path.write_text("of another")
    assert path.read_text() == "of another"
