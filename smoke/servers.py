"""The server under test: started here, started as a container, or running already.

Rule: what is started here has ended when the `async with` has, whatever happens inside. Its log is a file that outlives
it.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

import trio

from smoke.failures import Died, NotStarted
from tests.wire.http_client import open_client

START_SECONDS = 60.0
"""A server that is not ready by then never will be."""
STOP_SECONDS = 90.0
"""How long a server may take to stop, as docs/operating.md says."""
LOOK_SECONDS = 0.1
LOG_LINES = 5
"""Last lines of the log that a failure shows."""
OWN_VARIABLES = ("QRUSTY_", "ROCKSDB_", "WS_", "DATA_PATH", "BIND_ADDR", "STORAGE_MODE", "MAX_CONNECTIONS", "WEBUI_DIR")


class ServerUnderTest(Protocol):
    """What the test needs to know of a server."""

    url: str
    log: str
    """Where its log lies, for a person."""

    async def died(self) -> Died:
        """Returns when the server has ended although nobody told it to."""
        ...


class Running:
    """A server that runs already. It is never stopped, and nobody here sees it end."""

    log = "wherever that server writes it"

    def __init__(self, url: str) -> None:
        self.url = url

    async def died(self) -> Died:
        await trio.sleep_forever()


class Started:
    """A server that was started here, as a child process."""

    def __init__(self, process: trio.Process, url: str, log: Path) -> None:
        self.url = url
        self.log = str(log)
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    async def died(self) -> Died:
        status = await self._process.wait()
        return Died(
            "the server goes on", "a server that serves until SIGTERM", f"it {ended(status)}{self.last_words()}"
        )

    async def stop(self) -> int:
        """Send SIGTERM and wait for the end. Returns the exit status. Raises trio.TooSlowError."""
        with trio.fail_after(STOP_SECONDS):
            self._process.send_signal(signal.SIGTERM)
            status: int = await self._process.wait()
            return status

    def last_words(self) -> str:
        """The end of the log, as further lines of a sentence."""
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "".join(f"\n            | {line}" for line in lines)


def ended(status: int) -> str:
    """How a process ended, in words."""
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"


def check_port(port: int) -> None:
    """Raises NotStarted unless the port is free."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        seen = "it is in use; --port takes another" if error.errno == errno.EADDRINUSE else str(error)
        raise NotStarted("the port", f"port {port} to be free", seen) from None


@asynccontextmanager
async def started(command: Sequence[str], variables: dict[str, str], port: int, log: Path) -> AsyncIterator[Started]:
    """Start a server on the loopback, and wait until it is ready. Raises NotStarted."""
    check_port(port)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OWN_VARIABLES)}
    with log.open("wb") as output:
        try:
            process = await trio.lowlevel.open_process(
                command,
                env={**environment, **variables, "BIND_ADDR": f"127.0.0.1:{port}"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the test, which then stops the server
            )
        except OSError as error:
            raise NotStarted("the binary", "a server that can be started", f"{command[0]}: {error.strerror}") from None
    server = Started(process, f"http://127.0.0.1:{port}", log)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ended_early, server)
            await until_ready(server.url)
            nursery.cancel_scope.cancel()
        yield server
    finally:
        await _end(process)


async def _ended_early(server: Started) -> None:
    died = await server.died()
    raise NotStarted("the binary", "a server that gets ready", died.seen)


async def _end(process: trio.Process) -> None:
    """Kill what is left of it: the process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_SECONDS):
        await process.wait()


async def until_ready(url: str, *, listens: bool = False) -> None:
    """Wait until the gate is open. `listens`: somebody must be there at once.

    Raises NotStarted when nobody is there, something else answers, or it takes too long.
    """
    seen = "nobody answers"
    with trio.move_on_after(START_SECONDS):
        while True:
            try:
                status = await _status(url)
            except OSError as error:
                if listens:
                    raise NotStarted("the server", f"a server at {url}", f"nobody listens there: {error}") from None
            else:
                if status == "ok":
                    return
                if status != "starting":
                    raise NotStarted("the server", f"a server at {url}", "something else answers there")
                seen = "it is still starting"
            await trio.sleep(LOOK_SECONDS)
    raise NotStarted("the server", f"a server at {url} that is ready within {START_SECONDS:.0f} s", seen)


async def _status(url: str) -> str | None:
    """What /health says, None when that is nothing a server says. Raises OSError when nobody listens."""
    async with open_client(url) as client:
        try:
            response = await client.request("GET", "/health")
            return str(response.json()["status"]) if response.status == 200 else None
        except (EOFError, trio.BrokenResourceError, AssertionError, LookupError, TypeError, ValueError):
            return None
