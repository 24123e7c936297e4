"""The verifier: payloads, their digests, and the sums of those in segment files."""

from __future__ import annotations

import struct

import pytest

from qrusty_trio.core import records, verifying, verifying_sums
from qrusty_trio.core.verifying_sums import PAIRS_PER_STEP
from qrusty_trio.storage.base import Family
from tests.core.damages import (
    DEAD,
    DEDUP,
    EXTERNAL,
    JOBS,
    MESSAGES,
    META,
    NAMES,
    STRANGER,
    TWINS,
    UNIQUE,
    Damage,
    Sound,
    Told,
    all_of,
    change,
    delete,
    index,
    key,
    nth,
    put,
    sums,
    told,
    u64,
)


def digest(text: str) -> bytes:
    return UNIQUE + records.digest_of(text.encode())


EARLIEST, GROUP = 0x5C, struct.pack(">IIB", 1, 2, 1)
"""The first dead letter of `names` has its payload there in segment 1, and how its keys in EXTERNAL begin."""


NOT_LED = "the digest of the payload of message {} does not lead to it"
NOT_NOTED = "the payload of message {} in segment 1 is not noted as its own"
NOT_REFERRED = f"message {STRANGER.decode()} does not refer to the payload at 9999 of segment 1"
GONE = "1 digests lead to messages that are gone"
A_LIVE_ONE_MORE = "EXTERNAL has 8 payloads of messages in segment 1, records have 7"
A_DEAD_ONE_MORE = "EXTERNAL has 3 payloads of dead letters in segment 1, records have 2"


def of_first(place: bytes, queue: bytes) -> Damage:
    """An entry of a payload that the first message of a queue is said to have."""
    return lambda pairs: pairs[EXTERNAL].update({place: STRANGER + nth(pairs, MESSAGES, queue)})


def checksum_of(family: Family, which: bytes, at: int) -> Damage:
    """Change a byte of the checksum in a record."""
    return change(family, which, lambda value: value[:at] + bytes((value[at] ^ 1,)) + value[at:][1:])


