"""The blocking client: against the real server in a process of its own, and against sockets that misbehave."""

from __future__ import annotations

import inspect
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from qrusty_trio import client as q
from qrusty_trio.client import blocking
from qrusty_trio.client.operations import TABLE
from tests.client.server_process import ServerProcess, server_process
from tests.http.ws_server import PATIENCE
from tests.server.running import ROOT


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server_process(tmp_path_factory.mktemp("server")) as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Iterator[blocking.HttpClient]:
    with blocking.HttpClient(server.url, connections=3) as client:
        yield client


@pytest.fixture
def queue(client: blocking.HttpClient, request: pytest.FixtureRequest) -> str:
    """A queue of this test alone."""
    name: str = request.node.name
    client.create_queue(name, "Fifo")
    return name


def settled(client: blocking.HttpClient, queue: str, available: int, locked: int) -> None:
    """Wait until the queue holds this many messages."""
    deadline = time.monotonic() + PATIENCE
    while True:
        stats = client.queue_stats(queue)
        if (stats["available"], stats["locked"]) == (available, locked):
            return
        assert time.monotonic() < deadline, stats
        time.sleep(0.01)


# Verifies: WS-0048
@pytest.mark.parametrize("name", [*sorted(TABLE), "close"])
def test_it_has_every_method(name: str) -> None:
    ours = getattr(blocking.HttpClient, name)
    theirs = getattr(q.HttpClient, "aclose" if name == "close" else name)
    assert not inspect.iscoroutinefunction(ours)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert ours.__doc__


# Verifies: WS-0048
def test_a_message_and_its_end(client: blocking.HttpClient, queue: str) -> None:
    id = client.publish(queue, "p", priority=7)
    message = client.consume(queue, lock_seconds=60, wait_seconds=30)
    assert message is not None
    assert (message.id, message.payload, message.priority, message.retry_count) == (id, "p", 7, 1)
    client.renew(queue, id)
    client.nack(queue, id, "again")
    assert client.consume(queue) is not None
    client.ack(queue, id)
    with pytest.raises(q.NotLocked):
        client.ack(queue, id)
    with pytest.raises(q.QueueExists):
        client.create_queue(queue)
    assert client.consume(queue, wait_seconds=0.05) is None
    assert client.ready()


# Verifies: WS-0048
def test_threads_share_a_client(client: blocking.HttpClient, queue: str) -> None:
    got: Counter[str] = Counter()

    def publish(number: int) -> None:
        client.publish(queue, str(number))

    def work() -> None:
        while message := client.consume(queue, wait_seconds=0.3):
            client.ack(queue, message.id)
            got[message.payload] += 1

    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(work) for _ in range(4)] + [threads.submit(publish, n) for n in range(100)]:
            future.result(PATIENCE)
    assert got == Counter(str(number) for number in range(100))
    settled(client, queue, 0, 0)


def test_a_server_that_was_started_again(server: ServerProcess, client: blocking.HttpClient, queue: str) -> None:
    """Connections that ended meanwhile are not used, so no publish is lost with them."""
    client.publish(queue, "before")
    server.stop()
    with blocking.HttpClient(server.url, patience_seconds=0) as impatient, pytest.raises(q.NotSent, match="refused"):
        impatient.publish(queue, "p")
    server.start()
    client.publish(queue, "after")
    settled(client, queue, 2, 0)


Script = Callable[[socket.socket], None]


@contextmanager
def scripted(scripts: Sequence[Script]) -> Iterator[tuple[str, list[int]]]:
    """A server whose connections run one script after the other. Gives its URL, and a list with an entry for each."""
    opened: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                for script in scripts:
                    peer, _ = listener.accept()
                    opened.append(1)
                    with peer:
                        script(peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", opened
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
            assert not thread.is_alive()


def read_and_break(peer: socket.socket) -> None:
    peer.recv(65536)


def silent(peer: socket.socket) -> None:
    while peer.recv(65536):
        pass


def answer(status: int, body: str) -> Script:
    def script(peer: socket.socket) -> None:
        peer.recv(65536)
        peer.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())

    return script


# Verifies: WS-0046, WS-0048
def test_a_request_without_a_response_is_sent_again_only_if_that_does_no_harm() -> None:
    with scripted([read_and_break] * 3 + [answer(200, "[]")]) as (url, opened), blocking.HttpClient(url) as client:
        with pytest.raises(q.ConnectionLost) as caught:
            client.publish("jobs", "p")
        assert (type(caught.value), len(opened)) == (q.ConnectionLost, 1)
        assert client.queues() == []
        assert len(opened) == 4


def test_a_request_that_had_no_effect_is_sent_again() -> None:
    starting = answer(503, '{"status":"starting","message":"wait"}')
    refused = answer(503, '{"error":"no","code":"storage_error"}')
    scripts = [starting, starting, answer(200, '{"id":"x"}'), refused]
    with scripted(scripts) as (url, opened), blocking.HttpClient(url) as client:
        assert client.publish("jobs", "p") == "x"
        assert len(opened) == 3
        with pytest.raises(q.StorageError):
            client.publish("jobs", "p")


