"""The ledger finds what it is there to find: each broken promise, made by hand."""

from __future__ import annotations

import pytest

from tests.crash.ledger import QUEUES, Ledger, Message

URGENT, FIFO = QUEUES


def publish(ledger: Ledger, queue: str, priority: int = 0, publisher: str = "p") -> Message:
    message = ledger.publishing(publisher)
    message.queue = queue
    message.priority = priority
    ledger.published(message, f"id of {message.name}")
    return message


def consume(ledger: Ledger, message: Message, consumer: str = "c") -> None:
    ledger.delivered(ledger.consuming(message.queue), consumer, message.id, message.payload)


def ack(ledger: Ledger, message: Message) -> None:
    ledger.settling(message, ack=True)
    ledger.acked(message)


def test_a_second_consumer() -> None:
    ledger = Ledger(1)
    message = publish(ledger, FIFO)
    consume(ledger, message)
    with pytest.raises(AssertionError, match="while c holds it"):
        consume(ledger, message, "d")


# Verifies: DLV-0003
def test_a_delivery_after_the_ack() -> None:
    ledger = Ledger(1)
    message = publish(ledger, FIFO)
    consume(ledger, message)
    ack(ledger, message)
    with pytest.raises(AssertionError, match="after its ack"):
        consume(ledger, message)


def test_a_foreign_payload() -> None:
    ledger = Ledger(1)
    message = publish(ledger, FIFO)
    with pytest.raises(AssertionError, match="not the payload"):
        ledger.delivered(ledger.consuming(FIFO), "c", message.id, message.payload + "!")
    with pytest.raises(AssertionError, match="nobody sent"):
        ledger.delivered(ledger.consuming(FIFO), "c", message.id, "")


def test_a_message_that_was_passed_over() -> None:
    ledger = Ledger(1)
    publish(ledger, URGENT, 2)
    later = publish(ledger, URGENT, 1)
    consume(ledger, later)
    with pytest.raises(AssertionError, match="came before it"):
        ledger.check_order([])


def test_first_in_first_out() -> None:
    ledger = Ledger(1)
    first, second = publish(ledger, FIFO), publish(ledger, FIFO)
    consume(ledger, second)
    with pytest.raises(AssertionError, match="came before it"):
        ledger.check_order([first.payload])


# Verifies: SCH-0008
def test_a_message_handed_back_is_first_again() -> None:
    ledger = Ledger(1)
    first, second = publish(ledger, FIFO), publish(ledger, FIFO)
    consume(ledger, first)
    ledger.nacked(first, ledger.settling(first, ack=False))
    consume(ledger, second)
    with pytest.raises(AssertionError, match="came before it"):
        ledger.check_order([first.payload])


def test_what_another_may_have_got_is_no_complaint() -> None:
    """A consume that was under way, or whose response was lost, may have had the first message."""
    ledger = Ledger(1)
    first, second, third = (publish(ledger, FIFO) for _ in range(3))
    under_way = ledger.consuming(FIFO)
    consume(ledger, second)
    ledger.delivered(under_way, "d", first.id, first.payload)
    ledger.check_order([third.payload])
    ledger.consuming(FIFO)
    fourth = publish(ledger, FIFO)
    consume(ledger, fourth)
    ledger.check_order([])
    with pytest.raises(AssertionError, match="came before it"):
        ledger.check_order([third.payload])


def test_what_is_stored() -> None:
    ledger = Ledger(1)
    kept, held, done, doubtful = (publish(ledger, FIFO) for _ in range(4))
    unanswered = ledger.publishing("q")
    unanswered.queue = FIFO
    consume(ledger, held)
    consume(ledger, done)
    ack(ledger, done)
    consume(ledger, doubtful)
    ledger.settling(doubtful, ack=True)
    ledger.check_stored(FIFO, [kept.payload], [held.payload])
    ledger.check_stored(FIFO, [kept.payload, unanswered.payload], [held.payload, doubtful.payload])
    with pytest.raises(AssertionError, match="are lost"):
        ledger.check_stored(FIFO, [kept.payload], [])
    with pytest.raises(AssertionError, match="still stored"):
        ledger.check_stored(FIFO, [kept.payload, done.payload], [held.payload])
    with pytest.raises(AssertionError, match="stored twice"):
        ledger.check_stored(FIFO, [kept.payload], [kept.payload, held.payload])
    with pytest.raises(AssertionError, match="first in, first out"):
        ledger.check_stored(FIFO, [held.payload, kept.payload], [])
