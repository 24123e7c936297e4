"""A connection is a bulkhead: whatever goes wrong while it is served, it alone ends, and everybody else goes on."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from qrusty_trio.api.ws_session import WsSession
from qrusty_trio.http.frame_reader import FrameReader
from qrusty_trio.http.websocket import WsConnection
from tests.http.ws_raw import CLOSE, CONT, PING, PONG, TEXT, frame, head, raw, request, upgrade
from tests.http.ws_server import PATIENCE, both_paths, running

BOOM = "boom"
"""A queue whose name makes the server fail."""
UNSUBSCRIBE = request(type="unsubscribe", queue="x")
OK = {"type": "ok"}


def fail_at(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """Let a method fail for connections that have subscribed to BOOM."""
    original = getattr(owner, name)

    def failing(self: Any, *args: Any) -> Any:
        session = self if isinstance(self, WsSession) else self.session
        if BOOM in session.subscriptions:
            raise AssertionError(f"{name} fails")
        return original(self, *args)

    monkeypatch.setattr(owner, name, failing)


# Verifies: WS-0027
@both_paths
@pytest.mark.parametrize(
    ("owner", "name"),
    [(WsSession, "receive"), (WsSession, "finish"), (WsSession, "take"), (WsConnection, "_last_heard")],
)
@pytest.mark.contained
async def test_a_failure_ends_its_connection_alone(
    fast_path: bool, owner: type, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        running(fast_path, ws_ping_interval_secs=0.2, ws_ping_timeout_secs=5) as server,
        raw(server.port) as other,
    ):
        await server.create(BOOM)
        await server.publish(queue=BOOM, max_retries=1)
        async with raw(server.port) as peer:
            fail_at(monkeypatch, owner, name)
            await peer.send(request(type="subscribe", queue=BOOM))
            await trio.sleep(0.05)  # So that the next frame comes by itself.
            await peer.send(UNSUBSCRIBE)
            while (received := await peer.read()).opcode != CLOSE:
                assert received.opcode == TEXT
            assert received.close_code == 1011
        await server.settle_down(1, 0, 0, queue=BOOM)
        again = await server.http("POST", f"/consume/{BOOM}", {"consumer_id": "c", "timeout_seconds": 30})
        assert again["retry_count"] == 1
        await other.send(UNSUBSCRIBE)
        assert (await other.read()).json() == OK
        records = [record for record in caplog.records if "serving it failed" in record.getMessage()]
        assert records
        assert all(record.exc_info is not None for record in records)


# Verifies: API-0043
@pytest.mark.contained
async def test_failures_are_counted_and_not_all_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: FrameReader, data: bytes, begin: int, texts: int, octets: int) -> int:
        raise RuntimeError("the parser gave what it can't give")

    async with running(True) as server:
        with monkeypatch.context() as broken:
            broken.setattr(FrameReader, "read", fail)
            for _ in range(20):
                async with raw(server.port) as peer:
                    await peer.send(UNSUBSCRIBE)
                    assert (await peer.read()).close_code == 1011
        async with raw(server.port) as peer:
            await peer.send(UNSUBSCRIBE)
            assert (await peer.read()).json() == OK
    records = [record for record in caplog.records if "serving it failed" in record.getMessage()]
    assert 0 < len(records) < 20


@pytest.mark.parametrize(
    ("sent", "responses"),
    [
        (UNSUBSCRIBE, [OK]),
        (frame(PING, b"hello") + UNSUBSCRIBE, [OK]),
        (frame(PONG) * 100_000 + UNSUBSCRIBE, [OK]),
        (frame(PING) * 10_000 + UNSUBSCRIBE, [OK]),
        (frame(TEXT, b"{", fin=False) + frame(CONT, fin=False) * 100_000 + frame(CONT, b"}"), ["invalid_request"]),
        (
            frame(TEXT, b'{"', fin=False) + frame(CONT, b"x", fin=False) * 50_000 + frame(CONT, b'":1}'),
            ["invalid_request"],
        ),
        (frame(TEXT, b"", fin=False) + frame(PING, b"between") + frame(CONT, b"{}"), ["invalid_request"]),
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_odd_and_allowed(sent: bytes, responses: list[Any], together: bool) -> None:
    """Frames that no client sends in earnest; `together`: in the same segment as the handshake."""
    async with running(True) as server, raw(server.port, upgrade() + (sent if together else b"")) as peer:
        assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
        if not together:
            await peer.send(sent)
        await peer.send(frame(CLOSE, b"\x03\xe8"))
        got = []
        with trio.fail_after(PATIENCE):
            while (received := await peer.any_frame()).opcode != CLOSE:
                if received.opcode == TEXT:
                    response = received.json()
                    got.append(response.get("code", response))
        assert got == responses
        assert received.close_code == 1000


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT) * 100_000, 1007),
        (frame(CONT) * 100_000, 1002),
        (frame(CLOSE, b"\x00\x01"), 1002),
        (frame(CLOSE, (1005).to_bytes(2, "big")), 1002),
        (frame(CLOSE, (1006).to_bytes(2, "big")), 1002),
        (frame(CLOSE, (5000).to_bytes(2, "big")), 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (head(CLOSE, 126) + bytes(126), 1002),
        (frame(PING, fin=False), 1002),
        (frame(0x3), 1002),
        (frame(0xB), 1002),
        (frame(TEXT, b"{}", mask=False), 1002),
        (b"\x81\xff" + b"\xff" * 12, 1009),
        (frame(TEXT, b"{", fin=False) + frame(CLOSE, b"\x03\xe8"), 1002),
        (upgrade(), 1002),
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_odd_and_refused(sent: bytes, code: int, together: bool) -> None:
    async with running(True) as server, raw(server.port) as other:
        try:
            async with raw(server.port, upgrade() + (sent if together else b"")) as peer:
                assert (await peer.head()).startswith(b"HTTP/1.1 101 ")
                if not together:
                    await peer.send(sent)
                assert (await peer.read()).close_code == code
        except trio.BrokenResourceError:
            assert len(sent) > 65536  # Closed before all of it was sent.
        await other.send(UNSUBSCRIBE)
        assert (await other.read()).json() == OK
