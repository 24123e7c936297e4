"""Closes a connection from the server's side so that the peer can still read the last response.

Rule: closing a socket with unread bytes resets it, and a reset discards a response that the peer has not read yet. Many
clients read only after sending their whole body. So the server shuts down its sending side, discards what still
arrives, within limits, and then closes.

Requirements: DLV-0020
"""

from __future__ import annotations

import trio

LINGER_SECONDS = 2.0
"""How long to wait for the peer to send more, or to close."""
LINGER_WHOLE_SECONDS = 30.0
"""Limit on the whole wait."""
LINGER_BYTES = 100_000_000
"""Most bytes that are read and discarded."""
_READ_BYTES = 64 * 1024


async def linger(stream: trio.abc.Stream) -> None:
    """Shut down our sending side and read until the peer closes, within limits. The caller closes the stream.

    Requirements: API-0010
    """
    left = LINGER_BYTES
    with trio.move_on_after(LINGER_WHOLE_SECONDS), trio.move_on_after(LINGER_SECONDS) as silence:
        try:
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
            while left > 0 and (data := await stream.receive_some(_READ_BYTES)):
                left -= len(data)
                silence.deadline = trio.current_time() + LINGER_SECONDS
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # The peer reset the connection, perhaps because of the response.
