"""The errors of the server, each with an HTTP status, a stable code and a sentence.

Rule: every refusal is one of these classes. `code` never changes once released, because clients match on it. `status`
is the HTTP status of the recorded contract. The sentence names the field and what is allowed.

Requirements: SYS-0008
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

CRASHED = "The server failed to make a change; its log says why."


class QrustyError(Exception):
    """Base class of all refusals. `str(error)` is the sentence sent to the client.

    Requirements: API-0002
    """

    status = 500
    code = "internal"
    tells_of_change = False
    """Whether it tells that something is there, which may have come a moment ago: then it waits for a sync, too."""


class BadRequest(QrustyError):
    """A value is not allowed (status 400)."""

    status = 400
    code = "bad_request"


class MalformedJson(BadRequest):
    """The body is not JSON (status 400).

    Requirements: API-0003
    """

    code = "malformed_json"


class TlsRequired(BadRequest):
    """Plain HTTP on a port that speaks TLS (status 400).

    Requirements: API-0180
    """

    code = "tls_required"


class InvalidQueueName(BadRequest):
    """A queue name is blank or longer than 255 bytes of UTF-8."""

    code = "invalid_queue_name"


class InvalidPriority(BadRequest):
    """A text priority is empty or longer than 1,024 bytes.

    Requirements: API-0021
    """

    code = "invalid_priority"


class PriorityKindMismatch(BadRequest):
    """A number was given to a text queue, or a text to a numeric queue.

    Requirements: SCH-0007
    """

    code = "priority_kind_mismatch"


class DuplicatePayload(BadRequest):
    """The queue refuses duplicates and holds an equal payload.

    Requirements: DLV-0030, PER-0068
    """

    code = "duplicate_payload"
    tells_of_change = True


class PayloadLost(BadRequest):
    """The payload of a dead letter is broken, so it can't be requeued to a queue that compares payloads."""

    code = "payload_lost"


class LimitReached(BadRequest):
    """A limit of the server (number of queues, length of an identifier) is reached.

    Requirements: API-0020
    """

    code = "limit_reached"


class WrongShape(QrustyError):
    """The body is valid JSON but not what the route takes (status 422).

    Requirements: API-0004
    """

    status = 422
    code = "wrong_shape"


class WrongContentType(QrustyError):
    """The body is not declared as JSON (status 415)."""

    status = 415
    code = "wrong_content_type"


class BodyTooLarge(QrustyError):
    """The body is over 2 MiB (status 413).

    Requirements: API-0009
    """

    status = 413
    code = "body_too_large"


class NotFound(QrustyError):
    """The path does not exist (status 404)."""

    status = 404
    code = "not_found"


class QueueNotFound(NotFound):
    """The queue does not exist."""

    code = "queue_not_found"

    def __init__(self, sentence: str = "", nearest: Sequence[str] = ()) -> None:
        """`nearest`: names that exist and may have been meant."""
        meant = f". Is {' or '.join(repr(each) for each in nearest)} meant?" if nearest else ""
        super().__init__(sentence + meant)
        self._sentence = sentence
        self.nearest = nearest

    def showing(self, sees: Callable[[str], bool]) -> QueueNotFound:
        """The same with those names only of which this holds."""
        return QueueNotFound(self._sentence, [name for name in self.nearest if sees(name)])


class MessageNotFound(NotFound):
    """The queue has no such message."""

    code = "message_not_found"


class MessageNotLocked(NotFound):
    """The message is unknown, not locked, or locked by another consumer.

    Requirements: DLV-0002
    """

    code = "message_not_locked"


class MethodNotAllowed(QrustyError):
    """The path exists, but not with this method (status 405)."""

    status = 405
    code = "method_not_allowed"
    allow = ""
    """The methods of the path, as the value of the Allow header."""


class Unauthenticated(QrustyError):
    """A token is needed, and there is none that counts (status 401 with WWW-Authenticate).

    Requirements: API-0136
    """

    status = 401
    code = "unauthenticated"


class Forbidden(QrustyError):
    """The token has no such grant (status 403).

    Requirements: API-0137
    """

    status = 403
    code = "forbidden"


class RateLimited(QrustyError):
    """The token asks for more than it may have a second (status 429 with Retry-After).

    Requirements: API-0138
    """

    status = 429
    code = "rate_limited"

    def __init__(self, sentence: str, retry_after: int) -> None:
        """`retry_after`: seconds."""
        super().__init__(sentence)
        self.retry_after = retry_after


class TooManyFailures(RateLimited):
    """From this address came too many tokens that are none (status 429 with Retry-After)."""

    code = "too_many_failures"


class ReadOnly(QrustyError):
    """The operator allows no change (status 403).

    Requirements: API-0074
    """

    status = 403
    code = "read_only"


class QueueExists(QrustyError):
    """The queue name is taken (status 409).

    Requirements: API-0017, PER-0068
    """

    status = 409
    code = "queue_exists"
    tells_of_change = True


class QueueProtected(QrustyError):
    """The queue refuses purge, delete, rename and stricter limits until its protection is lifted (status 409)."""

    status = 409
    code = "queue_protected"


class UndoNotPossible(QrustyError):
    """Nothing can be kept aside here, or what is kept aside has no place to go back to (status 409).

    Requirements: DLV-0062
    """

    status = 409
    code = "undo_not_possible"


class Unavailable(QrustyError):
    """The server can't do this now; the client may try again (status 503 with Retry-After)."""

    status = 503
    code = "unavailable"


class Starting(Unavailable):
    """The store is still being loaded; only reads are answered.

    Requirements: API-0024
    """

    code = "starting"


class MemoryPressure(Unavailable):
    """Publishes are refused while memory is critical.

    Requirements: SCH-0040
    """

    code = "memory_pressure"


class StorageFault(Unavailable):
    """The disk refused a read or a write. Changes that were not acknowledged may be lost; acknowledged ones are not."""

    code = "storage_error"

    def forget_origin(self) -> None:
        """Drop the traceback. Its frames hold handles of the store, which would keep it from being reopened."""
        self.__cause__ = self.__context__ = self.__traceback__ = None


class DiskFull(StorageFault):
    """There is no space left on the device (status 507).

    Requirements: PER-0044
    """

    status = 507
    code = "disk_full"


class DiskShort(Unavailable):
    """The disk has too little room for more messages (status 507). Unlike `DiskFull`, it concerns publishes only.

    Requirements: PER-0063
    """

    status = 507
    code = "disk_full"


class PayloadNotStored(Unavailable):
    """A large payload could not be written to its file (status 503, or 507 when the disk is full).

    Unlike `StorageFault`, it concerns only this publish.
    """

    code = "storage_error"

    def __init__(self, fault: StorageFault) -> None:
        super().__init__(str(fault))
        self.status = fault.status
        self.code = fault.code


class PayloadUnreadable(Unavailable):
    """A large payload can't be read for now, for lack of descriptors or memory (status 503).

    The message stays where it is, and nothing else is affected.

    Requirements: PER-0038
    """

    code = "storage_error"


class StartupRefused(QrustyError):
    """The server must not start like this. The process ends with exit status 78 (EX_CONFIG of sysexits.h).

    Requirements: API-0060
    """

    code = "startup_refused"
