"""Finding a message by its id: one box over all queues and states, which tells how far it came, stops, and goes on."""

from __future__ import annotations

from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Faults, see
from tests.browser.serving import Served

UNKNOWN = "00000000-0000-4000-8000-000000000000"


# Verifies: DLV-0061
def test_a_message_is_found_in_any_state(page: Page, server: Served, faults: Faults) -> None:
    dead = server.bury("a/b ü", error="no such address")
    locked = server.publish("mail", "held", 5)
    server.ask("POST", "/consume", {"consumer_id": "worker-7"}, queue="mail")
    waiting = [server.publish("mail", f'{{"number": {number}}}') for number in range(3)]
    see(page, "#/find")
    box = page.get_by_label("Id of a message")
    page.keyboard.press("/")
    expect(box).to_be_focused()
    for message_id, queue, texts, tab in (
        (waiting[2], "mail", ("available", "2 messages before it", '"number": 2'), "next"),
        (locked, "mail", ("locked", "worker-7", "held"), "locked"),
        (dead, "a/b ü", ("dead", "no such address"), "dead"),
    ):
        box.fill(f" {message_id} ")
        box.press("Enter")
        found = page.get_by_label("The message", exact=True)
        expect(found).to_contain_text(message_id)
        for text in texts:
            expect(found).to_contain_text(text)
        assert f"id={message_id}" in page.url
        page.reload()
        expect(found).to_contain_text(message_id)
        found.get_by_role("link", name=queue).click()
        expect(page.locator(f"#tab-{tab}")).to_have_attribute("aria-selected", "true")
        page.go_back()
    box.fill(UNKNOWN)
    page.get_by_role("button", name="Find", exact=True).click()
    faults.allowed.append("404")
    expect(page.locator("main")).to_contain_text(f"There is no message '{UNKNOWN}' in any queue")
    assert server.ask("GET", "/queue-stats", queue="mail")["available"] == 3


def test_the_search_for_a_queue_leads_there(page: Page, server: Served) -> None:
    message_id = server.publish("mail", "p")
    see(page, f"#/queues?search={message_id}")
    page.get_by_role("link", name="Find the message with this id").click()
    expect(page.get_by_label("The message", exact=True)).to_contain_text("mail")


# Verifies: DLV-0061
def test_a_long_search_stops_and_goes_on(page: Page, server: Served) -> None:
    for _ in range(5):
        body = {"queue": "deep", "messages": [{"priority": 1, "payload": "p"}] * 5_000}
        ids = server.ask("POST", "/publish-batch", body)["ids"]
    held: list[Route] = []
    page.route("**/find?*cursor=*", lambda route: held.append(route))
    see(page, f"#/find?id={ids[-1]}")
    expect(page.locator("main [role=status]")).to_contain_text("of 25,000 messages looked at …")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("main [role=status]")).to_contain_text("it was not among them")
    assert len(held) == 1
    page.unroute("**/find?*cursor=*")
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_label("The message", exact=True)).to_contain_text("24,999 messages before it")


def test_what_is_no_id(page: Page, faults: Faults) -> None:
    faults.allowed.append("400")
    see(page, "#/find")
    page.get_by_label("Id of a message").fill("mail")
    page.get_by_role("button", name="Find", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("36 characters")
