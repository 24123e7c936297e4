"""The walk of somebody who sees the page for the first time, from an empty server to an empty server."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.serving import Served


def test_a_first_walk(page: Page, server: Served) -> None:
    dialog = page.get_by_role("dialog")
    page.get_by_role("link", name="Queues", exact=True).click()
    page.get_by_role("button", name="New queue").click()
    dialog.get_by_role("textbox", name="Name").fill("first")
    dialog.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("first")

    # Publish ten, the last with the highest priority there is.
    page.get_by_role("button", name="Publish").click()
    for number in range(1, 11):
        dialog.get_by_label("Priority").fill(str(number) if number < 10 else str(2**64 - 1))
        dialog.get_by_label("Payload").fill(f'{{"number": {number}}}')
        dialog.get_by_role("button", name="Publish").click()
        expect(page.locator(".notice").last).to_contain_text("Published")
        expect(dialog.get_by_role("button", name="Publish")).to_be_enabled()
    page.keyboard.press("Escape")
    figure = page.locator(".figures div", has_text="Available").locator("dd")
    expect(figure).to_have_text("10")
    # The chart has the ten as its latest value.
    expect(page.locator(".chart canvas")).to_have_count(2)
    expect(page.locator(".chart").first).to_have_attribute("role", "img")

    # Look: nothing is locked by it.
    rows = page.locator("#panel tbody tr")
    expect(rows).to_have_count(10)
    expect(rows.first).to_contain_text(str(2**64 - 1))
    rows.first.get_by_role("button").click()
    expect(dialog).to_contain_text("it is the next")
    expect(dialog.locator("pre")).to_contain_text('"number": 10')
    page.keyboard.press("Escape")
    assert server.ask("GET", "/queue-stats", queue="first")["locked"] == 0

    # Consume one and ack it; consume one and nack it until it is a dead letter.
    page.get_by_role("tab", name="Try out").click()
    page.get_by_role("button", name="Consume one").click()
    expect(page.locator(".held")).to_contain_text("18446744073709551615")
    expect(page.locator(".held pre")).to_contain_text('"number": 10')
    page.get_by_role("button", name="Ack", exact=True).click()
    expect(page.locator(".held")).to_have_count(0)
    for delivery in (1, 2, 3):
        page.get_by_role("button", name="Consume one").click()
        expect(page.locator(".held")).to_contain_text(f"delivery {delivery}")
        page.get_by_label("Reason of a nack").fill("it does not fit")
        page.get_by_role("button", name="Nack", exact=True).click()
        expect(page.locator(".held")).to_have_count(0)

    # It is found, read and put back.
    page.get_by_role("tab", name="Dead letters").click()
    expect(rows).to_have_count(1)
    rows.first.get_by_role("button").click()
    expect(dialog).to_contain_text("nacked by its consumer")
    expect(dialog).to_contain_text("it does not fit")
    dialog.get_by_role("button", name="Requeue").click()
    dialog.get_by_role("button", name="Requeue 1 dead letter").click()
    expect(page.locator(".notice").last).to_contain_text("1 dead letter requeued")
    expect(page.locator("#panel .empty")).to_contain_text("There are no dead letters")
    expect(figure).to_have_text("9")

    page.get_by_role("button", name="Actions for this queue").click()
    page.get_by_role("menuitem", name="Purge").click()
    dialog.get_by_label("Type first to confirm").fill("first")
    dialog.get_by_role("button", name="Purge 9 messages").click()
    expect(figure).to_have_text("0")
    page.get_by_role("button", name="Actions for this queue").click()
    page.get_by_role("menuitem", name="Delete").click()
    dialog.get_by_label("Type first to confirm").fill("first")
    dialog.get_by_role("button", name="Delete the queue").click()
    expect(page.get_by_role("heading", name="There are no queues yet")).to_be_visible()
    assert server.ask("GET", "/queues") == []
