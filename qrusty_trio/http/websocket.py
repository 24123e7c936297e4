"""The tasks of a WebSocket connection, between its transport (which moves frames) and its session (what they mean).

Rule: one task reads, one writes, one watches for silence and one waits for the server to stop; they share the session
and its bursts. The reader runs a burst through the engine, and reads on while its changes wait for a sync
(`websocket_bursts`). It waits while the outbox is full or too much is unanswered. Only the writer sends. So a peer that
reads slowly delays its own requests and deliveries, and nobody else's.

When the connection ends, for whatever reason, its subscriptions leave the dispatcher at once, and the engine takes back
what was delivered and not settled. Only then may anything wait for the peer. A connection is a bulkhead: an exception
in it is logged and closes it with 1011. It leaves no reference cycle, so what it held is freed at once.

Requirements: WS-0020
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.client import SWITCHING_PROTOCOLS
from time import perf_counter, time_ns
from typing import Protocol

import trio

from qrusty_trio.access.access import Access
from qrusty_trio.access.grants import Principal
from qrusty_trio.api.gate import Gate
from qrusty_trio.api.ws_budget import Budget
from qrusty_trio.api.ws_ending import Ending
from qrusty_trio.api.ws_logs import LogRing
from qrusty_trio.api.ws_session import (
    GOING_AWAY,
    INTERNAL_ERROR,
    NORMAL,
    STORE_FAILED,
    SYNC_FAILED,
    TRY_AGAIN_LATER,
    WsSession,
)
from qrusty_trio.core.dispatch import Dispatcher
from qrusty_trio.core.model import WS_CONSUMER_PREFIX
from qrusty_trio.http.access_log import AccessLog
from qrusty_trio.http.origins import Browser, check_host, check_origin
from qrusty_trio.http.patience import wait_while_running
from qrusty_trio.http.peers import current
from qrusty_trio.http.pipe import ConnectionLost
from qrusty_trio.http.seldom import Seldom
from qrusty_trio.http.turns import Turns
from qrusty_trio.http.websocket_auth import authenticate, look_again
from qrusty_trio.http.websocket_bursts import Bursts, ChangingEngine
from qrusty_trio.http.websocket_notes import TakeNotes
from qrusty_trio.http.websocket_transport import Finished, WebSocketTransport

CLOSE_SECONDS = 2
"""Limit on the closing handshake: a peer that does not answer it is cut off."""
DRAIN_SECONDS = 10
"""Limit on sending the pending frames of a connection that is ending."""
HEAR_SECONDS = 2
"""Limit on serving what a peer sent before a send to it failed."""
CONTROL_BYTES = 64 * 1024
"""Reading pauses once this many bytes of pongs wait to be sent."""
UNREAD_SECONDS = 300
"""For this long, bytes that wait in the socket because we do not read them are a sign of life."""

ABNORMAL = 1006
"""Stands in the access log for the close code of a connection that broke (RFC 6455, 7.4.1)."""


class WebSocketEngine(ChangingEngine, Protocol):
    """What a connection needs from the engine."""

    def join(self, session: WsConnection) -> None:
        """A connection has opened."""

    def leave(self, session: WsConnection, counts: bool, unsent: frozenset[str]) -> None:
        """A connection has ended; see `server.engine.Engine.leave`."""

    def dispatch_soon(self) -> None:
        """A subscriber can take messages again: dispatch at the next opportunity."""


@dataclass(frozen=True, slots=True)
class WebSocketServices:
    """What all connections of a server share."""

    engine: WebSocketEngine
    dispatcher: Dispatcher
    gate: Gate
    logs: LogRing
    ping_interval: float
    """Seconds of silence before a ping."""
    ping_timeout: float
    """Seconds that the peer then has to show a sign of life."""
    allowed_origins: Collection[str] = ()
    allowed_hosts: Collection[str] = ()
    """See `HttpContext`."""
    tokens: Access | None = None
    """The tokens; None: whoever connects may do everything."""
    stopping: trio.Event = field(default_factory=trio.Event)
    """Set when the server shuts down: connections close with 1001."""
    budget: Budget = field(default_factory=Budget)
    """Counts the bytes that all connections hold."""
    turns: Turns = field(default_factory=Turns)
    """Lets a few connections in each pass of the event loop do long work, those of HTTP as well."""
    connections: dict[WsConnection, None] = field(default_factory=dict)
    """The open connections."""
    too_big: Seldom = field(default_factory=Seldom)
    """Log lines about clients that refused a frame for its size."""
    failures: Seldom = field(default_factory=Seldom)
    """Log lines about connections that the server failed to serve."""
    access: AccessLog | None = None
    """None: there is no access log."""
    take_notes: TakeNotes | None = None
    """None: nothing is traced."""
    return_freed: Callable[[], None] = lambda: None
    """Returns freed memory to the system. It blocks, so it is called in a thread, after a shortage."""


def check_handshake(browser: Browser | None, services: WebSocketServices) -> None:
    """Raise HostNotAllowed or OriginNotAllowed if a page in a browser may not connect."""
    check_host(browser, services.allowed_hosts)
    check_origin(browser, services.allowed_origins)


async def serve_connection(
    transport: WebSocketTransport,
    services: WebSocketServices,
    principal: Principal | None = None,
    traceparents: Sequence[str] = (),
) -> None:
    """Serve one connection from its handshake to its end. The caller closes the stream.

    `principal`: whom it speaks for; None if its handshake did not say, or the server has no tokens. `traceparents`:
    those headers of the handshake.

    Requirements: WS-0027
    """
    connection = WsConnection(transport, services, principal, traceparents)
    access = services.access
    if access is None:
        await connection.run()
        return
    peer, begun, session = current(), perf_counter(), connection.session
    access.websocket(peer, session.principal, SWITCHING_PROTOCOLS, begun)
    try:
        await connection.run()
    finally:
        code = session.close_code or (ABNORMAL if session.ending is Ending.LOST else NORMAL)
        access.websocket(peer, session.principal, code, begun)


class _Signal:
    """Wakes one task. It refers to nothing, so holding one to set it keeps no connection alive."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = trio.Event()


