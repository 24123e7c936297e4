"""The bytes of a connection: what was sent of a response, and what a broken connection says."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from qrusty_trio.api.call import Reply
from qrusty_trio.http.pipe import (
    REFUSAL_SECONDS,
    SEND_BYTES,
    ConnectionLost,
    NoSocket,
    SocketPipe,
    StreamPipe,
    give_back_refused,
    pipe_over,
    socket_of,
)
from tests.http.test_batching import BrokenWrites
from tests.http.web import running


class Progress:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


async def test_a_stream_gets_pieces_and_each_counts() -> None:
    ours, theirs = memory_stream_pair()
    pipe, progress = pipe_over(ours), Progress()
    assert isinstance(pipe, StreamPipe)
    assert pipe.sent == 0
    data = bytes(range(256)) * (SEND_BYTES // 128) + b"rest"
    await pipe.send(data, progress)
    assert (pipe.sent, progress.count) == (len(data), 3)
    found = b""
    while len(found) < len(data):
        found += await theirs.receive_some()
    assert found == data
    await pipe.send(b"abcdef", progress, 4)
    assert (await theirs.receive_some(), pipe.sent, progress.count) == (b"ef", 6, 4)
    await theirs.send_all(b"x" * 10)
    assert await pipe.receive(4) == b"xxxx"
    assert await pipe.receive() == b"x" * 6
    await theirs.aclose()
    with pytest.raises(ConnectionLost):
        await pipe.send(b"x", progress)
    assert (pipe.sent, progress.count) == (0, 4)
    assert not any((pipe.gone(), pipe.left(), pipe.refused()))
    await ours.aclose()
    with pytest.raises(ConnectionLost):
        await pipe.receive()
    under = socket_of(ours)
    assert isinstance(under, NoSocket)
    assert (under.family, under.getpeername(), under.getsockname()) == (0, (), ())


@pytest.fixture
async def sockets() -> AsyncIterator[tuple[SocketPipe, trio.SocketStream]]:
    ours, theirs = (trio.SocketStream(each) for each in trio.socket.socketpair())
    async with ours, theirs:
        pipe = pipe_over(ours)
        assert isinstance(pipe, SocketPipe)
        assert socket_of(ours) is ours.socket
        yield pipe, theirs


async def test_a_socket_takes_what_it_can_and_the_rest_later(sockets: tuple[SocketPipe, trio.SocketStream]) -> None:
    pipe, theirs = sockets
    progress = Progress()
    assert pipe.sent == 0
    await pipe.send(b"whole", progress)
    assert (pipe.sent, progress.count) == (5, 0), "it was taken at once"
    assert await theirs.receive_some() == b"whole"
    await pipe.send(b"abcdef", progress, 4)
    assert (pipe.sent, progress.count, await theirs.receive_some()) == (6, 1, b"ef")
    data = bytes(range(256)) * 8192
    found = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipe.send, data, progress)
        await wait_all_tasks_blocked()
        assert 0 < pipe.sent < len(data)
        while len(found) < len(data):
            found += await theirs.receive_some()
    assert found == data
    assert pipe.sent == len(data)
    assert progress.count > 1


async def test_a_socket_that_takes_nothing_after_all_is_asked_again(
    sockets: tuple[SocketPipe, trio.SocketStream],
) -> None:
    """TLS may have to send something of its own first."""
    pipe, theirs = sockets
    taken: list[int] = [0, 0, 2, 0, 4]
    progress = Progress()

    def write_now(data: bytes | memoryview) -> int:
        if not (size := taken.pop(0)):
            raise BlockingIOError
        assert size <= len(data)
        return size

    def read_now(most: int) -> bytes:
        if taken:
            taken.pop()
            raise BlockingIOError
        return b"x" * most

    pipe.write_now, pipe.read_now = write_now, read_now
    await pipe.send(b"abcdef", progress)
    assert (pipe.sent, progress.count, taken) == (6, 2, [])
    taken = [0, 0]
    await theirs.send_all(b"x")
    assert await pipe.receive(3) == b"xxx"
    assert taken == []


@pytest.mark.parametrize("sent", [0, 3])
async def test_a_socket_that_breaks(sockets: tuple[SocketPipe, trio.SocketStream], sent: int) -> None:
    pipe, theirs = sockets
    assert not pipe.gone()
    assert not pipe.left()
    assert pipe.refused() is False
    theirs.socket.close()
    assert pipe.left()
    with pytest.raises(ConnectionLost) as caught:
        await pipe.send(b"abcdef", Progress(), sent)
    assert isinstance(caught.value.__cause__, OSError)
    assert pipe.sent == sent
    assert await pipe.receive() == b""


async def test_a_socket_is_waited_for(sockets: tuple[SocketPipe, trio.SocketStream]) -> None:
    pipe, theirs = sockets
    found: list[bytes] = []

    async def receive() -> None:
        found.append(await pipe.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        assert not found
        await theirs.send_all(b"abc")
    assert found == [b"abc"]


@pytest.mark.parametrize("error", [OSError(errno.ECONNRESET, "reset"), trio.ClosedResourceError()], ids=repr)
async def test_a_read_that_fails(sockets: tuple[SocketPipe, trio.SocketStream], error: Exception) -> None:
    pipe, theirs = sockets
    await theirs.send_all(b"x")
    errors = [error]

    def read_now(most: int) -> bytes:
        if errors:
            raise errors.pop()
        return b""

    pipe.read_now = read_now
    with pytest.raises(ConnectionLost) as caught:
        await pipe.receive()
    assert caught.value.__cause__ is error


async def test_a_response_that_the_socket_does_not_take_now_is_sent_later(monkeypatch: pytest.MonkeyPatch) -> None:
    writes = BrokenWrites(errno.EAGAIN)
    async with running(True) as web, web.client() as client:
        with monkeypatch.context() as patch:
            patch.setattr("qrusty_trio.http.pipe.os", writes)
            async with web.client() as late:
                for _ in range(2):
                    writes.failed = False
                    response = await late.ask("GET", "/health")
                    assert (response.status, response.json()["status"], writes.failed) == (200, "ok", True)
        assert (await client.ask("GET", "/health")).status == 200


class Told:
    """A pipe that says `answers` when it is asked whether the peer refused the last bytes."""

    def __init__(self, *answers: bool | None) -> None:
        self.answers = list(answers)
        self.asked = 0

    def refused(self) -> bool | None:
        self.asked += 1
        return self.answers.pop(0) if self.answers else None


class Engine:
    def __init__(self) -> None:
        self.given_back: list[Reply] = []

    def give_back(self, reply: Reply) -> None:
        self.given_back.append(reply)


# Verifies: DLV-0019
@pytest.mark.parametrize(
    ("answers", "given_back", "seconds"),
    [
        ([True], True, 0),
        ([False], False, 0),
        ([None, True], True, 0.001),
        ([None, None, None, True], True, 0.007),
        ([None, None, False], False, 0.003),
        ([], False, 1.023),
    ],
)
async def test_what_was_refused_goes_back(
    autojump_clock: MockClock, answers: list[bool | None], given_back: bool, seconds: float
) -> None:
    """It is asked at ever longer intervals, up to a limit."""
    pipe: Any = Told(*answers)
    engine: Any = Engine()
    replies = [Reply(200), Reply(201)]
    begun = trio.current_time()
    await give_back_refused(pipe, engine, replies)
    assert engine.given_back == (replies if given_back else [])
    assert trio.current_time() - begun == pytest.approx(seconds)
    assert seconds < 2 * REFUSAL_SECONDS


@pytest.mark.parametrize(
    ("family", "number", "refused"),
    [
        (socket.AF_INET, errno.EPIPE, True),
        (socket.AF_INET, errno.ECONNRESET, False),
        (socket.AF_UNIX, errno.EPIPE, True),
        (socket.AF_UNIX, errno.ECONNRESET, True),
        (socket.AF_UNIX, errno.ETIMEDOUT, False),
    ],
)
async def test_which_errors_of_a_socket_are_refusals(
    family: socket.AddressFamily, number: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    with sock:
        pipe = pipe_over(trio.SocketStream(sock))
        monkeypatch.setattr(type(sock), "getsockopt", lambda *_: number, raising=False)
        assert pipe.refused() is refused
