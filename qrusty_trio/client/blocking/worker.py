"""A worker for programs without an event loop: calls a function in threads for each message of a queue.

    def handle(message: Message) -> None:
        send_mail(message.payload)

    worker("ws://127.0.0.1:6784/ws", "mail", handle, concurrency=8)

Rule: `qrusty_trio.client.worker` does the work, on an event loop that runs in the calling thread as long as the worker
does. A thread can't be cancelled. So a handler whose lock is lost runs to its end and keeps its place, and its outcome
does not count.

Requirements: WS-0048
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import anyio
from anyio.to_thread import run_sync

from qrusty_trio.client.tls import FilePath
from qrusty_trio.client.worker import Message
from qrusty_trio.client.worker import worker as on_the_loop

Handler = Callable[[Message], object]
STOP_SECONDS = 0.1
"""Time between two looks at `stop`, which no event loop can wait for."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def worker(
    url: str,
    queue: str,
    handler: Handler,
    *,
    concurrency: int = 8,
    lock_seconds: int = 30,
    grace_seconds: float = 30.0,
    reconnect_seconds: float = 300.0,
    token: str | None = None,
    stop: threading.Event | None = None,
    ca_file: FilePath | None = None,
    certificate_file: FilePath | None = None,
    key_file: FilePath | None = None,
) -> None:
    """Call `handler` for each message of a queue, in up to `concurrency` threads at a time. Blocks until it is stopped.

    In the main thread, SIGTERM and SIGINT (Ctrl-C) stop it. In any other, `stop` does, within 0.1 s: set it from
    elsewhere. It then takes no more messages, waits up to `grace_seconds` for its handlers, and returns. Messages whose
    handlers are still at work then go back to the queue, uncounted, and so does what was not begun. A second signal
    ends the wait. Threads that are still at work then end with the process at the latest.

    All else is as `qrusty_trio.client.worker` has it, except that a handler whose lock is lost is not cancelled.
    """

    async def main() -> None:
        threads = anyio.CapacityLimiter(max(concurrency, 1))

        async def handle(message: Message) -> None:
            await run_sync(handler, message, abandon_on_cancel=True, limiter=threads)

        in_main_thread = threading.current_thread() is threading.main_thread()
        await on_the_loop(
            url,
            queue,
            handle,
            concurrency=concurrency,
            lock_seconds=lock_seconds,
            grace_seconds=grace_seconds,
            reconnect_seconds=reconnect_seconds,
            token=token,
            stop=None if stop is None else _Polled(stop),
            signals=SIGNALS if in_main_thread else (),
            ca_file=ca_file,
            certificate_file=certificate_file,
            key_file=key_file,
        )

    # Trio's threads give back their place when they end, also if nobody waits for them any more, and end with the
    # process.
    anyio.run(main, backend="trio")


class _Polled:
    """A `threading.Event` to wait for on an event loop."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    async def wait(self) -> None:
        while not self._event.is_set():  # noqa: ASYNC110  # it can't wake an event loop
            await anyio.sleep(STOP_SECONDS)
