"""Queues are made, looked at, renamed, protected, emptied and deleted. The same as queues.sh and queues.mjs."""

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


# A queue that refuses duplicates, and keeps dead letters for two weeks.
ask(
    "POST",
    "/create-queue",
    {"name": "mail", "config": {"ordering": "MaxFirst", "allow_duplicates": False, "dead_letter_ttl_seconds": 1209600}},
)
ask("POST", "/publish", {"queue": "mail", "priority": 5, "payload": "dear reader"})
ask("POST", "/publish", {"queue": "mail", "priority": 9, "payload": "dear reader"})

# Look: all queues, those in trouble first, one of them, and its next messages.
ask("GET", "/queues")
ask("GET", "/queue-list?sort=trouble&order=desc&limit=1")
ask("GET", "/queue-stats/mail")
ask("GET", "/queues/mail/messages?limit=10")

# Rename it. The message is still there.
ask("POST", "/update-queue", {"name": "mail", "config": {"name": "letters"}})
ask("GET", "/queue-stats/letters")

# Protect it. A purge is refused until that is lifted.
ask("POST", "/update-queue", {"name": "letters", "config": {"protected": True}})
ask("POST", "/purge-queue/letters")
ask("POST", "/update-queue", {"name": "letters", "config": {"protected": False}})
ask("POST", "/purge-queue/letters")

# Delete it. A queue that does not exist can be deleted, too.
ask("DELETE", "/delete-queue/letters")
ask("DELETE", "/delete-queue/letters")

# A name that no path can carry goes into the query.
ask("POST", "/publish", {"queue": "eu/orders", "priority": 1, "payload": "one"})
ask("POST", "/consume?queue=eu%2Forders", {"consumer_id": "me"})
ask("DELETE", "/delete-queue?queue=eu%2Forders")
