"""What the fuzzer tells of a connection that the server holds: whose it is, and what the server waits for."""

from __future__ import annotations

import signal
import time
from dataclasses import replace

import pytest
import trio
import trio.testing

from fuzz.server.conversation import Conversation
from fuzz.server.dump import ENDED, Accepted, connections
from fuzz.server.held import Ports, explain
from fuzz.server.target import target
from qrusty_trio.http import peers
from tests.http.web import running

ONE = Conversation(1, True, "test", ())
TWO = replace(ONE, seed=2)


def test_a_port_that_was_used_again_is_told_by_the_time() -> None:
    ports = Ports()
    began = time.monotonic()
    ports.note(5000, ONE, began)
    ports.note(5000, TWO, began + 2)
    assert ports.uses(5000) == 2
    for accepted, seed in ((began, 1), (began + 1.9, 1), (began + 2, 2), (began + 9, 2)):
        use = ports.used(5000, accepted)
        assert use is not None
        assert use.conversation.seed == seed
    assert ports.used(5000, began - 1) is None
    assert ports.used(5001, began) is None
    assert ports.uses(5001) == 0


@pytest.mark.parametrize(
    ("fast_path", "said", "waits_in", "state"),
    [
        (True, b"", "Batching.receive", ("FastConnection.task", "parked")),
        (True, b"GET /health HTTP/1.1\r\n", "SocketPipe.receive", ("FastConnection.task", "none")),
        (False, b"", "GuardedStream._read", ("GuardedStream.end.peer_closed", "False")),
    ],
    ids=["parked", "in a request", "fallback"],
)
async def test_a_connection_tells_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, fast_path: bool, said: bytes, waits_in: str, state: tuple[str, str]
) -> None:
    monkeypatch.setattr(peers, "peer_of", peers.peer_of)  # put back at the end
    accepted = Accepted()
    accepted.install()
    async with running(fast_path) as web, web.client() as client:
        await client.send(said)
        await trio.testing.wait_all_tasks_blocked()
        (one,), others = connections(accepted)
        assert one.peer_port == client.stream.socket.getsockname()[1]
        assert one.state == "ESTABLISHED"
        assert any(waits_in in task for task in one.tasks)
        assert state in one.served_by.items()
        assert any("FastPath.watch" in task for task in others)
        await trio.aclose_forcefully(client.stream)
        await trio.testing.wait_all_tasks_blocked()
        assert connections(accepted)[0] == []


async def test_the_server_tells_of_its_connections_and_the_fuzzer_whose_they_are() -> None:
    ports = Ports()
    one = replace(ONE, seed=7)
    async with target(fast=True) as server:
        began = time.monotonic()
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        port = stream.socket.getsockname()[1]
        ports.note(port, one, began)
        text = ""
        while "Batching.receive" not in text:  # until it was accepted and parked
            before = len(server.child.log)
            server.child.send_signal(signal.SIGUSR2)
            while ENDED not in server.child.log[before:]:  # noqa: ASYNC110  # the log tells nobody
                await trio.sleep(0.005)
            held = explain(server.child.log[before:], server.child.process.pid, ports)
            text = held.text
        await trio.aclose_forcefully(stream)
    assert held.owners[-1] is one
    assert f"port {port}, used by 1 conversations: SEED=7 (test)" in text
    assert "ESTABLISHED, 0 bytes unread, 0 unsent" in held.text
    assert "polled: epoll " in held.text
    assert "FastConnection.phase = " in held.text
    assert "other tasks:" in held.text


async def test_of_a_server_that_tells_nothing_the_system_tells() -> None:
    async with target(fast=True) as server:
        held = explain("", server.child.process.pid, Ports())
        assert not held.owners
        assert f"local 0100007F:{server.port:04X}, remote 00000000:0000, state 0A; polled: epoll " in held.text
