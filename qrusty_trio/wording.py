"""Helpers for sentences that people read."""

from __future__ import annotations

MAX_SENTENCE_CHARACTERS = 1000
"""Limit for a sentence that quotes what a client sent, such as the name of a queue that does not exist."""


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun: `1 queue`, `2 queues`. `many` is the plural if it is not `one` with an 's'."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def shortened(sentence: str) -> str:
    """A sentence without its middle if it is too long. What it says about a quotation stands before and after it.

    Requirements: API-0015
    """
    if len(sentence) <= MAX_SENTENCE_CHARACTERS:
        return sentence
    half = MAX_SENTENCE_CHARACTERS // 2
    return f"{sentence[:half]}...{sentence[-half:]}"
