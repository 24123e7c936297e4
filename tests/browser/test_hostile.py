"""Names and payloads that want to be markup, paths, or simply too much: they are shown as text, and nothing breaks."""

from __future__ import annotations

import gzip
from base64 import b64encode
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


PAYLOADS = {**NAMES, "empty": "", "blank": " \n", "control": "\x00\x01\u200b", "nested": '{"a":' * 5000}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_a_payload_is_text(page: Page, server: Served, payload: str) -> None:
    server.publish("q", payload)
    see(page, queue_address("q"))
    page.locator("#panel tbody tr").get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Text").click()
    shown = dialog.locator("pre")
    expect(shown).to_be_visible()
    assert shown.text_content() == (payload[:16_384] or "(empty)")
    assert shown.locator("*").count() == 0
    for view in ("Hex", "Base64"):
        dialog.get_by_role("button", name=view).click()
        expect(shown).not_to_have_text("")
    assert "broken" not in page.title()


def test_a_payload_of_two_mebibytes_is_shown_in_part_and_saved_whole(page: Page, server: Served) -> None:
    payload = "".join(f"line {number:07} " for number in range(161_000))
    server.publish("q", payload)
    see(page, queue_address("q"))
    page.locator("#panel tbody tr").get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("The first 16 KiB of 2.0 MiB")
    assert len(dialog.locator("pre").text_content() or "") == 16 * 1024
    dialog.get_by_role("button", name="Show more").click()
    expect(dialog).to_contain_text("The first 64 KiB of 2.0 MiB")
    with page.expect_download() as download:
        dialog.get_by_role("button", name="Download").click()
    assert download.value.path().read_text() == payload


def test_base64_is_decoded_and_unpacked_on_request(page: Page, server: Served) -> None:
    packed = b64encode(gzip.compress(b'{"inside": true}')).decode()
    server.publish("q", packed)
    see(page, queue_address("q"))
    page.locator("#panel tbody tr").get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("pre")).to_have_text(packed)
    dialog.get_by_role("button", name="Base64").click()
    expect(dialog.locator("pre")).to_have_text('{\n  "inside": true\n}')


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
