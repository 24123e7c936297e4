"""A header block that is found in the cache without its ids means what it means when it is read as a whole."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qrusty_trio.api.identity import MAX_REQUEST_ID_BYTES, Identity
from qrusty_trio.errors import QrustyError
from qrusty_trio.http import header_block
from qrusty_trio.http.header_block import MAX_KEPT_BLOCKS, HeaderBlock, read_batchable_block, read_block
from qrusty_trio.http.repeat_cache import RepeatCache

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NAMES = (
    b"X-Request-Id",
    b"x-request-id",
    b"traceparent",
    b"Traceparent",
    b"X-Request-Id ",
    b"x-request-idx",
    b" traceparent",
)
VALUES = (
    b"",
    b" 7",
    b"\t7 8 \t",
    b"\x00",
    b"a\x7f",
    b"\xff",
    b"\t\xe9",
    b" " + TRACE,
    b" a\n",
    b" a\rb",
    b" a\r\n folded",
)
OTHERS = (
    b"Host: here",
    b"Host: there",
    b"Content-Length: 5",
    b"Accept: x-request-id: 1",
    b"Connection: close",
    b"Origin: null",
)
line = st.one_of(
    st.sampled_from(OTHERS),
    st.builds(lambda name, value: name + b":" + value, st.sampled_from(NAMES), st.sampled_from(VALUES)),
    st.builds(lambda size: b"X-Request-Id: " + b"i" * size, st.sampled_from([127, 128, 129, 1024])),
)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    caches = tuple(RepeatCache[HeaderBlock](MAX_KEPT_BLOCKS) for _ in range(2))
    monkeypatch.setattr(header_block, "_kept", caches)


def outcome(block: bytes, read: object) -> HeaderBlock | tuple[type, str]:
    assert callable(read)
    try:
        found = read(block, True)
    except QrustyError as error:
        return type(error), str(error)
    assert isinstance(found, HeaderBlock)
    return found


# Verifies: API-0031, API-0078
@given(st.lists(line, max_size=8))
@example([b"Host: here"] + [b"X-Request-Id: 1"] * 2)
@example([b"X-Request-Id: 1", b" folded: 1", b"Host: here"])
def test_a_block_means_the_same_with_and_without_the_cache(lines: list[bytes]) -> None:
    block = b"\r\n" + b"".join(each + b"\r\n" for each in lines) + b"\r\n"
    whole = outcome(block, header_block._read_block)
    for _ in range(3):
        assert outcome(block, read_block) == whole


def block_of(number: int, *more: bytes) -> bytes:
    trace = b"00-%032x-%016x-01" % (number, number)
    lines = [b"Host: here", b"X-Request-Id: %d" % number, *more, b"traceparent: " + trace]
    return b"\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"


# Verifies: API-0044, API-0078
def test_ids_that_change_take_no_room_in_the_cache() -> None:
    for number in range(1, 100):
        found = read_batchable_block(block_of(number))
        assert found is not None
        assert found.batchable
        assert found.identity == Identity(b"%d" % number, b"00-%032x-%016x-01" % (number, number))
    assert header_block._kept[True].entries == 1
    without = read_block(b"\r\nHost: here\r\n\r\n", True)
    assert without.identity is None


def test_a_block_that_is_kept_has_no_id_of_another() -> None:
    first = read_block(block_of(1), True)
    second = read_block(block_of(2), True)
    assert first.identity is not None
    assert second.identity is not None
    assert (first.identity.request_id, second.identity.request_id) == (b"1", b"2")
    long = block_of(3, b"X-Note: " + b"n" * 2048)
    assert read_block(long, True).identity == Identity(b"3", b"00-%032x-%016x-01" % (3, 3))
    too_long = b"\r\nHost: here\r\nX-Request-Id: " + b"i" * (MAX_REQUEST_ID_BYTES + 1) + b"\r\n\r\n"
    assert read_block(too_long, True).identity is None
