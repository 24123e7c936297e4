"""Headers of the PROXY protocol: what is read, what is refused at which byte, and that nothing behind them is taken."""

from __future__ import annotations

import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qrusty_trio.errors import BadRequest
from qrusty_trio.http.proxy_header import MAX_BYTES, SIGNATURE, BadProxyHeader, HeaderReader, Source

BEHIND = b"GET / HTTP/1.1\r\n\r\n"
V4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + b"\x13\x88\x00\x50"
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + bytes(15) + b"\x01" + b"\x13\x88\x00\x50"


def v2(command: int, family: int, rest: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + bytes([command, family]) + (len(rest) if length is None else length).to_bytes(2) + rest


def read(data: bytes, pieces: list[int] | None = None) -> tuple[Source | None, bytes]:
    """What the header says, and what is behind it. The bytes arrive in pieces of these sizes, then all at once."""
    reader = HeaderReader()
    arrived = 0
    for size in [*(pieces or []), len(data)]:
        if not data:
            break
        arrived = max(1, min(len(data), arrived + size))
        taken = reader.take(data[:arrived])
        assert 1 <= taken <= arrived
        data, arrived = data[taken:], arrived - taken
        if reader.complete:
            return reader.source, data
    raise EOFError


HEADERS: list[tuple[bytes, Source | None]] = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 80\r\n", Source("192.0.2.1", 5000)),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Source("255.255.255.255", 65535)),
    (b"PROXY TCP6 2001:DB8:0:0:0:0:0:1 ::1 5000 80\r\n", Source("2001:db8::1", 5000)),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 0 0\r\n", Source("::ffff:192.0.2.1", 0)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", None),
    (v2(0x21, 0x11, V4), Source("192.0.2.1", 5000)),
    (v2(0x21, 0x21, V6), Source("2001:db8::1", 5000)),
    (v2(0x21, 0x11, V4 + b"\x04\x00\x01\x00" * 10), Source("192.0.2.1", 5000)),
    (v2(0x21, 0x11, V4 + bytes(MAX_BYTES - 28)), Source("192.0.2.1", 5000)),
    (v2(0x20, 0x00, b""), None),
    (v2(0x20, 0xFF, b"whatever"), None),
    (v2(0x21, 0x00, b"extensions"), None),
    (v2(0x21, 0x31, bytes(216)), None),
]


# Verifies: API-0163
@pytest.mark.parametrize(("header", "source"), HEADERS)
def test_read(header: bytes, source: Source | None) -> None:
    assert read(header + BEHIND) == (source, BEHIND)
    assert read(header + BEHIND, [1] * len(header)) == (source, BEHIND), "byte by byte"
    for cut in range(len(header)):
        with pytest.raises(EOFError):
            read(header[:cut])


REFUSED: list[tuple[bytes, str]] = [
    (BEHIND, "no header"),
    (b"P" + BEHIND, "no header"),
    (b"PROXYTCP4", "no header"),
    (b"proxy TCP4", "no header"),
    (b"\x16\x03\x01", "no header"),
    (b"\r\nGET", "no header"),
    (b"PROXY UNKNOWN" + b"f" * 94, "at most 107"),
    (b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n", "at most 107"),
    (b"PROXY UNKNOWNX\r\n", "can't be read"),
    (b"PROXY UNKNOWN \x00\r\n", "can't be read"),
    (b"PROXY UNKNOWN\n", "can't be read"),
    (b"PROXY UDP4 192.0.2.1 198.51.100.2 5000 80\r\n", "can't be read"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 80\n", "can't be read"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 80 \r\n", "can't be read"),
    (b"PROXY TCP4  192.0.2.1 198.51.100.2 5000 80\r\n", "can't be read"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 5000\r\n", "can't be read"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 80\r\n", "can't be read"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 05000 80\r\n", "a port"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 80\r\n", "a port"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n", "a port"),
    (b"PROXY TCP4 192.0.2.256 198.51.100.2 5000 80\r\n", "an address"),
    (b"PROXY TCP4 192.0.2.1 198.51.100 5000 80\r\n", "an address"),
    (b"PROXY TCP4 ::1 ::1 5000 80\r\n", "an address"),
    (b"PROXY TCP6 192.0.2.1 198.51.100.2 5000 80\r\n", "an address"),
    (b"PROXY TCP6 :::: ::1 5000 80\r\n", "an address"),
    (SIGNATURE[:11] + b"X", "no header"),
    (SIGNATURE + b"\x11", "version and command are 0x11"),
    (SIGNATURE + b"\x22", "version and command are 0x22"),
    (SIGNATURE + b"\x21\x12", "family and protocol are 0x12"),
    (SIGNATURE + b"\x21\x41", "family and protocol are 0x41"),
    (v2(0x21, 0x11, b"", MAX_BYTES - 15), f"its size is {MAX_BYTES + 1}"),
    (v2(0x20, 0x00, b"", 65535), "its size is 65551"),
    (v2(0x21, 0x11, V4[:11]), "incomplete"),
    (v2(0x21, 0x21, V4), "incomplete"),
    (v2(0x21, 0x31, bytes(215)), "incomplete"),
]


# Verifies: API-0163
@pytest.mark.parametrize(("data", "why"), REFUSED)
def test_refused(data: bytes, why: str) -> None:
    with pytest.raises(BadProxyHeader, match=why) as caught:
        read(data)
    assert isinstance(caught.value, BadRequest)
    with pytest.raises(BadProxyHeader, match=why):
        read(data, [1] * len(data))


# Verifies: API-0163
@pytest.mark.parametrize("header", [b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 80\r\n", v2(0x21, 0x11, V4)])
def test_the_first_wrong_byte_of_the_beginning_ends_it(header: bytes) -> None:
    """However little has arrived: what can't be a header any more is not waited for."""
    for at in range(6 if header[:1] == b"P" else 14):
        wrong = header[:at] + bytes([header[at] ^ 0xFF])
        with pytest.raises(BadProxyHeader):
            read(wrong, [1] * len(wrong))


BEGINNINGS = st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ", SIGNATURE, SIGNATURE + b"\x21\x11"])


# Verifies: API-0163
@given(BEGINNINGS, st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=20))
@example(b"", b"\r", [])
@example(SIGNATURE, b"\x20\x00\x00\x00", [16])
def test_any_bytes_in_any_pieces(beginning: bytes, rest: bytes, pieces: list[int]) -> None:
    """Read or refused, the same however they arrive, and never more than a header is taken."""
    data = beginning + rest + b"!"
    outcomes: list[object] = []
    for each in ([], pieces, [1] * len(data)):
        try:
            outcomes.append(read(data, each))
        except BadProxyHeader as refusal:
            outcomes.append(str(refusal))
        except EOFError:
            outcomes.append(None)
    assert outcomes[0] == outcomes[1] == outcomes[2]
    if isinstance(outcomes[0], tuple):
        assert data.endswith(outcomes[0][1])


@given(st.sampled_from([header for header, _ in HEADERS]), st.data())
def test_a_changed_byte_is_read_or_refused(header: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(header) - 1))
    changed = header[:at] + data.draw(st.binary(max_size=2)) + header[at + 1 :]
    try:
        _, behind = read(changed + BEHIND)
        assert (changed + BEHIND).endswith(behind)
    except (BadProxyHeader, EOFError):
        pass
