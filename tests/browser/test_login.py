"""The login of the web UI, on a server with tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.access.guarded import TokenBook
from tests.browser.conftest import WAIT_MS, Faults
from tests.browser.serving import PAGES, Served

REFUSED = "the server responded with a status of 40"


# Verifies: API-0191
def test_log_in_look_around_and_log_out(
    browser: Browser, faults: Faults, open_page: Callable[..., Page], tmp_path: Path
) -> None:
    book = TokenBook(tmp_path / "tokens.toml")
    token = book.add("ann", "read:*", "publish:*")
    server = Served(tmp_path / "data", QRUSTY_TOKENS_FILE=str(book.path))
    server.start()
    try:
        context = browser.new_context()
        PAGES.append(context.close)
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        page.goto(f"{server.url}/ui/")
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        page.get_by_label("Token").fill("qrt_wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("This token is none of this server's")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator(".verdict")).to_contain_text("There are no queues yet")
        assert page.evaluate("document.cookie") == ""
        page.reload()
        expect(page.locator(".verdict")).to_contain_text("There are no queues yet")
        # A button whose grant is missing says so.
        made = page.evaluate(
            "async () => (await fetch('../create-queue', {method: 'POST', headers: {'Content-Type': "
            "'application/json'}, body: JSON.stringify({name: 'q', config: {ordering: 'Fifo'}})})).status"
        )
        assert made == 403
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    finally:
        server.kill()
    assert [each for each in faults.unexpected() if REFUSED not in each] == []
