"""A queue that refuses duplicates, so that a publish can be repeated. The same as duplicates.sh and duplicates.mjs."""

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


# Payloads are compared with those that wait or are locked.
ask("POST", "/create-queue", {"name": "once", "config": {"ordering": "MaxFirst", "allow_duplicates": False}})
ask("POST", "/publish", {"queue": "once", "priority": 1, "payload": "invoice 4711"})

# The response was lost, say. The same publish again does no harm: the code says that the message is there.
ask("POST", "/publish", {"queue": "once", "priority": 1, "payload": "invoice 4711"})
first = ask("POST", "/consume/once", {"consumer_id": "me"})["id"]

# It is still refused while somebody works on it.
ask("POST", "/publish", {"queue": "once", "priority": 9, "payload": "invoice 4711"})
ask("POST", f"/ack/once/{first}", {"consumer_id": "me"})

# After the ack, it is a new one.
ask("POST", "/publish", {"queue": "once", "priority": 1, "payload": "invoice 4711"})

# Tidy up.
ask("DELETE", "/delete-queue/once")
