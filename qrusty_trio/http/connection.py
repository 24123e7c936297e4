"""The fast path: HTTP/1.1 requests for the operation table, answered on the raw stream.

Rule: one read, one burst, one `engine.run`, one write. Requests that arrived together run together, at most
REQUESTS_PER_STEP at a time, and are answered in order. Anything but a plain request for the operation table hands the
connection over to Hypercorn for good, with every byte not yet served. A request that two parsers could read differently
(see `header_block`) is refused with 400, and the connection is closed.

A connection has no timer of its own. It records its phase and the tick at which that began; see `fast_path`.

Requirements: SYS-0019
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from qrusty_trio.api.call import Call, Reply
from qrusty_trio.api.operations import MAX_BODY_BYTES, check_content_type, error_reply
from qrusty_trio.errors import MethodNotAllowed, QrustyError
from qrusty_trio.http.batching import QUICK, Unsent
from qrusty_trio.http.byte_budget import LARGE_BYTES, SMALL_BYTES, Holding
from qrusty_trio.http.fast_websocket import serve_fast_websocket
from qrusty_trio.http.header_block import (
    HTTP2_PREFACE,
    MAX_HEADER_BYTES,
    HeaderBlock,
    RequestLine,
    RequestTimedOut,
    check_beginning,
    headers_too_large,
    read_block,
    read_line,
    read_quick_block,
    skip_empty_lines,
)
from qrusty_trio.http.lingering import LINGER_SECONDS, linger
from qrusty_trio.http.origins import check_host, check_origin
from qrusty_trio.http.pipe import READ_BYTES, ConnectionLost, SocketPipe, give_back_refused, pipe_over
from qrusty_trio.http.request_lines import WEBSOCKET_PATH, Target, app_serves
from qrusty_trio.http.responses import body_too_large, cors_headers, header_lines
from qrusty_trio.http.shared import BODY, HEADERS, IDLE, SENDING, WORKING, Shared

REQUESTS_PER_STEP = 64
"""Most requests of a connection that run together."""
CLOSE = b"\r\nconnection: close"
KEEP_ALIVE = b"\r\nconnection: keep-alive"


class Connection:
    """One connection. Parsing fills `_plan` and `_calls`; answering empties them.

    Requirements: API-0038
    """

    def __init__(self, shared: Shared, stream: trio.abc.Stream) -> None:
        self._shared = shared
        self._context = shared.context
        self._engine = shared.context.engine
        self._stream = stream
        self._pipe = pipe_over(stream)
        self._batching = shared.batching if isinstance(self._pipe, SocketPipe) else None
        self.fd = self._pipe.fd if isinstance(self._pipe, SocketPipe) else -1
        self.task: trio.lowlevel.Task | None = None
        """The connection's task while it is parked in `batching`; else None."""
        self.busy = False
        """A request was read in `batching` and is not answered yet."""
        self.reading_paused = False
        """Parked, but not polled: reading is paused."""
        self._served = False
        """A request has been served, so an HTTP/2 preface can no longer come."""
        self._data = b""
        """Bytes received and not served yet."""
        self._need = 0
        """Size in bytes of the first request in `_data`, once its header block is known; else 0."""
        self._empty_lines = 0
        """Empty lines skipped since the last request."""
        self._arrived = 0
        """Bytes received of the first request in `_data`."""
        self.received = Holding(shared.context.received)
        self.unsent = Holding(shared.context.unsent)
        self._calls: list[Call] = []
        self._plan: list[tuple[Reply | None, bytes, bool]] = []
        """The pending responses: (reply, or None for that of the next call; further header lines; omit the body)."""
        self._leave: Callable[[], Awaitable[None]] | None = None
        """What to do after the responses of this burst instead of reading on."""
        self._given: list[Reply] = []
        """The deliveries among the responses sent last, without their payloads."""
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
            self._data = b""
            self.received.set(0)
            if self.timed_out and self.phase in (HEADERS, BODY):
                reply = error_reply(RequestTimedOut("The request did not arrive in time"))
                with trio.move_on_after(LINGER_SECONDS):
                    await self._pipe.send(self._shared.responses.response(reply, CLOSE), self._progress)
                    await linger(self._stream)
        except ConnectionLost:
            return

    async def _serve(self) -> None:
        while await self._read():
            if self._served or not self._data.startswith(HTTP2_PREFACE[: len(self._data)]):
                break
            if len(self._data) >= len(HTTP2_PREFACE):
                await self._hand_over(self._data)
                return
            if self.phase == IDLE:
                self._enter(HEADERS)
        if not (self._data or self._plan) and self._leave is None:
            await give_back_refused(self._pipe, self._engine, self._given)
            return
        while True:
            full = self._parse()
            if self._plan:
                await self._answer()
            if self._leave is not None:
                self.received.set(0)
                await self._leave()
                return
            if full:
                # Neither the engine nor the socket may have yielded, so give other tasks a turn.
                await trio.lowlevel.checkpoint()
                continue
            self._await_request()
            if not await self._read():
                await give_back_refused(self._pipe, self._engine, self._given)
                return

    def _await_request(self) -> None:
        phase = BODY if self._need else HEADERS if self._data else IDLE
        if phase != self.phase:
            # While a header block or body arrives in pieces, its clock runs on.
            self._enter(phase)

    async def _read(self) -> bool:
        """Read more, to the end of the first request if that is known. False: the peer has closed its side.

        Requirements: DLV-0023
        """
        if self._data:
            return await self._read_rest()
        if self._batching is None:
            self._data = await self._pipe.receive()
            self.received.set(len(self._data))
            return bool(self._data)
        while True:
            arrived = await self._batching.receive(self)
            if not isinstance(arrived, Unsent):
                break
            await self._send_rest(arrived)
            del arrived  # else it is kept until the next request arrives
            if self.stopping:
                self._leave = self._linger
                return True
        if isinstance(arrived, Call):
            self._calls.append(arrived)
            self._plan.append((None, b"", False))
            return True
        self._data = arrived
        self.received.set(len(arrived))
        return bool(arrived)

    async def _read_rest(self) -> bool:
        pieces, self._arrived, most = [self._data], len(self._data), READ_BYTES
        whole = self._need or (self._arrived if self._arrived < SMALL_BYTES else MAX_HEADER_BYTES) + READ_BYTES
        if self._need <= SMALL_BYTES and self._arrived < SMALL_BYTES:
            most = SMALL_BYTES
        elif self.received.held < whole:
            # Stop the request's clock while it waits for the server.
            phase, self.phase = self.phase, WORKING
            await self.received.reserve(whole)
            self._enter(phase)
        while True:
            piece = await self._pipe.receive(most)
            pieces.append(piece)
            self._arrived += len(piece)
            if not piece or self._arrived >= self._need:
                break
        self._data = b"".join(pieces)
        if self._arrived > self.received.held:
            self.received.set(self._arrived)
        return bool(piece)

    def lags(self) -> bool:
        """Whether others wait for room while this peer stalls."""
        now = self._shared.now
        if self.phase == SENDING:
            return self.unsent.lags(now, self._pipe.sent) or self.received.lags(now, self._pipe.sent)
        return self.phase in (HEADERS, BODY) and self.received.lags(now, self._arrived)

    # For `batching`, while the connection is parked

    @property
    def stopping(self) -> bool:
        """The connection is to be closed after its current response."""
        return self._shared.stopping

    def quick_call(self, data: bytes) -> Call | None:
        """The call, if `data` is exactly one plain request for a quick operation; else None. See `batching`."""
        end = data.find(b"\r\n\r\n") + 4
        line_end = data.find(b"\r\n")
        if end < 4 or self.stopping:
            return None
        try:
            target = self._shared.targets.quick(data[:line_end])
            if target is None or target.head_only or not target.http11 or target.operation.name not in QUICK:
                return None
            block = read_quick_block(data[line_end:end])
            if block is None or not block.quick or block.length != len(data) - end or block.length > MAX_BODY_BYTES:
                return None
            operation = target.operation
            if operation.name not in block.allowed_types:
                check_content_type(operation, block.content_type, not block.length)
                block.allowed_types.add(operation.name)
        except QrustyError:
            return None  # The connection's own task refuses it.
        return Call(operation, target.params, data[end:], target.query)

    def begin_quick(self) -> None:
        """Its call is about to run."""
        self.busy = True
        self._served = True
        self._empty_lines = 0
        self._given = []
        self._enter(WORKING)

    def quick_response(self, reply: Reply) -> bytes:
        return self._shared.responses.response(reply, CLOSE if self.stopping else b"")

    def end_quick(self, reply: Reply) -> None:
        """The response has been sent."""
        self._enter(IDLE)
        if reply.deliveries:
            self._given = [reply.receipt()]

    async def _send_rest(self, unsent: Unsent) -> None:
        self._enter(SENDING)
        try:
            await self._pipe.send(unsent.data, self._progress, unsent.sent)
        except BaseException:
            self._engine.give_back(unsent.reply)
            raise
        finally:
            self.unsent.set(0)
        self.end_quick(unsent.reply)

    def _parse(self) -> bool:
        """Plan the complete requests in `_data`. True: the burst is full, and `_data` may hold more."""
        position = 0
        self._need = 0
        try:
            while len(self._plan) < (1 if self.unsent.budget.short else REQUESTS_PER_STEP):
                if self._data.startswith(b"\r", position):
                    position, self._empty_lines = skip_empty_lines(self._data, position, self._empty_lines)
                after = self._take(position)
                if after == position:
                    self._data = self._data[position:]
                    return False
                self._empty_lines = 0
                position = after
        except QrustyError as error:
            self._plan.append((error_reply(error), CLOSE, False))
            self._leave = self._linger
        if self._leave is not None:
            return False
        self._data = self._data[position:]
        return True

    def _take(self, position: int) -> int:
        """Plan the request that begins at `position`. Returns where it ends, or `position` if nothing was planned.

        Raises QrustyError if the request is refused and nothing after it can be trusted.
        """
        data = self._data
        if position == len(data) or self._leave is not None:
            return position
        end = data.find(b"\r\n\r\n", position) + 4
        if end < 4:
            check_beginning(data[position:])
            return position
        if end - position > MAX_HEADER_BYTES:
            raise headers_too_large()
        line_end = data.find(b"\r\n", position)
        line_bytes = data[position:line_end]
        target = self._shared.targets.of(line_bytes)
        if target is not None:
            line = None
            block = read_block(data[line_end:end], target.http11)
        else:
            line = read_line(line_bytes)
            block = read_block(data[line_end:end], line.http11)
        if not block.plain or (line is not None and (line.method == "OPTIONS" or app_serves(line.path))):
            self._go_elsewhere(line or read_line(line_bytes), block, data[position:])
            return position
        after = end + block.length
        if block.length > MAX_BODY_BYTES:
            raise body_too_large()
        if after > len(data):
            self._need = after - position
            return position
        self._plan_request(line_bytes, line, target, block, data[end:after])
        return after

    def _plan_request(
        self, line_bytes: bytes, line: RequestLine | None, target: Target | None, block: HeaderBlock, body: bytes
    ) -> None:
        extra = b""
        http11 = target.http11 if target is not None else line is not None and line.http11
        if not block.keep_alive:
            extra = CLOSE
            self._leave = self._linger
        elif not http11:
            extra = KEEP_ALIVE
        browser = block.browser
        if browser is not None:
            extra += header_lines(cors_headers(browser.origin, self._context.allowed_origins))
        try:
            if browser is not None:
                check_host(browser, self._context.allowed_hosts)
            if target is None:
                assert line is not None
                target = self._shared.targets.resolve(line_bytes, line)
            operation = target.operation
            if browser is not None and operation.mutating:
                check_origin(browser, self._context.allowed_origins)
            if operation.name not in block.allowed_types:
                check_content_type(operation, block.content_type, not body)
                block.allowed_types.add(operation.name)
        except QrustyError as error:
            if isinstance(error, MethodNotAllowed):
                extra += header_lines({"allow": error.allow})
            head_only = target.head_only if target is not None else line is not None and line.method == "HEAD"
            self._plan.append((error_reply(error), extra, head_only))
            return
        self._calls.append(Call(operation, target.params, body, target.query))
        self._plan.append((None, extra, target.head_only))

    def _go_elsewhere(self, line: RequestLine, block: HeaderBlock, rest: bytes) -> None:
        websocket = block.upgrade == "websocket" and not block.handshake_fault
        if websocket and line.method == "GET" and line.path == WEBSOCKET_PATH:
            self._leave = partial(self._serve_websocket, rest)
        else:
            self._leave = partial(self._hand_over, rest)

    async def _hand_over(self, data: bytes) -> None:
        self.phase = WORKING
        await self._shared.hand_over(self._stream, data)

    async def _serve_websocket(self, data: bytes) -> None:
        self.phase = WORKING
        await serve_fast_websocket(self._stream, data, self._context.websocket)

    async def _answer(self) -> None:
        """Run the planned calls and send the responses."""
        self._given = []
        self._served = True
        while self._plan:
            self.phase = WORKING
            if any(call.operation.large for call in self._calls):
                tight = self.unsent.budget.tight
                await self.unsent.reserve(LARGE_BYTES)
                if tight and self._pipe.gone():
                    raise ConnectionLost
            data, given = self._answer_first(await self._engine.run(self._calls) if self._calls else [])
            self.unsent.set(len(data))
            if not self._plan:
                self.received.set(len(self._data))
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
            self._given.extend(reply for _, reply in given)
            del data, given  # do not hold them while more calls run

    def _answer_first(self, replies: list[Reply]) -> tuple[bytes, list[tuple[int, Reply]]]:
        """Returns the responses up to the last of `replies`, and each delivery with the offset where it ends.

        Removes them and their calls from the plan.

        Requirements: DLV-0021
        """
        plan = self._plan
        whole = len(replies) == len(self._calls)
        if whole and self._shared.stopping and self._leave is None:
            planned, extra, head_only = plan[-1]
            plan[-1] = planned, extra + CLOSE, head_only
            self._leave = self._linger
        answer = self._shared.responses.response
        parts: list[bytes] = []
        given: list[tuple[int, Reply]] = []
        end = 0
        left = iter(replies)
        for planned, extra, head_only in plan:
            reply = next(left, None) if planned is None else planned
            if reply is None:
                break
            part = answer(reply, extra, head_only)
            parts.append(part)
            end += len(part)
            if reply.deliveries:
                given.append((end, reply.receipt()))
        del plan[: len(parts)], self._calls[: len(replies)]
        return b"".join(parts), given

    async def _linger(self) -> None:
        """Linger after the last response. Give back what it handed out if the peer refused it."""
        self.phase = WORKING
        await linger(self._stream)
        with trio.move_on_after(LINGER_SECONDS):
            await give_back_refused(self._pipe, self._engine, self._given)
