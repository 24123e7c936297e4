"""The recorded contract against the real server: real sockets, both paths, both stores."""

from __future__ import annotations

import pytest

from tests.wire.cases import SCENARIOS, run_scenario
from tests.wire.http_client import HttpClient


# Verifies: SYS-0010, SCH-0001, SCH-0002, SCH-0003, SCH-0004, SCH-0009, DLV-0002, DLV-0006, DLV-0007, DLV-0009, DLV-0010
# Verifies: DLV-0030, API-0017, API-0018, API-0019, API-0025
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_scenario(client: HttpClient, scenario: str) -> None:
    await run_scenario(client, SCENARIOS[scenario])


# Verifies: SYS-0010
async def test_all_scenarios_in_turn(client: HttpClient) -> None:
    for steps in SCENARIOS.values():
        await run_scenario(client, steps)
