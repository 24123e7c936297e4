"""What the model test does to the trash: purge and delete with a way back, put back, erase.

Rule: putting back goes in steps, each with a commit. That a kill between them loses nothing is another test.
"""

from __future__ import annotations

from qrusty_trio.core.trash import Outcome
from tests.core.brokers import exhaust
from tests.core.steps import Steps


class TrashSteps(Steps):
    """What `machine.BrokerMachine` does to the trash."""

    def put_aside(self, action: str, name: str, seconds: int) -> None:
        self.before()
        trash = self.broker.trash
        if action == "purge":
            self.same(
                lambda: self.model.purge_aside(name, seconds, self.now),
                lambda: trash.purge(name, seconds, self.now)[0],
            )
        else:
            self.same(
                lambda: self.model.delete_aside(name, seconds, self.now),
                lambda: trash.delete(name, seconds, self.now)[0],
            )
        self.look_at_trash()
        self.after()

    def look_at_trash(self) -> None:
        found = {
            queue.number: (queue.name, queue.available, queue.locked, queue.dead)
            for queue in self.broker.trash.everything()
        }
        assert found == {
            number: (each.name, len(each.queue.available), len(each.queue.held), len(each.queue.dead))
            for number, each in self.model.kept.items()
        }

    def restore(self, pick: int, to: str | None) -> None:
        self.before()
        self.write()
        if not self.model.kept:
            return
        number = sorted(self.model.kept)[pick % len(self.model.kept)]
        queue = self.broker.trash.get(number)
        self.same(lambda: self.model.restore(number, to), lambda: self.put_back(number, to))
        if number not in self.model.kept:
            assert queue not in self.broker.trash.everything()
        self.look_at_trash()
        self.write_at_once()

    def put_back(self, number: int, to: str | None) -> tuple[str, int, int]:
        outcome = Outcome("")
        exhaust(self.broker.trash.restore(self.broker.trash.get(number), to, outcome))
        return outcome.queue, outcome.restored, outcome.refused

    def erase(self, pick: int) -> None:
        self.before()
        if not self.model.kept:
            return
        number = sorted(self.model.kept)[pick % len(self.model.kept)]
        assert self.broker.trash.erase(self.broker.trash.get(number)) == self.model.erase(number)
        self.look_at_trash()
        self.after()

    def erase_what_is_over(self) -> None:
        self.before()
        while queue := self.broker.trash.next_to_erase(self.now):
            self.broker.trash.erase(queue)
            assert self.model.kept.pop(queue.number).until <= self.now
        assert all(each.until > self.now for each in self.model.kept.values())
        self.write_at_once()
