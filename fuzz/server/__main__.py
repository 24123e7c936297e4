"""Fuzz the whole server over sockets.

    python -m fuzz.server                     # ten minutes
    python -m fuzz.server --seconds 60 --seed 7
    python -m fuzz.server --replay fuzz-finding-7.py
    python -m fuzz.server --tls

Each seed is a conversation; a run plays the seeds from --seed (at random when there is none) on. With --seed the first
one is played alone before all others. The exit status is 1 when something was found.
"""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial
from pathlib import Path

import trio

from fuzz.server.conversation import random_seed, read_literal
from fuzz.server.generator import conversation
from fuzz.server.hunt import Hunt


async def main(seconds: float, seed: int | None, replay: list[Path], tls: bool) -> int:
    say = partial(print, flush=True)
    first = seed if seed is not None else random_seed()
    hunt = Hunt(first, Path.cwd(), say, tls=tls)
    if replay:
        for path in replay:
            await hunt.alone(read_literal(path.read_text()))
    else:
        say(f"SEED={first}")
        if seed is not None:
            await hunt.alone(conversation(seed))
        await hunt.run(seconds)
    say(f"{hunt.played} conversations, {hunt.faults} findings, {len(hunt.findings) - hunt.faults} contained")
    return 1 if hunt.faults else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m fuzz.server", description="Fuzz the whole server over sockets.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--replay", type=Path, nargs="+", default=[])
    parser.add_argument("--tls", action="store_true", help="over TLS, and with what can go wrong in it")
    # Ended in whatever way, it leaves no server behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    given = parser.parse_args()
    sys.exit(trio.run(main, given.seconds, given.seed, given.replay, given.tls))
