"""A real browser on the real server, and what fails every test: a console error, a broken rule of the page's policy.

Rule: each test has a page of its own, without cookies or storage of another, and a server without queues.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.serving import PAGES, Served, close_pages, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Without it the tests can't even be imported. test_needs.py says so.
collect_ignore = (
    []
    if importlib.util.find_spec("playwright")
    else [path.name for path in Path(__file__).parent.glob("test_*.py") if path.name != "test_needs.py"]
)
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
WAIT_MS = 30_000
"""How long a page may take for what is expected of it: the machine may be busy."""
WATCH_POLICY = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""


def missing() -> str:
    """What the browser tests lack here; empty if nothing."""
    if importlib.util.find_spec("playwright") is None:
        return "Playwright is not installed: `make test-browser` installs it and runs these"
    if CHROMIUM is None:
        return "there is no Chromium: `apt-get install chromium`, or CHROMIUM=/path/to/it"
    return ""


class Faults:
    """What a page complained of. `allowed` are parts of complaints that a test expects."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.allowed: list[str] = []

    def note(self, complaint: str) -> None:
        self.found.append(complaint)

    def unexpected(self) -> list[str]:
        return [each for each in self.found if not any(part in each for part in self.allowed)]


BROWSER: list[Browser] = []
"""The one that is open."""
OPEN = ExitStack()


@pytest.fixture
def browser() -> Browser:
    """One for all tests of this directory."""
    if missing():
        pytest.skip(missing())
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=WAIT_MS)

    if not BROWSER:
        playwright = OPEN.enter_context(sync_playwright())
        # Root may not use the sandbox, and a container's /dev/shm is small.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        BROWSER.append(playwright.chromium.launch(executable_path=CHROMIUM, args=arguments))
        OPEN.callback(BROWSER[0].close)
    return BROWSER[0]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Close it after the last of them: as long as it is open, this thread has an asyncio loop and can have no other."""
    if nextitem is None or folder() not in nextitem.path.parents:
        BROWSER.clear()
        OPEN.close()


@pytest.fixture(scope="session")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests that don't harm it."""
    if missing():
        pytest.skip(missing())
    with served(tmp_path_factory.mktemp("browser") / "data") as server:
        yield server


@pytest.fixture
def server(process: Served) -> Served:
    process.ask("POST", "/delete-all")
    for kept in process.ask("GET", "/trash")["trash"]:
        process.ask("POST", f"/trash/{kept['id']}/erase")
    return process


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def open_page(browser: Browser, faults: Faults) -> Iterator[Callable[..., Page]]:
    """`open_page(url, hash, **options)`: a page in a context of its own, with these options of Playwright's.

    `path`: where it is, if not at the web UI.
    """

    def open_one(url: str, address: str = "", *, path: str = "/ui/", **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        PAGES.append(context.close)
        context.set_default_timeout(WAIT_MS)
        context.add_init_script(WATCH_POLICY)
        page = context.new_page()
        page.on("console", lambda message: faults.note(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.note(str(error)))
        page.goto(f"{url}{path}{address}")
        page.wait_for_selector("header.top")
        return page

    yield open_one
    close_pages()
    assert faults.unexpected() == []


@pytest.fixture
def page(open_page: Callable[..., Page], server: Served) -> Page:
    """A page on the overview of `server`."""
    return open_page(server.url)


def see(page: Page, address: str) -> None:
    """Go to a screen of the page that is open."""
    page.evaluate("(address) => { location.hash = address; }", address)


def folder() -> Path:
    return Path(__file__).parent
