"""What a burst of a WebSocket is said to take, beside what it takes."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest

from qrusty_trio.api import ws_frames
from qrusty_trio.api.ws_burst import Burst

FRAMES: dict[str, dict[str, Any]] = {
    "ack": {"type": "ack", "queue": "q", "id": "x"},
    "publish": {"type": "publish", "queue": "jobs", "priority": 5, "payload": "x" * 100, "req_id": "12"},
    "emoji": {"type": "publish", "queue": "jobs", "priority": 5, "payload": "x" * 10_000 + "\U0001f600"},
    "misshapen": {"type": 5},
    "short ids": {"type": "batch-ack", "queue": "q", "ids": [f"{number % 100:02}" for number in range(2600)]},
    "ids": {"type": "batch-nack", "queue": "q", "ids": [f"{number:036}" for number in range(1000)]},
    "empty messages": {"type": "batch-publish", "queue": "q", "messages": [{"priority": 1, "payload": ""}] * 1000},
    "messages": {
        "type": "batch-publish",
        "queue": "q",
        "messages": [{"priority": f"{each}", "payload": "ab", "max_retries": 1000 + each} for each in range(1000)],
    },
    "ids of another type": {"type": "ack", "queue": "q", "id": "x", "ids": ["ab"] * 1000},
}


def takes(text: str, count: int, *, run: bool) -> tuple[int, int]:
    """Bytes that a burst of so many frames takes and is said to take; with `run`, after it has run."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        frames: list[str | bytes] = [text] * count
        burst = Burst([ws_frames.decode(text) for _ in range(count)], frames)
        del frames
        if run:
            burst.drop_batches()
            burst.responses = [b"%d" % number * 100 for number in range(10_000, 10_000 + count)]
            burst.count_responses()
        return tracemalloc.get_traced_memory()[0] - before, burst.size
    finally:
        tracemalloc.stop()


# Verifies: WS-0056
@pytest.mark.parametrize("run", [False, True], ids=["decoded", "run"])
@pytest.mark.parametrize("name", FRAMES)
def test_a_burst_counts_what_it_takes(name: str, run: bool) -> None:
    text = msgspec.json.encode(FRAMES[name]).decode()
    takes(text, 2, run=run)  # What is made only once is no part of it.
    taken, said = takes(text, 20, run=run)
    assert taken / 1.25 < said < 6 * taken
