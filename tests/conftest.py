"""What tests all over the tree share: the real server, on every storage and on every path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from trio.testing import MockClock

from qrusty_trio.config import Settings, StorageMode
from qrusty_trio.http.bulkheads import Bulkheads
from qrusty_trio.http.context import HttpContext
from qrusty_trio.http.seldom import Seldom
from qrusty_trio.server.supervisor import Server
from tests.patient_clock import patient_clock
from tests.server.collector import freeze_what_is_there
from tests.server.running import running, settings_for, until_ready
from tests.side_by_side import SideBySide, encodable
from tests.wire.http_client import HttpClient, open_client

hypothesis_settings.register_profile(
    "project",
    # How long an example takes says how busy the machine is, not whether the code is right.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # Without `explain`: it runs a failing test ten to twenty times longer, for a comment.
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink],
)
hypothesis_settings.load_profile("project")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fail-on-skip", action="store_true", help="fail when a test was skipped")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    if config.getoption("--fail-on-skip") and terminalreporter.getreports("skipped"):
        terminalreporter.write_line("tests were skipped, and --fail-on-skip was given", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not session.config.getoption("--fail-on-skip"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.getreports("skipped") and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SideBySide:
    return SideBySide(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: the name has an address, which differs in each process")


def pytest_collection_finish() -> None:
    freeze_what_is_there()


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Reports go between processes as UTF-8. What some tests log has half a surrogate pair in it."""
    return encodable((yield))


@pytest.fixture(autouse=True)
def no_connection_fails(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server contains what goes wrong in a connection and goes on, so a test may not notice. Let it fail then.

    The marker `contained` is for those that make a connection fail.
    """
    failures: list[BaseException] = []
    note, log = Bulkheads.note, Seldom.log

    def noted(self: Bulkheads, what: str, failure: Exception) -> None:
        failures.append(failure)
        note(self, what, failure)

    def logged(self: Seldom, line: str, failure: BaseException | None = None) -> None:
        if failure is not None:
            failures.append(failure)
        log(self, line, failure)

    monkeypatch.setattr(Bulkheads, "note", noted)
    monkeypatch.setattr(Seldom, "log", logged)
    yield
    if failures and request.node.get_closest_marker("contained") is None:
        raise BaseExceptionGroup("connections that failed", failures)


@pytest.fixture(autouse=True)
def all_is_given_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What connections hold is counted. At the end of a test nobody holds anything, whatever became of its servers."""
    # A server itself is not kept: its store could not be opened again in the same test.
    counts: list[Callable[[], dict[str, object]]] = []
    make = HttpContext.__init__

    def made(context: HttpContext, *args: Any, **kwargs: Any) -> None:
        make(context, *args, **kwargs)
        received, unsent, connections = context.received, context.unsent, context.connections
        frames, sockets = context.websocket.budget, context.websocket.connections
        counts.append(
            lambda: {
                "received": received.held,
                "unsent": unsent.held,
                "connections": connections.value,
                "frames": frames.held,
                "decoded": frames.decoded,
                "sockets": len(sockets),
            }
        )

    monkeypatch.setattr(HttpContext, "__init__", made)
    yield
    for count in counts:
        assert not any(count().values()), count()


@pytest.fixture
def autojump_clock() -> MockClock:
    """In place of that of pytest-trio."""
    return patient_clock()


@pytest.fixture(params=["rocksdb", "memory"])
def storage_mode(request: pytest.FixtureRequest) -> StorageMode:
    """Every storage."""
    return StorageMode(request.param)


@pytest.fixture(params=[True, False], ids=["fast", "quart"])
def fast_path(request: pytest.FixtureRequest) -> bool:
    """Both paths."""
    return bool(request.param)


@pytest.fixture
def settings(tmp_path: Path, storage_mode: StorageMode, fast_path: bool) -> Settings:
    """Settings of a server with everything else as it is by default."""
    return settings_for(tmp_path / "data", storage_mode=storage_mode, fast_path=fast_path)


@pytest.fixture
async def server(settings: Settings) -> AsyncIterator[Server]:
    """The real server in this process, its gate open, on every storage and on both paths."""
    async with running(settings) as server:
        await until_ready(server)
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[HttpClient]:
    """An HTTP client of `server`."""
    async with open_client(f"http://127.0.0.1:{server.port}") as client:
        yield client
