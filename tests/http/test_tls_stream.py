"""The stream under a connection over TLS: what it reads and writes of which record, and how it ends."""

from __future__ import annotations

import socket
import ssl
import struct
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from qrusty_trio.http import tls
from qrusty_trio.http.tls import RECORD_BYTES, TlsStream
from tests.certificates import TlsPeer, authority, client_certificate, client_context, server_context

PATIENCE = 60


async def test_a_stream_that_is_used_wrongly(tmp_path: Path) -> None:
    ours, theirs = await _pair(tmp_path)
    await ours.send_eof()
    await ours.send_eof()
    with pytest.raises(trio.BrokenResourceError):
        await ours.send_all(b"x")
    await theirs.stream.send_all(b"raw")
    assert await ours.receive_some(3) == b"raw"  # what is discarded is not decrypted
    await ours.aclose()
    await ours.aclose()
    for use in (ours.receive_some, ours.wait_send_all_might_not_block, ours.send_eof):
        with pytest.raises(trio.ClosedResourceError):
            await use()
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"x")
    await theirs.stream.aclose()


async def test_a_record_is_waited_for_until_it_is_whole(tmp_path: Path) -> None:
    ours, theirs = await _pair(tmp_path)
    theirs.put(b"abc")
    record = theirs.outgoing.read()
    found: list[bytes] = []

    async def receive() -> None:
        found.append(await ours.receive_some())

    async with ours, theirs.stream, trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        for cut in (2, 4, len(record) - 2):
            await theirs.stream.send_all(record[cut - 2 : cut] if cut < 5 else record[4:-1])
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not found
        await theirs.stream.send_all(record[-1:])
        with trio.fail_after(PATIENCE):
            while not found:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert found == [b"abc"]


async def test_a_socket_that_takes_nothing_more_is_waited_for(tmp_path: Path) -> None:
    ours, theirs = await _pair(tmp_path)
    sent, data = 0, b"x" * 8_000_000
    async with ours, theirs.stream:
        while taken := ours.write_now(data[sent:]):
            sent += taken
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.wait_send_all_might_not_block)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert nursery.child_tasks
            nursery.start_soon(ours.send_all, data[sent:])
            received = 0
            with trio.fail_after(PATIENCE):
                while received < len(data):
                    part = await theirs.read()
                    assert part == b"x" * len(part)
                    received += len(part)
        assert received == len(data)


async def test_the_rest_of_a_record_leaves_with_nothing_behind_it(tmp_path: Path) -> None:
    ours, theirs = await _pair(tmp_path)
    record = b"x" * RECORD_BYTES
    expected = received = 0
    async with ours, theirs.stream:
        while taken := ours.write_now(record):
            expected += taken
        with trio.fail_after(PATIENCE):
            while received < expected:
                received += len(await theirs.read())
            while not (taken := ours.write_now(record)):
                await ours.wait_send_all_might_not_block()
            assert taken == RECORD_BYTES
            while received < expected + taken:
                received += len(await theirs.read())


async def test_a_peer_that_resets_the_connection(tmp_path: Path) -> None:
    ours, theirs = await _pair(tmp_path)
    theirs.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await theirs.stream.aclose()
    async with ours:
        with pytest.raises(trio.BrokenResourceError, match="TLS"):
            await ours.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"x")


async def test_a_read_ends_soon_after_what_was_asked_for(tmp_path: Path) -> None:
    """About as much, always whole records; the others are left in the socket."""
    ours, theirs = await _pair(tmp_path)
    async with ours, theirs.stream:
        for _ in range(10):
            theirs.put(b"x" * 100)
        await theirs.flush()
        assert len(ours.read_now(150)) == 200
        assert len(ours.read_now(200)) == 200
        assert len(ours.read_now(1)) == 100
        assert len(ours.read_now(10_000)) == 500
        with pytest.raises(BlockingIOError):
            ours.read_now(1)


async def test_whoever_waits_learns_that_the_stream_is_closed(tmp_path: Path) -> None:
    ours, theirs = await _pair(tmp_path)

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await ours.receive_some()

    with trio.fail_after(PATIENCE):
        async with theirs.stream, trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await ours.aclose()


async def test_each_call_gives_others_a_turn(tmp_path: Path) -> None:
    ours, theirs = await _pair(tmp_path)
    async with theirs.stream:
        theirs.put(b"abc")
        await theirs.flush()
        for call in (
            partial(ours.send_all, b"x"),
            ours.wait_send_all_might_not_block,
            ours.receive_some,
            ours.send_eof,
            ours.aclose,
            ours.aclose,
        ):
            with trio.testing.assert_checkpoints():
                await call()


# Verifies: API-0186
async def test_whom_a_certificate_names(tmp_path: Path) -> None:
    server = server_context(tmp_path, client_ca=True)
    for shown, name in ((client_certificate(), "billing"), (authority().issue_cert("x@test.example"), None)):
        ours, theirs = await _pair(tmp_path, server, client_context(shown))
        assert ours.subject == name
        await ours.aclose()
        await theirs.stream.aclose()
    ours, theirs = await _pair(tmp_path)
    assert ours.subject is None
    await ours.aclose()
    await theirs.stream.aclose()


async def test_a_response_that_left_in_part_is_not_closed_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "WRITE_BYTES", RECORD_BYTES)
    ours, theirs = await _pair(tmp_path)
    assert ours.write_now(b"x" * 3 * RECORD_BYTES) == RECORD_BYTES
    await ours.aclose()
    with pytest.raises(EOFError):
        while await theirs.read():
            pass
    await theirs.stream.aclose()


async def _pair(
    tmp_path: Path, server: ssl.SSLContext | None = None, client: ssl.SSLContext | None = None
) -> tuple[TlsStream, TlsPeer]:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        stream = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        ours = TlsStream(await listener.accept(), server or server_context(tmp_path))
    theirs = TlsPeer(stream, client or client_context())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.shake_hands)
        while True:
            try:
                ours.step()
                break
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(ours.socket)
    return ours, theirs
