"""The described routes of queues: create, update, purge, delete; and the trash."""

from __future__ import annotations

from typing import Final

from qrusty_trio.api import queues, trash
from qrusty_trio.api.description import shapes
from qrusty_trio.api.description.fields import DEAD_LETTER_MAX, DEAD_LETTER_TTL, NAME_LIMITS
from qrusty_trio.api.description.model import KEPT, Described, Example, Field, Parameter
from qrusty_trio.api.json_bodies import ALLOWED
from qrusty_trio.core.model import MAX_QUEUE_NAME_BYTES, MAX_UNDO_SECONDS

_OF = {operation.name: operation for operation in queues.OPERATIONS}
_TRASH = {operation.name: operation for operation in trash.OPERATIONS}
_UNDO = Parameter(
    "undo_seconds",
    trash.UNDO_SECONDS,
    "Keep aside what is removed, so that it can be put back for so long; see `GET /trash`.",
    "0: it is removed for good",
    {"type": "integer", "minimum": 0, "maximum": MAX_UNDO_SECONDS},
)
_NAME = f"a string of 1 to {MAX_QUEUE_NAME_BYTES} bytes of UTF-8"
_DUPLICATES = "Whether a payload may be in the queue twice."
_PROTECTED = "Whether purge, delete, rename and stricter limits of dead letters are refused."

DESCRIBED: Final = (
    Described(
        _OF["create_queue"],
        "Make a queue.",
        None,
        Example("/create-queue", {"name": "jobs", "config": {"ordering": "MaxFirst"}}),
        {
            "name": Field(_NAME, "Its name.", "", NAME_LIMITS),
            "config": Field("an object", "How it works."),
            "config.ordering": Field(
                ALLOWED["config.ordering"],
                "Which message comes first: that with the highest priority, the lowest, or the first published "
                "whatever "
                "its priority. Among equals, the first published. Text compares by its bytes of UTF-8.",
            ),
            "config.allow_duplicates": Field(ALLOWED["config.allow_duplicates"], _DUPLICATES, "true"),
            "config.priority_kind": Field(ALLOWED["config.priority_kind"], "What its priorities are.", "Numeric"),
            "config.dead_letter_ttl_seconds": DEAD_LETTER_TTL,
            "config.dead_letter_max": DEAD_LETTER_MAX,
            "config.protected": Field(ALLOWED["config.protected"], _PROTECTED, "false"),
        },
        errors=("queue_exists", "invalid_queue_name", "limit_reached"),
        notes="Here `null` is refused for `allow_duplicates`, `priority_kind` and `protected`.",
    ),
    Described(
        _OF["update_queue"],
        "Rename a queue, or change how it works.",
        None,
        Example(
            "/update-queue", {"name": "jobs", "config": {"name": "tasks", "allow_duplicates": False}}, None, "queue"
        ),
        {
            "name": Field(_NAME, "Its name of now.", "", NAME_LIMITS),
            "config": Field("an object", "What changes. What is left out stays as it is."),
            "config.name": Field(_NAME, "Its new name.", "stays", NAME_LIMITS),
            "config.allow_duplicates": Field(ALLOWED["config.allow_duplicates"], _DUPLICATES, "stays"),
            "config.dead_letter_ttl_seconds": DEAD_LETTER_TTL._replace(default="stays; null ends it"),
            "config.dead_letter_max": DEAD_LETTER_MAX._replace(default="stays; null ends it"),
            "config.protected": Field(ALLOWED["config.protected"], _PROTECTED, "stays"),
        },
        errors=("queue_not_found", "queue_exists", "invalid_queue_name", "queue_protected"),
        notes="`ordering` and `priority_kind` never change; sent, they are ignored. A rename keeps messages, their "
        "order, their locks and the rates. When duplicates are turned off, of equal payloads the one that comes "
        "first "
        "stays. A request that lifts the protection may rename, too.",
    ),
    Described(
        _OF["purge_queue"],
        "Remove all messages of a queue, locked ones too. Its dead letters stay.",
        shapes.Purged,
        Example("/purge-queue/jobs", None, {"queue": "jobs", "purged_messages": 1}, "message"),
        query=(_UNDO,),
        errors=("queue_protected", "undo_not_possible", "limit_reached"),
        notes="Of an unknown queue, 0 are purged.",
    ),
    Described(
        _OF["delete_queue"],
        "Delete a queue with all its messages and dead letters.",
        shapes.Deleted,
        Example("/delete-queue/jobs", None, {"queue": "jobs", "deleted_messages": 1}, "message"),
        query=(_UNDO,),
        errors=("queue_protected", "undo_not_possible", "limit_reached"),
        notes="Of an unknown queue, 0 are deleted.",
    ),
    Described(
        _OF["purge_all"],
        "Purge every queue that is not protected.",
        shapes.PurgedAll,
        Example("/purge-all", None, {"purged_queues": 1, "purged_messages": 1}, "message"),
        notes="Queues that are made meanwhile are left alone.",
    ),
    Described(
        _OF["delete_all"],
        "Delete every queue that is not protected.",
        shapes.DeletedAll,
        Example("/delete-all", None, {"deleted_queues": 1, "deleted_messages": 1}, "message"),
        notes="Queues that are made meanwhile are left alone.",
    ),
    Described(
        _TRASH["trash"],
        "What purges and deletes with `undo_seconds` have kept aside.",
        shapes.Trash,
        Example(
            "/trash",
            None,
            {
                "trash": [
                    {
                        "id": KEPT,
                        "queue": "jobs",
                        "what": "deleted",
                        "kept_at": 1790000000000,
                        "expires_at": 1790000600000,
                        "messages": 1,
                        "dead_letters": 0,
                    }
                ]
            },
            "kept",
        ),
    ),
    Described(
        _TRASH["restore"],
        "Put back what is kept aside.",
        shapes.Restored,
        Example(f"/trash/{KEPT}/restore", None, {"queue": "jobs", "restored_messages": 1, "refused": 0}, "kept"),
        query=(
            Parameter(
                "to",
                _NAME,
                "The name of a new queue for it.",
                "a deleted queue gets its name back; purged messages go back into their queue, renamed or not",
            ),
        ),
        errors=("not_found", "queue_exists", "undo_not_possible", "invalid_queue_name", "limit_reached"),
        notes="Messages go back to their places in the order. What was locked is available, and that delivery does "
        "not count. Purged messages go back in small steps, and the answer comes when it is done. What the queue "
        "refuses as a duplicate stays in the trash.",
    ),
    Described(
        _TRASH["erase"],
        "Erase what is kept aside, for good.",
        shapes.Erased,
        Example(f"/trash/{KEPT}/erase", None, {"queue": "jobs", "erased_messages": 1}, "kept"),
        errors=("not_found",),
    ),
)
