"""The way of a call to the thread that makes spans: in order, bounded, and to its end."""

from __future__ import annotations

import threading

import pytest

from qrusty_trio.telemetry import served as module
from qrusty_trio.telemetry.served import Inbox, Served


def call(number: int, size: int = 0) -> Served:
    return Served("publish", (), None, b"x" * size, 200, b"", (), number, number)


# Verifies: API-0095
def test_calls_come_out_in_order_until_it_is_closed() -> None:
    inbox = Inbox()
    taken: list[int] = []

    def take_all() -> None:
        while (served := inbox.take()) is not None:
            taken.append(served.begun_ns)

    thread = threading.Thread(target=take_all)
    thread.start()
    for number in range(1000):
        inbox.put(call(number))
    inbox.close()
    thread.join(60)
    assert not thread.is_alive()
    assert taken == list(range(1000))
    assert inbox.dropped == 0


# Verifies: API-0095
def test_a_delivery_comes_after_its_publish_whichever_was_noted_first() -> None:
    inbox = Inbox()
    delivery = Served("consume", ("q",), None, b"", 200, b"", ("m",), 10, 25)
    publish = Served("publish", (), None, b"", 200, b"", (), 20, 30)
    ack = Served("ack", ("q", "m"), None, b"", 200, b"", (), 26, 27)
    for served in (delivery, ack, publish):
        inbox.put(served)
    # The others are held: a publish that began earlier may still come.
    assert [inbox.take() for _ in range(3)] == [publish, delivery, ack]
    inbox.close()
    assert inbox.take() is None


# Verifies: API-0095
@pytest.mark.parametrize(("entries", "size"), [(3, 0), (10, module.MAX_BYTES // 3 - module.ENTRY_BYTES)])
def test_what_finds_no_room_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch, entries: int, size: int) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", entries)
    inbox = Inbox()
    for number in range(5):
        inbox.put(call(number, size))
    assert inbox.dropped == 2
    first = inbox.take()
    assert first is not None
    inbox.put(call(9, size))
    inbox.close()
    rest = [each.begun_ns for each in iter(inbox.take, None)]
    assert (first.begun_ns, rest, inbox.dropped) == (0, [1, 2, 9], 2)
