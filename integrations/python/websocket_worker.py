"""A worker over a WebSocket, with the `websockets` library and no event loop. Put your work into `handle`.

python websocket_worker.py QUEUE

The server sends messages as they become available, up to CREDITS ahead. If this worker dies, they are available again
at once. It waits for a queue that does not exist yet.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress

from websockets.sync.client import connect

URL = os.environ.get("QRUSTY_URL", "http://127.0.0.1:6784").replace("http", "ws", 1) + "/ws"
CREDITS = 4
"""Messages that are locked for this worker at a time. The library reads 16 frames ahead: stay below that."""
MAX_FRAME_BYTES = 4 * 2**20
RETRY_SECONDS = 1


def handle(payload: str) -> None:
    """The work. Whatever it raises makes the message come back, until it is a dead letter."""
    if payload == "impossible":
        raise ValueError("this can't be done")
    print("done:", payload, flush=True)


def work(queue: str) -> None:
    """Handle messages until the connection ends."""
    subscribe = json.dumps({"type": "subscribe", "queue": queue, "credits": CREDITS})
    subscribed = False
    with connect(URL, max_size=MAX_FRAME_BYTES) as server:
        server.send(subscribe)
        for text in server:
            frame = json.loads(text)
            subscribed = subscribed or frame["type"] in ("ok", "deliver")
            if frame["type"] == "error" and subscribed:
                # An ack that came after the end of the lock, for example.
                print("error:", frame["message"], file=sys.stderr, flush=True)
            elif frame["type"] == "error" and frame["code"] == "queue_not_found":
                time.sleep(RETRY_SECONDS)
                server.send(subscribe)
            elif frame["type"] == "error":
                raise SystemExit(frame["message"])
            if frame["type"] != "deliver":
                continue
            settled = {"type": "ack", "queue": frame["queue"], "id": frame["id"]}
            try:
                handle(frame["payload"])
            except Exception as error:  # noqa: BLE001  # whatever the work raises is the message's fault
                settled |= {"type": "nack", "error": str(error)[:250]}
            server.send(json.dumps(settled))
            server.send(json.dumps({"type": "credit", "queue": frame["queue"], "credits": 1}))


if __name__ == "__main__":
    (name,) = sys.argv[1:]
    with suppress(KeyboardInterrupt):
        work(name)
