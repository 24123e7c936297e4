"""Tokens that are none: counted, and slowed for the address that they came from.

Rule: after a few failures, each further attempt from that address takes its turn, and the turns grow longer. Whoever
comes when too many wait is refused at once. An address that is quiet is forgiven. Other addresses wait for nothing, nor
does a token that was accepted before. What is remembered is bounded: the address that was heard of longest ago goes
first.

Requirements: API-0190
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

from qrusty_trio.errors import TooManyFailures
from qrusty_trio.wording import counted

FREE_FAILURES = 3
"""Failures of an address that delay nothing: people mistype."""
FIRST_DELAY_SECONDS = 0.25
MAX_DELAY_SECONDS = 5.0
MAX_WAIT_SECONDS = 10.0
"""Whoever would wait longer for a turn is refused."""
FORGIVEN_SECONDS = 600.0
"""After so long without a failure, an address begins anew."""
MAX_ADDRESSES = 10_000
MAX_LINES = 10
"""Failures logged in `PERIOD_SECONDS`."""
PERIOD_SECONDS = 60.0
_NETWORK_BITS = 64
"""Whoever has an IPv6 address has all of its network, so that counts as one."""

log = logging.getLogger(__name__)


def neighbourhood(address: str) -> str:
    """What counts as one address: an IPv4 address, or a network of IPv6."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return f"{IPv6Address(int(found) >> _NETWORK_BITS << _NETWORK_BITS)}/{_NETWORK_BITS}"
    return address


class _Record:
    """What is remembered of an address."""

    __slots__ = ("count", "free_at", "last")

    def __init__(self) -> None:
        self.count = 0
        self.last = -math.inf
        self.free_at = -math.inf
        """When its next turn is."""


class Failures:
    """Failed attempts, by address. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.count = 0
        """All of them, since the start."""
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._period_ends = -math.inf
        self._logged = 0
        self._unlogged = 0

    def __len__(self) -> int:
        return len(self._records)

    def turn(self, address: str, now: float) -> float:
        """Seconds that an attempt from this address must wait for its turn. Raises TooManyFailures."""
        record = self._records.get(neighbourhood(address))
        if record is None:
            return 0.0
        if now >= record.last + FORGIVEN_SECONDS:
            del self._records[neighbourhood(address)]
            return 0.0
        over = record.count - FREE_FAILURES
        if over < 0:
            return 0.0
        free_at = max(record.free_at, now) + min(FIRST_DELAY_SECONDS * 2 ** min(over, 30), MAX_DELAY_SECONDS)
        wait: float = free_at - now
        if wait > MAX_WAIT_SECONDS:
            raise TooManyFailures("From this address came too many tokens that are none", math.ceil(wait))
        record.free_at = free_at
        return wait

    def failed(self, address: str, now: float) -> None:
        """An attempt from this address failed."""
        self.count += 1
        key = neighbourhood(address)
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = _Record()
            if len(self._records) > MAX_ADDRESSES:
                self._records.popitem(last=False)
        else:
            self._records.move_to_end(key)
        record.count += 1
        record.last = now
        self._log(address, record.count, now)

    def _log(self, address: str, count: int, now: float) -> None:
        if now >= self._period_ends:
            self._period_ends = now + PERIOD_SECONDS
            self._logged = 0
        if self._logged >= MAX_LINES:
            self._unlogged += 1
            return
        self._logged += 1
        more = f"; {counted(self._unlogged, 'such line was', 'such lines were')} left out" if self._unlogged else ""
        self._unlogged = 0
        log.warning("a token from %s is none (failure %d of this address)%s", address or "a local peer", count, more)
