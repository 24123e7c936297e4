"""What the model test does to dead letters: requeue, purge, retention.

Rule: these go in steps, and a kill may come between any two. So after each step the states that a kill may bring back
have what the broker has moved so far.
"""

from __future__ import annotations

from typing import TypeVar

from qrusty_trio.core.dead_letter_moves import Chosen, Outcome, Target
from qrusty_trio.core.dead_letters import EVERY
from qrusty_trio.core.model import Kind, Priority, Retention
from tests.core.brokers import exhaust
from tests.core.model import Model
from tests.core.steps import Steps

T = TypeVar("T")


class DeadLetterSteps(Steps):
    """Steps of `machine.BrokerMachine`."""

    def some_dead(self, name: str, picks: list[int] | None) -> list[str] | None:
        """Ids of dead letters, and one of none."""
        dead = [letter.message.id for letter in self.model.queues[name].dead] + ["0" * 36]
        return [dead[number % len(dead)] for number in picks] if picks is not None else None

    def requeue(self, name: str, picks: list[int] | None, to: str, number: int | None) -> None:
        self.before()
        queues = self.broker.catalog.by_name
        if name not in queues or to not in queues:
            return
        queue, target = queues[name], queues[to]
        priority: Priority | None = number
        if target.config.kind is Kind.TEXT and number is not None:
            priority = str(number)
        if priority is None and queue.config.kind is not target.config.kind:
            return
        ids = self.some_dead(name, picks)
        outcome = Outcome()
        chosen = Chosen(ids, EVERY, queue.next_dead, dry_run=False)
        before = self.model.copy()
        for _ in self.broker.dead_letter_moves.requeue(queue, chosen, Target(target, priority), outcome):
            # Letter by letter: a kill may come between any two steps.
            self.model = before.copy()
            done = self.moved(before, name, ids)
            self.model.requeue(name, done, to, priority)
            self.note()
        self.model = before
        assert self.model.requeue(name, ids, to, priority) == (outcome.taken, outcome.refused_total)
        self.after()

    def moved(self, before: Model, name: str, ids: list[str] | None) -> list[str]:
        """Of those letters, the ones that are not among the dead letters of the broker any more."""
        letters = [letter.message.id for letter in before.chosen(name, ids)]
        queue = self.broker.catalog.by_name[name]
        self.broker.commit()
        left = {
            letter.id
            for batch in self.broker.dead_letters.search(queue, EVERY, 0, queue.next_dead, 100)
            for letter in batch.letters
        }
        return [id for id in letters if id not in left]

    def purge_dead(self, name: str, picks: list[int] | None) -> None:
        self.before()
        queue = self.broker.catalog.by_name.get(name)
        if queue is None:
            return
        ids = self.some_dead(name, picks)
        before, outcome = self.model.copy(), Outcome()
        for _ in self.broker.dead_letter_moves.purge(queue, Chosen(ids, EVERY, queue.next_dead, False), outcome):
            self.model = before.copy()
            self.model.purge_dead(name, self.moved(before, name, ids))
            self.note()
        self.model = before
        assert self.model.purge_dead(name, ids) == outcome.taken
        self.after()

    def limit_dead(self, name: str, ttl: int | None, most: int | None) -> None:
        self.before()
        retention: Retention = {"dead_letter_ttl_seconds": ttl, "dead_letter_max": most}
        self.same(
            lambda: self.model.limit_dead(name, ttl, most),
            lambda: exhaust(self.broker.catalog.update(name, None, None, self.now, retention)),
        )
        self.after()

    def retain(self) -> None:
        self.before()
        self.write()
        moves = self.broker.dead_letter_moves
        for queue in self.broker.catalog.everything():
            while moves.overdue(queue, self.now):
                moves.retain(queue, self.now)
        self.model.retain(self.now)
        self.write_at_once()
