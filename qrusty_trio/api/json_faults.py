"""Says in a sentence what is wrong with a body that is not JSON.

Rule: this runs for bodies that msgspec refused, and must cost no more than msgspec did. It looks only where msgspec
stopped, never at the whole body.

Requirements: API-0003
"""

from __future__ import annotations

import re
from typing import Final

from qrusty_trio.errors import MalformedJson

MISSING_BODY = "the body is missing: it must be a JSON object"

_STOPPED_AT = re.compile(r"(?:surrogate pair|hex escape) \(byte (\d+)\)$")
"""How msgspec's error about a surrogate ends. The byte is the one after the last escape that it read."""
_HIGH: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
_LOW: Final = re.compile(rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_ESCAPE_BYTES = 6
"""Length of an escape such as `\\ud800`."""
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe")


def malformed(error: Exception, body: bytes) -> MalformedJson:
    """The refusal for a body that is not JSON. `error`: what msgspec or bytes.decode raised."""
    if not body:
        return MalformedJson(MISSING_BODY)
    if body.isspace():
        return MalformedJson("the body is blank: it must be a JSON object")
    if body.startswith(_BYTE_ORDER_MARKS):
        return MalformedJson("the body is not JSON: it begins with a byte order mark, but must be UTF-8 without one")
    if isinstance(error, RecursionError):
        return MalformedJson("the body is not JSON that can be read: it is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return MalformedJson("the body is not JSON: it is not UTF-8")
    problem = str(error)
    place = _lone_surrogate(problem, body)
    if place is not None:
        escape = body[place : place + _ESCAPE_BYTES].decode()
        return MalformedJson(
            f"the body is not JSON that can be read: the escape {escape} at byte {place} is half of a surrogate pair, "
            "and its other half is missing"
        )
    if problem == "Input data was truncated":
        return MalformedJson("the body is not JSON: it ends too early")
    return MalformedJson(f"the body is not JSON: {problem.removeprefix('JSON is malformed: ')}")


def _lone_surrogate(problem: str, body: bytes) -> int | None:
    """The offset of the escape that msgspec refused, if that is half of a surrogate pair; else None."""
    stopped = _STOPPED_AT.search(problem)
    if stopped is None:
        return _lone_at_the_end(body) if problem == "Input data was truncated" else None
    last = int(stopped[1]) - _ESCAPE_BYTES
    if last < 0:
        return None
    if _LOW.match(body, last) or (_HIGH.match(body, last) and "invalid" not in problem):
        return last
    first = last - _ESCAPE_BYTES
    return first if first >= 0 and _HIGH.match(body, first) else None


def _lone_at_the_end(body: bytes) -> int | None:
    """The same when less than an escape follows the first half: msgspec then reports truncated input."""
    start = max(0, len(body) - 2 * _ESCAPE_BYTES + 1)
    for found in _HIGH.finditer(body, start):
        rest = body[found.end() :]
        before = body[: found.start()]
        escaped = (len(before) - len(before.rstrip(b"\\"))) % 2
        if not escaped and rest and not rest.startswith(b"\\u") and rest != b"\\":
            return found.start()
    return None
