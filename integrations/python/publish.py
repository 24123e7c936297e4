"""Publishes one message, with Python's standard library alone.

python publish.py QUEUE PAYLOAD [PRIORITY]
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request

URL = os.environ.get("QRUSTY_URL", "http://127.0.0.1:6784")


def publish(queue: str, payload: str, priority: int = 0) -> str:
    """Publish a message. Returns its id. It is on disk when this returns. Raises urllib.error.HTTPError."""
    body = json.dumps({"queue": queue, "priority": priority, "payload": payload}).encode()
    request = urllib.request.Request(f"{URL}/publish", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return str(json.load(response)["id"])


if __name__ == "__main__":
    queue, payload, *priority = sys.argv[1:]
    print(publish(queue, payload, *map(int, priority)))
