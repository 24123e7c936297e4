"""A worker on Trio, with the client library of the server. Put your work into `handle`.

python trio_worker.py QUEUE

The library connects again when the connection is lost, renews locks, acks and nacks. On SIGTERM and Ctrl-C the worker
takes no more messages, waits for its handlers, and ends.
"""

from __future__ import annotations

import os
import signal
import sys

import trio
import trio.lowlevel

from qrusty_trio.client import Message, worker

URL = os.environ.get("QRUSTY_URL", "http://127.0.0.1:6784").replace("http", "ws", 1) + "/ws"
CONCURRENCY = 8


async def handle(message: Message) -> None:
    """The work. Whatever it raises makes the message come back, until it is a dead letter."""
    if message.payload == "impossible":
        raise ValueError("this can't be done")
    await trio.lowlevel.checkpoint()  # in place of work that waits for something
    print("done:", message.payload, flush=True)


async def stop_on_signal(stop: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            stop.set()


async def main(queue: str) -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_on_signal, stop)
        await worker(URL, queue, handle, concurrency=CONCURRENCY, stop=stop)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
