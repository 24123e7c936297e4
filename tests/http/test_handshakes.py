"""Peers whose handshake is slow, broken, endless or no handshake at all: each ends its own connection, and no other."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import pytest
import trio
import trio.testing

from qrusty_trio.http import handshakes
from qrusty_trio.http.admission import Admission
from qrusty_trio.http.handshakes import Handshakes, _explained
from qrusty_trio.http.listener import serve
from tests.certificates import TlsPeer, client_certificate, client_context, other_authority, server_context, tls_peer
from tests.http.web import Client, Web, request, running

PATIENCE = 60
HELLO = b"\x16\x03\x01\x40\x00\x01"
"""The start of a ClientHello of 16 KiB."""


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    context = server_context(tmp_path)
    with trio.fail_after(PATIENCE):
        async with running(True, tls=lambda: context) as web:
            yield web
            assert web.context.bulkheads.failures == 0


async def connect(web: Web) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", web.port)


async def ended(stream: trio.SocketStream) -> bytes:
    """What comes until the server closes."""
    data = b""
    try:
        while part := await stream.receive_some(65536):
            data += part
    except trio.BrokenResourceError:
        pass
    return data


async def until_connected(web: Web, count: int) -> None:
    while web.context.connections.value != count:
        await trio.testing.wait_all_tasks_blocked(0.005)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.name == handshakes.__name__]
    return [re.sub(r"(127\.0\.0\.1):\d+", r"\1", line) for line in lines]


# Verifies: API-0180
@pytest.mark.parametrize(
    "data", [request("GET", "/health"), b"PRI * HTTP/2.0\r\n\r\n", b"P"], ids=["get", "h2c", "one"]
)
async def test_plain_http_is_told_what_is_wrong(web: Web, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with await connect(web) as stream:
        await stream.send_all(data)
        client = Client(stream)
        answer = await client.response()
        assert (answer.status, answer.json()["code"]) == (400, "tls_required")
        assert "https://" in answer.json()["error"]
        assert answer.headers["connection"] == "close"
        assert await client.ended()
    await until_connected(web, 0)
    assert told(caplog) == ["no TLS with 127.0.0.1: it speaks plain HTTP"]


# Verifies: API-0181
async def test_what_is_no_tls_at_all(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    async with await connect(web) as stream:
        await stream.send_all(b"\x00\x01\x02")
        assert await ended(stream) == b""
    await until_connected(web, 0)
    assert told(caplog) == ["no TLS with 127.0.0.1: it speaks no TLS"]


# Verifies: API-0181
async def test_a_look_whether_the_port_is_open_is_no_news(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    async with await connect(web):
        await until_connected(web, 1)
    await until_connected(web, 0)
    assert told(caplog) == []


# Verifies: API-0181
@pytest.mark.parametrize("data", [b"", HELLO], ids=["silent", "half"])
async def test_a_slow_handshake_ends(web: Web, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    async with web.client() as other:
        assert (await other.ask("GET", "/health")).status == 200
        monkeypatch.setattr(handshakes, "HANDSHAKE_SECONDS", 0.05)
        async with await connect(web) as stream:
            await stream.send_all(data)
            assert await ended(stream) == b""
        assert (await other.ask("GET", "/health")).status == 200


# Verifies: API-0181
async def test_an_endless_handshake_ends(
    web: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handshakes, "MAX_STEPS", 5)
    async with await connect(web) as stream:
        await stream.send_all(HELLO)
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await trio.testing.wait_all_tasks_blocked(0.005)
                await stream.send_all(b"x")
    await until_connected(web, 0)
    assert told(caplog) == ["no TLS with 127.0.0.1: it came in more than 5 pieces"]


# Verifies: API-0181
async def test_the_oldest_makes_way(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshakes, "MAX_HANDSHAKES", 2)
    async with await connect(web) as first:
        await until_connected(web, 1)
        async with await connect(web) as second:
            await until_connected(web, 2)
            assert (await web.ask("GET", "/health")).status == 200
            assert await ended(first) == b""
            await until_connected(web, 1)
            await second.send_all(HELLO)
    await until_connected(web, 0)


# Verifies: API-0181
async def test_a_peer_that_leaves_in_the_middle(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    async with await connect(web) as stream:
        await stream.send_all(HELLO)
        await stream.send_eof()
        await ended(stream)
    await until_connected(web, 0)
    assert len(told(caplog)) == 1


# Verifies: API-0181
async def test_one_line_for_many_failures(mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture) -> None:
    shakes = Handshakes(client_context)

    async def fail(times: int = 1) -> None:
        for _ in range(times):
            ours, theirs = trio.socket.socketpair()
            with theirs:
                await theirs.send(b"\x00")
                assert await shakes.secure(trio.SocketStream(ours), "somebody") is None

    line = "no TLS with somebody: it speaks no TLS"
    await fail(3)
    mock_clock.jump(handshakes.TELL_SECONDS - 1)
    await fail()
    assert told(caplog) == [line]
    mock_clock.jump(1)
    await fail(2)
    assert told(caplog) == [line, line + " (4 handshakes failed since the last line)"]
    mock_clock.jump(handshakes.TELL_SECONDS)
    await fail()
    assert told(caplog)[2:] == [line + " (2 handshakes failed since the last line)"]
    mock_clock.jump(handshakes.TELL_SECONDS)
    await fail()
    assert told(caplog)[3:] == [line]


# Verifies: API-0181
async def test_a_server_that_stops_waits_for_no_handshake(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    async with await connect(web) as stream:
        await until_connected(web, 1)
        web.context.stopping.set()
        assert await ended(stream) == b""
    assert told(caplog) == []


# Verifies: API-0181
async def test_each_of_many_that_come_at_once_costs_another_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshakes, "MAX_HANDSHAKES", 2)
    shakes = Handshakes(client_context)
    ended: list[int] = []

    async def secure(number: int, stream: trio.SocketStream) -> None:
        assert await shakes.secure(stream, "somebody") is None
        ended.append(number)

    pairs = [trio.socket.socketpair() for _ in range(6)]
    async with trio.open_nursery() as nursery:
        for first in (0, 2, 4):
            for number in (first, first + 1):
                nursery.start_soon(secure, number, trio.SocketStream(pairs[number][0]))
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(ended) == list(range(first))
        nursery.cancel_scope.cancel()
    for _, theirs in pairs:
        theirs.close()


# Verifies: API-0181
async def test_a_handshake_after_the_stop_comes_to_nothing(caplog: pytest.LogCaptureFixture) -> None:
    shakes = Handshakes(client_context)
    for _ in range(2):
        ours, theirs = trio.socket.socketpair()
        with theirs:
            async with trio.open_nursery() as nursery:

                async def secure(stream: trio.SocketStream) -> None:
                    assert await shakes.secure(stream, "somebody") is None
                    assert stream.socket.fileno() < 0, "it is closed"

                nursery.start_soon(secure, trio.SocketStream(ours))
                await trio.testing.wait_all_tasks_blocked()
                shakes.stop()
    assert told(caplog) == []


# Verifies: SYS-0040
async def test_an_old_version_is_refused(web: Web) -> None:
    context = client_context()
    with pytest.warns(DeprecationWarning, match="TLSv1 is deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, EOFError)):
        await tls_peer(web.port, context)


# Verifies: SYS-0040
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_versions_that_are_spoken(web: Web, version: ssl.TLSVersion) -> None:
    context = client_context()
    context.minimum_version = context.maximum_version = version
    peer = await tls_peer(web.port, context)
    async with peer.stream:
        peer.put(request("GET", "/health"))
        await peer.flush()
        assert b"200 OK" in await peer.read()


# Verifies: API-0186
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("whose", ["ours", "another", "none"])
async def test_certificates_of_clients(
    tmp_path: Path, version: ssl.TLSVersion, whose: str, caplog: pytest.LogCaptureFixture
) -> None:
    shown = {"ours": client_certificate(), "another": other_authority().issue_cert("x@test.example"), "none": None}
    server = server_context(tmp_path, client_ca=True)
    context = client_context(shown[whose])
    context.minimum_version = context.maximum_version = version
    async with running(True, tls=lambda: server) as web:
        with trio.fail_after(PATIENCE):
            stream = await connect(web)
            async with stream:
                peer = TlsPeer(stream, context)
                try:
                    await peer.shake_hands()
                    peer.put(request("GET", "/health"))
                    await peer.flush()
                    answered = b"200 OK" in await peer.read()
                except (ssl.SSLError, EOFError, trio.BrokenResourceError):
                    answered = False
            await until_connected(web, 0)
    assert answered == (whose == "ours")
    assert len(told(caplog)) == (whose != "ours")


# Verifies: SYS-0040
async def test_a_proxy_passes_tls_on(tmp_path: Path) -> None:
    server = server_context(tmp_path)
    admission = Admission(limit=1, trusted=(ip_network("127.0.0.0/8"),))
    async with running(True, tls=lambda: server, admission=admission) as web:
        with trio.fail_after(PATIENCE):
            async with await connect(web) as stream, await connect(web) as second:
                for each, status in ((stream, b"200 OK"), (second, b"503 ")):
                    peer = TlsPeer(each, client_context())
                    await each.send_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\n")
                    await peer.shake_hands()
                    peer.put(request("GET", "/health"))
                    await peer.flush()
                    assert status in await peer.read()


# Verifies: SYS-0040
async def test_a_unix_socket_stays_plain(tmp_path: Path) -> None:
    server = server_context(tmp_path)
    async with running(True, tls=lambda: server) as web:
        listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await listener.bind(str(tmp_path / "s"))
        listener.listen()
        await web.nursery.start(serve, [trio.SocketListener(listener)], web.context)
        async with await trio.open_unix_socket(str(tmp_path / "s")) as stream:
            assert (await Client(stream).ask("GET", "/health")).status == 200


def test_what_is_said_of_an_error() -> None:
    assert _explained(OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))) == "Connection reset by peer"
    assert _explained(OSError("odd")) == "odd"
    assert _explained(ssl.SSLEOFError()) == "it left in the middle"
