"""Words for sentences that people read."""

from __future__ import annotations

MAX_SENTENCE_CHARACTERS = 1000
"""Of a sentence that quotes what a client sent, such as the name of a queue that does not exist."""


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun: `1 queue`, `2 queues`. `many` is for what takes more than an 's' at its end."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def shortened(sentence: str) -> str:
    """A sentence without its middle when it is too long: what is said of a quotation stands before and behind it."""
    if len(sentence) <= MAX_SENTENCE_CHARACTERS:
        return sentence
    half = MAX_SENTENCE_CHARACTERS // 2
    return f"{sentence[:half]}...{sentence[-half:]}"