def _set_both(one: _Signal, other: _Signal) -> None:
    one.set()
    other.set()


class WsConnection:
    """One connection. Other tasks use only what `http.websocket_watch` needs.

    Requirements: WS-0023
    """

    def __init__(
        self,
        transport: WebSocketTransport,
        services: WebSocketServices,
        principal: Principal | None = None,
        traceparents: Sequence[str] = (),
    ) -> None:
        self._transport = transport
        self._services = services
        self._engine = services.engine
        self._output = _Signal()
        self._drained = _Signal()
        self._lost = False
        self._heard = 0
        self._queues = False
        """Whether frames wait because too many requests are unanswered."""
        self._tasks = trio.CancelScope()
        """The nursery's cancel scope, once it is open."""
        self.consumer = f"{WS_CONSUMER_PREFIX}{uuid.uuid4()}"
        self.session = WsSession(
            self.consumer,
            services.dispatcher,
            services.gate,
            services.logs,
            self._output.set,
            services.budget,
            principal,
        )
        self.session.guarded = services.tokens is not None
        self._notes = services.take_notes(traceparents) if services.take_notes is not None else None
        if self._notes is not None:
            self.session.outbox.handed_out = []
        wake = partial(_set_both, self._output, self._drained)
        self._bursts = Bursts(self._engine, self.session, services.budget, services.turns, self._notes, wake)

    async def run(self) -> None:
        session = self.session
        self._services.connections[self] = None
        look_again(self._services.tokens, session)
        self._engine.join(self)
        try:
            await self._work()
        finally:
            del self._services.connections[self]
            session.ended(self._ending())
            if (largest := self._transport.too_big()) is not None:
                self._services.too_big.log(
                    f"a client closed with 1009, message too big; the largest frame it was sent is {largest}. "
                    "What it held is available again, uncounted: give the client a higher limit"
                )
            self._transport.let_go()
            self._bursts.let_go()
            session.leave()
            counts = session.ending is not None and session.ending.counts
            self._engine.leave(self, counts, frozenset(session.outbox.unsent))
        cancelled = trio.current_effective_deadline() <= trio.current_time()
        if not self._lost and not cancelled:
            with trio.move_on_after(CLOSE_SECONDS):
                await self._transport.close(session.close_code or NORMAL, session.close_reason)

    async def _work(self) -> None:
        """Read, write and watch until the connection ends. Returns even when it was cancelled.

        The next checkpoint raises the cancellation again. This exception refers to all the stack frames it passed
        through, and to what they were sending. Hypercorn and Quart would keep it in reference cycles until the garbage
        collector runs.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._tasks = nursery.cancel_scope
                nursery.start_soon(self._read)
                nursery.start_soon(self._watch)
                nursery.start_soon(self._stop)
                await self._write()
                nursery.cancel_scope.cancel()
        except trio.Cancelled:
            pass
        except BaseExceptionGroup as group:
            failures, others = group.split(Exception)
            fatal = others.split(trio.Cancelled)[1] if others is not None else None
            try:
                if failures is not None:
                    self._services.failures.log("a WebSocket connection ends: serving it failed", failures)
                    self.session.end(INTERNAL_ERROR, "the server failed to serve this connection", Ending.FAILED)
                if fatal is not None:
                    raise fatal from None
            finally:
                del failures, others, fatal  # They refer to this frame.

    def _ending(self) -> Ending:
        """Why the connection ended, if no task has recorded it."""
        farewell = self._transport.farewell()
        if farewell is None:
            return Ending.LOST if self._lost else Ending.STOPPED
        # Hypercorn cancels us when its side of the connection ends, and so does a server that stops.
        stopped = farewell is Ending.LOST and self._services.stopping.is_set()
        return Ending.STOPPED if stopped else farewell

    def has_left(self, id: str) -> bool:
        """Whether no delivery of the message still waits to be sent; see `server.engine.Session`."""
        return self.session.has_left(id)

    def store_failed(self) -> None:
        """The store has failed: close with 1013, so that the client connects again."""
        self._end(TRY_AGAIN_LATER, STORE_FAILED, DRAIN_SECONDS, Ending.FAULT)

    def sync_failed(self) -> None:
        """What was delivered will never leave, as its locks could not be synced: close with 1013, too."""
        self._end(TRY_AGAIN_LATER, SYNC_FAILED, DRAIN_SECONDS, Ending.FAULT)

    async def _read(self) -> None:
        session = self.session
        bursts = self._bursts
        transport = self._transport
        try:
            services = self._services
            frames = await authenticate(transport, session, services.tokens, services.stopping, self._output.set)
            while True:
                # Not only the writer releases them: it may be waiting for the peer, and the peer for us to read.
                bursts.release()
                while session.outbox.full() or bursts.full or transport.control_bytes() > CONTROL_BYTES:
                    await self._drained.wait()
                    bursts.release()
                if session.close_code is not None:
                    return
                frames = frames or await transport.receive()
                while services.budget.crowded:
                    self._queues = True
                    await self._drained.wait()
                    bursts.release()
                self._queues = False
                burst = session.receive(frames)
                frames = []
                if burst.requests:
                    await bursts.serve(burst)
                # Do not keep the burst while waiting for more.
                del burst
                self._heard += 1
                if transport.control_bytes():
                    self._output.set()
        except Finished as end:
            self._end(end.refused or NORMAL, "", DRAIN_SECONDS, transport.farewell() or Ending.REFUSED)
        except ConnectionLost:
            self._lost = True
            self._tasks.cancel()

    async def _write(self) -> None:
        session = self.session
        bursts = self._bursts
        transport = self._transport
        try:
            while True:
                bursts.release()
                frames = session.take()
                if frames or transport.control_bytes():
                    begun = time_ns() if self._notes is not None else 0
                    await transport.send(frames)
                    if self._notes is not None and session.outbox.handed_out:
                        self._notes.delivered(session.outbox.handed_out, begun)
                        session.outbox.handed_out = []
                    if session.sent():
                        # Not in a transaction of its own: a store failure must not end the connection.
                        session.resume()
                        self._engine.dispatch_soon()
                    self._drained.set()
                elif session.close_code is not None and not self._bursts.at_work and not session.outbox.waits:
                    return
                else:
                    await self._output.wait()
        except ConnectionLost:
            self._lost = True
        await self._hear_out()

    async def _hear_out(self) -> None:
        """Nothing can be sent any more. Serve what the peer has sent: its acks, and perhaps its close frame."""
        session = self.session
        self._tasks.deadline = min(self._tasks.deadline, trio.current_time() + HEAR_SECONDS)
        self._bursts.release()
        while session.close_code is None or self.at_work:
            for name in list(session.subscriptions):
                session.unsubscribe(name)
            session.ignore_logs()
            session.outbox.close()
            self._drained.set()
            await self._output.wait()
            self._bursts.release()

    async def _watch(self) -> None:
        """Close with 1001 if the peer shows no sign of life after a ping."""
        transport = self._transport
        interval, timeout = self._services.ping_interval, self._services.ping_timeout
        while True:
            quiet_at = self._last_heard() + interval
            if trio.current_time() < quiet_at:
                await trio.sleep_until(quiet_at)
                continue
            transport.ping()
            self._output.set()
            asked = trio.current_time()
            # While a send waits, all buffers on the way are full. Anything taken then was taken by the peer's program.
            sends, acked = (transport.sends, transport.acked()) if transport.sending else (None, 0)
            await wait_while_running(timeout)
            if self._last_heard() >= asked:
                continue
            if sends is not None and (transport.sends > sends or transport.acked() > acked):
                continue
            self._end(GOING_AWAY, "no answer to a ping", CLOSE_SECONDS, Ending.SILENT)
            return

    def _last_heard(self) -> float:
        transport = self._transport
        now = trio.current_time()
        if now - transport.last_heard < UNREAD_SECONDS and transport.unread():
            return now
        return transport.last_heard

    async def _stop(self) -> None:
        try:
            await self._services.stopping.wait()
            self._end(GOING_AWAY, "the server is shutting down", DRAIN_SECONDS, Ending.STOPPED)
            await trio.sleep_forever()
        finally:
            if self._transport.sending:
                self._transport.abort()

    def _end(self, code: int, reason: str, seconds: float, ending: Ending) -> None:
        """Close once the outbox is empty, or after `seconds`."""
        self.session.end(code, reason, ending)
        self._tasks.deadline = min(self._tasks.deadline, trio.current_time() + seconds)

    # For `http.websocket_watch`

    @property
    def held(self) -> int:
        """Bytes held for the peer."""
        return self.session.outbox.size + self._bursts.held + self._transport.held

    @property
    def at_work(self) -> bool:
        """Whether a burst runs, or waits for its sync, or for its turn to be decoded."""
        return self._queues or self._bursts.at_work

    @property
    def progress(self) -> int:
        """Grows whenever the peer takes a piece that was sent, or a burst it sent has been served."""
        return self._transport.sends + self._heard + self._bursts.released

    def relieve(self) -> None:
        """There is room again in the shared budget: resume reading and deliveries."""
        self._drained.set()
        if self.session.can_resume():
            self.session.resume()
            self._engine.dispatch_soon()

    def cut_off(self) -> None:
        """The peer has stalled and room is needed: end the connection at once."""
        self.session.end(TRY_AGAIN_LATER, "nothing was taken for too long", Ending.STALLED)
        self._tasks.cancel()
