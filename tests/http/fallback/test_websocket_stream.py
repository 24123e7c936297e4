"""One WebSocket between Hypercorn and the app: the end of its peer comes last, and may be answered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from hypercorn.config import Config
from hypercorn.protocol.events import Data, Event, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState
from trio.testing import wait_all_tasks_blocked
from wsproto.connection import Connection, ConnectionType

from qrusty_trio.api.ws_ending import Ending
from qrusty_trio.http.fallback.connection_end import ConnectionEnd
from qrusty_trio.http.fallback.guard import GUARD_KEY
from qrusty_trio.http.fallback.websocket_stream import LastMessage, WebSocketStream
from qrusty_trio.http.turns import Turns
from tests.http.ws_raw import CLOSE, CONT, PING, TEXT, frame

MOST = 10
BYE = frame(CLOSE, b"\x0f\xa0bye")
"""With 4000."""


class Talk:
    """A WebSocket that the app has accepted: what the app is given, and what the peer is sent."""

    def __init__(self) -> None:
        config: Any = Config()
        config.websocket_max_message_size = MOST
        nothing: Any = None
        self.sent: list[Event] = []
        self.given: list[Any] = []
        self.end = ConnectionEnd()
        self.stream = stream = WebSocketStream(
            nothing, config, nothing, nothing, False, None, None, self._send, stream_id=1
        )
        scope: Any = {"state": {GUARD_KEY: SimpleNamespace(end=self.end, turns=Turns())}}
        handshake: Any = SimpleNamespace(accepted=True)
        stream.scope, stream.handshake = scope, handshake
        stream.connection = Connection(ConnectionType.SERVER)
        stream.state = ASGIWebsocketState.CONNECTED
        stream.app_put = self._put

    async def _send(self, event: Event) -> None:
        self.sent.append(event)

    async def _put(self, message: Any) -> None:
        self.given.append(message)

    async def come(self, *frames: bytes) -> None:
        for each in frames:
            await self.stream.handle(Data(stream_id=1, data=each))

    async def says(self, message: Any) -> None:
        await self.stream.app_send(message)

    @property
    def data(self) -> bytes:
        return b"".join(bytes(event.data) for event in self.sent if isinstance(event, Data))

    def last(self) -> LastMessage:
        last = self.given[-1]["text"]
        assert isinstance(last, LastMessage)
        return last


def text(of: str) -> dict[str, Any]:
    return {"type": "websocket.send", "bytes": None, "text": of}


async def test_messages_and_pings() -> None:
    talk = Talk()
    await talk.come(frame(TEXT, b"a", fin=False), frame(PING, b"p"), frame(CONT, b"b"), frame(TEXT, b"c" * MOST))
    assert [message["text"] for message in talk.given] == ["ab", "c" * MOST]
    assert talk.data == b"\x8a\x01p"


# Verifies: API-0042
@pytest.mark.parametrize("answers", [True, False])
async def test_a_peer_that_has_closed_its_side_is_answered(answers: bool) -> None:
    talk = Talk()
    talk.end.peer_closed = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk.stream.handle, StreamClosed(stream_id=1))
        await wait_all_tasks_blocked()
        assert (talk.last().ending, talk.last().close.code, talk.last()) == (Ending.LOST, 1006, "")
        await talk.come(frame(TEXT, b"late"))
        assert len(talk.given) == 1, "it follows the end"
        if answers:
            await talk.says(text("x"))
        await talk.says({"type": "websocket.close", "code": 1001, "reason": ""})
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        await talk.says(None)
    assert talk.data == (b"\x81\x01x" if answers else b"")
    assert isinstance(talk.sent[-1], StreamClosed)
    assert talk.given[-1]["type"] == "websocket.disconnect"


@pytest.mark.parametrize("what", ["open", "broken", "closing", "closed", "not accepted", "without an app", "left"])
async def test_others_are_not(what: str) -> None:
    talk = Talk()
    talk.end.peer_closed = what != "open"
    talk.end.broken = what == "broken"
    talk.end.closing = what == "closing"
    talk.stream.closed = what == "closed"
    if what == "not accepted":
        talk.stream.state = ASGIWebsocketState.HANDSHAKE
    elif what == "without an app":
        talk.stream.app_put = None
    elif what == "left":
        await talk.says(None)
    with trio.fail_after(60):
        await talk.stream.handle(StreamClosed(stream_id=1))
    assert talk.stream.closed
    assert [each["type"] for each in talk.given] == (
        [] if what in ("closed", "without an app") else ["websocket.disconnect"]
    )


async def test_a_close_frame_is_answered_when_the_app_has_ended() -> None:
    talk = Talk()
    await talk.come(frame(TEXT, b"a") + BYE, frame(TEXT, b"late"))
    assert [message["text"] for message in talk.given] == ["a", ""]
    assert (talk.last().ending, talk.last().close.code, talk.last().close.reason) == (Ending.CLOSED, 4000, "bye")
    await talk.says(text("x"))
    await talk.says({"type": "websocket.close", "code": 1001, "reason": ""})
    assert talk.data == b"\x81\x01x"
    await talk.says(None)
    assert talk.data == b"\x81\x01x\x88\x05\x0f\xa0bye"
    assert [type(event) for event in talk.sent[-2:]] == [Data, StreamClosed]


async def test_a_message_too_large_is_refused_by_the_app() -> None:
    talk = Talk()
    await talk.come(frame(TEXT, b"a", fin=False), frame(CONT, b"x" * MOST, fin=False), frame(CONT, b"late"))
    assert (talk.last().ending, talk.last().close.code) == (Ending.REFUSED, 1009)
    assert len(talk.given) == 1
    assert talk.stream.buffer.length == 0
    await talk.says({"type": "websocket.close", "code": 1009, "reason": ""})
    assert talk.data == b"\x88\x02\x03\xf1"
    await talk.says(None)
    assert isinstance(talk.sent[-1], StreamClosed)


async def test_what_breaks_the_rules_is_refused() -> None:
    talk = Talk()
    await talk.come(b"\x81\x01a")
    assert (talk.last().ending, talk.last().close.code) == (Ending.REFUSED, 1002)


async def test_a_close_frame_that_answers_the_one_of_the_app_ends_the_stream() -> None:
    talk = Talk()
    await talk.says({"type": "websocket.close", "code": 1001, "reason": ""})
    before = len(talk.sent)
    await talk.come(frame(CLOSE, b"\x03\xe9"))
    assert not talk.given
    (ended,) = talk.sent[before:]
    assert isinstance(ended, StreamClosed)
    assert ended.stream_id == 1
