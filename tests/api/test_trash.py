"""What may be asked of the trash: for how long something is kept aside, and what is put back."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from qrusty_trio.core.model import MAX_UNDO_SECONDS
from qrusty_trio.storage.memory import MemoryStorage
from tests.wire.table import Table


@pytest.fixture
def table() -> Table:
    table = Table()
    assert table.post("/publish", {"queue": "q", "priority": 1, "payload": "p"}).status == 200
    return table


# Verifies: DLV-0059
@pytest.mark.parametrize("seconds", [str(MAX_UNDO_SECONDS + 1), "9" * 5000, "-1", "1.5", "", "x", "\u0661"])
def test_how_long_something_may_be_kept_aside(table: Table, seconds: str) -> None:
    sentence = f"'undo_seconds' must be an integer from 0 to {MAX_UNDO_SECONDS}"
    for method, path in (("POST", "/purge-queue/q"), ("DELETE", "/delete-queue/q")):
        reply = table.run(method, f"{path}?undo_seconds={quote(seconds)}")
        assert (reply.status, json.loads(reply.body)["error"]) == (400, sentence)
    assert table.get("/queue-stats/q")["available"] == 1


def test_the_longest_time_is_taken(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryStorage, "persistent", True)
    reply = table.post(f"/purge-queue/q?undo_seconds={MAX_UNDO_SECONDS}")
    assert (reply.status, json.loads(reply.body)["purged_messages"]) == (200, 1)


@pytest.mark.parametrize("id", ["0", "x", "-1", "1" * 10, "9" * 250, "%D9%A1"])
@pytest.mark.parametrize("verb", ["restore", "erase"])
def test_what_is_not_kept_aside(table: Table, id: str, verb: str) -> None:
    reply = table.post(f"/trash/{id}/{verb}")
    assert (reply.status, json.loads(reply.body)["code"]) == (404, "not_found")
