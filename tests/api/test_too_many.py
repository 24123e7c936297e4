"""How many strings a batch may have besides its own, and how long a frame with a token may be: to the last one."""

from __future__ import annotations

import json

import pytest

from qrusty_trio.api.json_bodies import SPARE_STRINGS
from qrusty_trio.api.schema import settle_batch_body
from qrusty_trio.api.ws_auth import MAX_AUTH_CHARACTERS, read_auth
from qrusty_trio.core.model import MAX_BATCH_IDS, MAX_BATCH_MESSAGES
from tests.wire.table import Table


def spare(taken: int) -> list[str]:
    """Values of an unknown field, next to so many other strings besides those of the batch."""
    return [""] * (SPARE_STRINGS - taken - 1)


# Verifies: API-0022
@pytest.mark.parametrize("id", ["x", '"', "\\"])
def test_as_many_ids_as_a_batch_may_have_and_other_strings(id: str) -> None:
    ids = [id, *["x"] * (MAX_BATCH_IDS - 1)]
    body = json.dumps({"consumer_id": "c", "message_ids": ids, "x": spare(3)}).encode()
    assert settle_batch_body(body).message_ids == ids


# Verifies: DLV-0037
@pytest.mark.parametrize("payload", ["", '"' * 30 * MAX_BATCH_MESSAGES])
def test_as_many_messages_as_a_batch_may_have_and_other_strings(payload: str) -> None:
    fields = {"priority": "1", "max_retries": 0}
    messages = [{**fields, "payload": payload}, *[{**fields, "payload": ""}] * (MAX_BATCH_MESSAGES - 1)]
    table = Table()
    table.post("/create-queue", {"name": "q", "config": {"ordering": "Fifo", "priority_kind": "Text"}})
    reply = table.post("/publish-batch", {"queue": "q", "messages": messages, "x": spare(3)})
    assert reply.status == 200, reply.body
    assert len(json.loads(reply.body)["ids"]) == MAX_BATCH_MESSAGES


# Verifies: WS-0050
def test_the_longest_frame_that_shows_a_token() -> None:
    frame = '{"type":"auth","token":"%s"}'
    room = MAX_AUTH_CHARACTERS - len(frame) + 2
    longest = read_auth(frame % ("x" * room))
    assert longest is not None
    assert longest.token == "x" * room
    assert read_auth(frame % ("x" * (room + 1))) is None