def test_no_response_in_time() -> None:
    with scripted([silent, silent]) as (url, opened), blocking.HttpClient(url, timeout_seconds=0.2) as client:
        with pytest.raises(q.TimedOut, match=r"no response within 0\.2 s"):
            client.publish("jobs", "p")
        with pytest.raises(q.TimedOut, match=r"no response within 0\.3 s"):
            client.consume("jobs", wait_seconds=0.1)
        assert len(opened) == 2


@pytest.mark.parametrize("text", ["what?\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"])
def test_what_is_no_response(text: str) -> None:
    def script(peer: socket.socket) -> None:
        peer.recv(65536)
        peer.sendall(text.encode())
        silent(peer)

    with scripted([script]) as (url, _), blocking.HttpClient(url) as client, pytest.raises(q.ProtocolError):
        client.consume("jobs")


def test_a_client_that_was_closed_sends_nothing() -> None:
    with scripted([answer(200, "[]")]) as (url, opened):
        with blocking.HttpClient(url) as client:
            assert client.queues() == []
        for _ in range(2):
            with pytest.raises(q.ClientClosed, match="was closed"):
                client.queues()
            client.close()
        assert len(opened) == 1


def test_a_request_that_is_interrupted_closes_its_connection(client: blocking.HttpClient, queue: str) -> None:
    """As Ctrl-C does it. The server then waits no more for it, and hands nothing out to it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            client.consume(queue, wait_seconds=30)
    finally:
        signal.signal(signal.SIGALRM, before)
    client.publish(queue, "p")
    message = client.consume(queue, wait_seconds=30)
    assert message is not None
    assert message.retry_count == 1


# Verifies: WS-0048
def test_worker(server: ServerProcess, client: blocking.HttpClient, queue: str) -> None:
    """It runs handlers in threads at the same time, acks, nacks, renews, and is stopped from another thread."""
    stop, tried = threading.Event(), Counter[str]()
    both = threading.Barrier(2)

    def handle(message: q.Message) -> None:
        tried[message.payload] += 1
        if message.payload in ("one", "two"):
            both.wait(PATIENCE)
        if message.payload == "bad":
            raise ValueError("no good")
        if message.payload == "long":
            ends: set[int] = set()
            while len(ends) < 2:  # until it was renewed
                ends |= {each["lock_until"] for each in client.locks(queue)["locks"] if each["id"] == message.id}
                time.sleep(0.05)

    def work() -> None:
        blocking.worker(server.websocket_url, queue, handle, concurrency=2, lock_seconds=9, stop=stop)

    for payload in ("one", "two", "bad", "long"):
        client.publish(queue, payload, max_retries=2)
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(work)
        try:
            settled(client, queue, 0, 0)
        finally:
            stop.set()
        done.result(PATIENCE)
    assert tried == {"one": 1, "two": 1, "bad": 2, "long": 1}
    dead = client.dead_letters(queue)["messages"]
    assert [(each["reason"], each["error"]) for each in dead] == [("nacked", "ValueError: no good")]


def test_wrong_arguments_of_a_worker() -> None:
    for fields in ({"concurrency": 0}, {"lock_seconds": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(fields))} must be"):
            blocking.worker("ws://127.0.0.1:1/ws", "jobs", print, **fields)  # type: ignore[arg-type]  # all of these are integers


PROGRAM = """
import logging, sys, time
from qrusty_trio.client.blocking import worker

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")

def say(word):
    # In one piece, as two threads do it.
    sys.stdout.write(word + "\\n")
    sys.stdout.flush()

def handle(message):
    say("begun")
    time.sleep(float(message.payload))
    say("done")

worker(sys.argv[1], sys.argv[2], handle, concurrency=2, grace_seconds=float(sys.argv[3]))
print("ended", flush=True)
"""


# Verifies: WS-0045, WS-0048
@pytest.mark.parametrize(
    ("works", "grace", "again", "after"),
    [
        (1, 60, False, ["done", "done", "ended"]),  # what runs is finished, and what was not begun goes back
        (3600, 0.1, False, ["ended"]),  # what does not end in time goes back, too
        (3600, 3600, True, ["ended"]),  # a second signal ends the wait
    ],
)
def test_a_worker_stops_on_sigterm(
    server: ServerProcess,
    client: blocking.HttpClient,
    queue: str,
    works: float,
    grace: float,
    again: bool,
    after: list[str],
) -> None:
    for _ in range(3):
        client.publish(queue, str(works))
    command = [sys.executable, "-c", PROGRAM, server.websocket_url, queue, str(grace)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
            process.send_signal(signal.SIGTERM)
            assert any("SIGTERM: the worker" in line for line in process.stdout)
            if again:
                process.send_signal(signal.SIGTERM)
            printed = process.stdout.read().splitlines()
            assert [line for line in printed if line in ("begun", "done", "ended")] == after
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    settled(client, queue, 3 - after.count("done"), 0)
    message = client.consume(queue)
    assert message is not None
    assert message.retry_count == 1
