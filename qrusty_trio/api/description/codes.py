"""Every error code: its status, what it means, and which routes can give it.

Rule: what follows from the kind of a route is derived from its row of the table. What is its own stands in its
description.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from qrusty_trio.access.needs import Named
from qrusty_trio.api.call import Operation
from qrusty_trio.api.description.model import Described


class Code(NamedTuple):
    """An error code."""

    status: int
    meaning: str
    advice: str
    """What a client does."""


_MEND = "Mend the request."
_LATER = "Ask again later, after `Retry-After` seconds."

CODES: Final[dict[str, Code]] = {
    "bad_request": Code(
        400, "A parameter of the path or the query is not allowed, or the request can't be read.", _MEND
    ),
    "malformed_json": Code(400, "The body is not JSON, or there is none.", _MEND),
    "invalid_queue_name": Code(400, "The name of a queue is empty, blank or too long.", _MEND),
    "invalid_priority": Code(400, "A text priority is empty or too long.", _MEND),
    "priority_kind_mismatch": Code(400, "A number for a queue of texts, or a text for a queue of numbers.", _MEND),
    "tls_required": Code(
        400, "Plain HTTP on a port that speaks TLS. The connection is closed.", "Use `https://` or `wss://`."
    ),
    "duplicate_payload": Code(400, "The queue refuses duplicates, and has an equal payload.", "Nothing: it is there."),
    "payload_lost": Code(400, "A dead letter's payload is broken, and its target compares payloads.", "Purge it."),
    "limit_reached": Code(400, "Too many queues or ids, or an identifier that is too long.", _MEND),
    "unauthenticated": Code(
        401, "The server has tokens, and the request has none that counts.", "Send a token that has not expired."
    ),
    "forbidden": Code(403, "The token lacks the grant that the sentence names.", "Ask the operator for the grant."),
    "host_not_allowed": Code(
        403, "A browser used a host name that is not this server's.", "See `QRUSTY_ALLOWED_HOSTS`."
    ),
    "origin_not_allowed": Code(403, "A page of another origin may not do this.", "See `QRUSTY_ALLOWED_ORIGINS`."),
    "read_only": Code(403, "The operator allows no change.", "Ask another server."),
    "not_found": Code(404, "There is nothing under this path, or no such dead letter or id in the trash.", _MEND),
    "queue_not_found": Code(
        404, "There is no such queue. `nearest` may have names that come near.", "Make it, or mend the name."
    ),
    "message_not_found": Code(404, "The queue has no such message.", "Nothing: it is gone."),
    "message_not_locked": Code(
        404, "This consumer does not hold the message.", "Leave the message to the next worker."
    ),
    "method_not_allowed": Code(405, "The path takes another method: the header `Allow` names it.", _MEND),
    "request_timeout": Code(408, "The request did not arrive in time. The connection is closed.", "Send it faster."),
    "queue_exists": Code(409, "The name is taken.", "Nothing, or take another name."),
    "queue_protected": Code(409, "The queue is protected.", "Lift that with `POST /update-queue`."),
    "undo_not_possible": Code(
        409, "Nothing is kept aside in memory mode; or what is kept aside has no queue to go back to.", _MEND
    ),
    "body_too_large": Code(413, "The body is over 2 MiB. The connection is closed.", _MEND),
    "wrong_content_type": Code(415, "The Content-Type is not `application/json`.", _MEND),
    "wrong_shape": Code(
        422, "The body is JSON of the wrong shape: the sentence names the field and what is allowed.", _MEND
    ),
    "upgrade_required": Code(426, "`/ws` takes a WebSocket upgrade.", _MEND),
    "handshake_failed": Code(400, "The upgrade to a WebSocket is not one. The status may also be 405 or 426.", _MEND),
    "rate_limited": Code(429, "The token asks for more than it may have a second.", _LATER),
    "too_many_failures": Code(429, "From this address came too many tokens that are none.", _LATER),
    "headers_too_large": Code(
        431, "The request line and headers are over 64 KiB or 256 lines. The connection is closed.", _MEND
    ),
    "internal": Code(500, "A fault of the server; its log has the traceback.", "Tell the operator."),
    "unavailable": Code(503, "Too many connections or waits, or too little memory or descriptors.", _LATER),
    "starting": Code(503, "The server still reads its store. The body has another shape, see above.", _LATER),
    "memory_pressure": Code(503, "Memory is short, so publishes are refused.", _LATER),
    "storage_error": Code(
        503,
        "The disk refused, and the store is opened again. The change did not happen, or is not known to have.",
        _LATER,
    ),
    "disk_full": Code(
        507,
        "There is no space left, or too little for more messages: then only publishes are refused.",
        "Tell the operator.",
    ),
}
"""Every code that an HTTP response may have."""

EVERYWHERE: Final = (
    "bad_request",
    "tls_required",
    "not_found",
    "method_not_allowed",
    "host_not_allowed",
    "request_timeout",
    "headers_too_large",
    "body_too_large",
    "internal",
    "unavailable",
)
"""Of every route."""
OF_TOKENS: Final = ("unauthenticated", "rate_limited", "too_many_failures")
"""Of routes that need a token, where the server has tokens."""
OF_BODIES: Final = ("malformed_json", "wrong_content_type", "wrong_shape")
OF_NAMES: Final = ("invalid_queue_name",)
"""Of routes with a queue in their path."""
OF_CHANGES: Final = ("origin_not_allowed", "read_only", "starting", "storage_error", "disk_full")
OF_READING: Final = ("starting", "storage_error")
"""Of routes that read the store."""


def implied(operation: Operation) -> tuple[str, ...]:
    """The codes that follow from what a route takes and does."""
    codes = list(EVERYWHERE)
    if operation.needs.token:
        codes += OF_TOKENS
    if operation.needs.grant is not None and operation.needs.named is not Named.SHOWN:
        codes.append("forbidden")
    if "{" in operation.path:
        codes += OF_NAMES
    if operation.request is not None:
        codes += OF_BODIES
    if operation.mutating:
        codes += OF_CHANGES
    elif operation.reads_store:
        codes += OF_READING
    return tuple(codes)


def codes_of(described: Described) -> dict[str, Code]:
    """All codes of a route, by status."""
    codes = dict.fromkeys((*described.errors, *implied(described.operation)))
    return {code: CODES[code] for code in sorted(codes, key=lambda code: (CODES[code].status, code))}
