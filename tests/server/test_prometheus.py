"""A real Prometheus scrapes a real server, and its alerts fire on a real backlog and a real lack of memory.

Rule: the alert rules and the scrape configuration are those that are shipped, in docs/. Only their times are shortened,
all alike, so that an alert for five minutes takes one second.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from tests.server.running import ROOT, Child, child_server, client_of, url
from tests.wire.http_client import HttpClient, open_client

SHORTER = 300
"""How many times shorter each time of the rules is."""
SCRAPE = "250ms"
MEMORY_MB = 256
WAIT_SECONDS = 120.0
UNITS = {"s": 1000, "m": 60_000, "h": 3_600_000}

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is missing: apt-get install prometheus"
)


def shortened(rules: str) -> str:
    """The rules with each `for:` and each range shortened."""

    def shorter(match: re.Match[str]) -> str:
        milliseconds = int(match[2]) * UNITS[match[3]] // SHORTER
        return f"{match[1]}{max(milliseconds, 1)}ms"

    short, count = re.subn(r"(for: |\[)(\d+)([smh])\b", shorter, rules)
    assert count > 10
    return short


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def write_configuration(directory: Path, target: str) -> Path:
    """The scrape configuration of docs/operating.md for this target, with the shipped rules."""
    documented = (ROOT / "docs" / "operating.md").read_text()
    snippet = re.search(r"^    scrape_configs:\n(?:      .*\n)+", documented, re.MULTILINE)
    assert snippet is not None
    configuration = yaml.safe_load(snippet[0])
    (job,) = configuration["scrape_configs"]
    job["static_configs"] = [{"targets": [target]}]
    configuration["global"] = {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE, "scrape_timeout": SCRAPE}
    configuration["rule_files"] = ["alerts.yml"]
    rules = (ROOT / "docs" / "monitoring" / "alerts.yml").read_text()
    (directory / "alerts.yml").write_text(shortened(rules))
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    return file


@asynccontextmanager
async def prometheus(directory: Path, child: Child) -> AsyncIterator[HttpClient]:
    """A Prometheus that watches the server. Yields a client of its API once it answers."""
    configuration = write_configuration(directory, f"127.0.0.1:{child.port}")
    port = free_port()
    log = (directory / "prometheus.log").open("wb")
    process = await trio.lowlevel.open_process(
        [
            "prometheus",
            f"--config.file={configuration}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    try:
        log.close()
        with trio.fail_after(WAIT_SECONDS):
            while not await answers(port):
                assert process.poll() is None, (directory / "prometheus.log").read_text()
                await trio.sleep(0.05)
        async with open_client(url(port)) as client:
            yield client
    finally:
        process.kill()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + WAIT_SECONDS):
            await process.wait()


async def answers(port: int) -> bool:
    try:
        async with open_client(url(port)) as client:
            return (await client.request("GET", "/-/ready")).status == 200
    except OSError:
        return False


async def firing(client: HttpClient) -> dict[tuple[str, str], dict[str, str]]:
    """(alert, its queue or '') -> its annotations, of those that fire now."""
    answer = await client.request("GET", "/api/v1/alerts")
    assert answer.status == 200
    found: list[dict[str, Any]] = answer.json()["data"]["alerts"]
    return {
        (each["labels"]["alertname"], each["labels"].get("queue", "")): each["annotations"]
        for each in found
        if each["state"] == "firing"
    }


async def publish(client: HttpClient, queue: str, payload: str, count: int) -> int:
    """Publish so many in one batch. The status."""
    message = {"priority": 1, "payload": payload, "max_retries": 1}
    body = json.dumps({"queue": queue, "messages": [message] * count}).encode()
    return (await client.request("POST", "/publish-batch", body)).status


# Verifies: API-0094
def test_the_times_of_the_rules_are_shortened_alike() -> None:
    assert shortened("for: 5m\n" * 11 + "rate(x[15m]) for: 10s") == "for: 1000ms\n" * 11 + "rate(x[3000ms]) for: 33ms"


# Verifies: API-0094
async def test_alerts_fire_on_a_backlog_and_on_a_lack_of_memory(tmp_path: Path) -> None:
    limits = {"STORAGE_MODE": "memory", "QRUSTY_MEMORY_LIMIT_MB": f"{MEMORY_MB}"}
    async with (
        child_server(tmp_path / "store", **limits) as child,
        client_of(child) as client,
        prometheus(tmp_path, child) as watcher,
    ):
        wanted = {("QrustyQueueStalled", "stalled"), ("QrustyQueueGrows", "grows")}
        assert not wanted & set(await firing(watcher))
        assert await publish(client, "stalled", "p", 3) == 200
        assert await publish(client, "grows", "p", 1100) == 200
        with trio.fail_after(WAIT_SECONDS):
            while not wanted <= set(alerts := await firing(watcher)):
                assert await publish(client, "grows", "p", 20) == 200
                await trio.sleep(0.1)
        assert alerts["QrustyQueueStalled", "stalled"]["summary"] == (
            "Queue stalled has messages, and nobody takes any."
        )
        memory = {("QrustyMemoryCritical", ""), ("QrustyMemoryWarning", "")}
        assert not memory & set(alerts)
        with trio.fail_after(WAIT_SECONDS):
            while not memory <= set(alerts := await firing(watcher)):
                if await publish(client, "large", "x" * 1_000_000, 2) == 503:
                    await trio.sleep(0.1)
        assert await publish(client, "large", "p", 1) == 503
        assert "refuses publishes for lack of memory" in alerts["QrustyMemoryCritical", ""]["summary"]
        # Somebody takes what is there: the alert ends.
        body = json.dumps({"consumer_id": "c", "max_messages": 100}).encode()
        with trio.fail_after(WAIT_SECONDS):
            while ("QrustyQueueStalled", "stalled") in await firing(watcher):
                await client.request("POST", "/consume-batch/stalled", body)
                await trio.sleep(0.1)
