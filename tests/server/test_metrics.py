"""What /metrics shows of a running server, and that the dashboard and the alerts ask for nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from qrusty_trio.config import Settings
from qrusty_trio.errors import StorageFault
from qrusty_trio.server.metrics import MAX_QUEUES_SHOWN
from qrusty_trio.server.sampler import Lag
from tests.server.running import client_of, running, settings_for, until_ready
from tests.wire.http_client import HttpClient

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"


async def scraped(client: HttpClient, query: str = "") -> dict[str, Metric]:
    response = await client.request("GET", f"/metrics{query}")
    assert response.status == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {family.name: family for family in text_string_to_metric_families(response.body.decode())}


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    found = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


async def publish(client: HttpClient, queue: str, count: int = 1) -> None:
    for number in range(count):
        body = json.dumps({"queue": queue, "priority": number, "payload": "p", "max_retries": 1})
        assert (await client.request("POST", "/publish", body.encode())).status == 200


# Verifies: API-0075
async def test_what_a_server_has_done_is_in_its_metrics(settings: Settings) -> None:
    async with running(settings) as server, client_of(server) as client:
        await until_ready(server)
        name = 'q"\\\nü'
        await publish(client, name, 3)
        path = "?queue=q%22%5C%0A%C3%BC"
        consumed = [
            (await client.request("POST", f"/consume{path}", b'{"consumer_id":"c"}')).json()["id"] for _ in range(2)
        ]
        for verb, id in zip(("ack", "nack"), consumed, strict=True):
            response = await client.request("POST", f"/{verb}{path}&id={id}", b'{"consumer_id":"c"}')
            assert response.status == 200
        await client.request("POST", f"/consume{path}", b'{"consumer_id":"c"}')
        families = await scraped(client)
    for figure, expected in (
        ("qrusty_queue_available", 0),
        ("qrusty_queue_locked", 1),
        ("qrusty_queue_dead_letters", 1),
        ("qrusty_queue_published_total", 3),
        ("qrusty_queue_delivered_total", 3),
        ("qrusty_queue_acked_total", 1),
        ("qrusty_queue_nacked_total", 1),
        ("qrusty_queue_dead_lettered_total", 1),
    ):
        assert value(families, figure, queue=name) == expected, figure
    assert value(families, "qrusty_queue_oldest_age_seconds", queue=name) == 0
    for state, expected in (("available", 0), ("locked", 1), ("dead_letter", 1)):
        assert value(families, "qrusty_messages", state=state) == expected
    assert value(families, "qrusty_ready") == 1
    assert value(families, "qrusty_queues") == 1
    assert value(families, "qrusty_queues_without_series") == 0
    assert value(families, "qrusty_connections") == 1
    assert value(families, "qrusty_operation_seconds_count", operation="publish") == 3
    assert value(families, "qrusty_operation_seconds_bucket", operation="publish", le="+Inf") == 3
    assert 0 < value(families, "qrusty_operation_seconds_sum", operation="publish") < 60
    if server.engine.committer.waits:
        assert value(families, "qrusty_sync_responses_sum") == 5  # the publishes, the ack and the nack
        assert value(families, "qrusty_sync_seconds_count") >= 1
    assert families["process_resident_memory_bytes"].samples[0].value > 10**6


# Verifies: API-0075
async def test_the_age_of_the_oldest_message_is_there(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as server, client_of(server) as client:
        await until_ready(server)
        await publish(client, "q")
        ages = [0.0, 0.0]
        while ages[0] <= 0 or ages[-1] <= ages[0]:
            await trio.lowlevel.checkpoint()
            ages = [*ages[1:], value(await scraped(client), "qrusty_queue_oldest_age_seconds", queue="q")]


# Verifies: API-0075
async def test_series_of_queues_are_bounded_and_can_be_chosen(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as server, client_of(server) as client:
        await until_ready(server)
        for number in range(MAX_QUEUES_SHOWN + 20):
            await publish(client, f"q{number:03}")
        families = await scraped(client)
        shown = [sample.labels["queue"] for sample in families["qrusty_queue_available"].samples]
        assert shown == [f"q{number:03}" for number in range(MAX_QUEUES_SHOWN)]
        assert value(families, "qrusty_queues_without_series") == 20
        assert value(families, "qrusty_messages", state="available") == MAX_QUEUES_SHOWN + 20
        families = await scraped(client, "?queue=q110&queue=q003&queue=q110&queue=none")
        shown = [sample.labels["queue"] for sample in families["qrusty_queue_available"].samples]
        assert shown == ["q110", "q003"]
        for query in ("?queue=%FF", "?" + "&queue=q" * 200):
            response = await client.request("GET", f"/metrics{query}")
            assert (response.status, response.json()["code"]) == (400, "bad_request")
        response = await client.request("POST", "/metrics", b"")
        assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")


# Verifies: API-0076
async def test_probes_tell_by_their_status(settings: Settings) -> None:
    async with running(settings) as server, client_of(server) as client:
        gate = server.engine.services.gate

        async def responses() -> list[tuple[int, Any]]:
            found = [await client.request("GET", path) for path in ("/livez", "/readyz")]
            assert found[1].headers.get("retry-after") == ("2" if found[1].status == 503 else None)
            return [(each.status, each.json()["status"]) for each in found]

        await until_ready(server)
        assert await responses() == [(200, "ok"), (200, "ok")]
        gate.starting = True
        assert await responses() == [(200, "ok"), (503, "starting")]
        gate.starting = False
        server.engine.fault = StorageFault("The disk is gone.")
        gate.fault = "The disk is gone."
        assert await responses() == [(200, "ok"), (503, "storage_fault")]
        assert (await client.request("GET", "/readyz")).json()["message"] == "The disk is gone."
        assert value(await scraped(client), "qrusty_store_failed") == 1
        server.engine.fault = gate.fault = None
        server.stopping.set()
        await trio.testing.wait_all_tasks_blocked()
        assert gate.state == "stopping"


def test_lag() -> None:
    lag = Lag()
    for late, last, highest in ((0.5, 0.5, 0.5), (0.1, 0.1, 0.5), (-1.0, 0.0, 0.5)):
        lag.note(late)
        assert (lag.last, lag.highest) == (last, highest)


# Verifies: API-0075
async def test_the_dashboard_and_the_alerts_ask_for_what_there_is(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as server, client_of(server) as client:
        await until_ready(server)
        await publish(client, "q")
        families = await scraped(client)
    there = {sample.name for family in families.values() for sample in family.samples}
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    asked += re.findall(r"^ +expr: (.*)$", (MONITORING / "alerts.yml").read_text(), re.MULTILINE)
    assert len(asked) > 25
    names = {name for text in asked for name in re.findall(r"\b(?:qrusty|process)_\w+", text)}
    assert names <= there, names - there
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing: apt-get install prometheus")
@pytest.mark.parametrize("arguments", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_prometheus_takes_the_alerts(arguments: tuple[str, ...]) -> None:
    run = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
