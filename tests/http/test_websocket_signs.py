"""What shows that the peer of a WebSocket is there: by a clock of the test, with a transport of the test."""

from __future__ import annotations

from typing import cast

import pytest
import trio
import trio.testing

from qrusty_trio.api.ws_ending import Ending
from qrusty_trio.http.websocket import (
    CLOSE_SECONDS,
    DRAIN_SECONDS,
    UNREAD_SECONDS,
    WebSocketServices,
    serve_connection,
)
from qrusty_trio.http.websocket_transport import WebSocketTransport
from qrusty_trio.logs import LogRing
from tests.http.web import make_engine

INTERVAL, TIMEOUT = 30.0, 8.0


class Told:
    """A transport. Nothing comes from its peer."""

    def __init__(self, sending: bool = False) -> None:
        self.sending = sending
        """If so, the peer takes nothing any more."""
        self.sends = self.held = self.pings = self.bytes_acked = self.bytes_unread = 0
        self.waiting = 2 * sending
        self.last_heard = trio.current_time()
        self.answers = False
        """Whether each ping is answered at once."""
        self.aborted = False
        self.closed: tuple[int, str] | None = None

    def unread(self) -> int:
        return self.bytes_unread

    def acked(self) -> int:
        return self.bytes_acked

    def farewell(self) -> Ending | None:
        return None

    def too_big(self) -> str | None:
        return None

    async def receive(self) -> list[str | bytes]:
        await trio.sleep_forever()
        raise AssertionError

    async def send(self, frames: list[bytes]) -> None:
        if self.sending:
            await trio.sleep_forever()
        self.waiting = 0
        await trio.lowlevel.checkpoint()

    def control_bytes(self) -> int:
        return self.waiting

    def ping(self) -> None:
        self.pings += 1
        self.waiting += 2
        if self.answers:
            self.last_heard = trio.current_time()

    def let_go(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True

    async def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)


async def serve(transport: Told, stops: bool = False) -> None:
    engine = make_engine()
    services = WebSocketServices(engine, engine.dispatcher, engine.services.gate, LogRing(), INTERVAL, TIMEOUT)
    if stops:
        services.stopping.set()
    await serve_connection(cast(WebSocketTransport, transport), services)


# Verifies: WS-0023, WS-0024
@pytest.mark.parametrize(
    ("sending", "sign", "stays"),
    [
        (False, {}, False),
        (True, {}, False),
        (False, {"last_heard": INTERVAL}, True),
        (True, {"last_heard": INTERVAL}, True),
        (False, {"last_heard": INTERVAL - 1}, False),
        (True, {"sends": 1}, True),
        (True, {"bytes_acked": 1}, True),
        (False, {"sends": 1, "bytes_acked": 1}, False),
        (False, {"bytes_unread": 1}, True),
    ],
    ids=str,
)
async def test_a_sign_of_life_after_a_ping(
    sending: bool, sign: dict[str, float], stays: bool, autojump_clock: trio.testing.MockClock
) -> None:
    transport = Told(sending)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, transport)
        await trio.sleep(INTERVAL - 1)
        assert transport.pings == 0
        await trio.sleep(1 + TIMEOUT / 2)
        assert transport.pings == 1
        for name, value in sign.items():
            setattr(transport, name, value + begun if name == "last_heard" else value)
        await trio.sleep(TIMEOUT)
        assert transport.closed == (None if stays else (1001, "no answer to a ping"))
        nursery.cancel_scope.cancel()
    assert transport.aborted is sending


# Verifies: WS-0024
async def test_pings_that_are_answered_at_once(autojump_clock: trio.testing.MockClock) -> None:
    transport = Told()
    transport.answers = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, transport)
        await trio.sleep(10 * INTERVAL)
        assert transport.closed is None
        assert transport.pings > 5
        transport.answers = False
        await trio.sleep(2 * INTERVAL + TIMEOUT)
        assert transport.closed == (1001, "no answer to a ping")


# Verifies: WS-0024
async def test_what_is_not_read_is_a_sign_of_life_for_a_while(autojump_clock: trio.testing.MockClock) -> None:
    transport = Told()
    transport.bytes_unread = 1
    begun = trio.current_time()
    await serve(transport)
    assert transport.closed == (1001, "no answer to a ping")
    assert UNREAD_SECONDS < trio.current_time() - begun <= UNREAD_SECONDS + INTERVAL + TIMEOUT


# Verifies: WS-0023
@pytest.mark.parametrize("sending", [False, True])
async def test_a_silent_peer_gets_a_moment_to_take_what_is_being_sent(
    sending: bool, autojump_clock: trio.testing.MockClock
) -> None:
    begun = trio.current_time()
    await serve(Told(sending))
    assert trio.current_time() - begun == pytest.approx(INTERVAL + TIMEOUT + CLOSE_SECONDS * sending)


class Stubborn(Told):
    """Its peer does not answer a close frame."""

    async def close(self, code: int, reason: str) -> None:
        await super().close(code, reason)
        await trio.sleep_forever()


# Verifies: WS-0023
@pytest.mark.parametrize("kind", [Told, Stubborn])
@pytest.mark.parametrize("sending", [False, True])
async def test_when_the_server_stops_a_send_gets_its_time_and_is_broken_off(
    kind: type[Told], sending: bool, autojump_clock: trio.testing.MockClock
) -> None:
    transport = kind(sending)
    begun = trio.current_time()
    await serve(transport, stops=True)
    limit = DRAIN_SECONDS * sending + CLOSE_SECONDS * (kind is Stubborn)
    assert trio.current_time() - begun == pytest.approx(limit)
    assert transport.closed == (1001, "the server is shutting down")
    assert transport.aborted is sending
