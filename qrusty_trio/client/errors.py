"""The client's exceptions, each with a stable code.

Rule: whatever goes wrong with a request is a `ClientError`. A request that the server refused raises a
`RequestError` with the code of the wire contract. Its subclasses exist to be caught by name.
"""

from __future__ import annotations


class ClientError(Exception):
    """Base class of all of them. `str(error)` is a sentence."""

    code = "client_error"


class InvalidUrl(ClientError, ValueError):
    """The URL is none that this client can use: another scheme, no host, spaces, or a user that would not be sent."""

    code = "invalid_url"


class BadTlsFile(ClientError, ValueError):
    """A file with certificates or a key is missing, or is none."""

    code = "bad_tls_file"


class ConnectFailed(ClientError):
    """The connection could not be opened, and retrying would not help: nobody listens, a wrong path, refused."""

    code = "connect_failed"


class ConnectionLost(ClientError):
    """The connection ended before the response arrived.

    A request that was sent may or may not have taken effect: a publish may be in the queue, an ack may count. Messages
    delivered on that connection no longer belong to this consumer: the server gives them to the next one.

    Requirements: WS-0035
    """

    code = "connection_lost"


class ClosedByServer(ClientError):
    """The connection was closed for a reason that would recur (1002, 1003, 1007, 1008, 1009, 1010)."""

    code = "closed"

    def __init__(self, close_code: int, reason: str) -> None:
        super().__init__(close_code, reason)
        self.close_code = close_code
        """The WebSocket close code (RFC 6455, 7.4.1)."""
        self.reason = reason

    def __str__(self) -> str:
        return f"closed with {self.close_code}: {self.reason or 'no reason given'}"


class ProtocolError(ClientError):
    """The server sent something that the wire contract does not allow. The client gives up the connection."""

    code = "protocol_error"


class FrameTooLarge(ClientError):
    """The request is larger than a server accepts. It was not sent."""

    code = "frame_too_large"


class AlreadySubscribed(ClientError):
    """This client is already subscribed to the queue; a connection has at most one subscription per queue."""

    code = "already_subscribed"


class NotSent(ConnectionLost):
    """The request had no effect: there was no connection, or it ended before the request left.

    Requirements: WS-0035
    """

    code = "not_sent"


class ClientClosed(ClientError):
    """The program has closed this client, so the request was not sent."""

    code = "client_closed"


class TimedOut(ConnectionLost):
    """The response did not come in time. The connection was given up; what holds for its loss holds here."""

    code = "timed_out"


class RequestError(ClientError):
    """The server refused a request. `code` says why, in the words of the contract."""

    code = "refused"

    def __init__(self, message: str, code: str | None = None, status: int | None = None) -> None:
        super().__init__(message, code, status)
        self.message = message
        self.status = status
        """The HTTP status; None over WebSocket."""
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class InvalidRequest(RequestError):
    """A field is missing, or its value is not allowed. If it can't be sent at all, such as bytes, it was not sent."""

    code = "invalid_request"


class NotFound(RequestError):
    """What the request names does not exist."""

    code = "not_found"


class QueueNotFound(NotFound):
    """The queue does not exist. No WebSocket request creates one."""

    code = "queue_not_found"


class MessageNotFound(NotFound):
    """The queue has no such message, or no such dead letter."""

    code = "message_not_found"


class NotLocked(RequestError):
    """The message is not locked by this consumer, or no longer: it can't be settled or renewed."""

    code = "not_locked"


class QueueExists(RequestError):
    """There is a queue of this name."""

    code = "queue_exists"


class QueueProtected(RequestError):
    """The queue can't be purged, deleted or renamed until its protection is lifted."""

    code = "queue_protected"


class UndoNotPossible(RequestError):
    """The server keeps nothing aside, or what it has kept has no queue to go back to."""

    code = "undo_not_possible"


class PublishFailed(RequestError):
    """The queue refuses this message: it is a duplicate, or its priority is of the wrong kind."""

    code = "publish_failed"


class Unauthenticated(RequestError):
    """The server has tokens, and none that counts was shown."""

    code = "unauthenticated"


class Forbidden(RequestError):
    """The token lacks the grant that the sentence names."""

    code = "forbidden"


class ReadOnly(RequestError):
    """The server changes nothing at the moment, because its operator said so."""

    code = "read_only"


class Unavailable(RequestError):
    """The server can't serve the request now. It may later."""

    code = "unavailable"


class MemoryPressure(Unavailable):
    """The server is short of memory and currently accepts no messages."""

    code = "memory_pressure"


class Starting(Unavailable):
    """The server is still loading its store. Try again shortly."""

    code = "starting"


class StorageError(Unavailable):
    """The server could not store the change."""

    code = "storage_error"


_CODES: dict[type[RequestError], tuple[str, ...]] = {
    InvalidRequest: (
        "invalid_request",
        "bad_request",
        "malformed_json",
        "invalid_queue_name",
        "invalid_priority",
        "limit_reached",
        "wrong_shape",
        "wrong_content_type",
        "body_too_large",
    ),
    NotFound: ("not_found",),
    QueueNotFound: ("queue_not_found",),
    MessageNotFound: ("message_not_found",),
    NotLocked: ("not_locked", "message_not_locked"),
    QueueExists: ("queue_exists",),
    QueueProtected: ("queue_protected",),
    UndoNotPossible: ("undo_not_possible",),
    PublishFailed: ("publish_failed", "duplicate_payload", "priority_kind_mismatch", "payload_lost"),
    ReadOnly: ("read_only",),
    Unauthenticated: ("unauthenticated",),
    Forbidden: ("forbidden",),
    Unavailable: ("unavailable", "rate_limited"),
    MemoryPressure: ("memory_pressure",),
    Starting: ("starting",),
    StorageError: ("storage_error", "disk_full"),
}
"""Exception -> the codes of the two protocols that raise it."""
_BY_CODE = {code: kind for kind, codes in _CODES.items() for code in codes}


def request_error(code: str, message: str, status: int | None = None) -> RequestError:
    """The exception for a refusal. A code without a class of its own gives a plain `RequestError`."""
    return _BY_CODE.get(code, RequestError)(message, code, status)


def again(error: ClientError) -> ClientError:
    """A copy of an error, so that several tasks can raise it."""
    return type(error)(*error.args)
