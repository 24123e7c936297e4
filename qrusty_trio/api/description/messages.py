"""The described routes of messages: publish, consume, ack, nack, renew, and the batches of these."""

from __future__ import annotations

from typing import Final

from qrusty_trio.api import batches, locking, messages
from qrusty_trio.api.batch_bodies import PER_STEP
from qrusty_trio.api.description import shapes
from qrusty_trio.api.description.fields import (
    CONSUMER_ID,
    CURSOR,
    DETAILS,
    ERROR,
    LIMIT,
    MAX_RETRIES,
    MESSAGE_IDS,
    MESSAGES,
    NAME_LIMITS,
    PAYLOAD,
    PRIORITY,
    QUEUE,
    TIMEOUT_SECONDS,
    U64,
    WAIT_SECONDS,
)
from qrusty_trio.api.description.model import ID, Described, Example, Field, Parameter
from qrusty_trio.api.schema import MAX_WAITED_QUEUES
from qrusty_trio.core.model import MAX_BATCH_DELIVERIES, MAX_BATCH_IDS

_OF = {operation.name: operation for operation in (*messages.OPERATIONS, *batches.OPERATIONS, *locking.OPERATIONS)}
_TERMS: Final = {
    "consumer_id": CONSUMER_ID,
    "timeout_seconds": TIMEOUT_SECONDS,
    "wait_seconds": WAIT_SECONDS,
    "details": DETAILS,
}
_REFUSED = Field("nothing", "Must not be given: the path names the queue. For several queues there is `POST /consume`.")
_DELIVERED = {"id": ID, "payload": "hello", "retry_count": 1}
_ME = {"consumer_id": "worker-1"}
_PUBLISH_ERRORS = (
    "invalid_queue_name",
    "priority_kind_mismatch",
    "invalid_priority",
    "duplicate_payload",
    "limit_reached",
    "queue_not_found",
    "memory_pressure",
)

