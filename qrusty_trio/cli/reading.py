"""Messages of a queue, page by page, each with its whole payload.

Rule: nothing is locked, counted or moved. What is held here is a page, however long the queue is. A message that goes
away meanwhile is left out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

from qrusty_trio.cli.progress import bar
from qrusty_trio.client import HttpClient, MessageNotFound, NotFound

PAGE = 100
"""Messages of a page: as many as a server gives."""
FOUND = ("looked_at", "available", "complete", "cursor", "before")
"""What tells about the search for a message, not about the message."""

State = Literal["available", "locked", "dead"]


async def messages_of(
    client: HttpClient, queue: str, state: State, *, limit: int | None = None
) -> AsyncIterator[dict[str, Any]]:
    """The messages of a queue in order, as the API describes them."""
    cursor: str | None = None
    left = limit
    while left is None or left > 0:
        page = await client.messages(queue, state=state, limit=min(PAGE, left or PAGE), cursor=cursor)
        for message in page["messages"]:
            whole = await _whole(client, queue, message)
            if whole is not None:
                yield whole
                if left is not None:
                    left -= 1
        cursor = page["cursor"]
        if cursor is None:
            return


async def _whole(client: HttpClient, queue: str, message: dict[str, Any]) -> dict[str, Any] | None:
    """A message of a page with its payload, if that was too large for the page; None if it is gone."""
    if "payload_preview" not in message:
        return message
    try:
        if message["state"] == "dead":
            return await client.dead_letter(queue, message["id"])
        return await message_of(client, queue, message["id"])
    except NotFound:
        return None


async def message_of(client: HttpClient, queue: str, id: str) -> dict[str, Any]:
    """A message with its whole payload, wherever it is in the queue. Raises MessageNotFound."""
    cursor = None
    while True:
        found = await client.message(queue, id, cursor=cursor)
        if found["state"] is not None:
            return {name: value for name, value in found.items() if name not in FOUND}
        cursor = found["cursor"]
        if cursor is None:
            raise MessageNotFound(f"There is no message '{id}' in queue '{queue}'", "message_not_found", 404)


async def message_anywhere(client: HttpClient, id: str, quiet: bool) -> dict[str, Any]:
    """A message with its queue, whatever that is. Raises MessageNotFound. `quiet`: no bar tells how far it came."""
    found = await client.find(id)
    with bar("looked at", found["available"], quiet) as advance:
        while found["state"] is None and found["cursor"] is not None:
            advance(found["looked_at"])
            found = await client.find(id, cursor=found["cursor"])
    return {name: value for name, value in found.items() if name not in FOUND}
