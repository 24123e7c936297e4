"""Dead letters: found by filter, read, requeued and purged, one, some or all; later ones are left alone."""

from __future__ import annotations

import json
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import Faults, see
from tests.browser.serving import Served


def test_requeue_the_checked_and_purge_what_matches(page: Page, server: Served) -> None:
    server.create("hooks")
    for number in range(6):
        server.bury("hooks", f"order {number} {'red' if number % 2 else 'blue'}", f"HTTP {500 + number}")
    see(page, "#/queue?name=hooks&tab=dead")
    rows = page.locator("#panel tbody tr")
    expect(rows).to_have_count(6)
    for number in (0, 2):
        rows.filter(has_text=f"order {number}").get_by_role("checkbox").check()
    # Checked rows stay checked while the list is read again.
    page.wait_for_timeout(3500)
    dialog = page.get_by_role("dialog")
    page.get_by_role("button", name="Requeue 2 …").click()
    expect(dialog.locator(".samples li")).to_have_count(2)
    dialog.get_by_role("button", name="Requeue 2 dead letters").click()
    expect(rows).to_have_count(4)
    assert server.ask("POST", "/purge-queue", queue="hooks")["purged_messages"] == 2

    page.get_by_role("searchbox").fill("red")
    page.keyboard.press("Enter")
    expect(rows).to_have_count(3)
    assert "text=red" in page.evaluate("location.hash")
    page.get_by_role("button", name="Purge matching").click()
    expect(dialog).to_contain_text("3 dead letters: every dead letter that matches the filter")
    # What dies after it was counted is not touched.
    server.bury("hooks", "order 7 red")
    dialog.get_by_label("Type hooks to confirm").fill("hooks")
    dialog.get_by_role("button", name="Purge 3 dead letters").click()
    expect(page.locator(".notice").last).to_contain_text("3 dead letters purged")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("order 7 red")


def test_a_letter_that_came_back_is_marked(page: Page, server: Served) -> None:
    server.create("hooks")
    letter = server.bury("hooks", "again")
    server.ask("POST", "/queues/dead-letters/requeue", {"ids": [letter]}, queue="hooks")
    message = server.ask("POST", "/consume", {"consumer_id": "worker"}, queue="hooks")
    server.ask("POST", "/nack", {"consumer_id": "worker"}, queue="hooks", id=message["id"])
    see(page, "#/queue?name=hooks&tab=dead")
    expect(page.locator("#panel tbody tr")).to_contain_text("↻ 1")


def test_all_of_a_queue(page: Page, server: Served) -> None:
    server.create("hooks")
    for number in range(12):
        server.bury("hooks", f"p{number}")
    see(page, "#/queue?name=hooks&tab=dead")
    page.get_by_role("button", name="Requeue all").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("and 2 more")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    dialog.get_by_role("button", name="Requeue 12 dead letters").click()
    expect(page.locator("#panel .empty")).to_contain_text("There are no dead letters")
    assert server.ask("GET", "/queue-stats", queue="hooks")["available"] == 12


def test_requeue_to_another_queue_with_another_priority(page: Page, server: Served, faults: Faults) -> None:
    faults.allowed.append("422")  # the browser logs every refusal
    server.create("hooks")
    server.create("later", priority_kind="Text")
    server.bury("hooks", "order 1")
    see(page, "#/queue?name=hooks&tab=dead")
    page.get_by_role("button", name="Requeue all").click()
    dialog = page.get_by_role("dialog")
    requeue = dialog.get_by_role("button", name="Requeue 1 dead letter")
    dialog.get_by_label("To queue").fill("later")
    expect(dialog.get_by_role("alert")).to_contain_text("'priority' is missing")
    expect(requeue).to_be_disabled()
    dialog.get_by_label("Priority").fill("b")
    requeue.click()
    expect(page.locator(".notice").last).to_contain_text("1 dead letter requeued")
    (message,) = server.ask("GET", "/queues/messages", queue="later")["messages"]
    assert (message["payload"], message["priority"]) == ("order 1", "b")


def test_a_list_is_exported_with_every_digit_and_says_what_is_missing(
    page: Page, server: Served, tmp_path: Path
) -> None:
    server.create("hooks")
    for number in range(120):
        server.bury("hooks", f"order {number}")
    server.bury("hooks", "x" * 20_000)
    see(page, "#/queue?name=hooks&tab=dead")
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Export").click()
    expect(page.locator(".notice").last).to_contain_text("121 messages exported; 1 payload cut to the beginning")
    download = downloading.value
    assert download.suggested_filename == "hooks dead letters.jsonl"
    download.save_as(tmp_path / "letters")
    letters = [json.loads(line) for line in (tmp_path / "letters").read_text(encoding="utf-8").splitlines()]
    assert [letter.get("payload") for letter in letters[:120]] == [f"order {number}" for number in range(120)]
    assert {letter["priority"] for letter in letters} == {2**64 - 1}