OF_PAYLOADS: dict[str, tuple[str, Damage, Told]] = {
    "no digest": ("unique", delete(DEDUP, digest("u4")), [("digest", NOT_LED.format("unique.4"))]),
    "no digest of a locked one": ("unique", delete(DEDUP, digest("u6")), [("digest", NOT_LED.format("unique.6"))]),
    "no digest of two that are locked": (
        "twins",
        delete(DEDUP, TWINS),
        [("digest", NOT_LED.format("twins.0")), ("digest", NOT_LED.format("twins.1"))],
    ),
    "the digest of another": ("unique", put(DEDUP, digest("u4"), STRANGER), [("digest", NOT_LED.format("unique.4"))]),
    "the digest of a locked one leads to another": ("unique", put(DEDUP, digest("u6"), STRANGER), [("digest", GONE)]),
    "a digest too many": ("unique", put(DEDUP, UNIQUE + bytes(16), STRANGER), [("digest", GONE)]),
    "a digest too many, and a dead letter without its payload": (
        "unique",
        all_of(put(DEDUP, UNIQUE + bytes(16), STRANGER), checksum_of(DEAD, UNIQUE + u64(1), -17)),
        [
            ("payload", "message unique.7 has lost its payload: checksum (Payload at 908 of segment 1: checksum)"),
            ("digest", GONE),
        ],
    ),
    "duplicates are allowed": (
        "jobs",
        put(DEDUP, JOBS + bytes(16), STRANGER),
        [("digest", "there is a digest, though duplicates are allowed")],
    ),
    "no entry": (
        "names",
        delete(EXTERNAL, b""),
        [
            ("external", NOT_NOTED.format("names.3")),
            ("external", "EXTERNAL has 6 payloads of messages in segment 1, records have 7"),
        ],
    ),
    "no entry of a dead letter": (
        "names",
        delete(EXTERNAL, GROUP),
        [
            ("external", NOT_NOTED.format("names.1")),
            ("external", "EXTERNAL has 1 payloads of dead letters in segment 1, records have 2"),
        ],
    ),
    "the entry of another": (
        "names",
        change(EXTERNAL, b"", lambda value: STRANGER + value[36:], 2),
        [("external", NOT_NOTED.format("names.5"))],
    ),
    "an entry of what is not there": (
        "names",
        put(EXTERNAL, index(1, 2, 0, 9999), STRANGER + NAMES + bytes(12)),
        [("external", A_LIVE_ONE_MORE)],
    ),
    "an entry of what is elsewhere": (
        "names",
        of_first(index(1, 2, 0, 9999), NAMES),
        [("external", NOT_REFERRED), ("external", A_LIVE_ONE_MORE)],
    ),
    "an entry of what is in its record": ("jobs", of_first(index(1, 1, 0, 9999), JOBS), [("external", NOT_REFERRED)]),
    "an entry of a dead letter that is elsewhere": (
        "names",
        put(EXTERNAL, index(1, 2, 1, 9999), STRANGER + NAMES + u64(0)),
        [("external", NOT_REFERRED), ("external", A_DEAD_ONE_MORE)],
    ),
    "an entry of a dead letter that is not there": (
        "names",
        put(EXTERNAL, index(1, 2, 1, 9999), STRANGER + NAMES + u64(7)),
        [("external", NOT_REFERRED), ("external", A_DEAD_ONE_MORE)],
    ),
    "an entry of another segment": (
        "names",
        put(EXTERNAL, index(2, 2, 1, EARLIEST), STRANGER + NAMES + u64(0)),
        [("external", NOT_REFERRED.replace("9999 of segment 1", f"{EARLIEST} of segment 2"))],
    ),
    **{
        f"{lost} is lost": (
            lost.partition(".")[0],
            damage,
            [("payload", f"message {lost} has lost its payload: checksum (Payload at {at} of segment 1: checksum)")],
        )
        for lost, damage, at in (
            ("names.5", checksum_of(MESSAGES, NAMES, -1), 0x16C),
            ("unique.3", checksum_of(MESSAGES, key(UNIQUE, 3, 3), -17), 0x304),
            ("unique.7", checksum_of(DEAD, UNIQUE + u64(1), -17), 0x38C),
        )
    },
    "sums count": (
        "names",
        change(META, b"S", lambda value: sums(8, 420, 9999)),
        [("sums", "META has 8 payloads with 420 octets of messages in segment 1, records have 7 with 420")],
    ),
    "sums of bytes": (
        "names",
        change(META, b"S", lambda value: sums(7, 1421, 9999)),
        [("sums", "META has 7 payloads with 1,421 octets of messages in segment 1, records have 7 with 420")],
    ),
    "the end of payloads": (
        "names",
        change(META, b"S", lambda value: sums(7, 420, 695)),
        [("sums", "META says that payloads of messages in segment 1 end at 695, but one ends at 696")],
    ),
    "the end of dead letters": (
        "names",
        change(META, b"S", lambda value: sums(2, 120, 219), 1),
        [("sums", "META says that payloads of dead letters in segment 1 end at 219, but one ends at 220")],
    ),
    "no sums": (
        "names",
        delete(META, b"S"),
        [
            ("sums", "META has 0 payloads with 0 octets of messages in segment 1, records have 7 with 420"),
            ("sums", "META says that payloads of messages in segment 1 end at 0, but one ends at 696"),
        ],
    ),
    "sums of nothing": (
        "jobs",
        put(META, b"S" + struct.pack(">IIB", 7, 1, 0), sums(1, 0, 0)),
        [("sums", "META has 1 payloads with 0 octets of messages in segment 7, records have 0 with 0")],
    ),
}


# Verifies: API-0133
@pytest.mark.parametrize("pairs_per_step", [PAIRS_PER_STEP, 2])
@pytest.mark.parametrize("name", OF_PAYLOADS)
def test_what_is_wrong_with_payloads(
    sound: Sound, monkeypatch: pytest.MonkeyPatch, pairs_per_step: int, name: str
) -> None:
    for module in (verifying, verifying_sums):
        monkeypatch.setattr(module, "PAIRS_PER_STEP", pairs_per_step)
    queue, damage, expected = OF_PAYLOADS[name]
    assert told(sound, damage) == [(code, queue, sentence) for code, sentence in expected]
