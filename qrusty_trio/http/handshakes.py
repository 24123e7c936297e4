"""TLS handshakes: from an accepted socket to a connection that speaks TLS.

Rule: a peer that is slow, silent or wrong ends its own connection and costs no other one anything. A handshake has a
deadline, a number of steps, and a place among MAX_HANDSHAKES. If a newcomer finds no place, the oldest has to go, so
that silent peers can't keep others out. What a handshake computes runs in a few threads, because it takes up to many
milliseconds: how many, is for the key of the server and for the peer to choose.

Plain HTTP on a port of TLS gets one response, 400, that says what is wrong.

Requirements: API-0180, API-0181, API-0186
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from qrusty_trio.api.operations import error_reply
from qrusty_trio.errors import TlsRequired
from qrusty_trio.http.lingering import linger
from qrusty_trio.http.responses import CLOSE, Responses
from qrusty_trio.http.tls import TlsStream
from qrusty_trio.wording import counted

HANDSHAKE_SECONDS = 10.0
MAX_HANDSHAKES = 512
"""Handshakes under way at a time."""
MAX_STEPS = 128
"""Times that bytes may arrive for one handshake. A chain of certificates of 100 KB comes in 70 segments."""
THREADS = 2
"""Handshakes that are computed at a time."""
REFUSAL_SECONDS = 2.0
"""Time for a peer to read why it is refused: a response in plain HTTP, or an alert."""
TELL_SECONDS = 10.0
"""Least time between two log lines about handshakes that failed."""
HANDSHAKE_RECORD = 0x16
"""The first byte of TLS (RFC 8446, 5.1). That of HTTP is a letter."""

logger = logging.getLogger(__name__)


class _Failed(Exception):
    """A handshake came to nothing. The text says why."""


class Handshakes:
    """Makes connections speak TLS. `context` gives what the next handshake uses: the certificate, and its key."""

    def __init__(self, context: Callable[[], ssl.SSLContext]) -> None:
        self._context = context
        self._responses = Responses()
        self._under_way: dict[trio.CancelScope, None] = {}
        """The oldest first."""
        self._limiter = trio.CapacityLimiter(THREADS)
        self._stopping = False
        self._failed = 0
        self._tell_at = 0.0

    def stop(self) -> None:
        """End the handshakes that are under way. Later ones come to nothing."""
        self._stopping = True
        for scope in self._under_way:
            scope.cancel()

    async def secure(self, stream: trio.SocketStream, peer: str) -> TlsStream | None:
        """The stream that speaks TLS on the socket of `stream`. None if it came to nothing; then that is closed.

        `peer`: its name, for the log.

        Requirements: API-0181
        """
        secured: TlsStream | None = None
        try:
            secured = await self._secure(stream)
        except _Failed as failure:
            self._note(peer, str(failure))
        except OSError as error:
            self._note(peer, _explained(error))
        finally:
            if secured is None:
                await trio.aclose_forcefully(stream)
        return secured

    async def _secure(self, stream: trio.SocketStream) -> TlsStream | None:
        with self._place() as place:
            first = await _first_byte(stream)
            if first is None:
                return None  # It said nothing: somebody looked whether the port is open.
            if first == HANDSHAKE_RECORD:
                return await self._shake_hands(stream)
        if place.cancelled_caught:
            if self._stopping:
                return None
            raise _Failed(f"it was not complete within {HANDSHAKE_SECONDS:g} s, or had to make way for others")
        if chr(first).isalpha():
            await self._refuse_plain(stream)
            raise _Failed("it speaks plain HTTP")
        raise _Failed("it speaks no TLS")

    @contextmanager
    def _place(self) -> Iterator[trio.CancelScope]:
        if len(self._under_way) >= MAX_HANDSHAKES:
            oldest = next(iter(self._under_way))
            del self._under_way[oldest]
            oldest.cancel()
        with trio.CancelScope(deadline=trio.current_time() + HANDSHAKE_SECONDS) as scope:
            if self._stopping:
                scope.cancel()
            self._under_way[scope] = None
            try:
                yield scope
            finally:
                self._under_way.pop(scope, None)

    async def _shake_hands(self, stream: trio.SocketStream) -> TlsStream:
        secured = TlsStream(stream, self._context())
        try:
            for _ in range(MAX_STEPS):
                try:
                    await trio.to_thread.run_sync(secured.step, limiter=self._limiter)
                    return secured
                except ssl.SSLWantReadError:
                    await trio.lowlevel.wait_readable(secured.socket)
                except ssl.SSLWantWriteError:
                    await trio.lowlevel.wait_writable(secured.socket)
            raise _Failed(f"it came in more than {MAX_STEPS} pieces")
        except BaseException as error:
            try:
                if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
                    # It may have sent its request already. With that unread, a close would discard the alert.
                    with trio.move_on_after(REFUSAL_SECONDS):
                        await linger(secured)
            finally:
                await trio.aclose_forcefully(secured)
            raise

    async def _refuse_plain(self, stream: trio.SocketStream) -> None:
        refusal = TlsRequired("This port speaks TLS, and this request came without: use https:// or wss://")
        self._responses.tick()
        with trio.move_on_after(REFUSAL_SECONDS):
            try:
                await stream.send_all(self._responses.response(error_reply(refusal), CLOSE))
                await linger(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # The peer left before the response.

    def _note(self, peer: str, why: str) -> None:
        """Log a failure, unless one was logged a moment ago."""
        self._failed += 1
        now = trio.current_time()
        if now >= self._tell_at:
            more = "" if self._failed == 1 else f" ({counted(self._failed, 'handshake')} failed since the last line)"
            logger.warning("no TLS with %s: %s%s", peer, why, more)
            self._failed = 0
            self._tell_at = now + TELL_SECONDS


async def _first_byte(stream: trio.SocketStream) -> int | None:
    """The first byte that arrives. It can be read again. None if there will be none."""
    try:
        data = await stream.socket.recv(1, socket.MSG_PEEK)
    except OSError:
        return None
    return data[0] if data else None


def _explained(error: OSError) -> str:
    """What is wrong, without the names of OpenSSL's library and source file."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "it left in the middle"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return error.strerror or str(error)
