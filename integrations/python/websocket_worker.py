"""A worker over a WebSocket, with the `websockets` library and no event loop. Put your work into `handle`.

python websocket_worker.py QUEUE

The server sends messages as they become available, up to CREDITS ahead. If this worker dies, they are available again
at once. The queue must exist.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress

from websockets.sync.client import connect

URL = os.environ.get("QRUSTY_URL", "http://127.0.0.1:6784").replace("http", "ws", 1) + "/ws"
CREDITS = 4
"""Messages that are locked for this worker at a time. The library reads 16 frames ahead: stay below that."""
MAX_FRAME_BYTES = 4 * 2**20


def handle(payload: str) -> None:
    """The work. Whatever it raises makes the message come back, until it is a dead letter."""
    if payload == "impossible":
        raise ValueError("this can't be done")
    print("done:", payload, flush=True)


def work(queue: str) -> None:
    """Handle messages until the connection ends."""
    with connect(URL, max_size=MAX_FRAME_BYTES) as server:
        server.send(json.dumps({"type": "subscribe", "queue": queue, "credits": CREDITS}))
        for text in server:
            frame = json.loads(text)
            if frame["type"] == "error":
                raise SystemExit(frame)
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
