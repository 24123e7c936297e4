"""The audit on the page: who did what, page by page, and a server that keeps none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import see
from tests.browser.serving import Served, served


# Verifies: API-0166
def test_who_did_what(open_page: Callable[..., Page], tmp_path: Path) -> None:
    with served(tmp_path / "data", QRUSTY_AUDIT_FILE=str(tmp_path / "audit")) as server:
        page = open_page(server.url, "#/audit")
        expect(page.locator(".empty")).to_contain_text("Nothing was created")
        server.create("<b>hooks</b>")
        row = page.get_by_role("row", name="created")
        expect(row).to_contain_text("<b>hooks</b>")
        expect(row).to_contain_text("127.0.0.1:")
        row.get_by_role("button", name="Details").click()
        expect(page.get_by_role("dialog")).to_contain_text('"operation": "create_queue"')
        page.keyboard.press("Escape")
        for _ in range(50):
            server.ask("POST", "/purge-all")
        expect(page.get_by_role("row", name="purged all queues")).to_have_count(50)
        page.get_by_role("button", name="Next").click()
        expect(page.get_by_role("row", name="created")).to_have_count(1)


# Verifies: API-0166
def test_a_server_that_keeps_none(page: Page, server: Served) -> None:
    page.keyboard.press("g")
    page.keyboard.press("a")
    expect(page.locator(".empty")).to_contain_text("This server keeps no audit")
    see(page, "#/queues")
