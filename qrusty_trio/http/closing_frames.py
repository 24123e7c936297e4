"""What a peer sends after the server's close frame: passed over, up to its own.

Rule: a frame here costs a look at its head, far less than reading it does. For what comes now is not served, and a peer
may send as many frames as it likes, without a token, too.
"""

from __future__ import annotations

import trio

from qrusty_trio.api.ws_session import MAX_FRAME_BYTES
from qrusty_trio.http.text_frames import frame_size

FRAMES_PER_STEP = 256
"""Frames passed over in one step of the event loop: about 0.1 ms."""
MOST_FRAMES = 20_000
"""Among more frames than this the close frame is not looked for: that takes about 5 ms in all."""
MOST_BYTES = 2 * MAX_FRAME_BYTES
"""The same in bytes. A usual peer has less on the way when it reads our close frame."""
READ_BYTES = 64 * 1024


async def pass_to_close(stream: trio.abc.Stream, data: bytes | bytearray = b"") -> bool:
    """Read until the peer's close frame begins. Returns False at the end of the stream.

    `data` was received before; a frame begins with it. Returns True as well where there is no sense in going on: at
    what is no frame of a client, and after MOST_FRAMES or MOST_BYTES. Has no timeout.

    Requirements: WS-0055
    """
    frames = octets = begin = 0
    while True:
        size = len(data)
        while (head := frame_size(data, begin)) is not None:
            if not head or frames >= MOST_FRAMES:
                return True
            begin += head
            frames += 1
            if frames % FRAMES_PER_STEP == 0:
                await trio.lowlevel.checkpoint()
        rest, begin = data[begin:], max(begin - size, 0)
        more = await stream.receive_some(READ_BYTES)
        octets += len(more)
        if not more:
            return False
        if octets > MOST_BYTES:
            return True
        data = rest + more
