"""Records come back as they were packed."""

from __future__ import annotations

import struct
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.core import records
from qrusty_trio.core.model import U32_MAX, U64_MAX, WS_MARK
from qrusty_trio.core.records import ClockFrame

U64 = st.integers(0, U64_MAX)
U32 = st.integers(0, U32_MAX)
ID = b"0123456789-0123456789-0123456789-012"


@given(st.sampled_from([0, records.EXTERNAL]), U64, U32, U32, U32, st.binary(max_size=100))
def test_a_message(flags: int, created: int, max_retries: int, deliveries: int, later: int, payload: bytes) -> None:
    record = records.pack_message(flags, created, max_retries, deliveries, ID) + payload
    assert records.unpack_message(record) == (flags, created, max_retries, deliveries, ID)
    assert record[records.PAYLOAD_AT :] == payload
    again = records.with_deliveries(record, later)
    assert records.unpack_message(again) == (flags, created, max_retries, later, ID)
    assert again[records.PAYLOAD_AT :] == payload


@given(
    st.integers(0, 2**62),
    U32,
    st.text(max_size=30),
    st.binary(max_size=60),
    st.sampled_from([b"", b"d" * 16]),
    st.binary(),
    st.booleans(),
    U32,
)
def test_a_lock(
    end: int, deliveries: int, name: str, key: bytes, digest: bytes, record: bytes, websocket: bool, seconds: int
) -> None:
    frame = ClockFrame(7, -1234).pack()
    consumer = WS_MARK + name if websocket else name
    value = records.pack_lock(end, deliveries, consumer, key, digest, record, seconds, frame)
    lock = records.unpack_lock(value)
    assert tuple(lock) == (end, deliveries, name.encode(), key, digest, record, websocket, seconds, frame)
    assert lock.consumer_id == consumer
    assert records.repack_lock(lock) == value


# Verifies: PER-0012
def test_a_lock_of_an_earlier_version() -> None:
    value = struct.pack(">QIHHB", 1, 2, 3, 3, 16) + b"cnrkey" + b"d" * 16 + b"record"
    lock = records.unpack_lock(value)
    assert tuple(lock) == (1, 2, b"cnr", b"key", b"d" * 16, b"record", False, None, records.NO_FRAME)
    assert records.repack_lock(lock) == value
    assert records.end_now(lock, ClockFrame(7, 10**12), now=0) == 1


# Verifies: PER-0012
def test_a_dead_letter_of_an_earlier_version() -> None:
    value = b"\0\3keyrecord"
    letter = records.unpack_dead_letter(value)
    assert letter == records.StoredDeadLetter(b"key", b"record")
    assert records.repack_dead_letter(letter) == value


def test_the_longest_consumer_and_key_fit() -> None:
    value = records.pack_lock(1, 2, "c" * 65535, b"k" * 65535, b"d" * 16, b"record", 5, records.NO_FRAME)
    assert records.unpack_lock(value)[:6] == (1, 2, b"c" * 65535, b"k" * 65535, b"d" * 16, b"record")


HOUR = 3_600_000


# Verifies: PER-0009
@pytest.mark.parametrize(
    ("wrong_by", "same_boot", "ends_in"),
    [
        (0, True, 20_000),
        (0, False, 20_000),
        (5 * HOUR, True, 20_000),
        (-5 * HOUR, True, 20_000),
        (5 * HOUR, False, 30_000),  # the machine was started anew: at least not longer than it was made for
        (200, True, 20_200),  # slewed, not set
    ],
)
def test_a_lock_ends_rightly_whatever_the_clock_was(wrong_by: int, same_boot: bool, ends_in: int) -> None:
    """Made ten seconds ago for thirty, by a clock that was wrong then and is right now."""
    made = ClockFrame(7, HOUR + wrong_by)
    here = ClockFrame(7 if same_boot else 8, HOUR)
    now = 1_000 * HOUR
    end = now - 10_000 + wrong_by + 30_000
    lock = records.unpack_lock(records.pack_lock(end, 1, "c", b"k", b"", b"r", 30, made.pack()))
    assert records.end_now(lock, here, now) == now + ends_in


# Verifies: API-0023
@pytest.mark.parametrize("new", [False, True])
def test_ids_are_uuids_of_version_4_and_differ(new: bool) -> None:
    """Also the first ones of a process."""
    ids = [next(records._ids()) if new else records.new_id() for _ in range(1000)]
    assert len(set(ids)) == len(ids)
    for id in ids:
        uuid = UUID(id)
        assert str(uuid) == id
        assert (uuid.version, uuid.variant) == (4, RFC_4122)


def test_digests_have_16_bytes_and_differ() -> None:
    assert len(records.digest_of(b"")) == 16
    assert records.digest_of(b"a") == records.digest_of(b"a")
    assert records.digest_of(b"a") != records.digest_of(b"b")
