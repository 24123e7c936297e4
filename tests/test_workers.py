"""docs/workers.md is carried out: each block of code runs against the real server, and answers what stands below it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.http.ws_server import PATIENCE, Running, running

GUIDE = Path(__file__).parent.parent / "docs" / "workers.md"
ADDRESS = "127.0.0.1:6784"
NAMES = re.findall(r"^## (.+)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)


def blocks(name: str) -> Iterator[str]:
    """The blocks of code of a section, in order."""
    (section,) = re.findall(rf"^## {re.escape(name)}\n(.*?)(?=^## |\Z)", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    for paragraph in re.findall(r"(?:(?:^    .*\n)|(?:^\n(?=    )))+", section, re.MULTILINE):
        yield from split(textwrap.dedent(paragraph).strip("\n"))


def split(text: str) -> Iterator[str]:
    """Commands and responses stand one after the other; a program is one block, whatever empty lines it has."""
    if text.startswith("import "):
        yield text
    else:
        yield from text.split("\n\n")


def programs(name: str) -> list[str]:
    return [block for block in blocks(name) if block.startswith("import ")]


@asynccontextmanager
async def program(text: str, server: Running) -> AsyncIterator[trio.Process]:
    """Run a program of the guide; killed at the end, if it has not ended."""
    code = text.replace(ADDRESS, f"127.0.0.1:{server.port}").replace('"127.0.0.1", 6784', f'"127.0.0.1", {server.port}')
    assert code != text
    command = [sys.executable, "-u", "-c", code]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=GUIDE.parent.parent)
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + PATIENCE):
            process.kill()
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()


async def printed(process: trio.Process, text: str) -> None:
    """Wait until the program has printed this."""
    assert process.stdout is not None
    found = b""
    with trio.fail_after(PATIENCE):
        while text.encode() not in found:
            data = await process.stdout.receive_some()
            assert data, found
            found += data


async def waiting(server: Running) -> None:
    """Wait until a consume waits at the server."""
    with trio.fail_after(PATIENCE):
        while not len(server.engine.waiters):  # noqa: ASYNC110  # the server announces no such thing
            await trio.sleep(0.002)


async def test_ten_lines_are_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits before each message comes, renews the lock of each, and acks it."""
    (text,) = programs("In ten lines of Python")
    assert len(text.splitlines()) == 10
    renewed: list[str] = []
    async with running(True) as server:
        broker = server.engine.broker
        renew = broker.renew

        def seen(name: str, id: str, consumer: str, lock_seconds: int, now: int) -> int:
            renewed.append(id)
            return renew(name, id, consumer, lock_seconds, now)

        monkeypatch.setattr(broker, "renew", seen)
        await server.create()
        async with program(text, server) as process:
            for payload in ("one", "two", "three"):
                await waiting(server)
                id = await server.publish(payload)
                await printed(process, f"work on {payload}")
                await server.settle_down(0, 0, 0)
                assert renewed[-1:] == [id]


async def test_a_worker_with_the_client_library() -> None:
    text, _ = programs("With the client library")
    async with running(True) as server:
        await server.create()
        await server.publish("one")
        async with program(text, server) as process:
            await printed(process, "one")
            await server.settle_down(0, 0, 0)
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(PATIENCE):
                assert await process.wait() == 0


async def test_every_operation_as_a_method() -> None:
    _, text = programs("With the client library")
    async with running(True) as server, program(text, server) as process:
        await printed(process, "hello 7")
        with trio.fail_after(PATIENCE):
            assert await process.wait() == 0
        assert server.counts() == (0, 0, 0)


def pattern(response: str) -> re.Pattern[str]:
    """What matches a response of the guide: `...` stands for anything, and white space for none."""
    return re.compile(re.escape(re.sub(r"\s", "", response)).replace(re.escape("..."), ".*"), re.DOTALL)


class Shell:
    """Types what the guide says. ID stands for the last id that came."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._id = "ID"

    async def run(self, command: str) -> str:
        text = command.replace(ADDRESS, f"127.0.0.1:{self._port}").replace("ID", self._id)
        with trio.fail_after(PATIENCE):
            done = await trio.run_process(["bash", "-c", text], capture_stdout=True, capture_stderr=True)
        response: str = done.stdout.decode()
        for id in re.findall(r'"id":"([0-9a-f-]{36})"', response):
            self._id = id
        return re.sub(r"\s", "", response)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("name", [name for name in NAMES if not programs(name)])
async def test_curl_answers_what_the_guide_says(name: str) -> None:
    async with running(True) as server, trio.open_nursery() as nursery:
        await server.create()
        shell = Shell(server.port)
        commands = 0
        for command, response in pairs(name):
            if "wait_seconds" in command:
                queue = "urgent" if "urgent" in command else "jobs"
                nursery.start_soon(publish_when_waited_for, server, queue)
            found = await shell.run(command)
            commands += 1
            assert pattern(response).fullmatch(found), (command, response, found)
        assert commands


async def publish_when_waited_for(server: Running, queue: str) -> None:
    await waiting(server)
    await server.publish("late", queue)


def pairs(name: str) -> Iterator[tuple[str, str]]:
    """The commands of a section and their responses; `...` if the guide shows none."""
    command = None
    for block in blocks(name):
        if block.startswith(("curl ", "for ")):
            if command is not None:
                yield command, "..."
            command = block
        elif not block.startswith('{"type":'):  # a frame of a WebSocket
            assert command is not None, block
            yield command, block
            command = None
    if command is not None:
        yield command, "..."
