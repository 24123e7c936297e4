"""What is shown of a message: to its consumer, and of a dead letter whose payload is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qrusty_trio.storage.payloads import PayloadStore
from tests.api.test_browsing import WORKER, consume, publish, small_table
from tests.core.brokers import break_payload
from tests.wire.table import Table

PLAIN = {"id", "payload", "retry_count"}
DETAILS = {"priority", "created_at", "lock_until"}


@pytest.mark.parametrize("details", [None, False, True])
@pytest.mark.parametrize(
    ("path", "more", "also"),
    [
        ("/consume/q", {}, set()),
        ("/consume", {"queues": ["r", "q"]}, {"queue"}),
        ("/consume-batch/q", {"max_messages": 1}, set()),
    ],
)
def test_a_consumer_gets_the_fields_it_asks_for(
    path: str, more: dict[str, Any], also: set[str], details: bool | None
) -> None:
    table = Table()
    id = publish(table, 7, 'ü"')
    response = json.loads(table.post(path, {**WORKER, **more, "details": details}).body)
    message = response["messages"][0] if "messages" in response else response
    assert message.keys() == PLAIN | also | (DETAILS if details else set())
    assert (message["id"], message["payload"], message["retry_count"]) == (id, 'ü"', 1)
    assert message.get("queue") in (None, "q")
    if details:
        assert (message["priority"], message["created_at"], message["lock_until"]) == (7, table.now, table.now + 30_000)


def test_a_dead_letter_with_a_broken_payload(tmp_path: Path) -> None:
    payloads = PayloadStore.open(tmp_path / "payloads", segment_max_bytes=50_000)
    try:
        table = small_table(payloads)
        id = publish(table, payload="x" * 5_000, max_retries=1)
        assert consume(table)["id"] == id
        table.post(f"/nack/q/{id}", WORKER)
        break_payload(payloads, tmp_path, 0)
        for path in (f"/queues/q/dead-letters/{id}", f"/queues/q/messages/{id}", f"/find?id={id}"):
            shown = table.get(path)
            assert (shown["id"], shown["state"], shown["payload"], shown["payload_error"]) == (
                id,
                "dead",
                None,
                "checksum",
            )
    finally:
        payloads.close()
