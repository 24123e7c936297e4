"""Importance, deadlines, text, and two queues of different weight. The same as priorities.sh and priorities.mjs."""

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


# Importance: the highest number first, and among equals the oldest.
ask("POST", "/create-queue", {"name": "importance", "config": {"ordering": "MaxFirst"}})
ask(
    "POST",
    "/publish-batch",
    {
        "queue": "importance",
        "messages": [
            {"priority": 1, "payload": "report"},
            {"priority": 9, "payload": "alarm"},
            {"priority": 1, "payload": "cleaning"},
        ],
    },
)
ask("POST", "/consume-batch/importance", {"consumer_id": "me", "max_messages": 10})

# Deadlines: the earliest time first.
ask("POST", "/create-queue", {"name": "deadlines", "config": {"ordering": "MinFirst"}})
ask("POST", "/publish", {"queue": "deadlines", "priority": 1800003600, "payload": "within the hour"})
ask("POST", "/publish", {"queue": "deadlines", "priority": 1800000060, "payload": "within the minute"})
ask("POST", "/consume/deadlines", {"consumer_id": "me"})

# Text: compared by its bytes.
ask("POST", "/create-queue", {"name": "days", "config": {"ordering": "MinFirst", "priority_kind": "Text"}})
ask("POST", "/publish", {"queue": "days", "priority": "2027-01-02", "payload": "later"})
ask("POST", "/publish", {"queue": "days", "priority": "2027-01-01", "payload": "sooner"})
ask("POST", "/consume/days", {"consumer_id": "me"})

# How many of each there are.
ask("GET", "/queues/deadlines/priorities")

# Two queues: the urgent one is asked first.
ask("POST", "/publish", {"queue": "bulk", "priority": 1, "payload": "newsletter"})
ask("POST", "/publish", {"queue": "urgent", "priority": 1, "payload": "password mail"})
ask("POST", "/consume", {"consumer_id": "me", "queues": ["urgent", "bulk"]})

# Tidy up.
ask("DELETE", "/delete-queue/importance")
ask("DELETE", "/delete-queue/deadlines")
ask("DELETE", "/delete-queue/days")
ask("DELETE", "/delete-queue/bulk")
ask("DELETE", "/delete-queue/urgent")
