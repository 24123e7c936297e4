"""Names and payloads that want to be markup, paths, or simply too much: they are shown as text, and nothing breaks."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import see
from tests.browser.serving import Served

SCRIPT = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
NAMES = {
    "html": SCRIPT,
    "path": "a/b/../c?d=e&f#g%2F+h:;",
    "dots": "..",
    "quotes": 'it\'s "quoted" `$HOME` \\n',
    "emoji": "🎉👩‍👩‍👧‍👦 queue",
    "right-to-left": "תור \u202eevil\u202c العربية",
    "long": "ü" * 127 + "x",
}


def queue_address(name: str, **params: str) -> str:
    return "#/queue?" + urlencode({"name": name, **params})


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_name_is_text_and_leads_to_its_queue(page: Page, server: Served, name: str) -> None:
    server.create(name)
    server.publish(name, SCRIPT)
    see(page, "#/queues")
    link = page.locator("tbody th.name a")
    expect(link).to_have_count(1)
    assert link.text_content() == name
    link.click()
    assert page.get_by_role("heading", level=1).text_content() == name
    expect(page.locator(".figures div").first.locator("dd")).to_have_text("1")
    page.get_by_role("button", name="Actions for this queue").click()
    page.get_by_role("menuitem", name="Delete").click()
    dialog = page.get_by_role("dialog")
    dialog.locator("input").fill(name)
    dialog.get_by_role("button", name="Delete the queue").click()
    expect(page.get_by_role("heading", name="There are no queues yet")).to_be_visible()
    assert server.ask("GET", "/queues") == []
    assert "broken" not in page.title()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_search_for_markup_is_text(page: Page, server: Served) -> None:
    server.create("q")
    see(page, "#/queues?" + urlencode({"search": SCRIPT}))
    expect(page.locator(".empty")).to_contain_text(SCRIPT)
    assert "broken" not in page.title()


def test_a_screen_that_does_not_exist(page: Page) -> None:
    see(page, "#/" + SCRIPT)
    expect(page.get_by_role("heading", name="There is no such screen")).to_be_visible()
    see(page, queue_address("no such"))
    expect(page.get_by_role("heading", name="There is no queue no such")).to_be_visible()
