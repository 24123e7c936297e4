"""The smoke test as a command: short runs, bad input, and whatever happens, nothing left running."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent

import pytest
import trio

from tests.server.running import ROOT, child_server, client_of

COMMAND = [sys.executable, str(ROOT / "smoke" / "smoke_test.py")]
RUN_SECONDS = 240.0
LOAD = "3.0 s"
"""What it prints at the first look, under load."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Run:
    """A smoke test in a process of its own."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.out = ""
        self.err = ""
        self.ended = trio.Event()

    async def read(self, stream: trio.abc.ReceiveStream, name: str) -> None:
        async for data in stream:
            setattr(self, name, getattr(self, name) + data.decode())

    async def run(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.read, self.process.stdout, "out")
            nursery.start_soon(self.read, self.process.stderr, "err")
        await self.process.wait()
        self.ended.set()

    async def printed(self, text: str) -> None:
        while text not in self.out:
            assert not self.ended.is_set(), self.err
            await trio.sleep(0.02)

    async def status(self) -> int:
        with trio.fail_after(RUN_SECONDS):
            await self.ended.wait()
        assert self.process.returncode is not None
        return self.process.returncode

    def server(self) -> int:
        """The process id of its server. It is the child of some thread."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        (child,) = " ".join(task.read_text() for task in tasks).split()
        return int(child)


