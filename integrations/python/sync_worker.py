"""A worker over HTTP, with Python's standard library alone. Put your work into `handle`.

python sync_worker.py QUEUE

It waits for messages, renews the lock of each while `handle` runs, acks it when `handle` returns, and nacks it with the
error when `handle` raises. On SIGTERM and Ctrl-C it finishes the message in hand, and ends.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any
from urllib.parse import quote, urlsplit

ADDRESS = urlsplit(os.environ.get("QRUSTY_URL", "http://127.0.0.1:6784"))
WORKER = f"{socket.gethostname()}-{os.getpid()}"
"""Who holds the messages. Each worker needs a name of its own."""
LOCK_SECONDS = 30
WAIT_SECONDS = 5
"""How long to wait for a message. A signal is seen after that at the latest."""
REST_SECONDS = 1.0
"""Time between two attempts while the server is away, or accepts no requests."""


def handle(payload: str) -> None:
    """The work. Whatever it raises makes the message come back, until it is a dead letter."""
    if payload == "impossible":
        raise ValueError("this can't be done")
    print("done:", payload, flush=True)


class Unavailable(Exception):
    """The server is away, starting, or short of something: ask again later."""


def ask(path: str, **fields: object) -> tuple[int, Any]:
    """One request. Returns status and JSON. Raises Unavailable."""
    body = json.dumps({"consumer_id": WORKER, **fields})
    connection = http.client.HTTPConnection(ADDRESS.hostname or "", ADDRESS.port or 80, timeout=WAIT_SECONDS + 30)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read() or "null")
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(str(error)) from error
    finally:
        connection.close()
    if response.status >= 500:
        raise Unavailable(answer)
    return response.status, answer


def settle(path: str, **fields: object) -> None:
    """Ack or nack, for as long as the lock may last. A 404 says that it has ended: the message is another worker's."""
    end = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < end:
        try:
            ask(path, **fields)
            return
        except Unavailable:
            time.sleep(REST_SECONDS)


def renew(name: str, id: str, done: threading.Event) -> None:
    """Renew the lock each time that a third of it has passed."""
    while not done.wait(LOCK_SECONDS / 3):
        try:
            ask(f"/renew/{name}/{id}", timeout_seconds=LOCK_SECONDS)
        except Unavailable:
            continue


def work(queue: str, stopping: threading.Event) -> None:
    """Take and handle messages until `stopping` is set."""
    name = quote(queue, safe="")
    while not stopping.is_set():
        try:
            status, message = ask(f"/consume/{name}", timeout_seconds=LOCK_SECONDS, wait_seconds=WAIT_SECONDS)
        except Unavailable:
            stopping.wait(REST_SECONDS)
            continue
        if status != 200:
            raise SystemExit(f"the server refused to hand out messages: {message}")
        if message is None:
            continue
        done = threading.Event()
        renewal = threading.Thread(target=renew, args=(name, message["id"], done))
        renewal.start()
        try:
            handle(message["payload"])
        except Exception as error:  # noqa: BLE001  # whatever the work raises is the message's fault, not the worker's
            settle(f"/nack/{name}/{message['id']}", error=str(error)[:250])
        else:
            settle(f"/ack/{name}/{message['id']}")
        finally:
            done.set()
            renewal.join()


def main() -> None:
    (queue,) = sys.argv[1:]
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    work(queue, stopping)


if __name__ == "__main__":
    main()
