"""The table of queues, and what is done to a queue from it."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Faults, see
from tests.browser.serving import Served

MANY = 2_000


def names(page: Page) -> list[str]:
    found: list[str] = page.locator("tbody th.name a").all_text_contents()
    return found


def test_create_edit_purge_and_delete(page: Page, server: Served) -> None:
    see(page, "#/queues")
    expect(page.locator(".empty")).to_contain_text("There are no queues yet")
    page.keyboard.press("n")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox", name="Name").fill("jobs")
    dialog.get_by_text("MinFirst").click()
    dialog.get_by_text("Duplicates").click()
    dialog.get_by_label("Dead letters at most").fill("500")
    dialog.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("jobs")
    config = server.ask("GET", "/queue-stats", queue="jobs")["config"]
    assert (config["ordering"], config["allow_duplicates"], config["dead_letter_max"]) == ("MinFirst", False, 500)

    see(page, "#/queues")
    page.get_by_role("button", name="Actions for jobs").click()
    page.get_by_role("menuitem", name="Edit").click()
    dialog.get_by_role("textbox", name="Name").fill("works")
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_role("link", name="works")).to_be_visible()
    assert server.ask("GET", "/queues") == ["works"]

    for number in range(3):
        server.publish("works", f"p{number}")
    expect(page.locator("tbody tr").filter(has_text="works").locator("td").nth(1)).to_have_text("3")
    page.get_by_role("button", name="Actions for works").click()
    page.get_by_role("menuitem", name="Purge").click()
    purge = dialog.get_by_role("button", name="Purge 3 messages")
    expect(purge).to_be_disabled()
    dialog.get_by_label("Type works to confirm").fill("work")
    expect(purge).to_be_disabled()
    dialog.get_by_label("Type works to confirm").fill("works")
    purge.click()
    expect(page.locator(".notice").last).to_contain_text("3 messages purged")
    assert server.ask("GET", "/queue-stats", queue="works")["available"] == 0

    page.get_by_role("button", name="Actions for works").click()
    page.get_by_role("menuitem", name="Delete").click()
    dialog.get_by_label("Type works to confirm").fill("works")
    dialog.get_by_role("button", name="Delete the queue").click()
    expect(page.locator(".empty")).to_contain_text("There are no queues yet")
    assert server.ask("GET", "/queues") == []


def test_a_protected_queue_can_t_be_emptied_or_removed_until_that_is_lifted(page: Page, server: Served) -> None:
    server.create("kept", protected=True)
    try:
        see(page, "#/queues")
        row = page.locator("tbody tr")
        expect(row).to_contain_text("protected")
        page.get_by_role("button", name="Actions for kept").click()
        expect(page.get_by_role("menuitem", name="Purge")).to_be_disabled()
        expect(page.get_by_role("menuitem", name="Delete")).to_be_disabled()
        page.get_by_role("menuitem", name="Edit").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_text("Protected").click()
        dialog.get_by_role("button", name="Save").click()
        expect(row).not_to_contain_text("protected")
        page.get_by_role("button", name="Actions for kept").click()
        expect(page.get_by_role("menuitem", name="Delete")).to_be_enabled()
    finally:
        server.ask("POST", "/update-queue", {"name": "kept", "config": {"protected": False}})


def test_a_refusal_is_told_where_it_happened(page: Page, server: Served, faults: Faults) -> None:
    faults.allowed.append("409")  # the browser logs every refusal
    server.create("jobs")
    see(page, "#/queues")
    page.get_by_role("button", name="New queue").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox", name="Name").fill("jobs")
    dialog.get_by_role("button", name="Create").click()
    expect(dialog.get_by_role("alert")).to_have_text("Queue 'jobs' already exists")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_search_and_sort_are_in_the_address(page: Page, server: Served, open_page: Callable[..., Page]) -> None:
    for number, name in enumerate(("mail.in", "mail.out", "jobs")):
        server.create(name)
        for _ in range(number):
            server.publish(name)
    see(page, "#/queues")
    page.keyboard.press("/")
    page.keyboard.type("MAIL")
    expect(page).to_have_url(re.compile("search=MAIL"))  # The first letter finds the same two.
    expect(page.locator("tbody th.name")).to_have_count(2)
    expect(page.get_by_role("status").filter(has_text="queues match")).to_contain_text("2 queues match")
    page.get_by_role("button", name="Available").click()
    expect(page.locator("thead th").nth(2)).to_have_attribute("aria-sort", "descending")
    expect(page.locator("tbody th.name").first).to_contain_text("mail.out")
    address = page.evaluate("location.hash")
    again = open_page(server.url, address)
    expect(again.locator("tbody th.name")).to_have_count(2)
    expect(again.get_by_label("Search queues")).to_have_value("MAIL")
    assert names(again) == ["mail.out", "mail.in"]


def test_the_search_box_shows_what_the_address_says(page: Page, server: Served) -> None:
    for name in ("mail", "jobs"):
        server.create(name)
    see(page, "#/queues?search=mail")
    box = page.get_by_label("Search queues")
    expect(box).to_have_value("mail")
    see(page, "#/queues?search=jobs")
    expect(box).to_have_value("jobs")
    box.fill("job")
    expect(page).to_have_url(re.compile("search=job$"))
    page.go_back()
    expect(box).to_have_value("mail")
    expect(page.locator("tbody th.name")).to_have_text(["mail"])
    page.go_forward()
    expect(box).to_have_value("job")


def test_thousands_of_queues_need_no_more_rows_than_the_screen(page: Page, server: Served) -> None:
    for number in range(MANY):
        server.create(f"tenant.{number:05}")
    see(page, "#/queues")
    table = page.get_by_role("table")
    expect(table).to_have_attribute("aria-rowcount", f"{MANY + 1}")
    expect(page.locator("tbody th.name").first).to_contain_text("tenant.00000")
    assert len(names(page)) < 80
    box = page.get_by_role("region", name="Table of queues")
    box.evaluate("box => box.scrollTo(0, box.scrollHeight)")
    expect(page.locator("tbody th.name").last).to_contain_text(f"tenant.{MANY - 1:05}")
    assert len(names(page)) < 80
    page.get_by_label("Search queues").fill("1234")
    expect(page.locator("tbody th.name")).to_have_count(1)
    expect(page.locator("tbody th.name")).to_contain_text("tenant.01234")


def test_a_slow_server_is_never_asked_twice_at_once(page: Page, server: Served) -> None:
    see(page, "#/queues")
    expect(page.locator(".empty")).to_be_visible()
    held: list[Route] = []
    page.route("**/queue-list**", lambda route: held.append(route))
    for _ in range(5):
        page.keyboard.press("r")
        page.wait_for_timeout(500)
    assert len(held) == 1
    held[0].continue_()
    page.wait_for_timeout(500)
    assert len(held) == 2
    held[1].continue_()
