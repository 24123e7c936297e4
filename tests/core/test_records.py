"""Records come back as they were packed."""

from __future__ import annotations

from uuid import RFC_4122, UUID

from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.core import records
from qrusty_trio.core.model import U32_MAX, U64_MAX

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


@given(U64, U32, st.text(max_size=30), st.binary(max_size=60), st.sampled_from([b"", b"d" * 16]), st.binary())
def test_a_lock(until: int, deliveries: int, consumer: str, key: bytes, digest: bytes, record: bytes) -> None:
    value = records.pack_lock(until, deliveries, consumer.encode(), key, digest, record)
    assert records.unpack_lock(value) == (until, deliveries, consumer.encode(), key, digest, record)


def test_the_longest_consumer_and_key_fit() -> None:
    value = records.pack_lock(1, 2, b"c" * 65535, b"k" * 65535, b"d" * 16, b"record")
    assert records.unpack_lock(value) == (1, 2, b"c" * 65535, b"k" * 65535, b"d" * 16, b"record")


def test_ids_are_uuids_of_version_4_and_differ() -> None:
    ids = [records.new_id() for _ in range(1000)]
    assert len(set(ids)) == len(ids)
    for id in ids:
        uuid = UUID(id)
        assert str(uuid) == id
        assert (uuid.version, uuid.variant) == (4, RFC_4122)


def test_digests_have_16_bytes_and_differ() -> None:
    assert len(records.digest_of(b"")) == 16
    assert records.digest_of(b"a") == records.digest_of(b"a")
    assert records.digest_of(b"a") != records.digest_of(b"b")
