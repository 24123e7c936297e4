"""A client for the HTTP API: a method for each operation.

    async with HttpClient("http://127.0.0.1:6784") as client:
        await client.publish("jobs", "hello", priority=7)
        message = await client.consume("jobs", wait_seconds=30)
        if message is not None:
            await client.ack("jobs", message.id)

Rule: what came of a message is typed. What only reports is the JSON of the server, as a dict, so that a newer server
can tell more. What is sent again, and when, is in `retries`. `make blocking` writes the same for threads.

Requirements: WS-0046
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal

from qrusty_trio.client.arguments import choice, list_of, named, object_of, taken
from qrusty_trio.client.caller import Caller
from qrusty_trio.client.errors import Unavailable
from qrusty_trio.client.operations import Watch
from qrusty_trio.client.results import (
    UNCHANGED,
    Acked,
    Json,
    Nacked,
    NewMessage,
    Published,
    Renewed,
    Taken,
    Unchanged,
    converted,
    member,
    time_of,
)
from qrusty_trio.client.tls import FilePath, Tls


class HttpClient:
    """Talks to one server. Any number of tasks may use it; up to `connections` requests are under way at a time.

    consumer_id: for whom messages are locked; a random one if not given. A consumer that is to settle its messages
    after a restart needs a fixed one. timeout_seconds: for a response, `wait_seconds` not included. patience_seconds:
    how long requests that had no effect are sent again, at growing and random intervals: nobody listened, the server
    was starting, or short of memory or connections. Requests that only look are sent again when a connection was lost,
    too. watch: sees each request and its response.

    All methods raise the `RequestError` that the server answers with; ConnectionLost if there is no response, after
    which the request may or may not have had its effect; TimedOut, which is a ConnectionLost; ProtocolError; and
    InvalidRequest also for what can't be sent, such as bytes.
    """

    def __init__(
        self,
        url: str,
        *,
        consumer_id: str | None = None,
        connections: int = 8,
        timeout_seconds: float = 30.0,
        patience_seconds: float = 10.0,
        ca_file: FilePath | None = None,
        certificate_file: FilePath | None = None,
        key_file: FilePath | None = None,
        watch: Watch | None = None,
        token: str | None = None,
    ) -> None:
        """`token`: what the server asks for, if it has tokens.

        Raises InvalidUrl, a ValueError, if `url` is not like http://host:port, https://host/prefix or unix:/path.

        The files are for https, see `client.tls.Tls`. Raises BadTlsFile, a ValueError, if one is missing or none.

        Connects to nothing yet.
        """
        if connections < 1:
            raise ValueError(f"connections must be at least 1, not {connections}")
        self.consumer_id = consumer_id or f"client-{uuid.uuid4()}"
        self._caller = Caller(
            url, connections, timeout_seconds, patience_seconds, token, Tls(ca_file, certificate_file, key_file), watch
        )
        self._call = self._caller.call

    async def __aenter__(self) -> HttpClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections that are idle. One with a request on it is closed when that has ended.

        From then on requests raise ClientClosed.
        """
        await self._caller.aclose()

    # Messages

    async def publish(
        self, queue: str, payload: str, priority: int | str = 0, max_retries: int = 3, *, repeat: bool = False
    ) -> str:
        """Put a message into a queue, which is made if it does not exist. Returns its id once it is stored.

        repeat: send it again if the connection is lost before the response. It may then be in the queue twice.
        """
        fields = {"queue": queue, "payload": payload, "priority": priority, "max_retries": max_retries}
        response = await self._call("publish", {}, fields, repeat=repeat)
        return member(response, "id", str)

    async def publish_batch(self, queue: str, messages: Sequence[NewMessage], *, repeat: bool = False) -> Published:
        """Put up to 5,000 messages into a queue. `repeat` as in `publish`."""
        response = await self._call("publish_batch", {}, {"queue": queue, "messages": list(messages)}, repeat=repeat)
        return converted(Published, response)

    async def consume(self, queue: str, *, lock_seconds: int = 30, wait_seconds: float = 0) -> Taken | None:
        """Lock the first message of a queue. With `wait_seconds` (up to 60), wait for one. None if there is none.

        If the connection is lost, or the caller cancelled, a message that was on its way goes back uncounted.
        """
        response = await self._take("consume", {"queue": queue}, {}, lock_seconds, wait_seconds)
        return None if response is None else taken(queue, response)

    async def consume_from(
        self, queues: Sequence[str], *, lock_seconds: int = 30, wait_seconds: float = 0
    ) -> Taken | None:
        """The same from several queues, in the order given. `Taken.queue` says from which."""
        response = await self._take("consume_from", {}, {"queues": list(queues)}, lock_seconds, wait_seconds)
        return None if response is None else converted(Taken, response)

    async def consume_batch(
        self, queue: str, max_messages: int, *, lock_seconds: int = 30, wait_seconds: float = 0
    ) -> list[Taken]:
        """Lock up to `max_messages` (1,000 at most), as many as are there. With `wait_seconds`, wait for the first."""
        fields = {"max_messages": max_messages}
        response = await self._take("consume_batch", {"queue": queue}, fields, lock_seconds, wait_seconds)
        return [taken(queue, each) for each in member(response, "messages", list[Any])]

    async def ack(self, queue: str, id: str) -> None:
        """Report success: the message is deleted. Raises NotLocked if this consumer does not hold it any more."""
        await self._call("ack", {"queue": queue, "id": id}, {"consumer_id": self.consumer_id})

    async def nack(self, queue: str, id: str, error: str | None = None) -> None:
        """Report failure: the message goes back, or to the dead letters after its last try. Raises NotLocked.

        error: why, in at most 1,024 bytes of UTF-8. A dead letter keeps it.
        """
        await self._call("nack", {"queue": queue, "id": id}, {"consumer_id": self.consumer_id, "error": error})

    async def ack_batch(self, queue: str, ids: Sequence[str]) -> Acked:
        """Ack up to 50,000 messages."""
        fields = {"consumer_id": self.consumer_id, "message_ids": list(ids)}
        return converted(Acked, await self._call("ack_batch", {"queue": queue}, fields))

    async def nack_batch(self, queue: str, ids: Sequence[str], error: str | None = None) -> Nacked:
        """Nack up to 50,000 messages, all for the same reason."""
        fields = {"consumer_id": self.consumer_id, "message_ids": list(ids), "error": error}
        return converted(Nacked, await self._call("nack_batch", {"queue": queue}, fields))

    # Locks

    async def renew(self, queue: str, id: str, lock_seconds: int = 30) -> datetime:
        """Make a lock end `lock_seconds` from now. Returns when that is, on the server's clock. Raises NotLocked."""
        fields = {"consumer_id": self.consumer_id, "timeout_seconds": lock_seconds}
        response = await self._call("renew", {"queue": queue, "id": id}, fields)
        return time_of(member(response, "lock_until", int))

    async def renew_batch(self, queue: str, ids: Sequence[str], lock_seconds: int = 30) -> Renewed:
        """Renew the locks of up to 50,000 messages."""
        fields = {"consumer_id": self.consumer_id, "message_ids": list(ids), "timeout_seconds": lock_seconds}
        return converted(Renewed, await self._call("renew_batch", {"queue": queue}, fields))

    async def force_unlock(
        self,
        queue: str,
        *,
        ids: Sequence[str] | None = None,
        consumer_id: str | None = None,
        all: Literal[True] | None = None,
    ) -> int:
        """End the locks of others, given exactly one of the three. Returns how many. The deliveries do not count."""
        fields = {"ids": list_of(ids), "consumer_id": consumer_id, "all": all}
        return member(await self._call("force_unlock", {"queue": queue}, fields), "unlocked", int)

    async def locks(
        self, queue: str, *, limit: int | None = None, cursor: str | None = None, consumer: str | None = None
    ) -> Json:
        """Who holds what until when: {"locks": [...], "cursor": ...}. Pass `cursor` to get the next page."""
        return object_of(
            await self._call("locks", {"queue": queue}, named(limit=limit, cursor=cursor, consumer=consumer))
        )

    # Looking without taking

    async def messages(
        self,
        queue: str,
        *,
        state: Literal["available", "locked", "dead"] | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Json:
        """The messages of a queue in order: {"messages": [...], "cursor": ...}. Nothing is locked or counted."""
        return object_of(await self._call("messages", {"queue": queue}, named(state=state, limit=limit, cursor=cursor)))

    async def message(self, queue: str, id: str, *, cursor: str | None = None) -> Json:
        """A message: its state, place, holder and deliveries. Raises MessageNotFound.

        With "complete": false, only "looked_at" messages were looked at: ask again with the "cursor".
        """
        return object_of(await self._call("message", {"queue": queue, "id": id}, named(cursor=cursor)))

    async def find(self, id: str, *, cursor: str | None = None) -> Json:
        """A message, whatever "queue" it is in, as `message` describes it. Raises MessageNotFound.

        With "complete": false, only "looked_at" of "available" messages were looked at: ask again with the "cursor".
        """
        return object_of(await self._call("find", {}, {"id": id, "cursor": cursor}))

    async def priorities(self, queue: str) -> Json:
        """How many messages have which priority: {"priorities": [...], "sampled": ...}."""
        return object_of(await self._call("priorities", {"queue": queue}))

    # Dead letters

    async def dead_letters(
        self,
        queue: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        reason: Literal["nacked", "expired", "connection_lost", "unknown"] | None = None,
        consumer: str | None = None,
        older_than_secs: int | None = None,
        text: str | None = None,
    ) -> Json:
        """The dead letters that pass the filters, in the order in which they died: {"messages", "cursor", ...}."""
        query = named(
            limit=limit, cursor=cursor, reason=reason, consumer=consumer, older_than_secs=older_than_secs, text=text
        )
        return object_of(await self._call("dead_letters", {"queue": queue}, query))

    async def dead_letter(self, queue: str, id: str) -> Json:
        """A dead letter with its whole payload, and why and when it died. Raises NotFound."""
        return object_of(await self._call("dead_letter", {"queue": queue, "id": id}))

    async def requeue_dead_letters(
        self,
        queue: str,
        *,
        ids: Sequence[str] | None = None,
        filter: Mapping[str, str | int] | None = None,
        all: Literal[True] | None = None,
        up_to: int | None = None,
        dry_run: bool | None = None,
        to: str | None = None,
        priority: int | str | None = None,
    ) -> Json:
        """Make dead letters available again, given exactly one of `ids`, `filter` and `all`: {"requeued": n, ...}.

        filter: an object with some of reason, consumer, older_than_secs and text. up_to: what a list or a dry run
        answered; letters that died later are left alone. to: another queue. priority: a new one.
        """
        fields = choice(ids, filter, all, up_to, dry_run) | named(to=to, priority=priority)
        return object_of(await self._call("requeue_dead_letters", {"queue": queue}, fields))

    async def purge_dead_letters(
        self,
        queue: str,
        *,
        ids: Sequence[str] | None = None,
        filter: Mapping[str, str | int] | None = None,
        all: Literal[True] | None = None,
        up_to: int | None = None,
        dry_run: bool | None = None,
    ) -> Json:
        """Remove dead letters for good: {"purged": n, ...}. Chosen as in `requeue_dead_letters`."""
        fields = choice(ids, filter, all, up_to, dry_run)
        return object_of(await self._call("purge_dead_letters", {"queue": queue}, fields))

    # Queues

    async def create_queue(
        self,
        name: str,
        ordering: Literal["MaxFirst", "MinFirst", "Fifo"] = "MaxFirst",
        *,
        allow_duplicates: bool = True,
        priority_kind: Literal["Numeric", "Text"] = "Numeric",
        dead_letter_ttl_seconds: int | None = None,
        dead_letter_max: int | None = None,
        protected: bool = False,
    ) -> None:
        """`protected`: purge, delete, rename and stricter limits of dead letters are refused. Raises QueueExists."""
        config = named(dead_letter_ttl_seconds=dead_letter_ttl_seconds, dead_letter_max=dead_letter_max)
        config |= {"ordering": ordering, "allow_duplicates": allow_duplicates, "priority_kind": priority_kind}
        if protected:
            config["protected"] = True
        await self._call("create_queue", {}, {"name": name, "config": config})

    async def update_queue(
        self,
        name: str,
        *,
        new_name: str | None = None,
        allow_duplicates: bool | None = None,
        dead_letter_ttl_seconds: int | Unchanged | None = UNCHANGED,
        dead_letter_max: int | Unchanged | None = UNCHANGED,
        protected: bool | None = None,
    ) -> None:
        """Rename a queue, or change what it allows and keeps. Raises QueueNotFound, QueueExists."""
        config = named(name=new_name, allow_duplicates=allow_duplicates, protected=protected)
        limits = {"dead_letter_ttl_seconds": dead_letter_ttl_seconds, "dead_letter_max": dead_letter_max}
        config |= {field: value for field, value in limits.items() if not isinstance(value, Unchanged)}
        await self._call("update_queue", {}, {"name": name, "config": config})

    async def purge_queue(self, queue: str, *, undo_seconds: int | None = None) -> int:
        """Remove all messages, locked ones too. Returns how many; 0 for an unknown queue.

        `undo_seconds`: keep them aside for so long; see `trash` and `restore`.
        """
        answer = await self._call("purge_queue", {"queue": queue}, {"undo_seconds": undo_seconds})
        return member(answer, "purged_messages", int)

    async def delete_queue(self, queue: str, *, undo_seconds: int | None = None) -> int:
        """Remove a queue with its messages. Returns how many there were; 0 for an unknown queue.

        `undo_seconds`: keep it aside for so long; see `trash` and `restore`.
        """
        answer = await self._call("delete_queue", {"queue": queue}, {"undo_seconds": undo_seconds})
        return member(answer, "deleted_messages", int)

    async def trash(self) -> list[Json]:
        """What purges and deletes with `undo_seconds` have kept aside, the oldest first."""
        return member(await self._call("trash"), "trash", list[Json])

    async def restore(self, id: int, to: str | None = None) -> Json:
        """Put back what is kept aside: {"queue", "restored_messages", "refused"}. `to`: as a new queue of this name."""
        return object_of(await self._call("restore", {"id": str(id)}, {"to": to}))

    async def erase(self, id: int) -> int:
        """Erase what is kept aside, for good. Returns how many messages it had, dead letters included."""
        return member(await self._call("erase", {"id": str(id)}), "erased_messages", int)

    async def purge_all(self) -> Json:
        """Empty all queues: {"purged_queues": n, "purged_messages": n}."""
        return object_of(await self._call("purge_all"))

    async def delete_all(self) -> Json:
        """Remove all queues: {"deleted_queues": n, "deleted_messages": n}."""
        return object_of(await self._call("delete_all"))

    # Reports

    async def queues(self) -> list[str]:
        """The names of all queues, sorted."""
        return converted(list[str], await self._call("queues"))

    async def queue_list(
        self,
        *,
        name: str | None = None,
        search: str | None = None,
        sort: str | None = None,
        order: Literal["asc", "desc"] | None = None,
        limit: int | None = None,
        offset: int | None = None,
    ) -> Json:
        """A page of queues with their counts and rates: {"queues": [...], "totals": {...}, "offset": n}."""
        query = named(name=name, search=search, sort=sort, order=order, limit=limit, offset=offset)
        return object_of(await self._call("queue_list", {}, query))

    async def queue_stats(self, queue: str) -> Json:
        """Counts, configuration and rates of a queue; zeros for an unknown one."""
        return object_of(await self._call("queue_stats", {"queue": queue}))

    async def stats(self) -> Json:
        """The same for all queues, and a summary: {"queues": [...], "summary": {...}}."""
        return object_of(await self._call("stats"))

    async def metrics(self, queue: str) -> Json:
        """Counts and rates of the last seconds: {"points": [...], ...}."""
        return object_of(await self._call("metrics", {"queue": queue}))

    async def operation_timings(self, seconds: int | None = None) -> Json:
        """How long operations took, a second at a time: {operation: [...]}."""
        return object_of(await self._call("operation_timings", {}, named(seconds=seconds)))

    async def operation_histograms(self) -> Json:
        """How long operations took since the server started: {"operations": {operation: {"buckets": [...], ...}}}."""
        return object_of(await self._call("operation_histograms"))

    async def health(self) -> Json:
        """{"status": "ok" or "starting", ...}. Answered as long as the server runs."""
        return object_of(await self._call("health"))

    async def live(self) -> Json:
        """{"status": "ok"}."""
        return object_of(await self._call("live"))

    async def ready(self) -> bool:
        """Whether the server takes changes. Not asked again if it doesn't."""
        try:
            await self._call("ready", patience_seconds=0)
        except Unavailable as refusal:
            if refusal.status != 503:
                raise
            return False
        return True

    async def server(self) -> Json:
        """Version, state, settings and limits of the server."""
        return object_of(await self._call("server"))

    async def audit(self, *, limit: int | None = None, cursor: str | None = None) -> Json:
        """Who changed what, the newest first: {"records": [...], "cursor": ..., ...}."""
        return object_of(await self._call("audit", {}, named(limit=limit, cursor=cursor)))

    # One request

    async def _take(
        self, name: str, params: dict[str, str], fields: Json, lock_seconds: int, wait_seconds: float
    ) -> Any:
        terms = {"consumer_id": self.consumer_id, "timeout_seconds": lock_seconds, "details": True}
        wait = wait_seconds or None
        return await self._call(name, params, {**fields, **terms, "wait_seconds": wait}, wait_seconds=wait_seconds)
