"""The life of two messages: one is acked, one fails and is requeued. The same as api.sh and api.mjs."""

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


# Make a queue, and publish: the response has the id.
ask("POST", "/create-queue", {"name": "api", "config": {"ordering": "MaxFirst"}})
ask("POST", "/publish", {"queue": "api", "priority": 1, "payload": "sweep the yard", "max_retries": 1})
ask("POST", "/publish", {"queue": "api", "priority": 9, "payload": "put out the fire"})

# Consume: the highest priority comes first, and is locked for 60 seconds.
fire = ask("POST", "/consume/api", {"consumer_id": "me", "timeout_seconds": 60})["id"]

# It takes longer than that: renew the lock. Then ack.
ask("POST", f"/renew/api/{fire}", {"consumer_id": "me", "timeout_seconds": 60})
ask("POST", f"/ack/api/{fire}", {"consumer_id": "me"})

# The next one can't be done. It has one try, so a nack makes it a dead letter.
yard = ask("POST", "/consume/api", {"consumer_id": "me"})["id"]
ask("POST", f"/nack/api/{yard}", {"consumer_id": "me", "error": "no broom"})
ask("GET", "/queues/api/dead-letters")

# Requeue it, and do it.
ask("POST", "/queues/api/dead-letters/requeue", {"ids": [yard]})
ask("POST", "/consume/api", {"consumer_id": "me"})
ask("POST", f"/ack/api/{yard}", {"consumer_id": "me"})

# Nothing is left: wait half a second for a message, in vain.
ask("POST", "/consume/api", {"consumer_id": "me", "wait_seconds": 0.5})

# Many messages in a request.
ask(
    "POST",
    "/publish-batch",
    {"queue": "api", "messages": [{"priority": 1, "payload": "a"}, {"priority": 2, "payload": "b"}]},
)
ask("POST", "/consume-batch/api", {"consumer_id": "me", "max_messages": 10})
ask("GET", "/queue-stats/api")
ask("DELETE", "/delete-queue/api")