@asynccontextmanager
async def smoke_test(tmp_path: Path, *arguments: str) -> AsyncIterator[Run]:
    """Start one. Its temporary files are under `tmp_path`."""
    process = await trio.lowlevel.open_process(
        [*COMMAND, *arguments],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    run = Run(process)
    async with process.stdout, process.stderr, trio.open_nursery() as nursery:
        nursery.start_soon(run.run)
        try:
            yield run
        finally:
            if process.returncode is None:
                process.terminate()
                with trio.CancelScope(shield=True, deadline=trio.current_time() + RUN_SECONDS):
                    await process.wait()


def entries(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")


async def outcome(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and stderr of a smoke test that fails before the load."""
    async with smoke_test(tmp_path, *arguments) as run:
        return await run.status(), run.err


def lines_of(failure: str) -> dict[str, str]:
    """The four lines of a failure: label -> text. Each has one line, but `seen` may quote the log below it."""
    head, expected, seen, *quoted, log = failure.splitlines()
    assert head.startswith("FAILED: ")
    assert all(line.startswith(" " * 12 + "| ") for line in quoted)
    return {
        "what": head.removeprefix("FAILED: "),
        "expected": expected.removeprefix("  expected: "),
        "seen": seen.removeprefix("  seen:     "),
        "log": log.removeprefix("  the server's log: "),
    }


@pytest.mark.parametrize("storage", ["rocksdb", "memory"])
async def test_a_short_run(tmp_path: Path, storage: str) -> None:
    port = free_port()
    async with smoke_test(tmp_path, "--duration", "5", "--port", str(port), "--storage", storage) as run:
        await run.printed(LOAD)
        assert await run.status() == 0, run.err
    passed = run.out.splitlines()[-1]
    assert re.fullmatch(r"PASSED: [\d,]+ messages in 3 queues, [\d,]+ of them nacked once; .* exited with 0", passed)
    assert run.err == ""
    assert entries(tmp_path) == []


async def test_a_server_that_runs_already(tmp_path: Path) -> None:
    async with child_server(tmp_path / "data") as server, client_of(server) as client:
        async with smoke_test(tmp_path, "--duration", "5", "--url", server.url) as run:
            assert await run.status() == 0, run.err
        assert run.out.rstrip().endswith("it was not stopped, as it ran before")
        assert (await client.request("GET", "/queues")).json() == [], "its queues are gone"
        assert await server.stop() == 0


async def test_a_message_that_nobody_published(tmp_path: Path) -> None:
    """Some stranger publishes to a queue of the test: to the ledger, the server has made up a message."""
    async with child_server(tmp_path / "data") as server, client_of(server) as client:
        async with smoke_test(tmp_path, "--duration", "600", "--url", server.url) as run:
            await run.printed(LOAD)
            name = (await client.request("GET", "/queues")).json()[0]
            body = json.dumps({"queue": name, "priority": 2**64 - 1, "payload": "from a stranger"})
            assert (await client.request("POST", "/publish", body.encode())).status == 200
            assert await run.status() == 1
        told = lines_of(run.err)
        assert told["what"] == f"what {name} delivers"
        assert "'from a stranger'" in told["seen"]
        assert told["log"] == "wherever that server writes it"
        assert (await client.request("GET", "/queues")).json() == [], "its queues are gone"


async def test_a_server_that_dies_half_way(tmp_path: Path) -> None:
    port = free_port()
    async with smoke_test(tmp_path, "--duration", "600", "--port", str(port)) as run:
        await run.printed(LOAD)
        os.kill(run.server(), signal.SIGKILL)
        assert await run.status() == 4
    told = lines_of(run.err)
    assert told["seen"] == "it was ended by SIGKILL"
    (log,) = entries(tmp_path)  # its data are gone
    assert told["log"] == str(log)
    assert "ready after" in text_of(log)


async def test_a_server_that_runs_already_dies_half_way(tmp_path: Path) -> None:
    async with (
        child_server(tmp_path / "data") as server,
        smoke_test(tmp_path, "--duration", "600", "--url", server.url) as run,
    ):
        await run.printed(LOAD)
        await server.kill()
        assert await run.status() == 4
    assert lines_of(run.err)["seen"].startswith("one was broken off: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    async with smoke_test(tmp_path, "--duration", "600", "--port", str(port)) as run:
        await run.printed(LOAD)
        server = run.server()
        run.process.send_signal(number)
        assert await run.status() == 130
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
    assert "Traceback" not in run.err


async def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        status, err = await outcome(tmp_path, "--port", str(port))
    assert status == 3
    assert lines_of(err) == {
        "what": "the port",
        "expected": f"port {port} to be free",
        "seen": "it is in use; --port takes another",
        "log": "nowhere, as it was not started",
    }


SOMETHING_ELSE = dedent(
    f"""
    #!{sys.executable}
    import http.server, os
    host, port = os.environ["BIND_ADDR"].split(":")
    http.server.ThreadingHTTPServer((host, int(port)), http.server.BaseHTTPRequestHandler).serve_forever()
    """
).lstrip()


@pytest.mark.parametrize(
    ("binary", "mode", "seen"),
    [
        (None, 0, "No such file or directory"),
        ("", 0o644, "Permission denied"),
        ("\x7fELF nothing that runs", 0o755, "Exec format error"),
        ("#!/bin/sh\necho not a server >&2; exit 7\n", 0o755, "it exited with 7"),
        (SOMETHING_ELSE, 0o755, "something else answers there"),
    ],
)
async def test_a_wrong_binary(tmp_path: Path, binary: str | None, mode: int, seen: str) -> None:
    path = tmp_path / "qrusty-trio"
    if binary is not None:
        path.write_text(binary)
        path.chmod(mode)
    status, err = await outcome(tmp_path, "--binary", str(path), "--port", str(free_port()))
    assert status == 3
    assert seen in lines_of(err)["seen"], err


async def test_nobody_at_the_url(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    status, err = await outcome(tmp_path, "--url", url)
    assert status == 3
    assert lines_of(err)["expected"] == f"a server at {url}"
    assert lines_of(err)["seen"].startswith("nobody listens there")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--duration", "4"], "it takes 5 to 600 seconds, not '4'"),
        (["--duration", "nan"], "it takes 5 to 600 seconds, not 'nan'"),
        (["--port", "0"], "it takes 1 to 65535, not '0'"),
        (["--url", "127.0.0.1:6784"], "it takes http://host:port, not '127.0.0.1:6784'"),
        (["--url", "http://127.0.0.1:1", "--port", "2"], "--port and --storage have no meaning"),
        (["--url", "http://127.0.0.1:1", "--binary", "x"], "not allowed with argument --url"),
        (["--storage", "paper"], "invalid choice: 'paper'"),
    ],
)
async def test_arguments_that_are_not_allowed(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    status, err = await outcome(tmp_path, *arguments)
    assert status == 2
    assert sentence in err.splitlines()[-1]
