"""How a connection ends that the server closes first: so that the peer can read what it was told last.

Rule: a socket that is closed with unread bytes is reset, and a reset takes the answer from a peer that has not read it
yet. Many clients read only when their whole body is sent. So the server closes its half, reads away what still comes,
within bounds, and then closes.
"""

from __future__ import annotations

import trio

LINGER_SECONDS = 2.0
"""For the peer to send more, or to close."""
LINGER_WHOLE_SECONDS = 30.0
"""In all."""
LINGER_BYTES = 100_000_000
"""What is read and thrown away."""
_READ_BYTES = 64 * 1024


async def linger(stream: trio.abc.Stream) -> None:
    """Close our half and read until the peer closes its own, within bounds. The stream is still to be closed."""
    left = LINGER_BYTES
    with trio.move_on_after(LINGER_WHOLE_SECONDS), trio.move_on_after(LINGER_SECONDS) as silence:
        try:
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
            while left > 0 and (data := await stream.receive_some(_READ_BYTES)):
                left -= len(data)
                silence.deadline = trio.current_time() + LINGER_SECONDS
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # Reset, perhaps by the answer itself.
