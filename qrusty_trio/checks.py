"""What a setting may be: from the text of a variable to its value.

Rule: a check says in words what it allows, and its `parse` raises ValueError for anything else. Nothing is corrected.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
Choice = TypeVar("Choice", bound=StrEnum)

AUTO = -1
"""The value of a setting that is still to be derived from others."""
MAX_PROXIES = 64
MAX_LABEL_CHARS = 32
"""Longest name of an environment."""


@dataclass(frozen=True, slots=True)
class Check(Generic[T]):
    """The allowed values of a variable. `parse` raises ValueError for anything else."""

    allowed: str
    parse: Callable[[str], T]


def whole(least: int, most: int) -> Check[int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    return Check(f"a whole number from {least} to {most}", parse)


def decimal(least: float, most: float) -> Check[float]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII) or not least <= float(text) <= most:
            raise ValueError
        return float(text)

    return Check(f"a number from {least:g} to {most:g}", parse)


def one_of(choices: type[Choice]) -> Check[Choice]:
    return Check(" or ".join((", ".join(list(choices)[:-1]), list(choices)[-1])), choices)


def path() -> Check[Path]:
    def parse(text: str) -> Path:
        if not text.strip() or "\0" in text:
            raise ValueError
        text.encode()  # RocksDB takes only UTF-8 names; a UnicodeEncodeError is a ValueError
        return Path(text)

    return Check("the path of a directory, in UTF-8", parse)


def file() -> Check[Path | None]:
    def parse(text: str) -> Path | None:
        if not text:
            return None
        if not text.strip() or "\0" in text:
            raise ValueError
        text.encode()
        return Path(text)

    return Check("nothing, or the path of a file, in UTF-8", parse)


def switch(on: str = "enabled", off: str = "disabled") -> Check[bool]:
    def parse(text: str) -> bool:
        if text not in (on, off):
            raise ValueError
        return text == on

    return Check(f"{on} or {off}", parse)


def derived(number: Check[int]) -> Check[int]:
    """A check for a setting that is derived from others unless it is set."""
    return Check(f"auto or {number.allowed}", lambda text: AUTO if text == "auto" else number.parse(text))


def memory_limit() -> Check[int | None]:
    number = whole(32, 16_777_216)

    def parse(text: str) -> int | None:
        return None if text == "auto" else number.parse(text)

    return Check(f"auto or {number.allowed}", parse)


def origins() -> Check[frozenset[str]]:
    def parse(text: str) -> frozenset[str]:
        origins = [origin.strip().lower() for origin in text.split(",")] if text.strip() else []
        if not all(re.fullmatch(r"https?://[^/,\s@?#*\"]+", origin) for origin in origins):
            raise ValueError
        return frozenset(origins)

    return Check("nothing, or origins such as https://ops.example:8443, separated by commas, without paths", parse)


def hosts() -> Check[frozenset[str]]:
    def parse(text: str) -> frozenset[str]:
        hosts = [host.strip().lower().removesuffix(".") for host in text.split(",")] if text.strip() else []
        if not all(re.fullmatch(r"[-0-9a-z._]+", host, re.ASCII) for host in hosts):
            raise ValueError
        return frozenset(hosts)

    return Check("nothing, or names such as ops.example, separated by commas, without ports", parse)


def proxies() -> Check[tuple[IPv4Network | IPv6Network | str, ...]]:
    """A check for networks, and the word `unix`."""

    def parse(text: str) -> tuple[IPv4Network | IPv6Network | str, ...]:
        parts = [part.strip(" ") for part in text.split(",")] if text.strip(" ") else []
        if len(parts) > MAX_PROXIES:
            raise ValueError
        return tuple(part if part == "unix" else ip_network(part) for part in parts)

    return Check(
        f"nothing, or at most {MAX_PROXIES} addresses and networks such as 10.0.0.0/8, and unix, separated by commas",
        parse,
    )


def label() -> Check[str]:
    def parse(text: str) -> str:
        if len(text) > MAX_LABEL_CHARS or not text.isprintable() or text != text.strip():
            raise ValueError
        return text

    return Check(f"nothing, or at most {MAX_LABEL_CHARS} printable characters", parse)
