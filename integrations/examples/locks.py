"""A long job: renew its lock, see who holds it, lose it. The same as locks.sh and locks.mjs."""

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


# A message, locked for 10 seconds.
ask("POST", "/publish", {"queue": "locks", "priority": 1, "payload": "a long job"})
first = ask("POST", "/consume/locks", {"consumer_id": "worker-1", "timeout_seconds": 10})["id"]

# The work takes longer: 60 seconds from now.
ask("POST", f"/renew/locks/{first}", {"consumer_id": "worker-1", "timeout_seconds": 60})

# Who holds what?
ask("GET", "/queues/locks/locks")

# Nobody else gets it, and nobody else can ack it.
ask("POST", "/consume/locks", {"consumer_id": "worker-2"})
ask("POST", f"/ack/locks/{first}", {"consumer_id": "worker-2"})

# The worker is known to be dead: take its messages away. They do not count as failed.
ask("POST", "/force-unlock/locks", {"consumer_id": "worker-1"})
ask("POST", "/consume/locks", {"consumer_id": "worker-2"})

# If it was not dead, its ack comes too late. Its work was done twice, so it must be safe to repeat.
ask("POST", f"/ack/locks/{first}", {"consumer_id": "worker-1"})
ask("POST", f"/ack/locks/{first}", {"consumer_id": "worker-2"})

# Tidy up.
ask("DELETE", "/delete-queue/locks")
