"""The blocking client over a WebSocket: threads against the real server in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from qrusty_trio import client as q
from qrusty_trio.client import blocking
from qrusty_trio.client.blocking.websocket import THREAD
from tests.client.server_process import ServerProcess, server_process
from tests.http.ws_server import PATIENCE
from tests.server.running import ROOT


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server_process(tmp_path_factory.mktemp("server")) as process:
        yield process


@pytest.fixture
def queue(server: ServerProcess, request: pytest.FixtureRequest) -> str:
    """A queue of this test alone."""
    name: str = request.node.name
    with blocking.HttpClient(server.url) as client:
        client.create_queue(name, "Fifo")
    return name


def settled(server: ServerProcess, queue: str, available: int, locked: int) -> None:
    """Wait until the queue holds this many messages."""
    deadline = time.monotonic() + PATIENCE
    with blocking.HttpClient(server.url) as client:
        while True:
            stats = client.queue_stats(queue)
            if (stats["available"], stats["locked"]) == (available, locked):
                return
            assert time.monotonic() < deadline, stats
            time.sleep(0.01)


# Verifies: WS-0053
def test_a_thread_publishes_and_works(server: ServerProcess, queue: str) -> None:
    with blocking.connect(server.websocket_url) as client, client.subscribe(queue, lock_timeout=60) as deliveries:
        published = client.publish_batch(queue, [q.NewMessage(payload="b"), q.NewMessage(payload="c")])
        ids = [client.publish(queue, "a"), *published.ids]
        first, second, third = (next(deliveries) for _ in ids)
        assert sorted(each.id for each in (first, second, third)) == sorted(ids)
        assert {each.payload for each in (first, second, third)} == {"a", "b", "c"}
        assert (first.queue, first.priority, first.lost) == (queue, 0, False)
        assert 0 < first.lock_ends - time.monotonic() <= 60
        assert 0 <= time.time() - first.created_at.timestamp() < PATIENCE
        first.renew(600)
        assert 60 < first.lock_ends - time.monotonic() <= 600
        assert first.id in repr(first)
        for each in (first, second):
            each.ack()
        third.nack("not today")
        again = deliveries.take()
        assert again is not None
        assert (again.id, again.payload) == (third.id, third.payload)
        again.ack()
        assert deliveries.take(0.01) is None
    assert THREAD not in [thread.name for thread in threading.enumerate()]
    for use in (lambda: client.publish(queue, "late"), third.ack, deliveries.take):
        with pytest.raises(q.ClientClosed):
            use()


# Verifies: WS-0053
def test_threads_share_a_subscription(server: ServerProcess, queue: str) -> None:
    seen: list[str] = []
    with blocking.connect(server.websocket_url) as client, ExitStack() as subscription:
        deliveries = subscription.enter_context(client.subscribe(queue, prefetch=8))

        def work() -> None:
            for delivery in deliveries:
                seen.append(delivery.payload)
                delivery.ack()

        with ThreadPoolExecutor(6) as threads:
            workers = [threads.submit(work) for _ in range(3)]
            list(threads.map(lambda number: client.publish(queue, str(number)), range(60)))
            settled(server, queue, 0, 0)
            # All that wait see the end.
            subscription.close()
            for each in workers:
                each.result(PATIENCE)
    assert sorted(seen, key=int) == [str(number) for number in range(60)]


# Verifies: WS-0053
def test_a_thread_is_told_before_a_lock_ends(server: ServerProcess, queue: str) -> None:
    with (
        blocking.connect(server.websocket_url) as client,
        client.subscribe(queue, lock_timeout=31, deadline_soon=30) as deliveries,
    ):
        client.publish(queue, "long")
        delivery = next(deliveries)
        assert delivery.deadline_soon()
        delivery.ack()


# Verifies: WS-0053
def test_errors_are_those_of_the_client(server: ServerProcess, queue: str) -> None:
    with pytest.raises(q.ConnectFailed), blocking.connect("ws://127.0.0.1:1/ws"):
        pytest.fail("it connected")
    with pytest.raises(q.InvalidUrl), blocking.connect("nonsense"):
        pytest.fail("it connected")
    with blocking.connect(server.websocket_url) as client:
        with pytest.raises(q.QueueNotFound), client.subscribe("no such queue"):
            pytest.fail("it subscribed")
        with client.subscribe(queue), pytest.raises(q.AlreadySubscribed), client.subscribe(queue):
            pytest.fail("it subscribed")
        with pytest.raises(q.QueueNotFound):
            client.publish("no such queue", "p")
        with pytest.raises(LookupError, match="of the body"), client.subscribe(queue):
            raise LookupError("of the body")
        client.publish(queue, "p")


# Verifies: WS-0053
def test_it_connects_again(server: ServerProcess, queue: str) -> None:
    with blocking.connect(server.websocket_url) as client, client.subscribe(queue) as deliveries:
        client.publish(queue, "before")
        delivery = next(deliveries)
        server.stop(signal.SIGKILL)
        server.start()
        again = next(deliveries)
        assert (again.id, delivery.lost) == (delivery.id, True)
        with pytest.raises(q.ConnectionLost):
            delivery.ack()
        again.ack()


INTERRUPTED = """
import signal
import sys
from qrusty_trio.client.blocking import connect

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
with connect(sys.argv[1]) as client:
    client.publish(sys.argv[2], "held")
    try:
        with client.subscribe(sys.argv[2]) as deliveries:
            next(deliveries)
            print("waits", flush=True)
            next(deliveries)
    except KeyboardInterrupt:
        client.publish(sys.argv[2], "after")
        print("goes on", flush=True)
"""


# Verifies: WS-0053
def test_a_thread_that_is_interrupted_leaves_nothing_behind(server: ServerProcess, queue: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, server.websocket_url, queue]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "waits\n"
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=PATIENCE)
            assert (out, process.returncode) == ("goes on\n", 0), error
        finally:
            process.kill()
    # What it held went back as it closed in order.
    settled(server, queue, 2, 0)
