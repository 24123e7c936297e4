"""Why messages died, putting them back, and purging the rest. The same as dead_letters.sh and dead_letters.mjs."""

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


# Three messages that get one try each.
ask(
    "POST",
    "/publish-batch",
    {
        "queue": "letters",
        "messages": [
            {"priority": 3, "payload": "to nobody", "max_retries": 1},
            {"priority": 2, "payload": "without a stamp", "max_retries": 1},
            {"priority": 1, "payload": "to someone", "max_retries": 1},
        ],
    },
)

# The worker says why it can't do them.
first = ask("POST", "/consume/letters", {"consumer_id": "postman"})["id"]
ask("POST", f"/nack/letters/{first}", {"consumer_id": "postman", "error": "no such address"})
second = ask("POST", "/consume/letters", {"consumer_id": "postman"})["id"]
ask("POST", f"/nack/letters/{second}", {"consumer_id": "postman", "error": "no stamp"})
third = ask("POST", "/consume/letters", {"consumer_id": "postman"})["id"]
ask("POST", f"/nack/letters/{third}", {"consumer_id": "postman", "error": "no such address"})

# All of them, then those of one reason.
ask("GET", "/queues/letters/dead-letters")
ask("GET", "/queues/letters/dead-letters?text=no+stamp")

# What a requeue would do. It does nothing yet.
ask("POST", "/queues/letters/dead-letters/requeue", {"filter": {"text": "no such address"}, "dry_run": True})

# One goes back to its queue, another one to a queue for people.
ask("POST", "/create-queue", {"name": "by-hand", "config": {"ordering": "Fifo"}})
ask("POST", "/queues/letters/dead-letters/requeue", {"ids": [second]})
ask("POST", "/queues/letters/dead-letters/requeue", {"ids": [third], "to": "by-hand", "priority": 5})
ask("POST", "/consume/letters", {"consumer_id": "postman"})
ask("POST", "/consume/by-hand", {"consumer_id": "me"})

# The rest is purged for good.
ask("POST", "/queues/letters/dead-letters/purge", {"all": True})

# Tidy up.
ask("DELETE", "/delete-queue/letters")
ask("DELETE", "/delete-queue/by-hand")
