"""What was purged or deleted is put back: from the notice, and from the trash."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.conftest import Faults, see
from tests.browser.serving import Served


def remove(page: Page, what: str, name: str, button: str) -> None:
    page.get_by_role("button", name=f"Actions for {name}").click()
    page.get_by_role("menuitem", name=what).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("It can be put back for 10 minutes.")
    dialog.get_by_label(f"Type {name} to confirm").fill(name)
    dialog.get_by_role("button", name=button).click()


# Verifies: DLV-0060
def test_a_slip_is_undone_from_the_notice(page: Page, server: Served) -> None:
    for number in range(3):
        server.publish("jobs", f"p{number}")
    see(page, "#/queues")
    remove(page, "Purge", "jobs", "Purge 3 messages")
    notice = page.locator(".notice").filter(has_text="3 messages purged")
    expect(notice).to_contain_text("9 min")
    assert server.ask("GET", "/queue-stats", queue="jobs")["available"] == 0
    notice.get_by_role("button", name="Put back").click()
    expect(page.locator(".notice").last).to_contain_text("3 messages put back into jobs")
    assert server.ask("GET", "/queue-stats", queue="jobs")["available"] == 3
    expect(page.locator("tbody tr").filter(has_text="jobs").locator("td").nth(1)).to_have_text("3")

    remove(page, "Delete", "jobs", "Delete the queue and 3 messages")
    expect(page.locator(".empty")).to_contain_text("There are no queues yet")
    page.locator(".notice").filter(has_text="was deleted").get_by_role("button", name="Put back").click()
    expect(page.get_by_role("link", name="jobs")).to_be_visible()
    assert server.ask("GET", "/trash") == {"trash": []}


def test_the_trash(page: Page, server: Served, faults: Faults) -> None:
    faults.allowed.append("409 (Conflict)")
    for name in ("jobs", "mail"):
        server.publish(name, "p")
        server.ask("DELETE", "/delete-queue", queue=name, undo_seconds="600")
    server.publish("jobs", "new")
    see(page, "#/queues")
    page.get_by_role("button", name="Trash 2").click()
    dialog = page.get_by_role("dialog")
    first = dialog.get_by_role("listitem").filter(has_text="jobs")
    second = dialog.get_by_role("listitem").filter(has_text="mail")
    first.get_by_role("button", name="Put back").click()
    expect(first).to_contain_text("Queue 'jobs' already exists")
    first.get_by_label("As a new queue named").fill("jobs of monday")
    first.get_by_role("button", name="Put back").click()
    expect(first).to_have_count(0)
    second.get_by_role("button", name="Erase").click()
    second.get_by_role("button", name="Erase 1 message for good").click()
    expect(dialog).to_contain_text("Nothing is kept aside.")
    assert server.ask("GET", "/queues") == ["jobs", "jobs of monday"]
