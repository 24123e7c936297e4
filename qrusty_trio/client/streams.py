"""TCP, TLS and Unix streams, on Trio and on asyncio.

Rule: only this module opens streams, and whoever opens one closes it. It knows nothing of what is said over them.

Requirements: WS-0047
"""

from __future__ import annotations

import os
import select
import ssl

import anyio
from anyio.abc import ByteStream, SocketAttribute

from qrusty_trio.client.tls import explained

READ_BYTES = 64 * 1024
"""Most that one read takes."""
STREAM_ERRORS = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)
"""What reading or writing a stream raises that has ended or broken."""


async def open_stream(host: str, port: int, *, tls: ssl.SSLContext | None) -> ByteStream:
    """Connect to a server, over TLS if there is a context. Raises OSError; the caller sets a time limit."""
    if tls is None:
        return await anyio.connect_tcp(host, port)
    try:
        # HTTP says itself where a response ends, and servers often leave out the end of TLS.
        return await anyio.connect_tcp(host, port, tls=True, ssl_context=tls, tls_standard_compatible=False)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream) as error:
        raise ConnectionResetError("the connection ended during the TLS handshake") from error


async def open_unix_stream(path: str) -> ByteStream:
    """Connect to a Unix socket. Raises OSError; the caller sets a time limit."""
    return await anyio.connect_unix(path)


async def close_stream(stream: ByteStream) -> None:
    """Close without any farewell. Does not wait, and can't fail."""
    await anyio.aclose_forcefully(stream)


def is_silent(stream: ByteStream) -> bool:
    """Whether there is nothing to read, not even the end of the stream."""
    poll = select.poll()
    poll.register(stream.extra(SocketAttribute.raw_socket).fileno(), select.POLLIN)
    return not poll.poll(0)


def reason(error: BaseException) -> str:
    """Why a connection could not be opened or was lost, in the same words on every event loop."""
    cause = error.__cause__ or error
    if isinstance(cause, BaseExceptionGroup):  # one for each address of the host
        return "; ".join(dict.fromkeys(reason(each) for each in cause.exceptions))
    if isinstance(cause, ssl.SSLError):
        return explained(cause)
    number = cause.errno if isinstance(cause, OSError) else None
    if number is not None and number > 0:
        return os.strerror(number)
    return str(cause) or str(error) or type(cause).__name__
