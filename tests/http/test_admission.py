"""Which connections are served: how many of an address, and what trusted proxies say. Over real sockets."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, wrap_client_stream

from qrusty_trio.addresses import Address, UnixAddress
from qrusty_trio.http import peers
from qrusty_trio.http.admission import HEADER_SECONDS, Admission
from qrusty_trio.http.peers import peer_at, peer_of
from qrusty_trio.http.proxy_header import BadProxyHeader
from tests.certificates import client_context, server_context
from tests.http.test_proxy_header import v2
from tests.http.web import PATHS, Client, running
from tests.server.running import running as whole_server
from tests.server.running import settings_for, until_ready

both_paths = pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])
LOOPBACK = (ip_network("127.0.0.1"),)


def header(host: str, port: int = 5000) -> bytes:
    return f"PROXY TCP{6 if ':' in host else 4} {host} {'::1' if ':' in host else '127.0.0.1'} {port} 80\r\n".encode()


@asynccontextmanager
async def asking(port: int, first: bytes = b"") -> AsyncIterator[Client]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(first)
        yield Client(stream)


# Verifies: API-0162
@both_paths
async def test_an_address_has_so_many_connections(fast_path: bool, caplog: pytest.LogCaptureFixture) -> None:
    admission = Admission(limit=2)
    async with running(fast_path, admission=admission) as web:
        async with asking(web.port) as first, asking(web.port) as second:
            assert (await first.ask("GET", "/health")).status == 200
            assert (await second.ask("GET", "/health")).status == 200
            async with asking(web.port) as third:
                refused = await third.ask("GET", "/health")
                assert (refused.status, refused.headers["retry-after"]) == (503, "2")
                assert refused.json()["error"] == (
                    "Your address has too many connections: at most 2. Close some, or try again later."
                )
                assert await third.ended()
            async with trio.open_nursery() as nursery:
                stream = await trio.open_tcp_stream("127.0.0.1", web.port)
                async with stream:
                    websocket = await wrap_client_stream(nursery, stream, "127.0.0.1", "/ws")
                    with pytest.raises(ConnectionClosed) as closed:
                        await websocket.get_message()
                    assert closed.value.reason is not None
                    assert closed.value.reason.code == 1013
            assert (await first.ask("GET", "/health")).status == 200, "the others go on"
        with trio.fail_after(60):
            while web.context.connections.value:  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.002)
        async with asking(web.port) as again:
            assert (await again.ask("GET", "/health")).status == 200
    assert admission.refused == 2
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line == (
        "1 connection was refused, the last because 127.0.0.1 has 2 already (QRUSTY_MAX_CONNECTIONS_PER_ADDRESS)"
    )


# Verifies: API-0162
async def test_what_counts_as_one_address() -> None:
    admission = Admission(limit=1)
    assert admission.enter(peer_at("2001:db8::1", 1))
    assert not admission.enter(peer_at("2001:db8::ffff:1", 2)), "the same /64"
    assert admission.enter(peer_at("2001:db8:0:1::1", 3))
    assert admission.enter(peer_at("192.0.2.1", 4))
    assert not admission.enter(peer_at("::ffff:192.0.2.1", 5)), "IPv4 over IPv6"
    assert admission.enter(peer_at("192.0.2.2", 6))
    assert all(admission.enter(peers.UNKNOWN) for _ in range(3))
    assert all(admission.enter(peers.Peer(name="unix:uid=1")) for _ in range(3))
    for peer in [peer_at("192.0.2.1", 4), peers.UNKNOWN, peer_at("2001:db8::1", 1)]:
        admission.leave(peer)
    assert admission.enter(peer_at("192.0.2.1", 7))
    assert admission.enter(peer_at("2001:db8::2", 8))


# Verifies: API-0162
@pytest.mark.parametrize(
    ("host", "name", "counts_as"),
    [
        ("192.0.2.1", "192.0.2.1:5", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1:5", "192.0.2.1"),
        ("::ffff:0:c000:201", "[::ffff:0:c000:201]:5", "::/64"),
        ("2001:db8:1:2:3::1", "[2001:db8:1:2:3::1]:5", "2001:db8:1:2::/64"),
        ("fe80::1%lo", "[fe80::1%lo]:5", "fe80::/64"),
    ],
)
def test_the_names_of_an_address(host: str, name: str, counts_as: str) -> None:
    peer = peer_at(host, 5)
    assert (peer.name, peer.port, peer.counts_as) == (name, 5, counts_as)
    assert peer._replace(counted=False).counts_as == ""


async def test_a_peer_that_is_not_known() -> None:
    assert peers.current() is peers.UNKNOWN
    assert peers.UNKNOWN == ("", 0, "", "-", True)
    with trio.socket.socket() as sock:
        assert peer_of(trio.SocketStream(sock)) is peers.UNKNOWN, "it is gone"


# Verifies: API-0163
async def test_when_the_server_stops_no_header_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    admission = Admission(trusted=LOOPBACK)
    for _ in range(2):
        ours, theirs = trio.socket.socketpair()
        with ours, theirs:
            async with trio.open_nursery() as nursery:

                async def wait(stream: trio.SocketStream) -> None:
                    with pytest.raises(BadProxyHeader, match="in time"):
                        await admission.announced(stream, peers.UNKNOWN)

                nursery.start_soon(wait, trio.SocketStream(ours))
                await trio.testing.wait_all_tasks_blocked()
                admission.stop()
    assert admission.refused == 0
    assert not caplog.messages


# Verifies: API-0163
async def test_a_connection_that_breaks_before_its_header(caplog: pytest.LogCaptureFixture) -> None:
    admission = Admission(trusted=LOOPBACK)
    with trio.socket.socket() as sock, pytest.raises(BadProxyHeader, match="broke"):
        await admission.announced(trio.SocketStream(sock), peers.UNKNOWN)
    assert admission.refused == len(caplog.messages) == 1


# Verifies: API-0162
async def test_the_line_in_the_log_is_rare(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    admission = Admission(limit=1)
    peer = peer_at("192.0.2.1", 1)
    admission.enter(peer)
    for _ in range(5):
        assert not admission.enter(peer)
    await trio.sleep(11)
    assert not admission.enter(peer)
    assert [message.split(",")[0] for message in caplog.messages] == [
        "1 connection was refused",
        "5 connections were refused",
    ]


async def seen_by(port: int, first: bytes) -> tuple[int, Any]:
    """The response to a request behind these bytes."""
    async with asking(port, first) as client:
        response = await client.ask("GET", "/health")
        return response.status, response.json()


# Verifies: API-0163
@both_paths
@pytest.mark.parametrize(
    "first",
    [header("192.0.2.1"), header("2001:db8::1"), v2(0x20, 0, b""), b"PROXY UNKNOWN\r\n"],
    ids=["IPv4", "IPv6", "local", "unknown"],
)
async def test_a_trusted_proxy_says_for_whom_it_speaks(fast_path: bool, first: bytes) -> None:
    async with running(fast_path, admission=Admission(trusted=LOOPBACK)) as web:
        assert (await seen_by(web.port, first))[0] == 200
        async with asking(web.port) as client:
            for byte in first:
                await client.send(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked()
            assert (await client.ask("GET", "/health")).status == 200
        async with trio.open_nursery() as nursery, await trio.open_tcp_stream("127.0.0.1", web.port) as stream:
            await stream.send_all(first)
            websocket = await wrap_client_stream(nursery, stream, "127.0.0.1", "/ws")
            await websocket.send_message(json.dumps({"type": "subscribe", "queue": "nothing there"}))
            assert json.loads(await websocket.get_message())["type"] == "error"
            await websocket.aclose()


# Verifies: API-0163
@pytest.mark.parametrize("unix", [True, False])
def test_a_unix_socket_is_trusted_by_its_own_name_alone(unix: bool) -> None:
    admission = Admission(trusted=("unix",) if unix else LOOPBACK)
    assert admission.trusts(peers.Peer(name="unix:uid=1")) == unix
    assert admission.trusts(peers.Peer(name="127.0.0.1:5", host="127.0.0.1")) != unix
    assert not admission.trusts(peers.Peer(name="-")), "nothing is known of it"


# Verifies: API-0163
@both_paths
async def test_a_header_from_anybody_else_is_a_bad_request(fast_path: bool) -> None:
    trusted = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"), "unix")
    async with running(fast_path, admission=Admission(trusted=trusted)) as web:
        status, body = await seen_by(web.port, header("192.0.2.1"))
        assert (status, body["code"]) == (400, "bad_request")
        async with asking(web.port, v2(0x21, 0x11, bytes(12))) as client:
            assert (await client.response()).status == 400


# Verifies: API-0163
@both_paths
@pytest.mark.parametrize(
    "first", [b"", b"PROXY TCP4 1 2 3 4\r\n", v2(0x21, 0x12, b"")], ids=["none", "unreadable", "datagrams"]
)
async def test_a_proxy_without_a_header_is_refused(
    fast_path: bool, first: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    admission = Admission(trusted=LOOPBACK)
    async with running(fast_path, admission=admission) as web:
        status, body = await seen_by(web.port, first)
        assert (status, body["code"]) == (400, "bad_request")
        assert body["error"].startswith("A connection from this address has to begin with a PROXY header: ")
        assert (await seen_by(web.port, header("192.0.2.1")))[0] == 200, "the others go on"
        assert web.context.bulkheads.failures == 0
    assert admission.refused == 1
    assert "is in QRUSTY_TRUSTED_PROXIES, but what it sent first is refused: " in caplog.text


# Verifies: API-0163
async def test_a_proxy_that_leaves_or_says_half(caplog: pytest.LogCaptureFixture) -> None:
    admission = Admission(trusted=LOOPBACK)
    async with running(True, admission=admission) as web:
        for first in [b"", b"PROXY TCP4 192"]:
            async with asking(web.port, first):
                pass
        with trio.fail_after(60):
            while web.context.connections.value or admission.refused < 2:  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.002)
        assert web.context.bulkheads.failures == 0


# Verifies: API-0163
async def test_a_header_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    admission = Admission(trusted=LOOPBACK)
    async with running(True, admission=admission) as web, asking(web.port, b"PROXY TCP4 192.0") as client:
        begun = trio.current_time()
        assert (await client.response()).status == 400
        assert trio.current_time() - begun == pytest.approx(HEADER_SECONDS, abs=0.5)
    assert admission.refused == 1


# Verifies: API-0163
async def test_a_stop_waits_for_no_header() -> None:
    async with running(True, admission=Admission(trusted=LOOPBACK)) as web, asking(web.port, b"PROXY") as client:
        await trio.testing.wait_all_tasks_blocked()
        web.context.stopping.set()
        await client.response()


# Verifies: API-0162, API-0163
@both_paths
async def test_the_clients_of_a_proxy_are_counted_and_not_the_proxy(fast_path: bool) -> None:
    admission = Admission(limit=1, trusted=LOOPBACK)
    async with (
        running(fast_path, admission=admission) as web,
        asking(web.port, header("192.0.2.1")) as first,
        asking(web.port, v2(0x20, 0, b"")) as check,
    ):
        assert (await first.ask("GET", "/health")).status == 200
        assert (await check.ask("GET", "/health")).status == 200
        assert (await seen_by(web.port, header("192.0.2.1")))[0] == 503
        assert (await seen_by(web.port, header("192.0.2.2")))[0] == 200
        assert (await seen_by(web.port, v2(0x20, 0, b"")))[0] == 200
    assert admission.refused == 1


# Verifies: API-0162, API-0163
@both_paths
async def test_a_client_whose_address_is_that_of_a_proxy_is_counted(fast_path: bool) -> None:
    admission = Admission(limit=1, trusted=(ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8")))
    async with running(fast_path, admission=admission) as web:
        for address in ("10.1.2.3", "127.0.0.1"):
            for _ in range(2):
                async with asking(web.port, header(address)) as first, asking(web.port, v2(0x20, 0, b"")) as check:
                    assert (await first.ask("GET", "/health")).status == 200
                    assert (await check.ask("GET", "/health")).status == 200
                    assert (await seen_by(web.port, header(address)))[0] == 503
                    assert (await seen_by(web.port, v2(0x20, 0, b"")))[0] == 200
                with trio.fail_after(60):
                    while web.context.connections.value:  # noqa: ASYNC110  # nobody tells
                        await trio.sleep(0.002)
    assert admission.refused == 4


# Verifies: API-0163
async def test_a_surplus_connection_of_a_proxy_is_told_so() -> None:
    async with (
        running(True, admission=Admission(trusted=LOOPBACK), max_connections=1) as web,
        asking(web.port, header("192.0.2.1")) as first,
    ):
        assert (await first.ask("GET", "/health")).status == 200
        status, body = await seen_by(web.port, header("192.0.2.2"))
        assert (status, body["error"]) == (503, "Too many connections. Try again later.")


# Verifies: API-0162, API-0163
async def test_the_settings_reach_a_whole_server(tmp_path: Path) -> None:
    path = tmp_path / "q.sock"
    settings = settings_for(
        tmp_path / "data",
        bind_addr=(Address("127.0.0.1", 0), UnixAddress(str(path))),
        max_connections_per_address=1,
        trusted_proxies=("unix",),
    )
    async with whole_server(settings) as server:
        await until_ready(server)
        async with asking(server.port) as first:
            assert (await first.ask("GET", "/health")).status == 200
            assert (await seen_by(server.port, b""))[0] == 503
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(header("192.0.2.9"))
            client = Client(stream)
            assert b"qrusty_connections_refused_total 1.0" in (await client.ask("GET", "/metrics")).body


async def test_the_names_of_peers(tmp_path: Path) -> None:
    def pair(family: int, address: Any) -> str:
        with socket.socket(family) as listening, socket.socket(family) as client:
            listening.bind(address)
            listening.listen()
            client.connect(listening.getsockname())
            accepted, _ = listening.accept()
            with accepted:
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
                name = peer_of(stream).name
                shown = client.getsockname()
                stream.socket.close()
                return name.replace(str(shown[1]), "PORT") if family != socket.AF_UNIX else name

    assert pair(socket.AF_INET, ("127.0.0.1", 0)) == "127.0.0.1:PORT"
    assert pair(socket.AF_INET6, ("::1", 0)) == "[::1]:PORT"
    assert pair(socket.AF_UNIX, str(tmp_path / "q")) == f"unix:uid={os.getuid()}"
    assert peer_at("::ffff:192.0.2.1", 7).name == "192.0.2.1:7"


# Verifies: API-0162, API-0163
@both_paths
async def test_the_header_precedes_tls(fast_path: bool, tmp_path: Path) -> None:
    context = server_context(tmp_path)
    admission = Admission(limit=1, trusted=LOOPBACK)

    async def secured(port: int) -> Client:
        raw = await trio.open_tcp_stream("127.0.0.1", port)
        await raw.send_all(header("192.0.2.1"))
        stream = trio.SSLStream(raw, client_context(), server_hostname="127.0.0.1", https_compatible=True)
        return Client(stream)

    async with running(fast_path, admission=admission, tls=lambda: context) as web:
        first, second = await secured(web.port), await secured(web.port)
        assert (await first.ask("GET", "/health")).status == 200
        assert (await second.ask("GET", "/health")).status == 503
        for client in (first, second):
            await trio.aclose_forcefully(client.stream)
        # TLS at once is no header.
        async with asking(web.port, b"\x16\x03\x01\x00\x05") as client:
            with suppress(trio.BrokenResourceError):
                await client.stream.receive_some()
    assert admission.refused == 2
    assert web.context.bulkheads.failures == 0
