"""The described routes that look into a queue, and those of its dead letters."""

from __future__ import annotations

from typing import Final

from qrusty_trio.api import browsing, dead_letters, finding
from qrusty_trio.api.description import shapes
from qrusty_trio.api.description.fields import CURSOR, LIMIT, PRIORITY, U32, U64
from qrusty_trio.api.description.model import ID, TEXT, Described, Example, Field, Parameter
from qrusty_trio.core.model import ID_CHARACTERS, MAX_BATCH_IDS, MAX_CONSUMER_BYTES, U32_MAX, U64_MAX, DeathReason

_OF = {operation.name: operation for operation in (*browsing.OPERATIONS, *finding.OPERATIONS, *dead_letters.OPERATIONS)}
_SECONDS = f"an integer from 0 to {U32_MAX}"
_TEXT = f"a string of 1 to {dead_letters.MAX_TEXT_BYTES:,} bytes of UTF-8"
_REASONS = "one of " + ", ".join(DeathReason)
_CONSUMER = f"a string of at most {MAX_CONSUMER_BYTES:,} bytes of UTF-8"
_MEANINGS: Final = {
    "reason": "Letters that died like this.",
    "consumer": "Letters that this consumer held last.",
    "older_than_secs": "Letters that died longer ago than this; by `created_at` where `died_at` is not known.",
    "text": "Letters with this text in their payload or their `error`.",
}
_REASON_SCHEMA = {"type": "string", "enum": [reason.value for reason in DeathReason]}
_FILTERS = (
    Parameter("reason", _REASONS, _MEANINGS["reason"], "any", _REASON_SCHEMA),
    Parameter("consumer", _CONSUMER, _MEANINGS["consumer"], "any", {"type": "string", "maxLength": MAX_CONSUMER_BYTES}),
    Parameter("older_than_secs", _SECONDS, _MEANINGS["older_than_secs"], "any", {"type": "integer", **U32["integer"]}),
    Parameter(
        "text",
        _TEXT,
        _MEANINGS["text"],
        "any",
        {"type": "string", "minLength": 1, "maxLength": dead_letters.MAX_TEXT_BYTES},
    ),
)
_CHOICE: Final = {
    "ids": Field(
        f"a list of at most {MAX_BATCH_IDS:,} strings", "These letters.", "", {"array": {"maxItems": MAX_BATCH_IDS}}
    ),
    "filter": Field("an object with at least one of its fields", "The letters that pass all of these."),
    "filter.reason": Field(_REASONS, _MEANINGS["reason"], "any"),
    "filter.consumer": Field(_CONSUMER, _MEANINGS["consumer"], "any", {"string": {"maxLength": MAX_CONSUMER_BYTES}}),
    "filter.older_than_secs": Field(_SECONDS, _MEANINGS["older_than_secs"], "any", U32),
    "filter.text": Field(
        _TEXT, _MEANINGS["text"], "any", {"string": {"minLength": 1, "maxLength": dead_letters.MAX_TEXT_BYTES}}
    ),
    "all": Field("true", "All dead letters of the queue.", "", {"boolean": {"const": True}}),
    "up_to": Field(
        f"an integer from 0 to {U64_MAX}",
        "Touch no letter with this number or a higher one: what a list or a dry run answered.",
        "those that died before this request",
        U64,
    ),
    "dry_run": Field("true or false", "Only say what would happen.", "false"),
}
_DEAD_LETTER: Final = {
    "id": ID,
    "priority": 5,
    "priority_text": "5",
    "created_at": 1790000000123,
    "died_at": 1790000004567,
    "reason": "nacked",
    "error": "no such address",
    "consumer": "worker-1",
    "deliveries": 1,
    "max_retries": 1,
    "requeues": 0,
    "state": "dead",
    "payload": "hello",
}
_MESSAGE: Final = {
    "id": ID,
    "payload": "hello",
    "priority": 5,
    "priority_text": "5",
    "created_at": 1790000000123,
    "deliveries": 0,
    "max_retries": 3,
    "state": "available",
}
_CHOOSE = (
    "Exactly one of `ids`, `filter` and `all` must be given, and no field that is not named here: a misspelt one "
    "could "
    "be a limit. "
)

