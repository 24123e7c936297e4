"""The seed of the crash tests: shown when one fails, and taken from QRUSTY_CRASH_SEED to run it again."""

from __future__ import annotations

import os
import random

import pytest

from tests.crash.ledger import Ledger


@pytest.fixture
def ledger(request: pytest.FixtureRequest) -> Ledger:
    """Empty books. The seed decides what clients do and when the server is killed, not how fast they are."""
    given = os.environ.get("QRUSTY_CRASH_SEED")
    seed = int(given) if given else random.SystemRandom().randrange(2**32)
    request.node.add_report_section("call", "seed", f"QRUSTY_CRASH_SEED={seed}")
    return Ledger(seed)
