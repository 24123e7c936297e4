"""The live log, and how long operations take."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.conftest import see
from tests.browser.serving import Served


def test_the_log_is_live_filtered_and_paused(page: Page, server: Served) -> None:
    see(page, "#/log")
    expect(page.get_by_text("shown")).to_be_visible()
    server.create("hooks")
    first = server.bury("hooks")
    record = page.locator(".record", has_text=first)
    expect(record).to_contain_text("is a dead letter")
    page.get_by_role("button", name="error", exact=True).click()
    expect(record).to_have_count(0)
    page.get_by_role("button", name="warn", exact=True).click()
    expect(record).to_have_count(1)
    assert "level=warn" in page.evaluate("location.hash")
    page.keyboard.press("/")
    page.keyboard.type("no record has this")
    expect(page.locator(".empty")).to_contain_text("No record passes the filter")
    page.get_by_role("searchbox").fill(first.upper())
    expect(record).to_have_count(1)
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="Pause").click()
    second = server.bury("hooks")
    expect(page.get_by_text("paused, 1 new")).to_be_visible()
    expect(page.locator(".record", has_text=second)).to_have_count(0)
    page.get_by_role("button", name="Go on").click()
    expect(page.locator(".record", has_text=second)).to_have_count(1)


def test_timings_of_what_ran(page: Page, server: Served) -> None:
    for _ in range(20):
        server.publish("q")
    see(page, "#/timings")
    row = page.get_by_role("row", name="publish").first
    expect(row).to_contain_text("µs")
    row.get_by_role("button", name="publish").click()
    expect(page.locator(".opened canvas")).to_have_count(2)
    page.get_by_role("button", name="1 min").click()
    expect(page.locator(".opened canvas")).to_have_count(2)
    assert "seconds=60" in page.evaluate("location.hash")
