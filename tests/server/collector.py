"""The cycle collector in a process of tests: each collection would look at all that thousands of tests have made.

Rule: what was there before the first test is frozen, so that a collection takes a millisecond. A server freezes what it
has made, too, as it counts on being alone in its process: here it may not, or nothing of it would ever be collected.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

FREEZE, UNFREEZE = gc.freeze, gc.unfreeze
_servers = 0


def freeze_what_is_there() -> None:
    gc.collect()
    FREEZE()


@contextmanager
def collector_restored() -> Iterator[None]:
    """Undo what is done to the collector."""
    thresholds = gc.get_threshold()
    try:
        yield
    finally:
        UNFREEZE()
        gc.set_threshold(*thresholds)
        freeze_what_is_there()


@contextmanager
def collector_of_tests() -> Iterator[None]:
    """For a server in this process: nothing more is frozen. Such times may overlap."""
    global _servers
    thresholds = gc.get_threshold()
    _servers += 1
    gc.freeze = gc.unfreeze = lambda: None
    try:
        yield
    finally:
        _servers -= 1
        if not _servers:
            gc.freeze, gc.unfreeze = FREEZE, UNFREEZE
        gc.set_threshold(*thresholds)
