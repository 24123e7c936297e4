"""A client for programs on Trio or asyncio: publish, subscribe, work, and everything else that the server can do.

    async with connect("ws://127.0.0.1:6784/ws") as client:
        await client.publish("jobs", "hello", priority=7)
        async with client.subscribe("jobs", prefetch=10) as deliveries:
            async for delivery in deliveries:
                print(delivery.payload)
                await delivery.ack()

`worker` calls a function for each message, and does the rest. `HttpClient` has a method for each operation of the HTTP
API.

Rule: the client stands alone. It speaks the wire contract and imports nothing from the server.
"""

from qrusty_trio.client.client import Client, connect
from qrusty_trio.client.errors import (
    AlreadySubscribed,
    BadTlsFile,
    ClientClosed,
    ClientError,
    ClosedByServer,
    ConnectFailed,
    ConnectionLost,
    Forbidden,
    FrameTooLarge,
    InvalidRequest,
    InvalidUrl,
    MemoryPressure,
    MessageNotFound,
    NotFound,
    NotLocked,
    NotSent,
    ProtocolError,
    PublishFailed,
    QueueExists,
    QueueNotFound,
    QueueProtected,
    ReadOnly,
    RequestError,
    Starting,
    StorageError,
    TimedOut,
    Unauthenticated,
    Unavailable,
    UndoNotPossible,
)
from qrusty_trio.client.http import HttpClient
from qrusty_trio.client.operations import Request, Watch
from qrusty_trio.client.results import UNCHANGED, Acked, Nacked, NewMessage, Published, Rejected, Renewed, Taken
from qrusty_trio.client.subscription import Deliveries, Delivery
from qrusty_trio.client.worker import Handler, Message, worker

__all__ = [
    "UNCHANGED",
    "Acked",
    "AlreadySubscribed",
    "BadTlsFile",
    "Client",
    "ClientClosed",
    "ClientError",
    "ClosedByServer",
    "ConnectFailed",
    "ConnectionLost",
    "Deliveries",
    "Delivery",
    "Forbidden",
    "FrameTooLarge",
    "Handler",
    "HttpClient",
    "InvalidRequest",
    "InvalidUrl",
    "MemoryPressure",
    "Message",
    "MessageNotFound",
    "Nacked",
    "NewMessage",
    "NotFound",
    "NotLocked",
    "NotSent",
    "ProtocolError",
    "PublishFailed",
    "Published",
    "QueueExists",
    "QueueNotFound",
    "QueueProtected",
    "ReadOnly",
    "Rejected",
    "Renewed",
    "Request",
    "RequestError",
    "Starting",
    "StorageError",
    "Taken",
    "TimedOut",
    "Unauthenticated",
    "Unavailable",
    "UndoNotPossible",
    "Watch",
    "connect",
    "worker",
]
