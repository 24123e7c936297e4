"""TLS between the conversations and the server: a forwarder for those that are honest, and one that is not.

Rule: what is forwarded is what a conversation says, cut into records as chance has it. The hostile forwarder does one
thing wrong now and then: a record that is changed or cut short, plain bytes in place of TLS, half a handshake. What it
did to a connection follows from the number of that connection.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random

import trio

READ_BYTES = 64 * 1024
HOSTILE = 0.2
"""Share of the hostile forwarder's connections in which something is wrong."""
WRONG = ("plain", "no handshake", "half a hello", "changed record", "short record", "garbage behind")
HANDSHAKE_SECONDS = 20.0


class Wire:
    """One connection to the server. Raises OSError and ssl.SSLError (which is one) when it is over."""

    def __init__(self, sock: trio.socket.SocketType, context: ssl.SSLContext, rng: Random, wrong: str) -> None:
        self._sock = sock
        self._rng = rng
        self._wrong = wrong
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)

    async def shake_hands(self) -> None:
        while True:
            with suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
                await self._flush()
                return
            if self._wrong == "half a hello":
                await self._send(self._outgoing.read()[: self._rng.randrange(1, 200)])
                await trio.sleep(self._rng.random())
                raise OSError("as it was meant to be")
            await self._flush()
            await self._more()

    async def send(self, data: bytes) -> None:
        """In records of any size."""
        if self._wrong == "plain":
            await self._send(data)
            return
        start = 0
        while start < len(data):
            most = self._rng.choice([1, 30, 1000, 16384, 16384, 16384])
            size = self._rng.randrange(1, most + 1) if most < 16384 else most
            self._tls.write(data[start : start + size])
            start += size
            if self._rng.random() < 0.3:
                await self._flush()
        await self._flush()

    async def _flush(self) -> None:
        data = self._outgoing.read()
        if data and self._wrong == "changed record" and self._rng.random() < 0.3:
            changed = bytearray(data)
            changed[self._rng.randrange(len(changed))] ^= 1 << self._rng.randrange(8)
            data = bytes(changed)
        if data and self._wrong == "short record" and self._rng.random() < 0.3:
            await self._send(data[: self._rng.randrange(len(data))])
            raise OSError("as it was meant to be")
        await self._send(data)

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[await self._sock.send(view) :]

    async def _more(self) -> None:
        data = await self._sock.recv(READ_BYTES)
        if not data:
            raise OSError("closed")
        self._incoming.write(data)

    async def receive(self) -> bytes:
        """b"" at `close_notify`."""
        if self._wrong == "plain":
            return await self._sock.recv(READ_BYTES)
        while True:
            try:
                return self._tls.read(READ_BYTES)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                await self._more()

    async def end(self) -> None:
        """The conversation closes its side: with `close_notify`, without, or with something behind it."""
        in_order = self._rng.random() < 0.5 and self._wrong != "plain"
        if in_order:
            with suppress(ssl.SSLWantReadError):
                self._tls.unwrap()
            await self._flush()
        if self._wrong == "garbage behind":
            await self._send(self._rng.randbytes(50))
        if self._wrong or not in_order or self._rng.random() < 0.5:
            self._sock.shutdown(socket.SHUT_WR)


@asynccontextmanager
async def forwarder(port: int, *, hostile: bool, wrongs: Sequence[str] | None = None) -> AsyncIterator[int]:
    """Forward connections to the server at `port` over TLS. Gives the port at which they are taken.

    `wrongs`: what is wrong with every connection, by turns of chance; by default what HOSTILE and WRONG say.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    opened = 0

    async def serve(client: trio.SocketStream) -> None:
        nonlocal opened
        opened += 1
        rng = Random(opened)
        wrong = rng.choice(WRONG) if hostile and rng.random() < HOSTILE else ""
        if wrongs is not None:
            wrong = rng.choice(wrongs)
        with suppress(OSError, trio.BrokenResourceError):
            async with client:
                await _forward(client, port, context, rng, wrong)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield int(listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def _forward(client: trio.SocketStream, port: int, context: ssl.SSLContext, rng: Random, wrong: str) -> None:
    sock = trio.socket.socket()
    try:
        await sock.connect(("127.0.0.1", port))
        wire = Wire(sock, context, rng, wrong)
        if wrong == "no handshake":
            await trio.sleep(rng.random())
            return
        if wrong != "plain":
            with trio.fail_after(HANDSHAKE_SECONDS):
                await wire.shake_hands()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_back, client, wire, nursery.cancel_scope)
            with suppress(OSError, trio.BrokenResourceError):
                while data := await client.receive_some(READ_BYTES):
                    await wire.send(bytes(data))
                await wire.end()
                return
            nursery.cancel_scope.cancel()
    except trio.TooSlowError:
        pass  # The server may have to make place for others.
    finally:
        sock.close()


async def _back(client: trio.SocketStream, wire: Wire, scope: trio.CancelScope) -> None:
    with suppress(OSError, trio.BrokenResourceError):
        while data := await wire.receive():
            await client.send_all(data)
    scope.cancel()
