"""What can go wrong for a client, each with a stable code.

Rule: every exception that this package raises on purpose is a `ClientError`. What the server refused is a
`RequestError` with the code of the wire contract; the classes below it exist to be caught by name.
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of all. `str(error)` is a sentence."""

    code = "client_error"


class ConnectFailed(ClientError):
    """The connection could not be opened, and trying again would not help: nobody listens, a wrong path, refused."""

    code = "connect_failed"


class ConnectionLost(ClientError):
    """The connection ended before the answer came.

    A request that was on its way may have been carried out or not: a publish may be in the queue, an ack may count.
    Messages delivered on that connection are no longer this consumer's: the server gives them to the next one.
    """

    code = "connection_lost"


class ClosedByServer(ClientError):
    """The connection was closed for something that would happen again (1002, 1003, 1007, 1008, 1009)."""

    code = "closed"

    def __init__(self, close_code: int, reason: str) -> None:
        super().__init__(close_code, reason)
        self.close_code = close_code
        """The WebSocket close code (RFC 6455, 7.4.1)."""
        self.reason = reason

    def __str__(self) -> str:
        return f"closed with {self.close_code}: {self.reason or 'no reason given'}"


class ProtocolError(ClientError):
    """The other side sent what the wire contract does not know. The connection is given up."""

    code = "protocol_error"


class FrameTooLarge(ClientError):
    """The request would be larger than a server takes. It was not sent."""

    code = "frame_too_large"


class AlreadySubscribed(ClientError):
    """This client is subscribed to that queue: a connection has at most one subscription to a queue."""

    code = "already_subscribed"


class RequestError(ClientError):
    """The server refused a request. `code` says why, in the words of the contract."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message, code)
        self.message = message
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class InvalidRequest(RequestError):
    """A field is missing or has a value that is not allowed."""

    code = "invalid_request"


class QueueNotFound(RequestError):
    """The queue does not exist. Over WebSocket nothing creates one."""

    code = "queue_not_found"


class NotLocked(RequestError):
    """The lock has ended, so it can't be renewed: the message is someone else's."""

    code = "not_locked"


class PublishFailed(RequestError):
    """The queue does not take this message: a duplicate, or a priority of the wrong kind."""

    code = "publish_failed"


class MemoryPressure(RequestError):
    """The server is short of memory and takes no messages for the moment."""

    code = "memory_pressure"


class Starting(RequestError):
    """The server is still reading what it has stored. Try again shortly."""

    code = "starting"


class StorageError(RequestError):
    """The server could not store the change. It did not happen."""

    code = "storage_error"


_BY_CODE: dict[str, type[RequestError]] = {
    each.code: each
    for each in (InvalidRequest, QueueNotFound, NotLocked, PublishFailed, MemoryPressure, Starting, StorageError)
}


def request_error(code: str, message: str) -> RequestError:
    """The exception for an error answer. A code without a class of its own gives a plain `RequestError`."""
    return _BY_CODE.get(code, RequestError)(message, code)


def again(error: ClientError) -> ClientError:
    """A copy to raise, for an error that several tasks have to be told."""
    return type(error)(*error.args)
