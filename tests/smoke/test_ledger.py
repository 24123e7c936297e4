"""The ledger of the smoke test: it finds what is wrong, and calls nothing wrong that is not."""

from __future__ import annotations

import pytest

from smoke.failures import BrokenPromise
from smoke.ledger import Delivery, Ledger, Message


@pytest.fixture
def ledger() -> Ledger:
    return Ledger("q", {"ordering": "MaxFirst"}, [9, 5, 1])


def publish(ledger: Ledger, rank: int, sent: float, confirmed: float) -> Message:
    message = ledger.compose(rank, sent)
    ledger.published(message, f"id of {message.payload}", confirmed)
    return message


def deliver(ledger: Ledger, message: Message, asked: float, received: float, consumer: str = "a") -> Delivery:
    return ledger.delivered(message.id, message.payload, consumer, asked, received)


def settle(ledger: Ledger, delivery: Delivery, sent: float, confirmed: float, acked: bool = True) -> None:
    ledger.settling(delivery, acked, sent)
    ledger.settled(delivery, confirmed)


def test_all_is_well(ledger: Ledger) -> None:
    low, high = publish(ledger, 2, 0, 1), publish(ledger, 0, 2, 3)
    assert ledger.open == 2
    for at, message in ((4, high), (8, low)):
        settle(ledger, deliver(ledger, message, at, at + 1), at + 2, at + 3)
    ledger.check_nothing_lost()
    ledger.check_order()
    assert (ledger.open, ledger.confirmed, ledger.acked, ledger.nacked) == (0, 2, 2, 0)


def test_lost(ledger: Ledger) -> None:
    publish(ledger, 0, 0, 1)
    with pytest.raises(BrokenPromise, match=r"nothing of q is lost.*1 that were not: 'q 0' \(never delivered\)"):
        ledger.check_nothing_lost()


def test_nacked_and_lost(ledger: Ledger) -> None:
    settle(ledger, deliver(ledger, publish(ledger, 0, 0, 1), 2, 3), 4, 5, acked=False)
    with pytest.raises(BrokenPromise, match="nacked by a, not delivered again"):
        ledger.check_nothing_lost()


def test_with_two_consumers(ledger: Ledger) -> None:
    message = publish(ledger, 0, 0, 1)
    deliver(ledger, message, 2, 3)
    with pytest.raises(BrokenPromise, match=r"two consumers at once: expected 'q 0' with a only.*delivered to b, too"):
        deliver(ledger, message, 2, 3, "b")


def test_delivered_after_its_ack(ledger: Ledger) -> None:
    message = publish(ledger, 0, 0, 1)
    settle(ledger, deliver(ledger, message, 2, 3), 4, 5)
    with pytest.raises(BrokenPromise, match="gone after the ack of a, seen b got it"):
        deliver(ledger, message, 6, 7, "b")


def test_delivered_after_a_nack(ledger: Ledger) -> None:
    message = publish(ledger, 0, 0, 1)
    settle(ledger, deliver(ledger, message, 2, 3), 4, 5, acked=False)
    again = deliver(ledger, message, 6, 7, "b")
    assert again.number == 2
    settle(ledger, again, 8, 9)
    ledger.check_nothing_lost()
    ledger.check_order()


def test_a_message_of_nobody(ledger: Ledger) -> None:
    with pytest.raises(BrokenPromise, match="a message that was published to it, seen 'x'"):
        ledger.delivered("id", "x", "a", 0, 1)


def test_another_id(ledger: Ledger) -> None:
    message = publish(ledger, 0, 0, 1)
    with pytest.raises(BrokenPromise, match="the id of 'q 0'"):
        ledger.delivered("other", message.payload, "a", 2, 3)


def test_delivered_before_its_publish_is_confirmed(ledger: Ledger) -> None:
    message = ledger.compose(0, 1)
    delivery = ledger.delivered("id", message.payload, "a", 0, 2)
    assert delivery.asked == 1, "it can't have been handed out before it was sent"
    ledger.published(message, "id", 3)
    settle(ledger, delivery, 4, 5)
    ledger.check_order()


@pytest.mark.parametrize(("rank", "what"), [(0, "a better priority"), (2, "an equal one, published earlier")])
def test_out_of_order(ledger: Ledger, rank: int, what: str) -> None:
    first, second = publish(ledger, rank, 0, 1), publish(ledger, 2, 2, 3)
    for at, message in ((4, second), (8, first)):
        settle(ledger, deliver(ledger, message, at, at + 1), at + 2, at + 3)
    with pytest.raises(BrokenPromise, match=r"the order of q: expected 'q 0'.*seen 'q 1' .* was handed out"):
        ledger.check_order()


def test_out_of_order_after_a_nack(ledger: Ledger) -> None:
    """A message that was nacked is available again, in its old place."""
    first, second = publish(ledger, 0, 0, 1), publish(ledger, 0, 2, 3)
    settle(ledger, deliver(ledger, first, 4, 5), 6, 7, acked=False)
    for at, message in ((8, second), (12, first)):
        settle(ledger, deliver(ledger, message, at, at + 1), at + 2, at + 3)
    with pytest.raises(BrokenPromise, match=r"expected 'q 0' .* first"):
        ledger.check_order()


def test_nothing_although_something_is_there(ledger: Ledger) -> None:
    message = publish(ledger, 2, 0, 1)
    ledger.delivered_nothing(2, 3)
    settle(ledger, deliver(ledger, message, 4, 5), 6, 7)
    with pytest.raises(BrokenPromise, match="seen nothing was handed out"):
        ledger.check_order()


def test_what_overlaps_is_not_out_of_order(ledger: Ledger) -> None:
    """The better one was asked for before the other was received, or confirmed after the other was asked for."""
    first, second, third = publish(ledger, 0, 0, 1), publish(ledger, 1, 0, 1), publish(ledger, 0, 5, 9)
    settle(ledger, deliver(ledger, second, 2, 4, "b"), 5, 6)
    settle(ledger, deliver(ledger, first, 3, 7), 8, 9)
    fourth = publish(ledger, 2, 0, 1)
    settle(ledger, deliver(ledger, fourth, 8, 20), 21, 22)
    settle(ledger, deliver(ledger, third, 19, 23), 24, 25)
    ledger.delivered_nothing(0, 2.5)
    ledger.check_order()


def test_an_entry_that_is_set_aside_counts_later(ledger: Ledger) -> None:
    """One delivery overlaps with that of a better message. A later delivery of a third does not."""
    best, second, third = publish(ledger, 0, 0, 1), publish(ledger, 1, 0, 1), publish(ledger, 2, 0, 1)
    settle(ledger, deliver(ledger, second, 2, 11, "b"), 12, 13)
    settle(ledger, deliver(ledger, third, 3, 4, "c"), 5, 6)
    settle(ledger, deliver(ledger, best, 10, 14), 15, 16)
    with pytest.raises(BrokenPromise, match=r"expected 'q 0' .* first, .* seen 'q 2'"):
        ledger.check_order()
