"""The command: arguments in, an exit status out. `smoke_test.py` says which.

Rule: whatever happens, what was started is stopped, and a failure is told in four lines.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import trio
from rich.console import Console

from qrusty_trio.client import ClientError
from smoke.checks import stopped_in_order, under_load
from smoke.container import started_container
from smoke.failures import BrokenPromise, Died, Failure, Interrupted, NotStarted, leaves
from smoke.ledger import Ledger
from smoke.servers import Running, ServerUnderTest, Started, started, until_ready
from smoke.table import screen

SECONDS = 30.0
LEAST_SECONDS, MOST_SECONDS = 5.0, 600.0
"""Two looks at the rates take five seconds. The ledger of ten minutes takes some hundred MiB."""
PORT = 17784
INTERRUPTED = 130
BROKEN_OFF = (OSError, EOFError, trio.BrokenResourceError, ClientError)
"""What is raised when the server breaks off a connection."""
DIED_SECONDS = 2.0
"""After a connection broke: time to see that the server has ended."""
MOST_TELLING = (Interrupted, NotStarted, Died, BrokenPromise, *BROKEN_OFF)
"""When several things went wrong, the first of these is the reason for the others."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the test and return its exit status."""
    given = _parsed(arguments)
    directory = Path(tempfile.mkdtemp(prefix="qrusty-smoke-"))
    log = directory.with_suffix(".log")
    try:
        trio.run(_run, given, directory, log)
    except Exception as error:
        reason = _reason(error)
        if isinstance(reason, Interrupted):
            log.unlink(missing_ok=True)
            print("interrupted; nothing is left running", file=sys.stderr)
            return INTERRUPTED
        if isinstance(reason, BROKEN_OFF):
            seen = f"one was broken off: {reason or type(reason).__name__}"
            reason = Died("the connections", "open until the test closes them", seen)
        if not isinstance(reason, Failure):
            raise
        print(_told(reason, log, given.url), file=sys.stderr)
        return reason.status
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    log.unlink(missing_ok=True)
    return 0


async def _run(given: argparse.Namespace, directory: Path, log: Path) -> None:
    """Raises Interrupted, a Failure, or what connections raise, alone or in a group."""
    # From the first moment on, and as an exception in a task: so whatever was started is stopped.
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_raise_at_signal, signals)
            await _test(given, directory, log)
            nursery.cancel_scope.cancel()


async def _raise_at_signal(signals: AsyncIterator[int]) -> None:
    async for _ in signals:
        raise Interrupted


async def _test(given: argparse.Namespace, directory: Path, log: Path) -> None:
    console = Console()
    async with _server(given, directory, log) as server:
        queues = await _tested(server, given.duration, console)
        if isinstance(server, Started):
            await stopped_in_order(server)
            stop = "SIGTERM drained it and it exited with 0"
        else:
            stop = "it was not stopped, as it ran before"
    console.print(f"PASSED: {_counted(queues)}; {stop}", highlight=False, soft_wrap=True)


@asynccontextmanager
async def _server(given: argparse.Namespace, directory: Path, log: Path) -> AsyncIterator[ServerUnderTest]:
    if given.url is not None:
        await until_ready(given.url, listens=True)
        yield Running(given.url)
        return
    variables = {"STORAGE_MODE": given.storage}
    if given.image is not None:
        async with started_container(given.image, variables, given.port, directory / "data", log) as container:
            yield container
        return
    command = [given.binary] if given.binary is not None else [sys.executable, "-m", "qrusty_trio"]
    variables["DATA_PATH"] = str(directory / "data")
    async with started(command, variables, given.port, log) as server:
        yield server


async def _tested(server: ServerUnderTest, duration: float, console: Console) -> list[Ledger]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_raise_when_dead, server)
        try:
            with screen(console) as where:
                queues = await under_load(server.url, duration, where)
        except BaseException as error:
            if isinstance(_reason(error), BROKEN_OFF):
                await trio.sleep(DIED_SECONDS)  # why it broke is about to be seen
            raise
        nursery.cancel_scope.cancel()
    return queues


async def _raise_when_dead(server: ServerUnderTest) -> None:
    raise await server.died()


def _reason(error: BaseException) -> BaseException:
    """The exception that explains the others."""
    found = list(leaves(error))
    for kind in MOST_TELLING:
        for leaf in found:
            if isinstance(leaf, kind):
                return leaf
    return error


def _told(reason: Failure, log: Path, url: str | None) -> str:
    where = Running.log if url is not None else str(log) if log.exists() else "nowhere, as it was not started"
    return (
        f"FAILED: {reason.what}\n  expected: {reason.expected}\n  seen:     {reason.seen}\n  the server's log: {where}"
    )


def _counted(queues: Sequence[Ledger]) -> str:
    published = sum(ledger.confirmed for ledger in queues)
    nacked = sum(ledger.nacked for ledger in queues)
    return (
        f"{published:,} messages in {len(queues)} queues, {nacked:,} of them nacked once; nothing lost, nothing with "
        "two consumers at once, all in order"
    )


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="smoke_test.py",
        description="Load the real server over HTTP and WebSocket, and hold every message to what is promised.",
        epilog="Exit status: 0 all held, 1 a promise was broken, 2 an argument is not allowed, 3 the server did not "
        "start, 4 the server died or broke off a connection, 130 interrupted.",
    )
    parser.add_argument("--duration", type=_duration, default=SECONDS, metavar="SECONDS", help="of load; 5 to 600")
    parser.add_argument("--port", type=_port, metavar="PORT", help=f"where to start the server (default: {PORT})")
    parser.add_argument("--storage", choices=["rocksdb", "memory"], help="(default: rocksdb)")
    server = parser.add_mutually_exclusive_group()
    server.add_argument("--url", type=_url, help="a server that runs already, as http://host:port; it is not stopped")
    server.add_argument("--image", help="a container image to start in place of this checkout")
    server.add_argument("--binary", help="an installed qrusty-trio to start in place of this checkout")
    given = parser.parse_args(arguments)
    if given.url is not None and (given.port is not None or given.storage is not None):
        parser.error("argument --url: the server runs already, so --port and --storage have no meaning")
    given.port = given.port or PORT
    given.storage = given.storage or "rocksdb"
    return given


def _duration(text: str) -> float:
    value = float(text)
    if not LEAST_SECONDS <= value <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"it takes {LEAST_SECONDS:.0f} to {MOST_SECONDS:.0f} seconds, not {text!r}")
    return value


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"it takes 1 to 65535, not {text!r}")
    return int(text)


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname or parts.port is None or parts.path not in ("", "/") or parts.query:
        raise argparse.ArgumentTypeError(f"it takes http://host:port, not {text!r}")
    return text.removesuffix("/")
