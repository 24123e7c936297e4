"""Payloads that a person or a pipe gives: from an argument, a file or stdin.

Rule: bytes go to the server as they came; no newline is added or taken away. What is read is bounded, however long the
input is.

Requirements: API-0125
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed

MAX_PAYLOAD_BYTES = 2 * 1024 * 1024
"""A server takes no request of more."""
MAX_LINE_BYTES = 6 * MAX_PAYLOAD_BYTES
"""Of JSON lines: a byte of a payload takes up to six there."""
STDIN = "-"

T = TypeVar("T")


class Unreadable(Exception):
    """A line is no JSON, or has another form. `str(error)` says what is wrong."""


def payload_of(argument: str | None, file: Path | None) -> str:
    """The payload of one message. Raises Failed."""
    if argument is not None and file is not None:
        raise Failed(Exit.USAGE, "a payload and --file were given: give one of them")
    if argument is not None and argument != STDIN:
        return argument
    with opened(file) as stream:
        data = stream.read(MAX_PAYLOAD_BYTES + 1)
    if len(data) > MAX_PAYLOAD_BYTES:
        raise Failed(Exit.REFUSED, f"the payload has more than {MAX_PAYLOAD_BYTES:,} bytes, which no server takes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Failed(
            Exit.REFUSED, f"the payload is no UTF-8 from byte {error.start} on: encode it, for example with base64"
        ) from error


@contextmanager
def opened(file: Path | None) -> Iterator[BinaryIO]:
    """A file, or stdin if there is none or it is `-`. Raises Failed if a person would have to type it unasked."""
    if file is not None and str(file) != STDIN:
        try:
            stream = file.open("rb")
        except OSError as error:
            raise Failed(Exit.REFUSED, f"{file} can't be read: {error.strerror}") from error
        with stream:
            yield stream
        return
    if file is None and sys.stdin.isatty():
        raise Failed(Exit.USAGE, "nothing is given: give it as an argument, with --file, or through a pipe")
    yield sys.stdin.buffer


def lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a stream that are not empty, with their numbers from 1. Raises Failed for one that is too long."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise Failed(Exit.REFUSED, f"line {number} has more than {MAX_LINE_BYTES:,} bytes")
        if line.strip():
            yield number, line


def decoded(decode: Callable[[bytes], T], line: bytes) -> T:
    """What a decoder of JSON reads in a line. Raises Unreadable."""
    try:
        return decode(line)
    except UnicodeDecodeError as error:
        raise Unreadable("it is no UTF-8") from error
    except RecursionError as error:
        raise Unreadable("it is nested too deep") from error
    except msgspec.MsgspecError as error:
        raise Unreadable(str(error)) from error


def ids_of(given: list[str]) -> list[str]:
    """Ids from arguments; from stdin, one a line, if the only argument is `-`."""
    if given != [STDIN]:
        return given
    found = [line.decode(errors="replace").strip() for _, line in lines(sys.stdin.buffer)]
    if not found:
        raise Failed(Exit.USAGE, "stdin has no ids: give one a line")
    return found
