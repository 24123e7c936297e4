"""Many queues at once: checked, counted anew, and purged or deleted one after the other."""

from __future__ import annotations

from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Faults, see
from tests.browser.serving import Served


def test_the_checked_queues_are_purged_and_then_deleted(page: Page, server: Served) -> None:
    for name in ("a.1", "a.2", "b.1", "kept"):
        server.create(name, protected=name == "kept")
        server.publish(name)
    server.bury("a.1")
    try:
        see(page, "#/queues")
        for name in ("a.1", "a.2", "kept"):
            page.get_by_label(f"Check {name}").check()
        # Checked rows stay checked while the list is read again.
        page.keyboard.press("r")
        page.wait_for_timeout(500)
        expect(page.get_by_label("Check a.2")).to_be_checked()
        page.get_by_role("button", name="Purge 3 …").click()
        dialog = page.get_by_role("dialog")
        purge = dialog.get_by_role("button", name="Purge 2 messages of 2 queues")
        expect(purge).to_be_disabled()
        expect(dialog).to_contain_text("kept: it is protected")
        dialog.get_by_label("Type purge 2 queues to confirm").fill("purge 2 queues")
        purge.click()
        expect(page.locator(".notice").last).to_contain_text("2 queues purged")
        rows = {row["name"]: row for row in server.ask("GET", "/queue-list")["queues"]}
        assert {name: rows[name]["available"] for name in rows} == {"a.1": 0, "a.2": 0, "b.1": 1, "kept": 1}

        page.get_by_role("button", name="Uncheck 1").click()
        page.get_by_label("Search queues").fill("a.")
        expect(page.locator("tbody th.name")).to_have_count(2)
        page.get_by_label("Check all queues that match").check()
        page.get_by_role("button", name="Delete 2 …").click()
        expect(dialog).to_contain_text("a.1: 1 message")
        dialog.get_by_label("Type delete 2 queues to confirm").fill("delete 2 queues")
        dialog.get_by_role("button", name="Delete 2 queues and 1 message").click()
        expect(page.locator(".notice").last).to_contain_text("2 queues deleted")
        assert server.ask("GET", "/queues") == ["b.1", "kept"]
    finally:
        server.ask("POST", "/update-queue", {"name": "kept", "config": {"protected": False}})


def test_it_stops_between_two_queues(page: Page, server: Served) -> None:
    for number in range(3):
        server.publish(f"q{number}")
    see(page, "#/queues")
    expect(page.locator("tbody th.name")).to_have_count(3)
    page.get_by_label("Check all queues that match").check()
    page.get_by_role("button", name="Purge 3 …").click()
    held: list[Route] = []
    page.route("**/purge-queue**", lambda route: held.append(route))
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Type purge 3 queues to confirm").fill("purge 3 queues")
    dialog.get_by_role("button", name="Purge 3 messages of 3 queues").click()
    expect(dialog).to_contain_text("1 of 3 queues")
    dialog.get_by_role("button", name="Stop").click()
    held[0].continue_()
    expect(page.locator(".notice").last).to_contain_text("1 queue purged")
    assert server.ask("GET", "/queue-list")["totals"]["available"] == 2


def test_all_that_match_are_purged_and_no_other(page: Page, server: Served) -> None:
    """More than can be checked. A queue that is made after the count stays as it is."""
    for number in range(230):
        server.publish(f"old.{number}")
    server.publish("new")
    server.create("old.kept", protected=True)
    server.publish("old.kept")
    try:
        see(page, "#/queues?search=old.")
        page.get_by_label("Check all queues that match").check()
        expect(page.get_by_role("button", name="Purge 200 …")).to_be_visible()
        page.get_by_role("button", name="Check all 231 that match").click()
        page.get_by_role("button", name="Purge 231 …").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("and 222 more")
        expect(dialog).to_contain_text("old.kept: it is protected")
        server.publish("old.later")
        dialog.get_by_label("Type purge 230 queues to confirm").fill("purge 230 queues")
        dialog.get_by_role("button", name="Purge 230 messages of 230 queues").click()
        expect(page.locator(".notice").last).to_contain_text("230 queues purged")
        left = server.ask("GET", "/queue-list", sort="available", order="desc", limit="4")["queues"]
        assert {row["name"]: row["available"] for row in left[:3]} == {"new": 1, "old.kept": 1, "old.later": 1}
        assert left[3]["available"] == 0
        # Another search is another choice.
        page.get_by_label("Search queues").fill("new")
        expect(page.locator("tbody th.name")).to_have_count(1)
        expect(page.get_by_role("button", name="Purge 231 …")).to_have_count(0)
    finally:
        server.ask("POST", "/update-queue", {"name": "old.kept", "config": {"protected": False}})


def test_it_ends_when_the_server_does_not_answer(page: Page, server: Served, faults: Faults) -> None:
    for number in range(3):
        server.publish(f"q{number}")
    see(page, "#/queues")
    expect(page.locator("tbody th.name")).to_have_count(3)
    page.get_by_label("Check all queues that match").check()
    page.get_by_role("button", name="Purge 3 …").click()
    faults.allowed.append("Failed to load resource")
    asked: list[str] = []

    def lose(route: Route) -> None:
        asked.append(route.request.url)
        route.abort()

    page.route("**/purge-queue**", lose)
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Type purge 3 queues to confirm").fill("purge 3 queues")
    dialog.get_by_role("button", name="Purge 3 messages of 3 queues").click()
    expect(dialog).to_contain_text("q0: The server does not answer")
    assert len(asked) == 1
