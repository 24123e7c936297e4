"""The page under the path prefix of a proxy, and what the policy of the page refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Error, Page, Route, expect

from tests.browser.conftest import Faults, see
from tests.browser.serving import Served

PREFIX = "/tools/queues"


def test_a_prefix_needs_no_setting(browser: Browser, server: Served) -> None:
    server.create("jobs")
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []

    def forward(route: Route) -> None:
        """As a proxy does that takes the prefix off."""
        asked.append(route.request.url)
        route.fulfill(response=route.fetch(url=route.request.url.replace(PREFIX, "", 1)))

    page.route("**/*", forward)
    page.goto(f"{server.url}{PREFIX}/ui/#/queues")
    expect(page.get_by_role("link", name="jobs")).to_be_visible()
    page.get_by_role("link", name="jobs").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("jobs")
    page.get_by_role("button", name="Publish").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Payload").fill("x")
    dialog.get_by_role("button", name="Publish").click()
    expect(page.locator(".notice")).to_contain_text("Published")
    page.unroute_all(behavior="ignoreErrors")
    context.close()
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith(f"{server.url}{PREFIX}/")] == []
    assert server.ask("GET", "/queue-stats", queue="jobs")["available"] == 1


@pytest.mark.parametrize(
    "attempt",
    [
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = true\">')",
        "document.body.innerHTML = '<b>x</b>'",
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = true'}))",
    ],
)
def test_text_can_t_become_markup_or_code(page: Page, faults: Faults, attempt: str) -> None:
    faults.allowed += ["policy:", "Content Security Policy", "requires 'Trusted"]
    with pytest.raises(Error, match="Trusted"):
        page.evaluate(attempt)
    assert page.evaluate("window.ran === undefined")
    assert any("policy: require-trusted-types-for" in each for each in faults.found)


def test_nothing_is_loaded_from_elsewhere(open_page: Callable[..., Page], server: Served) -> None:
    page = open_page(server.url)
    for address in ("#/queues", "#/log", "#/timings"):
        see(page, address)
        page.wait_for_timeout(300)
    loaded = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(loaded) > 30
    assert [url for url in loaded if not url.startswith(server.url)] == []
