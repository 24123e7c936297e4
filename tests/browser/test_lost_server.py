"""A server that is killed, hangs, or comes back: the page says so within seconds, and recovers by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import Faults
from tests.browser.serving import served

LOST = "The server does not answer"


def test_a_killed_server_is_lost_and_found_again(
    open_page: Callable[..., Page], faults: Faults, tmp_path: Path
) -> None:
    faults.allowed += ["Failed to load resource", "WebSocket connection"]
    with served(tmp_path / "data") as server:
        server.create("kept")
        page = open_page(server.url, "#/queues")
        expect(page.get_by_role("link", name="kept")).to_be_visible()
        server.kill()
        expect(page.get_by_role("alert")).to_contain_text(LOST)
        # What was known stays on the screen, greyed.
        expect(page.get_by_role("link", name="kept")).to_be_visible()
        assert page.evaluate("getComputedStyle(document.querySelector('main')).filter") != "none"
        server.start()
        expect(page.get_by_role("alert")).to_have_count(0)
        server.create("made since")
        expect(page.get_by_role("link", name="made since")).to_be_visible()


def test_a_server_that_hangs_is_lost_too(open_page: Callable[..., Page], faults: Faults, tmp_path: Path) -> None:
    with served(tmp_path / "data") as server:
        page = open_page(server.url)
        expect(page.locator(".verdict")).to_contain_text("All is well")
        server.pause()
        expect(page.get_by_role("alert")).to_contain_text(LOST)
        expect(page.locator(".verdict")).to_contain_text("Lost")
        server.resume()
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(page.locator(".verdict")).to_contain_text("All is well")


def test_the_log_goes_on_after_a_restart(open_page: Callable[..., Page], faults: Faults, tmp_path: Path) -> None:
    faults.allowed += ["Failed to load resource", "WebSocket connection"]
    with served(tmp_path / "data") as server:
        page = open_page(server.url, "#/log")
        expect(page.locator(".record", has_text="listening on")).to_have_count(1)
        server.kill()
        expect(page.get_by_text("not connected, trying again")).to_be_visible()
        server.start()
        expect(page.locator(".record", has_text="listening on")).to_have_count(1)
        expect(page.get_by_text("not connected")).to_have_count(0)
