"""What the parts of the model test ask of the machine that they make up together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from qrusty_trio.api.call import Services
from qrusty_trio.core.broker import Broker
from tests.core.model import Model

T = TypeVar("T")


class Steps:
    """`machine.BrokerMachine` has these, its own or of another part."""

    broker: Broker
    model: Model
    now: int
    settled: list[tuple[str, str, str]]

    def pick(self, number: int) -> tuple[str, str, str]:
        raise NotImplementedError

    def before(self) -> None:
        raise NotImplementedError

    def after(self) -> None:
        raise NotImplementedError

    def note(self) -> None:
        raise NotImplementedError

    def write(self) -> None:
        raise NotImplementedError

    def write_at_once(self) -> None:
        raise NotImplementedError

    def same(self, expected: Callable[[], T], actual: Callable[[], T]) -> T | None:
        raise NotImplementedError

    def services(self) -> Services:
        raise NotImplementedError

    def http(self, method: str, path: str, query: str = "", body: object = None) -> tuple[int, Any]:
        raise NotImplementedError

    def ask(self, method: str, path: str, query: str = "", body: object = None) -> Any:
        raise NotImplementedError
