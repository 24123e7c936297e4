"""Where the server listens, and what it says of that."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest
import trio

from qrusty_trio.config import Address
from qrusty_trio.errors import StartupRefused
from qrusty_trio.server.listening import described, listen
from tests.server.running import running, settings_for


# Verifies: API-0064
async def test_every_address_includes_those_of_ipv4(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running(settings_for(tmp_path / "data", bind_addr=Address("::", 0))) as server:
        for host in ["127.0.0.1", "::1"]:
            async with await trio.open_tcp_stream(host, server.port) as stream:
                await stream.send_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK")
    assert f"listening on [::]:{server.port} (IPv4, too)" in caplog.messages


# Verifies: API-0064
@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1:{}"), ("::1", "[::1]:{}"), ("0.0.0.0", "0.0.0.0:{}")]
)
async def test_an_address_is_shown_as_it_is_written(host: str, shown: str) -> None:
    (listener,) = await listen(Address(host, 0))
    async with listener:
        assert described(listener) == shown.format(listener.socket.getsockname()[1])


@pytest.mark.parametrize("host", ["::1", "::"])
async def test_a_port_in_use_is_named_with_brackets(host: str) -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind((host, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartupRefused, match=rf"^BIND_ADDR='\[{host}\]:{port}' can't be listened on"):
            await listen(Address(host, port))
