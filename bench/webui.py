"""How soon the web UI shows something, and what an update of a long table costs, in Chromium on this machine.

    .venv/bin/python -m bench.webui            (after `make test-browser`, which installs what it needs)

Prints the median of several page loads, from the request to the first contentful paint and to the first row of the
table; the processor time that the server spends on a load; and the time that the
page's main thread works for one update of the table. All with 2,000 queues. Processor time is the figure to compare on
a busy machine.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser.conftest import CHROMIUM, missing
from tests.browser.serving import Served, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, CDPSession

QUEUES = 2_000
LOADS = 9
UPDATES = 20
WORK = ("ScriptDuration", "LayoutDuration", "RecalcStyleDuration")


def load(browser: Browser, server: Served) -> tuple[float, float]:
    """One load with an empty cache: milliseconds to the first contentful paint, and to the first row."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(f"{server.url}/ui/#/queues")
    page.wait_for_selector("tbody th.name")
    row = page.evaluate("performance.now()")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    context.close()
    return paint, row


def worked(session: CDPSession) -> float:
    """Seconds that the main thread has worked."""
    metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    return float(sum(metrics[name] for name in WORK))


def update(browser: Browser, server: Served) -> float:
    """Milliseconds of work for one update of the table."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(f"{server.url}/ui/#/queues")
    page.wait_for_selector("tbody th.name")
    session = context.new_cdp_session(page)
    session.send("Performance.enable")
    before = worked(session)
    for number in range(UPDATES):
        server.publish(f"tenant.{number:05}")
        with page.expect_response("**/queue-list**"):
            page.keyboard.press("r")
        page.wait_for_timeout(100)
    after = worked(session)
    context.close()
    return (after - before) * 1000 / UPDATES


def main() -> None:
    if missing():
        sys.exit(missing())
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as directory, served(Path(directory) / "data") as server:
        for number in range(QUEUES):
            server.create(f"tenant.{number:05}")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            before = server.processor_seconds()
            loads = [load(browser, server) for _ in range(LOADS)]
            spent = (server.processor_seconds() - before) * 1000 / LOADS
            print(f"first contentful paint: {statistics.median(paint for paint, _ in loads):.0f} ms")
            print(f"first row of the table: {statistics.median(row for _, row in loads):.0f} ms")
            print(f"processor time of the server for a load: {spent:.0f} ms")
            print(f"work for one update: {update(browser, server):.1f} ms")
            browser.close()


if __name__ == "__main__":
    main()
