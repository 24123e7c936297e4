"""Many messages in one request: publish, consume, ack, nack, renew. The same as batches.sh and batches.mjs."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any

URL = os.environ.get("QRUSTY_URL", "http://127.0.0.1:6784")


def ask(method: str, path: str, body: object = None) -> Any:
    """Print the request and its response. Returns the response, parsed."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            text = response.read().decode()
    except urllib.error.HTTPError as error:
        text = error.read().decode()
    print(f"{method} {path}\n  {text}")
    return json.loads(text or "null")


# One request, one sync. What the queue refuses is named, and the others are there.
ask("POST", "/create-queue", {"name": "batches", "config": {"ordering": "Fifo"}})
ask(
    "POST",
    "/publish-batch",
    {
        "queue": "batches",
        "messages": [
            {"priority": 0, "payload": "one"},
            {"priority": 0, "payload": "two"},
            {"priority": "text", "payload": "refused"},
            {"priority": 0, "payload": "three"},
        ],
    },
)

# Up to so many at a time, each with its own lock.
taken = ask("POST", "/consume-batch/batches", {"consumer_id": "me", "max_messages": 2, "timeout_seconds": 60})[
    "messages"
]
first, second = (message["id"] for message in taken)

# More time for both.
ask("POST", "/renew-batch/batches", {"consumer_id": "me", "message_ids": [first, second], "timeout_seconds": 120})

# The first is done, the second is not.
ask("POST", "/ack-batch/batches", {"consumer_id": "me", "message_ids": [first]})
ask("POST", "/nack-batch/batches", {"consumer_id": "me", "message_ids": [second], "error": "not today"})

# An id that this consumer does not hold is named, and harms nothing.
ask("POST", "/ack-batch/batches", {"consumer_id": "me", "message_ids": [first]})

# The second took its old place.
ask("POST", "/consume-batch/batches", {"consumer_id": "me", "max_messages": 10})

# Tidy up.
ask("DELETE", "/delete-queue/batches")
