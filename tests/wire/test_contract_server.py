"""The recorded contract against the real server: real sockets, both lanes, both stores."""

from __future__ import annotations

import pytest

from tests.wire.cases import SCENARIOS, run_scenario
from tests.wire.http_client import HttpClient


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_scenario(client: HttpClient, scenario: str) -> None:
    await run_scenario(client, SCENARIOS[scenario])


async def test_all_scenarios_in_turn(client: HttpClient) -> None:
    for steps in SCENARIOS.values():
        await run_scenario(client, steps)