DESCRIBED: Final = (
    Described(
        _OF["messages"],
        "List the messages of a queue without locking, counting or moving any.",
        (shapes.Messages, shapes.DeadLetters),
        Example("/queues/jobs/messages?limit=2", None, {"messages": [_MESSAGE], "cursor": None}, "message"),
        query=(
            LIMIT,
            CURSOR,
            Parameter(
                "state",
                "one of " + ", ".join(browsing.STATES),
                "Which messages: in the order in which they will be consumed, or were locked, or died.",
                "available",
                {"type": "string", "enum": list(browsing.STATES)},
            ),
            # Without that they are ignored, whatever they are.
            *(each._replace(meaning=f"With `state=dead`: {each.meaning}", schema=TEXT) for each in _FILTERS),
        ),
        errors=("queue_not_found",),
        notes="A page ends early at 512 KiB. A payload over 16 KiB is not shown, only how it begins. "
        "`state=dead` answers as `/queues/{queue}/dead-letters` does.",
    ),
    Described(
        _OF["message"],
        "Find a message by its id, whatever its state.",
        (shapes.FoundMessage, shapes.FoundDeadLetter, shapes.NotYetFound),
        Example(
            f"/queues/jobs/messages/{ID}",
            None,
            {**_MESSAGE, "before": 0, "looked_at": 1, "complete": True, "cursor": None},
            "message",
        ),
        query=(CURSOR._replace(takes="the `cursor` of the response before", meaning="Go on with the search."),),
        errors=("queue_not_found", "message_not_found"),
        notes="Up to 10,000 messages are looked at. With `complete` false it was not among the `looked_at` first: "
        "ask "
        "again with `cursor`. A locked message and a dead letter are found at once.",
    ),
    Described(
        _OF["find"],
        "Find a message by its id, whatever its state and its queue.",
        (shapes.LocatedMessage, shapes.LocatedDeadLetter, shapes.NotYetLocated),
        Example(
            f"/find?id={ID}",
            None,
            {
                "queue": "jobs",
                **_MESSAGE,
                "before": 0,
                "looked_at": 1,
                "available": 1,
                "complete": True,
                "cursor": None,
            },
            "message",
        ),
        query=(
            Parameter(
                "id",
                f"the id of a message, {ID_CHARACTERS} characters",
                "The message.",
                "",
                {"type": "string", "minLength": ID_CHARACTERS, "maxLength": ID_CHARACTERS},
                required=True,
            ),
            CURSOR._replace(takes="the `cursor` of the response before", meaning="Go on with the search."),
        ),
        errors=("message_not_found",),
        notes="A locked message and a dead letter are found at once. Of the available ones, about 10,000 are "
        "looked at, queue after queue. With `complete` false it was not among them: ask again with `cursor`. How far "
        "the search came is the sum of `looked_at` of all responses, of `available` messages. One that moves meanwhile "
        "may be missed.",
    ),
    Described(
        _OF["priorities"],
        "Count the available messages of a queue by priority.",
        shapes.Priorities,
        Example(
            "/queues/jobs/priorities",
            None,
            {
                "priorities": [{"priority": 5, "priority_text": "5", "count": 1}],
                "others": 0,
                "sampled": False,
                "looked_at": 1,
            },
            "message",
        ),
        errors=("queue_not_found",),
        notes="With more than 10,000 messages the counts are estimated from samples.",
    ),
    Described(
        _OF["dead_letters"],
        "List the dead letters of a queue.",
        shapes.DeadLetters,
        Example(
            "/queues/jobs/dead-letters?text=no+such+address",
            None,
            {"messages": [_DEAD_LETTER], "cursor": None, "looked_at": 1, "up_to": 1, "dead_letters": 1},
            "dead",
        ),
        query=(LIMIT, CURSOR, *_FILTERS),
        errors=("queue_not_found",),
        notes="A page ends early at 512 KiB, or after looking at 10,000 letters: with a filter it may be empty, and "
        "still have a `cursor`.",
    ),
    Described(
        _OF["requeue_dead_letters"],
        "Make dead letters available again.",
        shapes.RequeuedLetters,
        Example(
            "/queues/jobs/dead-letters/requeue",
            {"ids": [ID]},
            {"requeued": 1, "up_to": 1, "looked_at": 1, "not_found": [], "refused": 0, "not_eligible": []},
            "dead",
        ),
        {
            **_CHOICE,
            "to": Field("a string", "The queue to put them into.", "the same"),
            "priority": PRIORITY._replace(meaning="Their new priority.", default="their old one"),
        },
        errors=("queue_not_found", "limit_reached", "priority_kind_mismatch", "invalid_priority"),
        notes=_CHOOSE + "A requeued message begins anew: no delivery counts. It goes to its old place, or with `to` "
        "behind the others of its priority. What the queue refuses as a duplicate stays a dead letter.",
        one_of=("ids", "filter", "all"),
    ),
    Described(
        _OF["purge_dead_letters"],
        "Remove dead letters for good.",
        shapes.PurgedLetters,
        Example(
            "/queues/jobs/dead-letters/purge",
            {"all": True, "up_to": 1},
            {"purged": 1, "up_to": 1, "looked_at": 1},
            "dead",
        ),
        _CHOICE,
        errors=("queue_not_found", "limit_reached", "queue_protected"),
        notes=_CHOOSE.strip(),
        one_of=("ids", "filter", "all"),
    ),
    Described(
        _OF["dead_letter"],
        "Read a dead letter, with its whole payload.",
        shapes.DeadLetter,
        Example(f"/queues/jobs/dead-letters/{ID}", None, _DEAD_LETTER, "dead"),
        errors=("queue_not_found",),
        notes="404 `not_found` says that there is no such dead letter.",
    ),
)
