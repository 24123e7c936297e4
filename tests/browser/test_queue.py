"""One queue: what is next, what is locked, how the priorities are spread, and the whole range of 64 bits."""

from __future__ import annotations

import json

from playwright.sync_api import Page, expect

from tests.browser.conftest import see
from tests.browser.serving import Served

BEYOND_DOUBLES = 2**53 + 1


def test_the_next_messages_in_order_page_by_page(page: Page, server: Served) -> None:
    for number in range(60):
        server.publish("q", f"payload {number}", number)
    see(page, "#/queue?name=q")
    rows = page.locator("#panel tbody tr")
    expect(rows).to_have_count(50)
    expect(rows.first).to_contain_text("payload 59")
    page.get_by_role("button", name="Next", exact=True).click()
    expect(rows).to_have_count(10)
    expect(rows.first).to_contain_text("payload 9")
    page.get_by_role("button", name="Previous").click()
    expect(rows.first).to_contain_text("payload 59")
    assert server.ask("GET", "/queue-stats", queue="q")["locked"] == 0


def test_numbers_are_exact_when_shown_and_when_sent(page: Page, server: Served) -> None:
    server.publish("q", f'{{"id": {BEYOND_DOUBLES}, "twice": 1, "twice": 2}}', BEYOND_DOUBLES)
    see(page, "#/queue?name=q")
    row = page.locator("#panel tbody tr").first
    expect(row).to_contain_text(str(BEYOND_DOUBLES))
    row.get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("pre")).to_have_text(f'{{\n  "id": {BEYOND_DOUBLES},\n  "twice": 1,\n  "twice": 2\n}}')
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    dialog.get_by_label("Priority").fill(str(BEYOND_DOUBLES + 2))
    dialog.get_by_label("Payload").fill("sent")
    dialog.get_by_role("button", name="Publish").click()
    expect(page.locator(".notice").last).to_contain_text("Published")
    dialog.get_by_label("Priority").fill(str(2**64))
    dialog.get_by_role("button", name="Publish").click()
    expect(dialog.get_by_role("alert")).to_contain_text("from 0 to 18,446,744,073,709,551,615")
    page.keyboard.press("Escape")
    taken = server.ask("GET", "/queues/messages", queue="q")["messages"][0]
    assert (taken["payload"], taken["priority"]) == ("sent", BEYOND_DOUBLES + 2)


def test_the_form_knows_the_kind_of_the_queue(page: Page, server: Served) -> None:
    server.create("texts", "MinFirst", priority_kind="Text")
    server.create("line", "Fifo")
    see(page, "#/queue?name=texts")
    page.get_by_role("button", name="Publish").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Priority").fill("a/1")
    dialog.get_by_label("Payload").fill("x")
    dialog.get_by_role("button", name="Publish").click()
    expect(page.locator(".notice").last).to_contain_text("Published")
    page.keyboard.press("Escape")
    expect(page.locator("#panel tbody tr").first).to_contain_text("a/1")
    see(page, "#/queue?name=line")
    expect(page.get_by_role("heading", level=1)).to_have_text("line")
    page.get_by_role("button", name="Publish").click()
    expect(dialog.get_by_label("Payload")).to_be_visible()
    expect(dialog.get_by_label("Priority")).to_have_count(0)


def test_who_holds_what_and_taking_it_back(page: Page, server: Served) -> None:
    for number in range(3):
        server.publish("q", f"p{number}")
        server.ask("POST", "/consume", {"consumer_id": f"worker {number}", "timeout_seconds": 600}, queue="q")
    see(page, "#/queue?name=q&tab=locked")
    rows = page.locator("#panel tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.filter(has_text="worker 1")).to_contain_text("in 9 min")
    rows.filter(has_text="worker 1").get_by_role("button", name="Release").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("may still be at work")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    dialog.get_by_role("button", name="Release 1 message").click()
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Release all").click()
    dialog.get_by_role("button", name="Release 2 messages").click()
    expect(page.locator("#panel .empty")).to_contain_text("No message is locked")
    assert server.ask("GET", "/queue-stats", queue="q")["available"] == 3


def test_how_the_priorities_are_spread(page: Page, server: Served) -> None:
    for priority in (1, 5, 5, 5):
        server.publish("q", "p", priority)
    see(page, "#/queue?name=q&tab=priorities")
    rows = page.locator("#panel tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.filter(has=page.get_by_role("rowheader", name="5"))).to_contain_text("3")


def test_what_was_copied_runs_in_a_shell(page: Page, server: Served) -> None:
    name = 'it\'s "a" $(queue) `x`'
    server.create(name)
    server.publish(name, "kept")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    see(page, "#/queues")
    page.get_by_role("link", name=name).click()
    page.get_by_role("button", name="Actions for this queue").click()
    page.get_by_role("menuitem", name="Purge").click()
    page.get_by_role("dialog").get_by_role("button", name="curl").click()
    expect(page.get_by_role("dialog").get_by_role("button", name="Copied")).to_be_visible()
    command = page.evaluate("navigator.clipboard.readText()")
    told = json.loads(server.in_shell(command))
    assert (told["queue"], told["purged_messages"]) == (name, 1)
