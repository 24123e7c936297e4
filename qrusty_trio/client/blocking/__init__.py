"""The client for programs without an event loop: scripts and threads.

    with HttpClient("http://127.0.0.1:6784") as client:
        client.publish("jobs", "hello", priority=7)
        message = client.consume("jobs", wait_seconds=30)
        if message is not None:
            client.ack("jobs", message.id)

`HttpClient` has the methods of `qrusty_trio.client.HttpClient`, which block. `connect` opens a WebSocket, for a
stream of messages. `worker` calls a function in threads. What they take, return and raise is in `qrusty_trio.client`.

Rule: any number of threads may share a client. Behind an `HttpClient` there is no thread and no event loop: a call is
done in the thread that makes it. A WebSocket has both, in one thread as long as it is open.

Requirements: WS-0048
"""

from qrusty_trio.client.blocking.http import HttpClient
from qrusty_trio.client.blocking.websocket import Client, Deliveries, Delivery, connect
from qrusty_trio.client.blocking.worker import Handler, worker

__all__ = ["Client", "Deliveries", "Delivery", "Handler", "HttpClient", "connect", "worker"]
