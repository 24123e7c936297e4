"""The server as it is, but for two things: its bulkheads log every traceback, not ten a minute; and at SIGUSR2 it logs
what it has of each connection, so that one that is held says what holds it."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import trio

from fuzz.server.dump import Accepted, dump
from qrusty_trio.cli import main
from qrusty_trio.http import bulkheads
from qrusty_trio.server import sampler, supervisor

accepted = Accepted()


def _install() -> None:
    accepted.install()
    sample = sampler.sample

    async def sample_and_listen(*args: object, **kwargs: object) -> None:
        token = trio.lowlevel.current_trio_token()

        def on_signal(number: int, frame: FrameType | None) -> None:
            token.run_sync_soon(dump, accepted)

        signal.signal(signal.SIGUSR2, on_signal)
        await sample(*args, **kwargs)  # type: ignore[arg-type]  # passed on

    supervisor.sample = sample_and_listen  # type: ignore[attr-defined]


if __name__ == "__main__":
    bulkheads.TRACEBACKS = 2**62
    _install()
    sys.exit(main())
