"""What can go wrong, each with its HTTP status, its stable code and a sentence.

Rule: every refusal the server makes is one of these classes. `code` never changes once released (clients match on
it); `status` is the HTTP status of the recorded contract. The sentence names the field and what is allowed.
"""

from __future__ import annotations


class QrustyError(Exception):
    """Base of every refusal. `str(error)` is the sentence sent to the client."""

    status = 500
    code = "internal"


class BadRequest(QrustyError):
    """A value is not allowed (status 400)."""

    status = 400
    code = "bad_request"


class MalformedJson(BadRequest):
    """The body is not JSON at all."""

    code = "malformed_json"


class InvalidQueueName(BadRequest):
    """A queue name is blank or longer than 255 bytes of UTF-8."""

    code = "invalid_queue_name"


class InvalidPriority(BadRequest):
    """A text priority is empty or longer than 1,024 bytes."""

    code = "invalid_priority"


class PriorityKindMismatch(BadRequest):
    """A number was given to a text queue or the other way round."""

    code = "priority_kind_mismatch"


class DuplicatePayload(BadRequest):
    """The queue refuses duplicates and holds an equal payload."""

    code = "duplicate_payload"


class LimitReached(BadRequest):
    """A bound of the server (number of queues, length of an identifier) is reached."""

    code = "limit_reached"


class WrongShape(QrustyError):
    """Valid JSON that is not what the route takes (status 422)."""

    status = 422
    code = "wrong_shape"


class WrongContentType(QrustyError):
    """The body is not declared as JSON (status 415)."""

    status = 415
    code = "wrong_content_type"


class BodyTooLarge(QrustyError):
    """The body is over 2 MiB (status 413)."""

    status = 413
    code = "body_too_large"


class NotFound(QrustyError):
    """Nothing is known under that path (status 404)."""

    status = 404
    code = "not_found"


class QueueNotFound(NotFound):
    """The queue does not exist."""

    code = "queue_not_found"


class MessageNotLocked(NotFound):
    """The message is unknown, not locked, or locked by another consumer."""

    code = "message_not_locked"


class MethodNotAllowed(QrustyError):
    """The path exists, but not with this method (status 405)."""

    status = 405
    code = "method_not_allowed"
    allow = ""
    """The methods that the path has, as the Allow header names them."""


class QueueExists(QrustyError):
    """The queue name is taken (status 409)."""

    status = 409
    code = "queue_exists"


class Unavailable(QrustyError):
    """The server can't do this now; the client may try again (status 503 with Retry-After)."""

    status = 503
    code = "unavailable"


class Starting(Unavailable):
    """The start-up loader is at work; only reads are answered."""

    code = "starting"


class MemoryPressure(Unavailable):
    """Publishing is refused while memory is critical."""

    code = "memory_pressure"


class StorageFault(Unavailable):
    """The disk refused a read or a write; what was not answered may be lost, what was answered is not."""

    code = "storage_error"

    def forget_origin(self) -> None:
        """Let go of the stack that it came from: handles of the store are on it, which keep it from being reopened."""
        self.__cause__ = self.__context__ = self.__traceback__ = None


class DiskFull(StorageFault):
    """There is no space left on the device (status 507)."""

    status = 507
    code = "disk_full"


class PayloadNotStored(Unavailable):
    """The file for large payloads could not take one (status 503, or 507 when the disk is full); no more than that."""

    code = "storage_error"

    def __init__(self, fault: StorageFault) -> None:
        super().__init__(str(fault))
        self.status = fault.status
        self.code = fault.code


class PayloadUnreadable(Unavailable):
    """A large payload can't be read just now, for want of a file descriptor or of memory (status 503).

    The message stays where it is, and nothing else is concerned.
    """

    code = "storage_error"


class StartupRefused(QrustyError):
    """The server must not start like this; the process ends with exit status 78 (EX_CONFIG of sysexits.h)."""

    code = "startup_refused"
