"""The described frames of the WebSocket: what a client sends, what it gets, and how a connection ends.

Rule: a test holds this to the frame table of `api.ws_requests`: each type is described once, with the fields that its
function reads and no others, and each code is one that it refuses with.

Requirements: API-0112
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from qrusty_trio.api.batch_bodies import MESSAGE_FIELDS
from qrusty_trio.api.description.fields import (
    ERROR,
    MAX_RETRIES,
    MESSAGE_IDS,
    MESSAGES,
    NAME_LIMITS,
    PAYLOAD,
    PRIORITY,
)
from qrusty_trio.api.description.model import ID, Field
from qrusty_trio.api.ws_frames import MAX_REQ_ID_CHARACTERS
from qrusty_trio.api.ws_requests import DEFAULT_LOCK_SECONDS, MAX_CREDITS
from qrusty_trio.core.deadlines import MAX_SECONDS
from qrusty_trio.core.model import MAX_BATCH_DELIVERIES, MAX_BATCH_MESSAGES

Frame = dict[str, Any]


class DescribedFrame(NamedTuple):
    """A type of frame that clients send."""

    type: str
    summary: str
    fields: dict[str, Field]
    """Besides those that every frame may have."""
    response: dict[str, str]
    """The fields of the response besides `type` and `req_id`: name -> meaning."""
    errors: tuple[str, ...]
    """Codes of its own, besides those of every frame."""
    example: Frame
    example_response: Frame
    """The response to the example."""
    given: tuple[Frame, ...] = ()
    """What is sent before it. A message with the id of the examples stands for the one that was delivered."""
    notes: str = ""


class DescribedPush(NamedTuple):
    """A type of frame that the server sends unasked."""

    type: str
    summary: str
    fields: dict[str, str]
    example: Frame


EVERY_FRAME: Final = {
    "type": Field("one of the types below", "What is asked for."),
    "req_id": Field(
        f"a string of at most {MAX_REQ_ID_CHARACTERS} characters",
        "The response carries it, so that a client knows what it answers.",
        "the response has none",
        {"string": {"maxLength": MAX_REQ_ID_CHARACTERS}},
    ),
    "no_reply": Field("true or false", "With true there is no response, not even an error.", "false"),
    "traceparent": Field(
        "a string",
        "The trace that its span belongs to, as in the header of the [W3C](https://www.w3.org/TR/trace-context/). What "
        "can't be read counts as none.",
        "that of the handshake",
    ),
}
"""The fields that every frame of a client may have."""

_QUEUE = Field("a string", "The queue.", "", NAME_LIMITS)
_ID = Field("a string", "The message, as it was delivered.")
_LOCK = Field(
    "a positive integer",
    "How long locks last, in seconds. More than ten years is taken as ten years.",
    f"{DEFAULT_LOCK_SECONDS}",
    {"integer": {"minimum": 1}},
)
_MESSAGES = MESSAGES._replace(takes=f"{MESSAGE_FIELDS['messages']}, with the fields of a publish but for the queue")
_NEW = {"priority": 5, "payload": "hello"}
_MADE = ({"type": "publish", "queue": "jobs", **_NEW}, {"type": "subscribe", "queue": "jobs", "credits": 1})

FRAMES: Final = (
    DescribedFrame(
        "publish",
        "Put a message into a queue that exists.",
        {
            "queue": _QUEUE,
            "payload": PAYLOAD,
            "priority": PRIORITY._replace(default="0"),
            "max_retries": MAX_RETRIES,
        },
        {"id": "The message: a UUID."},
        ("queue_not_found", "publish_failed", "memory_pressure", "storage_error"),
        {"type": "publish", "queue": "jobs", **_NEW, "req_id": "1"},
        {"type": "ok", "id": ID, "req_id": "1"},
        notes="Unlike over HTTP, an unknown queue is not made. The response leaves when the message is as durable as "
        "`QRUSTY_FSYNC` promises.",
    ),
    DescribedFrame(
        "batch-publish",
        "Put many messages into a queue that exists.",
        {
            "queue": _QUEUE,
            "messages": _MESSAGES,
            "messages[].priority": PRIORITY,
            "messages[].payload": PAYLOAD,
            "messages[].max_retries": MAX_RETRIES,
        },
        {
            "ids": "Those of the accepted messages, in order.",
            "rejected": "What was refused: `index` (from 0), `error`, `code`, as of `POST /publish-batch`.",
        },
        ("queue_not_found", "memory_pressure", "storage_error"),
        {"type": "batch-publish", "queue": "jobs", "messages": [_NEW], "req_id": "2"},
        {"type": "ok", "ids": [ID], "rejected": [], "req_id": "2"},
        notes=f"At most {MAX_BATCH_MESSAGES:,} messages.",
    ),
    DescribedFrame(
        "subscribe",
        "Ask for the messages of a queue.",
        {
            "queue": _QUEUE,
            "credits": Field(
                "an integer from 0 on",
                f"How many messages to send. More than {MAX_CREDITS} is taken as that.",
                "any number",
                {"integer": {"minimum": 0}},
            ),
            "lock_timeout_secs": _LOCK,
            "deadline_soon_secs": Field(
                f"an integer from 1 to {MAX_SECONDS:,}, less than `lock_timeout_secs`",
                "So many seconds before a lock ends, a `deadline-soon` is sent.",
                "none is sent",
                {"integer": {"minimum": 1, "maximum": MAX_SECONDS}},
            ),
            "batch": Field(
                f"an integer from 1 to {MAX_BATCH_DELIVERIES:,}",
                "Deliveries that come together are sent in one `deliver-batch` of up to so many.",
                "each is a `deliver`",
                {"integer": {"minimum": 1, "maximum": MAX_BATCH_DELIVERIES}},
            ),
        },
        {
            "unchanged": "true: there was one already, and it stays. Otherwise all these fields are left out.",
            "credits": "What is left of its credits; null for any number.",
            "lock_timeout_secs": "How long its locks last.",
            "deadline_soon_secs": "If it has such warnings.",
            "batch": "If it has batches.",
        },
        ("queue_not_found",),
        {"type": "subscribe", "queue": "jobs", "credits": 10, "lock_timeout_secs": 60, "req_id": "3"},
        {"type": "ok", "req_id": "3"},
        notes="A second subscribe to the same queue changes nothing; if it asks for other values, the response tells "
        "those in force. A connection may have 1,000 subscriptions. Deliveries may come before the response.",
    ),
    DescribedFrame(
        "unsubscribe",
        "Ask for no more messages of a queue.",
        {"queue": _QUEUE},
        {},
        (),
        {"type": "unsubscribe", "queue": "jobs", "req_id": "4"},
        {"type": "ok", "req_id": "4"},
        notes="What was delivered stays with this connection until it is settled. Deliveries that were sent before the "
        "response may still come.",
    ),
    DescribedFrame(
        "credit",
        "Ask for more messages of a subscription.",
        {
            "queue": _QUEUE,
            "credits": Field("a positive integer", "How many more.", "", {"integer": {"minimum": 1}}),
        },
        {},
        ("not_subscribed",),
        {"type": "credit", "queue": "jobs", "credits": 10, "req_id": "5"},
        {"type": "ok", "req_id": "5"},
        ({"type": "subscribe", "queue": "jobs", "credits": 10},),
        notes="Each delivery costs one credit. An ack gives none back. It does nothing where there is no limit.",
    ),
    DescribedFrame(
        "ack",
        "Say that the work is done: the message is gone.",
        {"queue": _QUEUE, "id": _ID},
        {},
        ("storage_error",),
        {"type": "ack", "queue": "jobs", "id": ID, "req_id": "6"},
        {"type": "ok", "req_id": "6"},
        _MADE,
        notes="`ok` also when this connection does not hold the message: then nothing happens.",
    ),
    DescribedFrame(
        "nack",
        "Say that the work was not done: the message is available again, in its old place.",
        {"queue": _QUEUE, "id": _ID, "error": ERROR},
        {},
        ("storage_error",),
        {"type": "nack", "queue": "jobs", "id": ID, "error": "no such address", "req_id": "7"},
        {"type": "ok", "req_id": "7"},
        _MADE,
        notes="`ok` also when this connection does not hold the message. After `max_retries` deliveries it becomes a "
        "dead letter.",
    ),
    DescribedFrame(
        "batch-ack",
        "Ack many messages of a queue.",
        {"queue": _QUEUE, "ids": MESSAGE_IDS},
        {"acked": "How many are gone."},
        ("storage_error",),
        {"type": "batch-ack", "queue": "jobs", "ids": [ID], "req_id": "8"},
        {"type": "ok", "acked": 1, "req_id": "8"},
        _MADE,
    ),
    DescribedFrame(
        "batch-nack",
        "Nack many messages of a queue.",
        {"queue": _QUEUE, "ids": MESSAGE_IDS, "error": ERROR},
        {"unlocked": "How many are available again.", "dropped": "How many became dead letters."},
        ("storage_error",),
        {"type": "batch-nack", "queue": "jobs", "ids": [ID], "error": "no such address", "req_id": "9"},
        {"type": "ok", "unlocked": 1, "dropped": 0, "req_id": "9"},
        _MADE,
    ),
    DescribedFrame(
        "renew",
        "Let a lock end later.",
        {"queue": _QUEUE, "id": _ID, "lock_timeout_secs": _LOCK._replace(meaning="The lock ends so long from now.")},
        {},
        ("not_locked", "storage_error"),
        {"type": "renew", "queue": "jobs", "id": ID, "lock_timeout_secs": 60, "req_id": "10"},
        {"type": "ok", "req_id": "10"},
        _MADE,
    ),
    DescribedFrame(
        "subscribe-logs",
        "Ask for the log of the server: its last 1,000 records, then live ones.",
        {},
        {},
        (),
        {"type": "subscribe-logs", "req_id": "11"},
        {"type": "ok", "req_id": "11"},
    ),
    DescribedFrame(
        "unsubscribe-logs",
        "Ask for no more of the log.",
        {},
        {},
        (),
        {"type": "unsubscribe-logs", "req_id": "12"},
        {"type": "ok", "req_id": "12"},
    ),
)

_CREATED = "2026-01-02T03:04:05.006Z"
_DELIVERED = {"id": ID, "payload": "hello", "priority": 5, "created_at": _CREATED}
_OF_MESSAGE = {
    "id": "The message: a UUID.",
    "payload": "As it was published.",
    "priority": "As it was published: a number or a string.",
    "created_at": "When it was published: RFC 3339, UTC, with milliseconds.",
}

PUSHES: Final = (
    DescribedPush(
        "deliver",
        "A message, locked for this connection.",
        {"queue": "The queue by the name that this connection subscribed to.", **_OF_MESSAGE},
        {"type": "deliver", "queue": "jobs", **_DELIVERED},
    ),
    DescribedPush(
        "deliver-batch",
        "Messages that came together, for a subscription with `batch`.",
        {"queue": "The same.", "messages": "Objects with the other fields of a `deliver`."},
        {"type": "deliver-batch", "queue": "jobs", "messages": [_DELIVERED]},
    ),
    DescribedPush(
        "deadline-soon",
        "A lock is about to end. Sent once for each lock, and again for a renewed one, up to half a second late.",
        {"queue": "The queue.", "id": "The message.", "lock_until": "When its lock ends, milliseconds since 1970."},
        {"type": "deadline-soon", "queue": "jobs", "id": ID, "lock_until": 1790000030123},
    ),
    DescribedPush(
        "log",
        "A record of the log.",
        {
            "timestamp": "When: RFC 3339, UTC.",
            "level": "error, warn, info or debug.",
            "message": "The record. A connection that reads too slowly is told how many it lost.",
        },
        {
            "type": "log",
            "timestamp": _CREATED,
            "level": "info",
            "message": "ready after 0.057 s: 1 queue, 0 messages locked",
        },
    ),
)

ERRORS: Final = {
    "invalid_request": "The frame is JSON of the wrong shape, or a value is not allowed: the sentence names the field.",
    "unknown_type": "There is no such type.",
    "unauthenticated": "The server has tokens, and none that counts was shown.",
    "forbidden": "The token lacks the grant that the sentence names.",
    "rate_limited": "The token asks for more than it may have a second.",
    "too_many_failures": "From this address came too many tokens that are none.",
    "queue_not_found": "There is no such queue.",
    "not_subscribed": "This connection has no subscription to the queue.",
    "not_locked": "This connection does not hold the message.",
    "publish_failed": "The queue refused the message: a duplicate, a priority of the other kind, a name.",
    "memory_pressure": "Memory is short, so publishes are refused. Try again later.",
    "storage_error": "The disk refused, so the change is not known to have happened. Messages held are given back. Or "
    "the disk has too little room for more messages: then only publishes are refused, and the connection goes on.",
    "starting": "The server still reads its store. Try again later.",
    "read_only": "The operator allows no change; a subscribe is one.",
}
"""The codes of `error` frames."""
OF_TOKENS: Final = ("unauthenticated", "forbidden", "rate_limited", "too_many_failures")
"""Codes that any frame may get where the server has tokens."""
EVERYWHERE: Final = ("invalid_request", "unknown_type")
"""Codes that any frame may get."""
OF_TOUCHING: Final = ("starting", "read_only")
"""Codes of frames that change something, or lead to changes."""

CLOSES: Final = {
    1000: "The client closed.",
    1001: "The server stops, or the client gave no sign of life.",
    1002: "The client broke the protocol.",
    1003: "The client sent a binary frame.",
    1007: "The client sent a text that is not JSON, or not UTF-8.",
    1008: "The server has tokens: none that counts was shown in time, or it was revoked, has expired or lost a grant.",
    1009: "The client sent a frame over 2 MiB.",
    1011: "The server failed to serve this client.",
    1013: "Too many connections, a store or a sync that failed, or a client that took nothing while memory was short.",
}
"""Close codes, and when."""
