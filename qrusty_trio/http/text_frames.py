"""The plainest WebSocket frames, which are nearly all: unfragmented texts. Reads those of less than 64 KiB.

Of all others it only tells how long they are.

Rule: what is not certainly such a frame is left where it is, for the library's protocol to judge. It takes five times
as long for a frame, and is the only one that refuses any.
"""

from __future__ import annotations

from struct import pack, unpack_from

from qrusty_trio.api.ws_session import MAX_FRAME_BYTES

try:
    from websockets.speedups import apply_mask
except ImportError:  # A wheel without its extension module.
    from websockets.utils import apply_mask

WHOLE_TEXT = 0x81
"""First byte of an unfragmented text frame (RFC 6455, 5.2)."""
FIN, OPCODE, CLOSE = 0x80, 0x0F, 0x8
"""Bits of the first byte, and what the opcode is in a close frame."""
MASKED = 0x80
"""Bit of the second byte. Its other bits are the length, or one of the next two."""
TWO_BYTES = 126
"""The length is in the two bytes that follow."""
SMALLEST = 6
"""Bytes of a masked frame without data: two, and the mask of four."""


def take_texts(data: bytes | bytearray, begin: int, texts: list[str | bytes], most: int) -> int:
    """Add up to `most` texts that are in `data` from `begin` on, where a frame begins, to `texts`. Returns their end.

    Stops at the first frame that is anything else, incomplete or not UTF-8.

    Requirements: WS-0030
    """
    size = len(data)
    most += len(texts)
    while begin + SMALLEST <= size and data[begin] == WHOLE_TEXT and len(texts) < most:
        length, mask = data[begin + 1] - MASKED, begin + 2
        if length == TWO_BYTES:
            (length,) = unpack_from("!H", data, mask)
            mask += 2
        elif not 0 <= length < TWO_BYTES:
            break
        text = mask + 4
        end = text + length
        if end > size:
            break
        try:
            texts.append(str(apply_mask(data[text:end], data[mask:text]), "utf-8"))
        except UnicodeDecodeError:
            break
        begin = end
    return begin


def frame_size(data: bytes | bytearray, begin: int) -> int | None:
    """Size in bytes of the frame at `begin`; None if its head is incomplete; 0 if it is a close frame or invalid."""
    if begin + 2 > len(data):
        return None
    second = data[begin + 1]
    length = second & ~MASKED
    if data[begin] & OPCODE == CLOSE or not second & MASKED:
        return 0
    if length < TWO_BYTES:
        return SMALLEST + length
    width = 2 if length == TWO_BYTES else 8
    if begin + 2 + width > len(data):
        return None
    length = int.from_bytes(data[begin + 2 : begin + 2 + width], "big")
    return SMALLEST + width + length if length <= MAX_FRAME_BYTES else 0


def text_frame_header(length: int) -> bytes:
    """The header of an unmasked, unfragmented text frame of `length` bytes (RFC 6455, 5.2)."""
    if length < 126:
        return b"\x81%c" % length
    if length < 65536:
        return pack("!BBH", 0x81, 126, length)
    return pack("!BBQ", 0x81, 127, length)
