"""Until when a certificate is valid, read from its DER form, which the standard library does not show.

Rule: reads only as far as that (RFC 5280, 4.1). Anything else is a ValueError. OpenSSL decides what is accepted.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18


class Validity(NamedTuple):
    """From when to when."""

    since: datetime
    until: datetime


def validity_of(der: bytes) -> Validity:
    """Raises ValueError if `der` is no certificate."""
    certificate, _ = _inside(der, _SEQUENCE)
    rest, _ = _inside(certificate, _SEQUENCE)
    if rest[:1] == bytes([_VERSION]):
        _, rest = _inside(rest, _VERSION)
    for _ in ("serial number", "algorithm", "issuer"):
        _, _, rest = _element(rest)
    times, _ = _inside(rest, _SEQUENCE)
    since, times = _time(times)
    until, _ = _time(times)
    return Validity(since, until)


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """The tag of the first element, its content, and what follows it."""
    if len(data) < 2:
        raise ValueError("cut short")
    tag, length, start = data[0], data[1], 2
    if length >= 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start])
    if start + length > len(data):
        raise ValueError("cut short")
    return tag, data[start : start + length], data[start + length :]


def _inside(data: bytes, wanted: int) -> tuple[bytes, bytes]:
    tag, content, rest = _element(data)
    if tag != wanted:
        raise ValueError(f"{tag:#x} in place of {wanted:#x}")
    return content, rest


def _time(data: bytes) -> tuple[datetime, bytes]:
    tag, content, rest = _element(data)
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        # RFC 5280, 4.1.2.5.1: years from 50 on are of the last century.
        text = ("19" if text >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError(f"{tag:#x} is no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC), rest
