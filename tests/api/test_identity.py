"""Who a request is: which ids count, and what a traceparent says."""

from __future__ import annotations

import pytest

from qrusty_trio.api.identity import MAX_REQUEST_ID_BYTES, Identity, identified, read_identity, read_traceparent

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01".encode()


# Verifies: API-0078
@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        (None, b""),
        ([b""], b""),
        ([b"a"], b"a"),
        ([b"order 7; retry=2"], b"order 7; retry=2"),
        ([b"x" * MAX_REQUEST_ID_BYTES], b"x" * MAX_REQUEST_ID_BYTES),
        ([b"x" * (MAX_REQUEST_ID_BYTES + 1)], b""),
        ([b"caf\xe9"], b""),
        ([b"a\tb"], b""),
        ([b"a\x1b[31m"], b""),
        ([b"a\x7f"], b""),
        ([b"a\n"], b""),
        ([b"a", b"b"], b""),
    ],
)
def test_which_ids_count(sent: list[bytes] | None, taken: bytes) -> None:
    identity = read_identity(sent, None)
    assert (identity.request_id if identity is not None else b"") == taken
    assert (identity is None) == (not taken)


# Verifies: API-0078
@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        (TRACEPARENT, (TRACE, PARENT, 1)),
        (TRACEPARENT.replace(b"-01", b"-00"), (TRACE, PARENT, 0)),
        (TRACEPARENT.replace(b"-01", b"-a5"), (TRACE, PARENT, 0xA5)),
        (TRACEPARENT.replace(b"00-", b"7f-", 1) + b"-of-a-later-version", (TRACE, PARENT, 1)),
        (TRACEPARENT + b"-more", None),
        (TRACEPARENT.replace(b"00-", b"ff-", 1), None),
        (TRACEPARENT.upper(), None),
        (TRACEPARENT[:-1], None),
        (f"00-{'0' * 32}-{PARENT}-01".encode(), None),
        (f"00-{TRACE}-{'0' * 16}-01".encode(), None),
        (b"", None),
    ],
)
def test_what_a_traceparent_says(value: bytes, meaning: tuple[str, str, int] | None) -> None:
    assert read_traceparent(value) == meaning


# Verifies: API-0078
def test_the_name_is_the_id_or_that_of_the_trace() -> None:
    identity = read_identity([b"id"], [TRACEPARENT])
    assert identity is not None
    assert (identity.name, identity.trace_id, identity.header) == ("id", TRACE, b"\r\nx-request-id: id")
    traced = read_identity(None, [TRACEPARENT])
    assert traced is not None
    assert (traced.name, traced.header) == (TRACE, b"")
    assert read_identity(None, [TRACEPARENT, TRACEPARENT]) is None


# Verifies: API-0078
def test_who_has_no_id_gets_one() -> None:
    given = [identified(None).request_id for _ in range(2)]
    assert len(set(given)) == 2
    assert all(len(each) == 16 for each in given)
    assert identified(Identity(b"id", b"")).request_id == b"id"
    assert identified(Identity(b"", TRACEPARENT)) == Identity(TRACE.encode(), TRACEPARENT)
    assert len(identified(Identity(b"", b"nonsense")).request_id) == 16
