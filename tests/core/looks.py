"""What the model test does over the operations of HTTP: locks of others, and looks at what a queue holds.

Rule: a look shows exactly what the model holds, in its order, and changes nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from qrusty_trio.api.call import Call, Reply, Services, Wait
from qrusty_trio.api.gate import Gate
from qrusty_trio.api.operations import error_reply, resolve
from qrusty_trio.core.ages import look_at_all
from qrusty_trio.core.model import ID_CHARACTERS
from qrusty_trio.core.timings import Timings
from qrusty_trio.errors import QrustyError
from tests.core.model import Dead, Message
from tests.core.steps import Steps
from tests.wire.table import Memory

NAMES = st.sampled_from(["a", "a", "a", "b", "ü/%2F", "n" * 255])
PICK = st.integers(0, 15)
SECONDS = st.sampled_from([300, 30, 2, 0])
LIMIT = st.sampled_from([1, 2, 3, 100])
LOCKING = st.one_of(
    st.tuples(st.just("renew_over_http"), PICK, SECONDS),
    st.tuples(st.just("renew_batch"), st.lists(PICK, max_size=4), SECONDS),
    st.tuples(st.just("force_unlock"), NAMES, st.sampled_from(["ids", "c", "d", "all"]), st.lists(PICK, max_size=4)),
)
LOOKS = st.one_of(
    st.tuples(st.just("look_at_messages"), NAMES, LIMIT),
    st.tuples(st.just("look_at_locks"), NAMES, LIMIT, st.sampled_from(["", "c", "d"])),
    st.tuples(st.just("look_at_one"), PICK),
    st.tuples(st.just("find_anywhere"), PICK),
    st.tuples(st.just("look_at_priorities"), NAMES),
    st.tuples(st.just("look_at_ages")),
    st.tuples(st.just("look_at_stats")),
    st.tuples(
        st.just("look_at_dead"),
        NAMES,
        LIMIT,
        st.sampled_from(["", "nacked", "expired", "connection_lost"]),
        st.sampled_from(["", "c"]),
    ),
    st.tuples(st.just("look_at_one_dead"), NAMES, PICK),
)


class Looks(Steps):
    """Steps of `machine.BrokerMachine`."""

    def services(self) -> Services:
        return Services(self.broker, Gate(), Timings(), Memory(), lambda: 0)

    def ask(self, method: str, path: str, query: str = "", body: object = None) -> Reply | Wait:
        """The outcome of a request, which is run to its end at once."""
        operation, params = resolve(method, path.encode(), query)
        call = Call(operation, params, json.dumps(body).encode() if body is not None else b"", query)
        try:
            response = operation.function(self.services(), call, self.now)
            return response if isinstance(response, Reply | Wait) else run_to_the_end(response)
        except QrustyError as error:
            return error_reply(error)

    def http(self, method: str, path: str, query: str = "", body: object = None) -> tuple[int, Any]:
        """Status and body of a request."""
        reply = self.ask(method, path, query, body)
        assert isinstance(reply, Reply)
        return reply.status, json.loads(reply.body or b"null")

    # Locks

    def renew_over_http(self, number: int, seconds: int) -> None:
        self.before()
        name, id, consumer = self.pick(number)
        body = {"consumer_id": consumer, "timeout_seconds": seconds}
        status, response = self.http("POST", f"/renew/{quote(name, safe='')}/{quote(id)}", body=body)
        try:
            expected = self.model.renew(name, id, consumer, seconds, self.now)
        except QrustyError:
            assert (status, response["code"]) == (404, "message_not_locked")
        else:
            assert (status, response) == (200, {"lock_until": expected})
        self.after()

    def renew_batch(self, numbers: list[int], seconds: int) -> None:
        self.before()
        picked = [self.pick(number) for number in numbers] or [("a", "no such id", "c")]
        name, _, consumer = picked[0]
        expected: dict[str, list[str]] = {"renewed": [], "not_found": []}
        for _, id, _ in picked:
            try:
                self.model.renew(name, id, consumer, seconds, self.now)
            except QrustyError:
                expected["not_found"].append(id)
            else:
                expected["renewed"].append(id)
            self.note()
        body = {"consumer_id": consumer, "timeout_seconds": seconds, "message_ids": [id for _, id, _ in picked]}
        assert self.http("POST", f"/renew-batch/{quote(name, safe='')}", body=body) == (200, expected)
        self.after()

    def force_unlock(self, name: str, which: str, numbers: list[int]) -> None:
        self.before()
        picked = [self.pick(number)[1] for number in numbers]
        body = {"ids": {"ids": picked}, "all": {"all": True}}.get(which, {"consumer_id": which})
        queue = self.model.queues.get(name)
        ended = 0
        if queue is not None:
            held = queue.held
            chosen = dict.fromkeys(picked if which == "ids" else held)
            for id in [id for id in chosen if id in held and which in ("ids", "all", held[id].consumer)]:
                consumer = held[id].consumer
                self.model.give_back(name, id, consumer, False, self.now)
                self.settled.append((name, id, consumer))
                ended += 1
                self.note()
        expected = (200, {"unlocked": ended}) if queue is not None else 404
        status, response = self.http("POST", f"/force-unlock/{quote(name, safe='')}", body=body)
        assert (status, response) == expected if queue is not None else status == expected
        self.after()

    # Looks

    def listed(self, name: str, path: str, query: str, what: str = "messages") -> list[dict[str, Any]] | None:
        """All pages of a list; None if there is no such queue."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            status, response = self.http("GET", f"/queues/{quote(name, safe='')}/{path}", f"{query}{cursor}")
            if name not in self.model.queues:
                assert (status, response["code"]) == (404, "queue_not_found")
                return None
            assert status == 200, response
            found += response[what]
            if response["cursor"] is None:
                return found
            cursor = f"&cursor={response['cursor']}"

    def look_at_messages(self, name: str, limit: int) -> None:
        self.before()
        available = self.listed(name, "messages", f"limit={limit}")
        locked = self.listed(name, "messages", f"limit={limit}&state=locked")
        if available is not None and locked is not None:
            queue = self.model.queues[name]
            expected = [shown(message) | {"state": "available"} for message in queue.in_order(queue.available)]
            assert available == expected
            held = [
                shown(each.message) | {"state": "locked", "consumer": each.consumer, "lock_until": each.until}
                for each in queue.held.values()
            ]
            for message in locked:
                del message["locked_since"]
            assert locked == held
        self.after()

    def look_at_locks(self, name: str, limit: int, consumer: str) -> None:
        self.before()
        query = f"limit={limit}&consumer={consumer}" if consumer else f"limit={limit}"
        locks = self.listed(name, "locks", query, "locks")
        if locks is not None:
            expected = [
                (id, held.consumer, held.until, held.message.deliveries, held.message.priority)
                for id, held in self.model.queues[name].held.items()
                if consumer in ("", held.consumer)
            ]
            fields = ("id", "consumer", "lock_until", "deliveries", "priority")
            assert [tuple(lock[field] for field in fields) for lock in locks] == expected
        self.after()

    def look_at_one(self, number: int) -> None:
        self.before()
        name, id, _ = self.pick(number)
        queue = self.model.queues.get(name)
        ordered = queue.in_order(queue.available) if queue is not None else []
        held = queue.held if queue is not None else {}
        candidates = [id, *(message.id for message in ordered[number % 3 :: 3])]
        for each in candidates:
            status, response = self.http("GET", f"/queues/{quote(name, safe='')}/messages/{quote(each)}")
            before = next((index for index, message in enumerate(ordered) if message.id == each), None)
            if before is not None:
                assert (status, response["state"], response["before"]) == (200, "available", before)
                assert response["payload"] == ordered[before].payload
            elif each in held:
                assert (status, response["state"]) == (200, "locked")
                assert response["payload"] == held[each].message.payload
            elif queue is not None and any(letter.message.id == each for letter in queue.dead):
                assert (status, response["state"]) == (200, "dead")
            else:
                assert status == 404
        self.after()

    def find_anywhere(self, number: int) -> None:
        self.before()
        expected: dict[str, tuple[str, str, int | None]] = {}
        for name, queue in self.model.queues.items():
            expected |= {
                message.id: (name, "available", i) for i, message in enumerate(queue.in_order(queue.available))
            }
            expected |= dict.fromkeys(queue.held, (name, "locked", None))
            expected |= {letter.message.id: (name, "dead", None) for letter in queue.dead}
        candidates = sorted(expected)[number % 3 :: 3]
        for id in [self.pick(number)[1], *candidates]:
            status, response = self.http("GET", "/find", f"id={quote(id)}")
            if id in expected:
                assert (response["queue"], response["state"], response.get("before")) == expected[id]
            else:
                assert status == (404 if len(id) == ID_CHARACTERS else 400)
        self.after()

    def look_at_priorities(self, name: str) -> None:
        self.before()
        status, response = self.http("GET", f"/queues/{quote(name, safe='')}/priorities")
        queue = self.model.queues.get(name)
        if queue is None:
            assert status == 404
        else:
            counted = Counter(message.priority for message in queue.available)
            assert {row["priority"]: row["count"] for row in response["priorities"]} == counted
            assert (response["others"], response["sampled"]) == (0, False)
        self.after()

    def look_at_ages(self) -> None:
        self.before()
        for _ in look_at_all(self.broker.journal, self.broker.catalog):
            pass
        for name, queue in self.model.queues.items():
            stats = self.broker.catalog.stats(name)
            assert stats is not None
            assert (stats.oldest_ms, stats.oldest_exact) == (
                min((message.created for message in queue.available), default=None),
                True,
            )
        self.after()

    def look_at_stats(self) -> None:
        self.before()
        status, response = self.http("GET", "/stats")
        assert status == 200
        told = {each["name"]: (each["available"], each["locked"], each["dead_letters"]) for each in response["queues"]}
        queues = self.model.queues.items()
        assert told == {name: (len(queue.available), len(queue.held), len(queue.dead)) for name, queue in queues}
        self.after()

    def look_at_dead(self, name: str, limit: int, reason: str, consumer: str) -> None:
        self.before()
        query = f"limit={limit}" + f"&reason={reason}" * bool(reason) + f"&consumer={consumer}" * bool(consumer)
        letters = self.listed(name, "dead-letters", query)
        if letters is not None:
            dead = self.model.queues[name].dead
            assert letters == [
                dead_letter(each) for each in dead if reason in ("", each.reason) and consumer in ("", each.consumer)
            ]
        self.after()

    def look_at_one_dead(self, name: str, number: int) -> None:
        self.before()
        queue = self.model.queues.get(name)
        dead = {each.message.id: each for each in queue.dead} if queue is not None else {}
        id = [*dead, "0" * 36][number % (len(dead) + 1)]
        status, response = self.http("GET", f"/queues/{quote(name, safe='')}/dead-letters/{id}")
        if id in dead:
            assert (status, response) == (200, dead_letter(dead[id]))
        else:
            assert status == 404
        self.after()


def run_to_the_end(steps: Generator[None, None, Reply | Wait]) -> Reply | Wait:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            outcome: Reply | Wait = stop.value
            return outcome


def dead_letter(dead: Dead) -> dict[str, Any]:
    """A dead letter as a list shows it."""
    return shown(dead.message) | {
        "state": "dead",
        "reason": dead.reason,
        "died_at": dead.died,
        "consumer": dead.consumer,
        "error": dead.error or None,
        "requeues": dead.message.requeues,
    }


def shown(message: Message) -> dict[str, Any]:
    """A message as a list shows it."""
    return {
        "id": message.id,
        "payload": message.payload,
        "priority": message.priority,
        "priority_text": str(message.priority),
        "created_at": message.created,
        "deliveries": message.deliveries,
        "max_retries": message.max_retries,
    }
