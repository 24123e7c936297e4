"""The table of operations: what each HTTP request means, from bytes to bytes.

Rule: a function takes the services, one call and the time. It returns a reply, or raises a QrustyError and has then
changed nothing. It knows no socket and no connection, and never waits. An operation that may take more than about a
millisecond is a generator: it yields between pieces and returns the reply. At each yield the engine commits and lets
others run.

Each family of operations has a module of its own, with the functions and their rows of the table. Statuses, fields and
texts are those of the wire contract.

Requirements: SYS-0010, DLV-0006
"""

from __future__ import annotations

from typing import Final

import msgspec

from qrusty_trio.api import (
    auditing,
    batches,
    browsing,
    dead_letters,
    finding,
    locking,
    messages,
    overview,
    probes,
    queues,
    reports,
    trash,
)
from qrusty_trio.api.call import Operation, Reply
from qrusty_trio.api.json_faults import MISSING_BODY
from qrusty_trio.api.routes import Router
from qrusty_trio.errors import MalformedJson, QrustyError, QueueNotFound, RateLimited, Starting, WrongContentType
from qrusty_trio.wording import shortened

MAX_BODY_BYTES = 2 * 1024 * 1024
"""Both paths refuse a larger body with BodyTooLarge."""
RETRY_AFTER_SECONDS = 2
"""How long a 503 tells the client to wait."""

OPERATIONS: Final = (
    *messages.OPERATIONS,
    *batches.OPERATIONS,
    *locking.OPERATIONS,
    *queues.OPERATIONS,
    *trash.OPERATIONS,
    *dead_letters.OPERATIONS,
    *reports.OPERATIONS,
    *overview.OPERATIONS,
    *browsing.OPERATIONS,
    *finding.OPERATIONS,
    *auditing.OPERATIONS,
    *probes.OPERATIONS,
)
"""Every HTTP route except /ws, /metrics and the web UI."""

resolve: Final = Router(OPERATIONS).resolve
"""`resolve(method, raw_path, query)`: see `Router.resolve`."""


def error_reply(error: QrustyError) -> Reply:
    """The reply to a refused request. Where the refusal tells of a change, it waits for the sync of that.

    Requirements: SYS-0008, PER-0068
    """
    if isinstance(error, Starting):
        body = {"status": "starting", "message": reports.STARTING_MESSAGE, "retry_after_secs": RETRY_AFTER_SECONDS}
        return Reply(error.status, msgspec.json.encode(body))
    told: dict[str, object] = {"error": shortened(str(error)), "code": error.code}
    if isinstance(error, QueueNotFound) and error.nearest:
        told["nearest"] = error.nearest
    retry_after = error.retry_after if isinstance(error, RateLimited) else 0
    return Reply(error.status, msgspec.json.encode(told), error.tells_of_change, retry_after=retry_after)


def check_content_type(operation: Operation, content_type: str | None, no_body: bool = False) -> None:
    """Raise WrongContentType if the operation takes a JSON body and the content type is not JSON.

    Raises MalformedJson if there is neither a body nor a content type: then it is the body that is missing.

    Requirements: API-0008
    """
    if operation.request is None or is_json(content_type):
        return
    if no_body and not content_type:
        raise MalformedJson(MISSING_BODY)
    sentence = "the Content-Type of the request must be application/json"
    raise WrongContentType(f"{MISSING_BODY}, and {sentence}" if no_body else sentence)


def is_json(content_type: str | None) -> bool:
    """Whether a content type is application/json, or one with the suffix +json."""
    if content_type == "application/json":
        return True
    essence = (content_type or "").partition(";")[0].strip().lower()
    return essence == "application/json" or (essence.startswith("application/") and essence.endswith("+json"))
