"""Hypercorn's WebSocket, changed so that what came before its end is answered.

Rule: Hypercorn answers a close frame at once, and drops what the app sends after that. At a frame that breaks RFC 6455
it ends the connection without a word. Here the end is one more message to the app, a `LastMessage`. The app answers
what came before, and ends, within the limits of `http.websocket`. Only then the connection ends: with an echo of the
peer's close frame, or with the code of what was wrong. What follows the end is not done.

A WebSocket over HTTP/2 ends as Hypercorn ends it: its responses may wait for a window that is never opened.

This subclasses a class that is not public in Hypercorn; tests/http/fallback/test_hypercorn.py fails when that changes.

Requirements: SYS-0019
"""

from __future__ import annotations

from typing import Any

import hypercorn.protocol.h11
import trio
from hypercorn.protocol.events import Body, Data, Event, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState, FrameTooLargeError, WSStream
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping
from wsproto.frame_protocol import CloseReason

from qrusty_trio.api.ws_ending import Ending
from qrusty_trio.http.fallback.guard import guard_of


class LastMessage(str):
    """What the app receives when nothing more follows: an empty text that says how the connection ended."""

    ending: Ending
    close: CloseConnection
    """The peer's close frame, or the one that answers what it did wrong."""

    def __new__(cls, ending: Ending, close: CloseConnection) -> LastMessage:
        self = super().__new__(cls)
        self.ending = ending
        self.close = close
        return self


class WebSocketStream(WSStream):
    """One WebSocket."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.last: LastMessage | None = None
        """Set once the connection has to end as soon as the app has answered."""
        self._left = trio.Event()
        """Set when the app has ended."""

    async def handle(self, event: Event) -> None:
        """Take what the peer sent. `StreamClosed`: it has closed its side, or the connection has ended."""
        if isinstance(event, (Body, Data)) and self.last is not None:
            return  # It follows the end.
        if isinstance(event, StreamClosed) and self._can_answer():
            if self.last is None:
                await self._end(Ending.LOST, CloseConnection(CloseReason.ABNORMAL_CLOSURE))
            await self._left.wait()
        await super().handle(event)

    def _can_answer(self) -> bool:
        """Whether the peer has only closed its side, and the app runs."""
        if self.closed or self.app_put is None or self._left.is_set():
            return False
        end = guard_of(self.scope["state"]).end
        return self._is_open and end.peer_closed and not (end.broken or end.closing)

    @property
    def _is_open(self) -> bool:
        """Whether the app has accepted the WebSocket, and not closed it."""
        return self.state is ASGIWebsocketState.CONNECTED

    async def _handle_events(self) -> None:
        """As in Hypercorn, but for the end, and with a turn for each from the third one on."""
        assert self.app_put is not None
        turns = guard_of(self.scope["state"]).turns
        for number, event in enumerate(self.connection.events()):
            if isinstance(event, Message):
                try:
                    self.buffer.extend(event)
                except FrameTooLargeError:
                    await self._end(Ending.REFUSED, CloseConnection(CloseReason.MESSAGE_TOO_BIG))
                    return
                if event.message_finished:
                    await self.app_put(self.buffer.to_message())
                    self.buffer.clear()
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                closes = self.connection.state is ConnectionState.REMOTE_CLOSING
                await self._end(Ending.CLOSED if closes else Ending.REFUSED, event)
                return
            if number:
                # Not between a close frame and the end: wsproto sends no more responses once it has read that frame.
                await turns.next()

    async def _end(self, ending: Ending, close: CloseConnection) -> None:
        """Nothing more follows. If the app has closed, this is the answer to that."""
        assert self.app_put is not None
        self.buffer.clear()
        if not self._is_open:
            await self.send(StreamClosed(stream_id=self.stream_id))
            return
        self.last = LastMessage(ending, close)
        # wsproto would send no more responses either.
        self._set_connection(ConnectionState.OPEN)
        await self.app_put({"type": "websocket.receive", "bytes": None, "text": self.last})

    def _set_connection(self, state: ConnectionState) -> None:
        vars(self.connection)["_state"] = state

    async def app_send(self, message: Any) -> None:
        """Send what the app sends; None: it has ended."""
        last = self.last
        if message is None:
            self._left.set()
            if last is not None and last.ending is not Ending.REFUSED and not self.closed:
                self.state = ASGIWebsocketState.CLOSED
                if last.ending is Ending.CLOSED:
                    self._set_connection(ConnectionState.REMOTE_CLOSING)
                    await self._send_wsproto_event(last.close.response())
        elif message["type"] == "websocket.close" and last is not None and last.ending is not Ending.REFUSED:
            return  # The peer has closed.
        await super().app_send(message)


async def send_ping(stream: WSStream) -> None:
    """Send a ping, also over HTTP/2, unless the connection is ending."""
    if stream.state is ASGIWebsocketState.CONNECTED and not stream.closed:
        await stream._send_wsproto_event(Ping())


def install() -> None:
    """Make Hypercorn use this class for WebSockets over HTTP/1.1."""
    hypercorn.protocol.h11.WSStream = WebSocketStream  # type: ignore[attr-defined]  # there is no setting for it
