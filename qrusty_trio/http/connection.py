"""A connection of the fast path: HTTP/1.1 requests for the operation table, answered on the raw stream.

Rule: one read, one burst, one `engine.run`, one write. Requests that arrived together run together, at most
REQUESTS_PER_STEP at a time, and are answered in order. Anything but a plain request for the operation table hands the
connection over for good, with every byte not yet served: to `fast_websocket`, or to the fallback. A request that two
parsers could read differently is refused with 400, and the connection is closed.

The way of a request: `_read` (or `batching`, while the connection is parked there) -> `request_parser` -> `_plan` makes
calls and pending responses -> `_respond` runs the calls and sends the responses. A connection has no timer of its own.
It records its phase and the tick at which that began; see `fast_path`.

Requirements: SYS-0019
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import perf_counter

import trio

from qrusty_trio.access.access import Access
from qrusty_trio.access.grants import Principal
from qrusty_trio.api.call import Call, Reply
from qrusty_trio.api.operations import check_content_type, error_reply
from qrusty_trio.errors import MethodNotAllowed, QrustyError
from qrusty_trio.http import peers
from qrusty_trio.http.access_log import path_of
from qrusty_trio.http.authenticating import find_for_block, hold, missing
from qrusty_trio.http.batching import Batching, Unsent
from qrusty_trio.http.byte_budget import LARGE_BYTES, SMALL_BYTES, Holding
from qrusty_trio.http.fast_websocket import serve_fast_websocket
from qrusty_trio.http.header_block import MAX_HEADER_BYTES, HeaderBlock
from qrusty_trio.http.lingering import LINGER_SECONDS, linger
from qrusty_trio.http.origins import check_host, check_origin
from qrusty_trio.http.pauses import EventPause, SocketPause
from qrusty_trio.http.pending import PLAIN, PendingResponse, pending_file
from qrusty_trio.http.pipe import READ_BYTES, ConnectionLost, SocketPipe, give_back_refused, pipe_over
from qrusty_trio.http.request_line import Target
from qrusty_trio.http.request_log import REFUSED, SLOW_SECONDS, UNKNOWN
from qrusty_trio.http.request_parser import Request, RequestParser, ServedElsewhere
from qrusty_trio.http.responses import CLOSE, KEEP_ALIVE, cors_headers, header_lines
from qrusty_trio.http.shared import BODY, HEADERS, IDLE, SENDING, WORKING, Shared

REQUESTS_PER_STEP = 64
"""Most requests of a connection that run together."""


class FastConnection:
    """One connection. Planning fills `_pending` and `_calls`; responding empties them.

    Requirements: API-0038
    """

    def __init__(self, shared: Shared, batching: Batching, stream: trio.abc.Stream) -> None:
        self._shared = shared
        self._context = shared.context
        self._engine = shared.context.engine
        self._access = shared.context.access
        self._stream = stream
        self._delay = 0.0
        """Seconds to wait before this burst is run or answered."""
        self._pipe = pipe_over(stream)
        self._batching: Batching | None = None
        self._parser = RequestParser(shared.lines)
        self._calls: list[Call] = []
        self._pending: list[PendingResponse] = []
        self._leave: Callable[[], Awaitable[None]] | None = None
        """What to do after the responses of this burst instead of reading on."""
        self.received = Holding(shared.context.received)
        self.unsent = Holding(shared.context.unsent)
        self.pause: EventPause | SocketPause | None = None
        """How a call waits, while calls run."""
        self._sends_file = False
        """A file is among the responses planned."""
        self._has_read_ahead = False
        """The parser was fed while a call waited."""
        self.peer = peers.current()
        self._tokens = shared.context.tokens
        self._begun = 0.0
        """`perf_counter()` when the planned requests began to be served; for the access log only."""
        self.given: Sequence[Reply] = ()
        """The deliveries among the responses sent last, without their payloads."""

        # For `batching`, while the connection is parked there.
        self.fd = -1
        if isinstance(self._pipe, SocketPipe):
            self._batching = batching
            self.fd, self.read_now, self.write_now = self._pipe.fd, self._pipe.read_now, self._pipe.write_now
        self.task: trio.lowlevel.Task | None = None
        """The connection's task while it is parked; else None."""
        self.reading_paused = False
        """Parked, but not polled."""
        self.served_parked = False
        """A request was served while the connection was parked."""

        # For `fast_path`, which watches the time.
        self.scope = trio.CancelScope()
        self.phase = IDLE
        self.since = shared.now
        self.timed_out = False

    def _enter(self, phase: int) -> None:
        self.phase = phase
        self.since = self._shared.now

    def _progress(self) -> None:
        self.since = self._shared.now

    async def run(self) -> None:
        """Serve the connection to its end. The caller closes the stream."""
        try:
            with self.scope:
                await self._serve()
            self._parser = RequestParser(self._shared.lines)  # drops what has arrived
            self.received.set(0)
            if self.timed_out and self.phase in (HEADERS, BODY):
                reply = self._shared.incomplete()
                with trio.move_on_after(LINGER_SECONDS):
                    await self._pipe.send(self._shared.responses.response(reply, CLOSE), self._progress)
                    await linger(self._stream)
        except ConnectionLost:
            return

    async def _serve(self) -> None:
        while True:
            full = self._plan()
            if self._pending:
                await self._respond()
            if self._leave is not None:
                self.received.set(0)
                await self._leave()
                return
            if full or self._has_read_ahead:
                self._has_read_ahead = False
                await self._context.websocket.turns.next()
            elif self._parser.buffer.ended:
                await give_back_refused(self._pipe, self._engine, self.given)
                return
            else:
                self._await_request()
                await self._read()

    # Bytes in

    def _await_request(self) -> None:
        parser = self._parser
        phase = BODY if parser.missing > 0 else HEADERS if len(parser.buffer) else IDLE
        if phase != self.phase:
            # While a header block or body arrives in pieces, its clock runs on.
            self._enter(phase)

    async def _read(self) -> None:
        """Feed the parser, or plan the call that was read while the connection was parked.

        Requirements: DLV-0023
        """
        if len(self._parser.buffer):
            await self._read_rest()
        elif self._batching is None:
            self._feed(await self._pipe.receive())
        else:
            await self._park()

    def _feed(self, data: bytes) -> None:
        self._parser.feed(data)
        held = len(self._parser.buffer)
        if held > self.received.held:
            self.received.set(held)

    def read_ahead(self, limit: int) -> bool | None:
        """See `pauses.Reader`."""
        room = limit - len(self._parser.buffer)
        if room <= 0:
            return False
        try:
            piece = self.read_now(room)
        except BlockingIOError:
            return True
        except OSError as error:
            raise ConnectionLost from error
        if not piece:
            return None
        self._feed(piece)
        self._has_read_ahead = True
        return True

    async def _park(self) -> None:
        assert self._batching is not None
        arrived = await self._batching.receive(self)
        if self.served_parked or not isinstance(arrived, bytes):
            self.served_parked = False
            self._parser.request_read()
        if isinstance(arrived, Unsent):
            await self._send_rest(arrived)
        elif isinstance(arrived, Call):
            self._calls.append(arrived)
            self._pending.append(PLAIN)
        else:
            self._feed(arrived)

    async def _send_rest(self, unsent: Unsent) -> None:
        """Send the rest of a response that `batching` began to send."""
        self._enter(SENDING)
        try:
            await self._pipe.send(unsent.data, self._progress, unsent.sent)
        except BaseException:
            self._engine.give_back(unsent.reply)
            raise
        finally:
            self.unsent.set(0)
        self.given = () if not unsent.reply.deliveries else (unsent.reply,)
        self._enter(IDLE)
        if self._shared.stopping:
            self._leave = self._linger

    async def _read_rest(self) -> None:
        """Read on in a request of which a part has arrived, once there is room for it."""
        parser = self._parser
        held = len(parser.buffer)
        if parser.missing:
            whole = held + parser.missing
        else:
            whole = (held if held < SMALL_BYTES else MAX_HEADER_BYTES) + READ_BYTES
        most = READ_BYTES
        if held < SMALL_BYTES and (not parser.missing or whole <= SMALL_BYTES):
            most = SMALL_BYTES
        elif self.received.held < whole:
            # Stop the request's clock while it waits for the server.
            phase, self.phase = self.phase, WORKING
            await self.received.reserve(whole)
            self._enter(phase)
        self._feed(await self._pipe.receive(most))

    def arrived(self) -> int | None:
        """Bytes that are here of an incomplete request; None if there is none."""
        return len(self._parser.buffer) if self.phase in (HEADERS, BODY) else None

    def lags(self) -> bool:
        """Whether others wait for room while this peer stalls."""
        now = self._shared.now
        if self.phase == SENDING:
            return self.unsent.lags(now, self._pipe.sent) or self.received.lags(now, self._pipe.sent)
        return self.phase in (HEADERS, BODY) and self.received.lags(now, len(self._parser.buffer))

    # Requests to calls

    def _plan(self) -> bool:
        """Plan the requests that are complete. True: the burst is full, and there may be more."""
        pending = self._pending
        next_request = self._parser.next
        limit = 1 if self.unsent.budget.short else REQUESTS_PER_STEP
        try:
            while self._leave is None:
                if len(pending) >= limit:
                    return True
                request = next_request()
                if request is None:
                    break
                if isinstance(request, ServedElsewhere):
                    self._leave = partial(self._hand_over, request.data, request.websocket)
                else:
                    self._plan_request(request)
                    if request.line.file is not None:
                        return True  # One in a burst, as it may be large.
        except QrustyError as error:
            reply = error_reply(error)
            identity = self._context.requests.note(UNKNOWN, self._parser.refused, reply)
            pending.append(PendingResponse(reply, CLOSE if identity is None else CLOSE + identity.header))
            self._leave = self._linger
        return False

    def _plan_request(self, request: Request[Target]) -> None:
        target, block = request.line, request.block
        operation = target.operation
        plain = target.batchable and block.batchable and block.json
        if plain and operation is not None and self._tokens is None:
            # The usual request: nothing is to be checked, and the response has no headers of its own.
            self._calls.append(Call(operation, target.params, request.body, target.query, None, block.identity))
            self._pending.append(PLAIN)
            return
        extra = b""
        if not block.keep_alive:
            extra = CLOSE
            self._leave = self._linger
        elif not target.http11:
            extra = KEEP_ALIVE
        browser = block.browser
        if browser is not None:
            extra += header_lines(cors_headers(browser.origin, self._context.allowed_origins))
        try:
            if browser is not None:
                check_host(browser, self._context.allowed_hosts)
            if target.file is not None:
                self._pending.append(pending_file(target.file, block, extra, target.head_only, target.asked))
                self._sends_file = True
                return
            if operation is None:
                assert target.refusal is not None
                raise target.refusal
            principal = None
            if self._tokens is not None and operation.needs.token:
                principal = self._principal(self._tokens, block)
            if browser is not None and operation.mutating:
                check_origin(browser, self._context.allowed_origins)
            if not block.json:
                check_content_type(operation, block.content_type, not request.body)
        except QrustyError as error:
            if isinstance(error, MethodNotAllowed):
                extra += header_lines({"allow": error.allow})
            reply = error_reply(error)
            identity = self._context.requests.note(UNKNOWN, block.identity, reply)
            if identity is not None:
                extra += identity.header
            asked = (
                (operation.method, path_of(operation.path, target.params)) if operation is not None else target.asked
            )
            self._pending.append(PendingResponse(reply, extra, target.head_only, asked=asked))
            return
        call = Call(operation, target.params, request.body, target.query, None, block.identity, principal)
        self._calls.append(call)
        self._pending.append(PendingResponse(None, extra, target.head_only))

    def _principal(self, access: Access, block: HeaderBlock) -> Principal:
        """Whom a request speaks for. Raises Unauthenticated and TooManyFailures."""
        found = find_for_block(access, block, self.peer)
        self._delay = max(self._delay, found.wait)
        if found.principal is None:
            raise found.refusal or missing()
        return found.principal

    def _look_again(self) -> None:
        """Let the calls have what their tokens may do now: these may have been read anew while the burst was held."""
        if (tokens := self._tokens) is not None:
            for call in self._calls:
                call.principal = call.principal and tokens.current(call.principal)

    async def _hand_over(self, data: bytes, websocket: bool) -> None:
        self.phase = WORKING
        if websocket:
            await serve_fast_websocket(self._stream, data, self._context.websocket)
        else:
            await self._shared.run_fallback(self._stream, data)

    # Replies to responses, and bytes out

    async def _respond(self) -> None:
        """Run the planned calls and send the responses."""
        sent: list[Reply] = []
        self.given = sent
        if self._delay:
            self.phase = WORKING
            delay, self._delay = self._delay, 0.0
            await hold(delay, self._context.stopping)
            self._look_again()
        while self._pending:
            self.phase = WORKING
            if self._sends_file or any(call.operation.large for call in self._calls):
                self._sends_file = False
                tight = self.unsent.budget.tight
                await self.unsent.reserve(LARGE_BYTES)
                if tight and self._pipe.gone():
                    raise ConnectionLost
            if self._access is not None:
                self._begun = perf_counter()
            data, given = self._first_responses(await self._run() if self._calls else [])
            self.unsent.set(len(data))
            if not self._pending:
                self.received.set(len(self._parser.buffer))
            self._enter(SENDING)
            try:
                await self._pipe.send(data, self._progress)
            except BaseException:
                # Messages in responses that were sent whole stay delivered; the others go back.
                for end, reply in given:
                    if end > self._pipe.sent:
                        self._engine.give_back(reply)
                raise
            self.unsent.set(0)
            sent += [reply for _, reply in given]
            del data, given  # do not hold them while more calls run
            self._look_again()

    async def _run(self) -> list[Reply]:
        """Run the planned calls. One may wait for a message."""
        batching = self._batching
        pause = self.pause = EventPause(self.unsent) if batching is None else SocketPause(self, batching)
        begun = perf_counter()
        try:
            replies = await self._engine.run(self._calls, pause)
        finally:
            self.pause = None  # It refers to this connection.
        seconds = perf_counter() - begun
        if seconds >= SLOW_SECONDS and not pause.waited:
            for call in self._calls[: len(replies)]:
                self._context.requests.took(call, seconds)
        return replies

    def _first_responses(self, replies: list[Reply]) -> tuple[bytes, list[tuple[int, Reply]]]:
        """Returns the responses up to the last of `replies`, and each delivery with the offset where it ends.

        Removes them and their calls from what is planned.

        Requirements: DLV-0021
        """
        pending = self._pending
        if len(replies) == len(self._calls) and self._shared.stopping and self._leave is None:
            last = pending[-1]
            pending[-1] = PendingResponse(last.reply, last.extra + CLOSE, last.head_only, last.json, last.asked)
            self._leave = self._linger
        serialize = self._shared.responses.response
        parts: list[bytes] = []
        given: list[tuple[int, Reply]] = []
        end = run = 0
        calls, access = self._calls, self._access
        for response in pending:
            reply, extra = response.reply, response.extra
            if reply is None:
                if run == len(replies):
                    break
                call, reply = calls[run], replies[run]
                run += 1
                if call.identity is not None or reply.status >= REFUSED:
                    extra += self._context.requests.answered(call, reply)
                if access is not None:
                    access.served(self.peer, call, reply, self._begun, response.head_only)
            elif access is not None:
                access.note(self.peer, *response.asked, reply.status, len(reply.body), self._begun)
            part = serialize(reply, extra, response.head_only, response.json)
            parts.append(part)
            end += len(part)
            if reply.deliveries:
                given.append((end, reply.receipt()))
        del pending[: len(parts)], calls[: len(replies)]
        return b"".join(parts), given

    async def _linger(self) -> None:
        """Linger after the last response. Give back what it handed out if the peer refused it."""
        self.phase = WORKING
        await linger(self._stream)
        with trio.move_on_after(LINGER_SECONDS):
            await give_back_refused(self._pipe, self._engine, self.given)
