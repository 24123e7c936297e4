"""What a tokens file may have, and what is said of one that has something else."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.access.grants import FOREVER, MAX_PATTERN_CHARACTERS, Grant, Granted
from qrusty_trio.access.tokens_file import (
    MAX_FILE_BYTES,
    MAX_TOKENS,
    BadTokens,
    digest,
    entry_of,
    new_token,
    read_tokens,
)

HASH = "a" * 64
GOOD = f'[[token]]\nname = "worker"\nsha256 = "{HASH}"\ngrants = ["consume:orders.*"]\n'


# Verifies: API-0189
def test_a_file_with_all_there_is() -> None:
    tokens = read_tokens(
        (GOOD + "expires = 2027-01-31T00:00:00Z\nrequests_per_second = 0.5\nmessages_per_second = 10\n").encode()
    )
    worker = tokens.by_name["worker"]
    assert tokens.by_digest == {bytes.fromhex(HASH): worker}
    assert worker.grants == (Granted(Grant.CONSUME, "orders.*"),)
    assert worker.expires_ms == datetime(2027, 1, 31, tzinfo=UTC).timestamp() * 1000
    assert worker.limit is not None
    assert worker.key == bytes.fromhex(HASH)


def test_a_file_with_as_little_as_may_be() -> None:
    worker = read_tokens(GOOD.encode()).by_name["worker"]
    assert (worker.expires_ms, worker.limit) == (FOREVER, None)
    dated = read_tokens((GOOD + "expires = 2027-01-31\n").encode()).by_name["worker"]
    assert dated.expires_ms == datetime(2027, 1, 31, tzinfo=UTC).timestamp() * 1000


# Verifies: API-0189
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[token]", "it is no TOML: "),
        ('a = "\xff"'.encode("latin-1").decode("latin-1"), "'a' is nothing that it may have"),
        ("tokens = []", "'tokens' is nothing that it may have; a token begins with"),
        ("token = 1", r"'token' must be a list of tables; each begins with \[\[token\]\]"),
        ("[token]\nname = 'a'", "must be a list of tables"),
        (GOOD.replace("name", "nome"), r"token 1: 'nome' is no field of a token"),
        (GOOD.replace('"worker"', "1"), "this can't be a token's name"),
        (GOOD.replace("worker", "a b"), r"token 1 \(a b\): 'a b' can't be a token's name: that has up to 64"),
        (GOOD.replace("worker", "a" * 65), "can't be a token's name"),
        (GOOD.replace(HASH, HASH.upper()), r"token 1 \(worker\): 'sha256' must be the SHA-256 of the token"),
        (GOOD.replace(HASH, HASH[1:]), "64 hexadecimal digits in lower case"),
        (GOOD.replace('["consume:orders.*"]', '"consume:orders.*"'), "'grants' must be a list of at most 100 strings"),
        (GOOD.replace("consume:", "eat:"), "'eat:orders.*' must be a grant"),
        (GOOD + 'expires = "2027-01-31"', "'expires' must be a time such as 2027-01-31T00:00:00Z, without quotation"),
        (GOOD + "expires = 2027-01-31T00:00:00", "'expires' must have a time zone"),
        (GOOD + "requests_per_second = 0", "'requests_per_second' must be a number above 0"),
        (GOOD + "messages_per_second = true", "'messages_per_second' must be a number above 0"),
        (GOOD + "messages_per_second = inf", "'messages_per_second' must be a number above 0"),
        (GOOD + GOOD, "the name 'worker' is given twice"),
        (GOOD + GOOD.replace("worker", "other"), "'other' and 'worker' have the same sha256"),
        ("#" * (MAX_FILE_BYTES + 1), f"it has over {MAX_FILE_BYTES} bytes"),
        ("", r"it has no token: leave one with grants = \[\] in it if all are to end"),
        ("# all are gone\n", "it has no token"),
        ("token = []", "it has no token"),
        ("[[token]]\n" * (MAX_TOKENS + 1), f"it has over {MAX_TOKENS} tokens"),
    ],
    ids=lambda value: value[:40].replace("\n", " ") if isinstance(value, str) else "",
)
def test_a_file_that_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(BadTokens, match=sentence):
        read_tokens(text.encode())


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(BadTokens, match="it is no TOML"):
        read_tokens(b"\xff")


def test_a_token_is_256_random_bits() -> None:
    first, second = new_token(), new_token()
    assert first != second
    assert first.startswith("qrt_")
    assert len(first) == len("qrt_") + 43


@given(
    st.lists(st.text(min_size=1, max_size=MAX_PATTERN_CHARACTERS).filter(lambda text: text.strip()), max_size=5),
    st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    st.none() | st.integers(1, 10**6),
)
def test_what_is_written_is_read(patterns: list[str], expires: datetime | None, rate: int | None) -> None:
    grants = [Granted(Grant.READ, pattern) for pattern in patterns]
    token = new_token()
    text = entry_of("a-name", token, grants, expires, rate, rate)
    assert token not in text
    read = read_tokens((GOOD + text).encode()).by_digest[digest(token.encode())]
    assert (read.name, list(read.grants)) == ("a-name", grants)
    assert read.expires_ms == (FOREVER if expires is None else expires.replace(microsecond=0).timestamp() * 1000)
