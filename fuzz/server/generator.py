"""From a seed to a conversation."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from fuzz.server import http1, http2, websocket
from fuzz.server.conversation import Conversation, Step
from fuzz.server.mutations import arrive, leave

KINDS: list[tuple[int, str, Callable[[Random, bool], list[Step]]]] = [
    (10, "http1 plain", http1.plain),
    (12, "http1 nearly", http1.nearly),
    (10, "http1 wrong", http1.wrong),
    (3, "http1 same", http1.same),
    (2, "http1 huge", http1.huge),
    (5, "http2 plain", http2.plain),
    (12, "http2 wrong", http2.wrong),
    (3, "http2 flood", http2.flood),
    (4, "http2 stuck", http2.stuck),
    (5, "http2 upgraded", http2.upgraded),
    (5, "http2 websockets", http2.websockets),
    (10, "websocket plain", websocket.plain),
    (12, "websocket wrong", websocket.wrong),
    (3, "websocket flood", websocket.flood),
]
"""How often, name, and what makes the steps."""
PHASES = 8
"""A seed belongs to the phase `seed % PHASES`: a server of its own."""


def is_fast(phase: int) -> bool:
    """Whether the server of a phase has its fast path on."""
    return phase % 2 == 0


def sweeps(phase: int) -> bool:
    """Whether its conversations purge and delete all queues, those of the control client included."""
    return phase >= PHASES - 2


def conversation(seed: int) -> Conversation:
    """The same for the same seed, always."""
    rng = Random(seed)
    phase = seed % PHASES
    _, kind, make = rng.choices(KINDS, [row[0] for row in KINDS])[0]
    steps = leave(rng, arrive(rng, make(rng, sweeps(phase))))
    return Conversation(seed, is_fast(phase), kind, tuple(steps))
