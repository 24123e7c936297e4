"""What systemd is told, over a real datagram socket: by the module alone, and by a whole server."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from qrusty_trio.server.notify import Notifier
from tests.server.running import child_environment, child_process, child_server

WATCHDOG = b"WATCHDOG=1"


def listening(address: str | bytes) -> socket.socket:
    """A socket as systemd has one."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(address)
    receiver.settimeout(60)
    return receiver


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[socket.socket]:
    with closing(listening(str(tmp_path / "notify"))) as ours:
        yield ours


def variables(tmp_path: Path, **others: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(tmp_path / "notify"), **others}


async def received(receiver: socket.socket) -> bytes:
    return await trio.to_thread.run_sync(receiver.recv, 4096)


async def test_tell(receiver: socket.socket, tmp_path: Path) -> None:
    await Notifier.from_environment(variables(tmp_path)).tell("READY=1")
    assert await received(receiver) == b"READY=1"


async def test_an_abstract_name() -> None:
    name = f"qrusty-test-{os.getpid()}"
    with closing(listening(b"\0" + name.encode())) as receiver:
        await Notifier.from_environment({"NOTIFY_SOCKET": f"@{name}"}).tell("READY=1")
        assert await received(receiver) == b"READY=1"


async def test_nobody_to_be_told(caplog: pytest.LogCaptureFixture) -> None:
    await Notifier.from_environment({"WATCHDOG_USEC": "1000000"}).tell("READY=1")
    assert caplog.text == ""


async def test_nobody_listens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier.from_environment(variables(tmp_path))
    await notifier.tell("READY=1")
    await notifier.tell("STOPPING=1")
    (record,) = caplog.records
    assert record.getMessage().startswith("systemd could not be told READY=1: ")


async def test_a_socket_without_room(
    receiver: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """The message is given up after a second. The kernel holds a few."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as filler:
        filler.setblocking(False)
        filler.connect(str(tmp_path / "notify"))
        with pytest.raises(BlockingIOError):
            while True:
                filler.send(b"x")
        before = trio.current_time()
        await Notifier.from_environment(variables(tmp_path)).tell("READY=1")
        assert trio.current_time() == before + 1.0
    assert "systemd could not be told READY=1: its socket has no room" in caplog.text


@pytest.mark.parametrize("address", ["relative", "vsock:1:2", "@", "/"])
def test_an_address_that_makes_no_sense(address: str, caplog: pytest.LogCaptureFixture) -> None:
    Notifier.from_environment({"NOTIFY_SOCKET": address})
    assert "is neither a path nor an abstract name" in caplog.text


@pytest.mark.parametrize("allowed", ["0", "-1", "soon", "1.5", "\u0661"])
def test_a_watchdog_that_makes_no_sense(allowed: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notifier.from_environment(variables(tmp_path, WATCHDOG_USEC=allowed))
    assert "is no number of microseconds" in caplog.text


async def fed(receiver: socket.socket, notifier: Notifier, seconds: float) -> int:
    """How often the watchdog is fed in that time of Trio's clock."""
    receiver.setblocking(False)
    with trio.move_on_after(seconds):
        await notifier.run(trio.Event())
    count = 0
    while True:
        try:
            assert receiver.recv(4096) == WATCHDOG
        except BlockingIOError:
            return count
        count += 1


@pytest.mark.parametrize(
    ("pid", "times"), [("", 6), ("42", 6), ("43", 0)], ids=["for anybody", "for us", "for another process"]
)
async def test_the_watchdog_is_fed_three_times_in_its_span(
    receiver: socket.socket, tmp_path: Path, autojump_clock: trio.testing.MockClock, pid: str, times: int
) -> None:
    environment = variables(tmp_path, WATCHDOG_USEC="3000000", WATCHDOG_PID=pid)
    assert await fed(receiver, Notifier.from_environment(environment, pid=42), 5.5) == times


async def test_a_server_tells_when_it_is_ready_and_when_it_stops(receiver: socket.socket, tmp_path: Path) -> None:
    async with child_server(tmp_path / "data", **variables(tmp_path, WATCHDOG_USEC="300000")) as server:
        told = [await received(receiver)]
        while b"READY=1" not in told:
            told.append(await received(receiver))
        for _ in range(3):
            assert await received(receiver) == WATCHDOG
        server.process.terminate()
        while (last := await received(receiver)) == WATCHDOG:
            pass
        assert last == b"STOPPING=1"
        assert await server.ended() == 0
    assert set(told) <= {WATCHDOG, b"READY=1"}


async def test_a_server_that_refuses_to_start_is_never_ready(receiver: socket.socket, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    async with child_process(child_environment(tmp_path / "data", **variables(tmp_path))) as server:
        assert await server.ended() == 78
    receiver.setblocking(False)
    with pytest.raises(BlockingIOError):
        receiver.recv(4096)
