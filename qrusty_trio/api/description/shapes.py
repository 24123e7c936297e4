"""The shapes of responses, as structs: what each field is, for documents and for whoever checks a response.

Rule: nothing encodes these. Operations write their responses themselves, and a test compares the two. Times in
milliseconds are since 1970, UTC.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from qrusty_trio.core.model import DeathReason, Kind, Ordering

Id = Annotated[str, Meta(description="The message: a UUID.")]
Ids = Annotated[list[str], Meta(description="Messages.")]
Count = Annotated[int, Meta(ge=0)]
Rate = Annotated[float, Meta(ge=0, description="Messages a second, smoothed over about ten seconds.")]
Cursor = Annotated[str | None, Meta(description="Ask with it for the next page. null: there is none.")]
Priority = Annotated[int | str, Meta(description="As it was published.")]
PriorityText = Annotated[str, Meta(description="The same as a string: JavaScript can't hold every number.")]
Time = Annotated[int, Meta(description="Milliseconds since 1970.")]
LockUntil = Annotated[int, Meta(description="When the lock ends, milliseconds since 1970.")]
Retries = Annotated[int, Meta(ge=0, description="As it was published.")]


class Published(msgspec.Struct):
    id: Id


class Rejected(msgspec.Struct):
    index: Annotated[int, Meta(ge=0, description="Its place in the batch, from 0.")]
    error: Annotated[str, Meta(description="A sentence.")]
    code: Annotated[str, Meta(description="As of a publish.")]


class PublishedBatch(msgspec.Struct):
    ids: Annotated[list[str], Meta(description="Those of the accepted messages, in the order of the batch.")]
    rejected: Annotated[list[Rejected], Meta(description="What was refused.")]


class Delivered(msgspec.Struct):
    id: Id
    payload: Annotated[str, Meta(description="As it was published.")]
    retry_count: Annotated[int, Meta(ge=1, description="Deliveries that counted, with this one: 1 on the first.")]
    priority: Annotated[int | str | UnsetType, Meta(description="With `details`: as it was published.")] = UNSET
    created_at: Annotated[int | UnsetType, Meta(description="With `details`: when it was published, ms.")] = UNSET
    lock_until: Annotated[int | UnsetType, Meta(description="With `details`: when the lock ends, ms.")] = UNSET


class DeliveredFrom(Delivered, kw_only=True):
    queue: Annotated[str, Meta(description="The queue by its name of now, to be used in the ack.")]


class DeliveredBatch(msgspec.Struct):
    messages: Annotated[list[Delivered], Meta(description="Empty if there was none.")]


class Acked(msgspec.Struct):
    acked: Annotated[list[str], Meta(description="Messages that are gone.")]
    not_found: Annotated[list[str], Meta(description="Messages that this consumer did not hold.")]


class Nacked(msgspec.Struct):
    unlocked: Annotated[list[str], Meta(description="Messages that are available again.")]
    dead_lettered: Annotated[list[str], Meta(description="Messages that are dead letters now.")]
    dropped: Annotated[list[str], Meta(description="Messages that the queue refused to take back as duplicates.")]
    not_found: Annotated[list[str], Meta(description="Messages that this consumer did not hold.")]


class Renewed(msgspec.Struct):
    lock_until: LockUntil


class RenewedBatch(msgspec.Struct):
    renewed: Annotated[list[str], Meta(description="Messages whose lock now ends later.")]
    not_found: Annotated[list[str], Meta(description="Messages that this consumer did not hold.")]


class Unlocked(msgspec.Struct):
    unlocked: Annotated[int, Meta(ge=0, description="How many locks were ended.")]


class ListedLock(msgspec.Struct):
    id: Id
    deliveries: Annotated[int, Meta(ge=0, description="How often it was delivered.")]
    priority: Priority
    priority_text: PriorityText
    consumer: Annotated[str, Meta(description="Who holds it: a `consumer_id`, or `ws-` and a UUID for a WebSocket.")]
    locked_since: Annotated[int | None, Meta(description="Since when, ms. null: from before the last start.")]
    lock_until: LockUntil


class Locks(msgspec.Struct):
    locks: Annotated[list[ListedLock], Meta(description="In the order in which they were made.")]
    cursor: Cursor


class Config(msgspec.Struct):
    ordering: Annotated[Ordering, Meta(description="Which priority comes first; `Fifo` looks at none.")]
    allow_duplicates: Annotated[bool, Meta(description="Whether a payload may be in the queue twice.")]
    priority_kind: Annotated[Kind, Meta(description="What priorities are.")]
    dead_letter_ttl_seconds: Annotated[int | UnsetType, Meta(description="Left out if there is no limit.")] = UNSET
    dead_letter_max: Annotated[int | UnsetType, Meta(description="Left out if there is no limit.")] = UNSET
    protected: Annotated[bool | UnsetType, Meta(description="true, or left out.")] = UNSET


class Undo(msgspec.Struct):
    id: Annotated[int, Meta(ge=0, description="What to put back: `POST /trash/{id}/restore`.")]
    expires_at: Annotated[int, Meta(ge=0, description="When it is erased, milliseconds since 1970.")]


_Undo = Annotated[
    Undo | UnsetType | None, Meta(description="Only with `undo_seconds`: what is kept aside. null: there was nothing.")
]


class Kept(msgspec.Struct):
    id: Annotated[int, Meta(ge=0, description="What to put back or erase.")]
    queue: Annotated[str, Meta(description="The name that the queue had.")]
    what: Annotated[Literal["purged", "deleted"], Meta(description="Its messages were purged, or it was deleted.")]
    kept_at: Annotated[int, Meta(ge=0, description="When that was, milliseconds since 1970.")]
    expires_at: Annotated[int, Meta(ge=0, description="When it is erased, milliseconds since 1970.")]
    messages: Annotated[int, Meta(ge=0, description="How many messages it has, without dead letters.")]
    dead_letters: Annotated[int, Meta(ge=0, description="How many dead letters; those of a purged queue stayed there.")]


class Trash(msgspec.Struct):
    trash: Annotated[list[Kept], Meta(description="The oldest first.")]


class Restored(msgspec.Struct):
    queue: Annotated[str, Meta(description="The queue that has the messages now.")]
    restored_messages: Annotated[int, Meta(ge=0, description="How many came back.")]
    refused: Annotated[int, Meta(ge=0, description="How many stay in the trash, as duplicates.")]


class Erased(msgspec.Struct):
    queue: Annotated[str, Meta(description="The name that the queue had.")]
    erased_messages: Annotated[int, Meta(ge=0, description="How many are gone for good, dead letters included.")]


class Purged(msgspec.Struct):
    queue: Annotated[str, Meta(description="The queue.")]
    purged_messages: Annotated[int, Meta(ge=0, description="How many messages were removed.")]
    undo: _Undo = UNSET


class Deleted(msgspec.Struct):
    queue: Annotated[str, Meta(description="The queue.")]
    deleted_messages: Annotated[int, Meta(ge=0, description="How many messages went with it.")]
    undo: _Undo = UNSET


class PurgedAll(msgspec.Struct):
    purged_queues: Annotated[int, Meta(ge=0, description="How many queues were purged.")]
    purged_messages: Annotated[int, Meta(ge=0, description="How many messages were removed.")]
    protected_queues: Annotated[int | UnsetType, Meta(description="How many were left alone. Absent: none.")] = UNSET


class DeletedAll(msgspec.Struct):
    deleted_queues: Annotated[int, Meta(ge=0, description="How many queues were deleted.")]
    deleted_messages: Annotated[int, Meta(ge=0, description="How many messages went with them.")]
    protected_queues: Annotated[int | UnsetType, Meta(description="How many were left alone. Absent: none.")] = UNSET


class Shown(msgspec.Struct, kw_only=True):
    """A message that is shown without being delivered."""

    id: Id
    payload: Annotated[
        str | UnsetType | None, Meta(description="null: it can't be read. Absent: it is too long for a list.")
    ] = UNSET
    payload_preview: Annotated[str | UnsetType, Meta(description="How a long payload begins.")] = UNSET
    payload_bytes: Annotated[int | UnsetType, Meta(description="How long a payload is that is not shown.")] = UNSET
    payload_error: Annotated[str | UnsetType, Meta(description="Why the payload can't be read.")] = UNSET
    priority: Priority
    priority_text: PriorityText
    created_at: Annotated[int, Meta(description="When it was published, ms.")]
    deliveries: Annotated[int, Meta(ge=0, description="How often it was delivered and it counted.")]
    max_retries: Retries


class Message(Shown, kw_only=True):
    state: Annotated[Literal["available", "locked"], Meta(description="Where it is.")]
    consumer: Annotated[str | UnsetType, Meta(description="Of a locked one: who holds it.")] = UNSET
    locked_since: Annotated[int | UnsetType | None, Meta(description="Of a locked one: since when, ms.")] = UNSET
    lock_until: Annotated[int | UnsetType, Meta(description="Of a locked one: until when, ms.")] = UNSET


class DeadLetter(Shown, kw_only=True):
    state: Literal["dead"]
    died_at: Annotated[int | None, Meta(description="When it died, ms. null: before this was noted.")]
    reason: Annotated[DeathReason, Meta(description="How it died.")]
    error: Annotated[str | None, Meta(description="What the last nack said.")]
    consumer: Annotated[str | None, Meta(description="Who held it last.")]
    requeues: Annotated[int, Meta(ge=0, le=63, description="How often it was requeued; 63 stands for 63 or more.")]


class Messages(msgspec.Struct):
    messages: Annotated[list[Message], Meta(description="In the order in which they will be consumed.")]
    cursor: Cursor


class DeadLetters(msgspec.Struct):
    messages: Annotated[list[DeadLetter], Meta(description="The first that died first.")]
    cursor: Cursor
    looked_at: Annotated[int, Meta(ge=0, description="How many letters were looked at for this page.")]
    up_to: Annotated[int, Meta(ge=0, description="For requeue and purge: touch nothing that died after this list.")]
    dead_letters: Annotated[int, Meta(ge=0, description="How many the queue has.")]


LookedAt = Annotated[int, Meta(ge=0, description="How many messages were looked at.")]
Complete = Annotated[bool, Meta(description="false: it may be further on; ask again with `cursor`.")]


class FoundMessage(Message, kw_only=True):
    looked_at: LookedAt
    complete: Complete
    cursor: Cursor
    before: Annotated[int | UnsetType, Meta(description="Of an available one: how many come before it.")] = UNSET


class FoundDeadLetter(DeadLetter, kw_only=True):
    looked_at: LookedAt
    complete: Complete
    cursor: Cursor


class NotYetFound(msgspec.Struct):
    id: Id
    state: Annotated[None, Meta(description="null: it was not found so far.")]
    looked_at: LookedAt
    complete: Complete
    cursor: Cursor


LocatedIn = Annotated[str, Meta(description="The queue it is in.")]
Searched = Annotated[int, Meta(ge=0, description="How many messages are available in all queues that are searched.")]


class LocatedMessage(FoundMessage, kw_only=True):
    queue: LocatedIn
    available: Searched


class LocatedDeadLetter(FoundDeadLetter, kw_only=True):
    queue: LocatedIn
    available: Searched


class NotYetLocated(NotYetFound, kw_only=True):
    available: Searched


class PriorityCount(msgspec.Struct):
    priority: Priority
    priority_text: PriorityText
    count: Annotated[int, Meta(ge=0, description="How many messages.")]


class Priorities(msgspec.Struct):
    priorities: Annotated[list[PriorityCount], Meta(max_length=100, description="The first in the order of the queue.")]
    others: Annotated[int, Meta(ge=0, description="How many messages have any other priority.")]
    sampled: Annotated[bool, Meta(description="Whether the counts are estimates.")]
    looked_at: Annotated[int, Meta(ge=0, description="How many messages were looked at.")]


class NotEligible(msgspec.Struct):
    id: Id
    error: Annotated[str, Meta(description="A sentence.")]
    code: Annotated[str, Meta(description="Why.")]


class PurgedLetters(msgspec.Struct):
    purged: Annotated[int, Meta(ge=0, description="How many were removed; 0 in a dry run.")]
    up_to: Annotated[int, Meta(ge=0, description="Nothing with this number or a higher one was touched.")]
    looked_at: Annotated[int, Meta(ge=0, description="How many letters were looked at.")]
    not_found: Annotated[list[str] | UnsetType, Meta(description="With `ids`: those that are no dead letters.")] = UNSET
    dry_run: Annotated[bool | UnsetType, Meta(description="true in a dry run.")] = UNSET
    count: Annotated[int | UnsetType, Meta(description="In a dry run: how many would be touched.")] = UNSET
    samples: Annotated[list[DeadLetter] | UnsetType, Meta(description="In a dry run: up to ten of them.")] = UNSET


class RequeuedLetters(msgspec.Struct):
    requeued: Annotated[int, Meta(ge=0, description="How many are available again; 0 in a dry run.")]
    up_to: Annotated[int, Meta(ge=0, description="Nothing with this number or a higher one was touched.")]
    looked_at: Annotated[int, Meta(ge=0, description="How many letters were looked at.")]
    refused: Annotated[int, Meta(ge=0, description="How many the queue refused.")]
    not_eligible: Annotated[list[NotEligible], Meta(max_length=100, description="The first of those refused.")]
    not_found: Annotated[list[str] | UnsetType, Meta(description="With `ids`: those that are no dead letters.")] = UNSET
    dry_run: Annotated[bool | UnsetType, Meta(description="true in a dry run.")] = UNSET
    count: Annotated[int | UnsetType, Meta(description="In a dry run: how many would be touched.")] = UNSET
    samples: Annotated[list[DeadLetter] | UnsetType, Meta(description="In a dry run: up to ten of them.")] = UNSET


class Error(msgspec.Struct):
    """Any refusal."""

    error: Annotated[str, Meta(description="What was wrong, and with which field: a sentence for people.")]
    code: Annotated[str, Meta(description="A word for programs; it never changes.")]
    nearest: Annotated[list[str] | UnsetType, Meta(description="With `queue_not_found`: names that come near.")] = UNSET


class Starting(msgspec.Struct):
    """The refusal of a server that is not ready yet."""

    status: Literal["starting"]
    message: Annotated[str, Meta(description="A sentence.")]
    retry_after_secs: Annotated[int, Meta(ge=0, description="As in the header Retry-After.")]