DESCRIBED: Final = (
    Described(
        _OF["publish"],
        "Put a message into a queue.",
        shapes.Published,
        Example("/publish", {"queue": "jobs", "priority": 5, "payload": "hello"}, {"id": ID}),
        {"queue": QUEUE, "priority": PRIORITY, "payload": PAYLOAD, "max_retries": MAX_RETRIES},
        errors=_PUBLISH_ERRORS,
        notes="An unknown queue is made, with the ordering `MaxFirst`, duplicates allowed, and the kind `Numeric`. "
        "Where "
        "the operator has set `QRUSTY_UNKNOWN_QUEUE=refuse`, it is refused instead with `queue_not_found`. A queue "
        "that "
        "refuses duplicates compares payloads with those of its available and locked messages. The response leaves "
        "when "
        "the message is as durable as `QRUSTY_FSYNC` promises. If it does not come, the message may or may not be "
        "there.",
    ),
    Described(
        _OF["publish_batch"],
        "Put many messages into a queue.",
        shapes.PublishedBatch,
        Example(
            "/publish-batch",
            {
                "queue": "jobs",
                "messages": [{"priority": 5, "payload": "first"}, {"priority": "a", "payload": "second"}],
            },
            {
                "ids": [ID],
                "rejected": [
                    {
                        "index": 1,
                        "error": "Priority kind mismatch: queue expects Numeric but got Text",
                        "code": "priority_kind_mismatch",
                    }
                ],
            },
        ),
        {
            "queue": QUEUE,
            "messages": MESSAGES,
            # A text that is too long is a matter of that message alone.
            "messages[].priority": PRIORITY._replace(limits=U64),
            "messages[].payload": PAYLOAD,
            "messages[].max_retries": MAX_RETRIES,
        },
        errors=("invalid_queue_name", "limit_reached", "queue_not_found", "memory_pressure"),
        notes=f"A batch of the wrong shape gets 422, and none of it is published. Up to {PER_STEP} "
        "messages, with 256 KiB of payload, are stored as a whole or not at all. A longer batch is stored in "
        "such steps, from its beginning: if the server is killed before it responds, the first steps may be there.",
    ),
    Described(
        _OF["consume"],
        "Take the first available message of a queue.",
        shapes.Delivered | None,
        Example("/consume/jobs", {**_ME, "timeout_seconds": 60}, _DELIVERED, "message"),
        {**_TERMS, "queues": _REFUSED},
        errors=("limit_reached", "queue_not_found", "unavailable"),
        notes="The response is `null` if there is no message, or no such queue. (Where `QRUSTY_UNKNOWN_QUEUE=refuse` "
        "is "
        "set, an unknown queue gets `queue_not_found`.) The lock begins when the message is handed out. If the "
        "response "
        "can't be written, the message goes back, uncounted. A wait ends with `null` when its time is up, when the "
        "server stops, and when the client closes its sending side. 503 `unavailable`: too many wait already.",
    ),
    Described(
        _OF["consume_from"],
        "Take the first available message of several queues, in the order in which they are named.",
        shapes.DeliveredFrom | None,
        Example("/consume", {"queues": ["urgent", "jobs"], **_ME}, {**_DELIVERED, "queue": "jobs"}, "message"),
        {
            "queues": Field(
                f"a list of 1 to {MAX_WAITED_QUEUES} different names",
                "The queues, the one to look into first at the beginning.",
                "",
                {
                    "array": {
                        "minItems": 1,
                        "maxItems": MAX_WAITED_QUEUES,
                        "uniqueItems": True,
                        "items": {"type": "string", **NAME_LIMITS["string"]},
                    }
                },
            ),
            **_TERMS,
        },
        errors=("limit_reached", "invalid_queue_name", "queue_not_found", "unavailable"),
        notes="As for one queue. With `wait_seconds` it waits for all of them.",
    ),
    Described(
        _OF["consume_batch"],
        "Take the first available messages of a queue.",
        shapes.DeliveredBatch,
        Example("/consume-batch/jobs", {**_ME, "max_messages": 100}, {"messages": [_DELIVERED]}, "message"),
        {
            **_TERMS,
            "max_messages": Field(
                f"an integer from 1 to {MAX_BATCH_DELIVERIES}",
                "Most messages of the response.",
                "",
                {"integer": {"minimum": 1, "maximum": MAX_BATCH_DELIVERIES}},
            ),
        },
        errors=("limit_reached", "queue_not_found", "unavailable"),
        notes="It takes what is there, up to 2 MiB; a message that is longer comes alone. With `wait_seconds` it "
        "waits "
        "for the first message, and takes with it what else is there then, up to about 64 KiB.",
    ),
    Described(
        _OF["ack"],
        "Say that the work is done: the message is gone.",
        None,
        Example(f"/ack/jobs/{ID}", _ME, None, "locked"),
        {"consumer_id": CONSUMER_ID},
        errors=("message_not_locked", "limit_reached"),
        notes="After a 200 the message is never delivered again. 404 `message_not_locked` says that this consumer "
        "does "
        "not hold it: it was settled, its lock ended, or there is no such message or queue.",
    ),
    Described(
        _OF["nack"],
        "Say that the work was not done: the message is available again, in its old place.",
        None,
        Example(f"/nack/jobs/{ID}", {**_ME, "error": "no such address"}, None, "locked"),
        {"consumer_id": CONSUMER_ID, "error": ERROR},
        errors=("message_not_locked", "limit_reached"),
        notes="If its `retry_count` has reached its `max_retries`, it becomes a dead letter instead.",
    ),
    Described(
        _OF["ack_batch"],
        "Ack many messages.",
        shapes.Acked,
        Example("/ack-batch/jobs", {**_ME, "message_ids": [ID]}, {"acked": [ID], "not_found": []}, "locked"),
        {"consumer_id": CONSUMER_ID, "message_ids": MESSAGE_IDS},
        errors=("limit_reached",),
    ),
    Described(
        _OF["nack_batch"],
        "Nack many messages.",
        shapes.Nacked,
        Example(
            "/nack-batch/jobs",
            {**_ME, "message_ids": [ID], "error": "no such address"},
            {"unlocked": [ID], "dead_lettered": [], "dropped": [], "not_found": []},
            "locked",
        ),
        {"consumer_id": CONSUMER_ID, "message_ids": MESSAGE_IDS, "error": ERROR},
        errors=("limit_reached",),
    ),
    Described(
        _OF["renew"],
        "Let a lock end later.",
        shapes.Renewed,
        Example(f"/renew/jobs/{ID}", {**_ME, "timeout_seconds": 60}, {"lock_until": 1790000060123}, "locked"),
        {"consumer_id": CONSUMER_ID, "timeout_seconds": TIMEOUT_SECONDS},
        errors=("message_not_locked", "limit_reached"),
        notes="The lock ends `timeout_seconds` from now, which may also be sooner than before. A renewal survives a "
        "restart, but not always a power cut: then the lock ends as it would have without.",
    ),
    Described(
        _OF["renew_batch"],
        "Let many locks end later.",
        shapes.RenewedBatch,
        Example(
            "/renew-batch/jobs",
            {**_ME, "message_ids": [ID], "timeout_seconds": 60},
            {"renewed": [ID], "not_found": []},
            "locked",
        ),
        {"consumer_id": CONSUMER_ID, "message_ids": MESSAGE_IDS, "timeout_seconds": TIMEOUT_SECONDS},
        errors=("limit_reached",),
    ),
    Described(
        _OF["force_unlock"],
        "End locks, whoever holds them: the messages are available again, uncounted.",
        shapes.Unlocked,
        Example("/force-unlock/jobs", {"ids": [ID]}, {"unlocked": 1}, "locked"),
        {
            "ids": Field(
                f"a list of at most {MAX_BATCH_IDS:,} strings",
                "These messages.",
                "",
                {"array": {"maxItems": MAX_BATCH_IDS}},
            ),
            "consumer_id": CONSUMER_ID._replace(meaning="All that this consumer holds, as the list of locks names it."),
            "all": Field("true", "All locks of the queue.", "", {"boolean": {"const": True}}),
        },
        errors=("queue_not_found", "limit_reached"),
        notes="Exactly one of the fields must be given. The worker that held a message is not told: its ack gets 404.",
        one_of=("ids", "consumer_id", "all"),
    ),
    Described(
        _OF["locks"],
        "List who holds which messages of a queue until when.",
        shapes.Locks,
        Example(
            "/queues/jobs/locks",
            None,
            {
                "locks": [
                    {
                        "id": ID,
                        "deliveries": 1,
                        "priority": 5,
                        "priority_text": "5",
                        "consumer": "worker-1",
                        "locked_since": 1790000000123,
                        "lock_until": 1790000030123,
                    }
                ],
                "cursor": None,
            },
            "locked",
        ),
        query=(LIMIT, CURSOR, Parameter("consumer", "a name", "Only the locks of this consumer.", "those of all")),
        errors=("queue_not_found",),
        notes="With more than 1,024 locks, a page ends after 5,000 of them, so it may have fewer entries than asked "
        "for, "
        "or none, and still a `cursor`.",
    ),
)
