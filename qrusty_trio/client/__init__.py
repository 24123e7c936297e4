"""A client for Trio programs: publish, subscribe, work, stay connected.

    async with connect("ws://127.0.0.1:6784/ws") as client:
        await client.publish("jobs", "hello", priority=7)
        async with client.subscribe("jobs", prefetch=10) as deliveries:
            async for delivery in deliveries:
                print(delivery.payload)
                await delivery.ack()

`worker` calls a function for each message, and does the rest.

Rule: the client stands alone. It speaks the wire contract and imports nothing from the server.
"""

from qrusty_trio.client.client import Client, connect
from qrusty_trio.client.errors import (
    AlreadySubscribed,
    ClientError,
    ClosedByServer,
    ConnectFailed,
    ConnectionLost,
    FrameTooLarge,
    InvalidRequest,
    MemoryPressure,
    NotLocked,
    ProtocolError,
    PublishFailed,
    QueueNotFound,
    RequestError,
    Starting,
    StorageError,
)
from qrusty_trio.client.subscription import Deliveries, Delivery
from qrusty_trio.client.worker import Handler, Message, worker

__all__ = [
    "AlreadySubscribed",
    "Client",
    "ClientError",
    "ClosedByServer",
    "ConnectFailed",
    "ConnectionLost",
    "Deliveries",
    "Delivery",
    "FrameTooLarge",
    "Handler",
    "InvalidRequest",
    "MemoryPressure",
    "Message",
    "NotLocked",
    "ProtocolError",
    "PublishFailed",
    "QueueNotFound",
    "RequestError",
    "Starting",
    "StorageError",
    "connect",
    "worker",
]
