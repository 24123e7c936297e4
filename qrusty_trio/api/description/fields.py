"""The fields that several requests have: what they take, what they mean, and what leaving them out means.

Rule: every limit is taken from the constant that the server checks, and every "takes" from the words of its refusals,
where there are any.
"""

from __future__ import annotations

from qrusty_trio.api.batch_bodies import MESSAGE_FIELDS
from qrusty_trio.api.description.model import Field, Parameter
from qrusty_trio.api.json_bodies import ALLOWED
from qrusty_trio.api.paging import DEFAULT_LIMIT, MAX_LIMIT
from qrusty_trio.api.schema import (
    CONSUME_FIELDS,
    DEFAULT_LOCK_SECONDS,
    DEFAULT_MAX_RETRIES,
    MAX_WAIT_SECONDS,
    RETENTION,
)
from qrusty_trio.core.model import (
    MAX_BATCH_IDS,
    MAX_BATCH_MESSAGES,
    MAX_CONSUMER_BYTES,
    MAX_ERROR_BYTES,
    MAX_QUEUE_NAME_BYTES,
    MAX_TEXT_PRIORITY_BYTES,
    U32_MAX,
    U64_MAX,
)

NAME_LIMITS = {"string": {"minLength": 1, "maxLength": MAX_QUEUE_NAME_BYTES}}
U64 = {"integer": {"minimum": 0, "maximum": U64_MAX}}
U32 = {"integer": {"minimum": 0, "maximum": U32_MAX}}
PRIORITY_LIMITS = U64 | {"string": {"minLength": 1, "maxLength": MAX_TEXT_PRIORITY_BYTES}}

QUEUE = Field(
    f"a string of 1 to {MAX_QUEUE_NAME_BYTES} bytes of UTF-8",
    "The queue. One that is unknown is made.",
    "",
    NAME_LIMITS,
)
PRIORITY = Field(
    ALLOWED["priority"],
    "Where the message stands in the order. A number for a queue of the kind `Numeric`, a string of 1 to "
    f"{MAX_TEXT_PRIORITY_BYTES} bytes of UTF-8 for one of the kind `Text`.",
    "",
    PRIORITY_LIMITS,
)
PAYLOAD = Field(ALLOWED["payload"], "What the consumer gets, byte for byte. It may be empty.")
MAX_RETRIES = Field(
    ALLOWED["max_retries"],
    "After so many deliveries that counted and came to nothing, the message is a dead letter. 0 means the same as 1.",
    f"{DEFAULT_MAX_RETRIES}",
    U32,
)
CONSUMER_ID = Field(
    f"a string of at most {MAX_CONSUMER_BYTES} bytes of UTF-8",
    "Who holds the lock. Only the same name can ack, nack or renew.",
    "",
    {"string": {"maxLength": MAX_CONSUMER_BYTES}},
)
TIMEOUT_SECONDS = Field(
    ALLOWED["timeout_seconds"],
    "How long the lock lasts, in seconds. More than ten years is taken as ten years; with 0 it ends at once.",
    f"{DEFAULT_LOCK_SECONDS}",
    U64,
)
WAIT_SECONDS = Field(
    CONSUME_FIELDS["wait_seconds"],
    "How long to wait for a message if there is none, in seconds. Fractions are allowed.",
    "0",
    {"number": {"minimum": 0, "maximum": MAX_WAIT_SECONDS}},
)
DETAILS = Field(
    CONSUME_FIELDS["details"], "Whether the response also tells `priority`, `created_at` and `lock_until`.", "false"
)
MESSAGE_IDS = Field(
    f"a list of at most {MAX_BATCH_IDS:,} strings", "The messages.", "", {"array": {"maxItems": MAX_BATCH_IDS}}
)
ERROR = Field(
    f"a string of at most {MAX_ERROR_BYTES:,} bytes of UTF-8",
    "Why the work was not done. A dead letter keeps it.",
    "no reason",
    {"string": {"maxLength": MAX_ERROR_BYTES}},
)
MESSAGES = Field(MESSAGE_FIELDS["messages"], "The messages, in order.", "", {"array": {"maxItems": MAX_BATCH_MESSAGES}})
DEAD_LETTER_TTL = Field(
    f"an integer from 1 to {RETENTION['dead_letter_ttl_seconds']}, or null",
    "Dead letters are removed so many seconds after they died.",
    "null: never",
    {"integer": {"minimum": 1, "maximum": RETENTION["dead_letter_ttl_seconds"]}},
)
DEAD_LETTER_MAX = Field(
    f"an integer from 1 to {RETENTION['dead_letter_max']}, or null",
    "With more dead letters than this, the oldest are removed.",
    "null: any number is kept",
    {"integer": {"minimum": 1, "maximum": RETENTION["dead_letter_max"]}},
)

LIMIT = Parameter(
    "limit",
    f"an integer from 1 to {MAX_LIMIT}",
    "Most entries of the page.",
    f"{DEFAULT_LIMIT}",
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
)
CURSOR = Parameter("cursor", "the `cursor` of the page before", "Go on after that page.", "the first page")
