"""Both lanes answer requests in the same way."""

from __future__ import annotations

import pytest

from tests.http.web import LANES, running

pytestmark = pytest.mark.parametrize("fast_lane", LANES, ids=["fast", "quart"])


async def test_a_message_lives_and_ends(fast_lane: bool) -> None:
    async with running(fast_lane) as web, web.client() as client:
        created = await client.ask("POST", "/create-queue", {"name": "q", "config": {"ordering": "Fifo"}})
        assert (created.status, created.body) == (200, b"")
        assert "content-type" not in created.headers
        published = await client.ask("POST", "/publish", {"queue": "q", "priority": 1, "payload": "hello"})
        assert published.headers["content-type"] == "application/json"
        message_id = published.json()["id"]
        consumed = await client.ask("POST", "/consume/q", {"consumer_id": "w"})
        assert consumed.json() == {"id": message_id, "payload": "hello", "retry_count": 1}
        acked = await client.ask("POST", f"/ack/q/{message_id}", {"consumer_id": "w"})
        assert acked.status == 200
        again = await client.ask("POST", f"/ack/q/{message_id}", {"consumer_id": "w"})
        assert (again.status, again.json()["code"]) == (404, "message_not_locked")
