"""The overview: is all well, and what needs attention first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.serving import Served, served


def test_an_empty_server_is_well(page: Page) -> None:
    expect(page.locator(".verdict")).to_contain_text("All is well")
    expect(page.locator(".verdict")).to_contain_text("There are no queues yet")
    facts = page.locator(".facts")
    expect(facts).to_contain_text("RocksDB, on disk")
    expect(facts).to_contain_text("before each answer")
    expect(facts).to_contain_text("of 10,000")


def test_synced_locks_are_named(open_page: Callable[..., Page], tmp_path: Path) -> None:
    with served(tmp_path / "data", QRUSTY_FSYNC_LOCKS="on") as server:
        expect(open_page(server.url, "#/").locator(".facts")).to_contain_text("before each answer and each message")


def test_trouble_is_named_with_a_link_to_it(page: Page, server: Served) -> None:
    server.create("well")
    server.create("hooks")
    server.bury("hooks")
    attention = page.locator(".attention li")
    expect(attention).to_have_count(1)
    expect(attention).to_contain_text("1 dead letter")
    expect(page.locator(".verdict")).to_contain_text("1 queue may need you")
    expect(page.locator(".number-card", has_text="Dead letters").locator("dd").first).to_have_text("1")
    attention.get_by_role("link", name="hooks").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("hooks")


def test_a_server_that_loses_messages_at_a_stop_says_so(open_page: Callable[..., Page], tmp_path: Path) -> None:
    with served(tmp_path / "data", STORAGE_MODE="memory", QRUSTY_FSYNC="never") as server:
        page = open_page(server.url)
        expect(page.locator(".facts")).to_contain_text("in memory: lost at a stop")


def test_the_environment_and_read_only_are_seen_everywhere(open_page: Callable[..., Page], tmp_path: Path) -> None:
    with served(tmp_path / "data") as writable:
        writable.create("q")
    variables = {"QRUSTY_READ_ONLY": "enabled", "QRUSTY_ENVIRONMENT": "production", "QRUSTY_ENVIRONMENT_COLOUR": "red"}
    with served(tmp_path / "data", **variables) as server:
        page = open_page(server.url, "#/queues")
        expect(page.locator(".environment")).to_have_text("production")
        expect(page.locator(".read-only")).to_contain_text("refuses every change")
        assert "production" in page.title()
        expect(page.locator("#icon")).to_have_attribute("href", f"{server.url}/ui/icons/red.svg")
        expect(page.get_by_role("button", name="New queue")).to_be_disabled()
        page.get_by_role("button", name="Actions for q").click()
        expect(page.get_by_role("menuitem", name="Delete")).to_be_disabled()
