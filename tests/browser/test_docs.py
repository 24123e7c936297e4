"""The page at /docs: it has every operation and frame, its forms send what they show, and it can be searched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from qrusty_trio.api.description.asyncapi import document as asyncapi
from qrusty_trio.api.operations import OPERATIONS
from tests.browser.conftest import Faults, folder, see
from tests.browser.serving import Served, served

PREFIX = "/tools/queues"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


@pytest.fixture
def docs(open_page: Callable[..., Page], server: Served) -> Page:
    page = open_page(server.url, path="/docs")
    expect(page.get_by_role("navigation", name="Operations")).to_be_visible()
    return page


def send(page: Page, method: str = "POST") -> Locator:
    """Press the button, and wait for the response: its region."""
    page.get_by_role("button", name=f"Send {method}", exact=True).click()
    answer = page.locator(".docs-answer")
    expect(answer).to_be_visible()
    return answer


# Verifies: API-0140
def test_it_has_every_operation_and_every_frame(docs: Page) -> None:
    links = docs.get_by_role("navigation", name="Operations").get_by_role("link")
    operations = {f"{operation.method}{operation.path}" for operation in OPERATIONS}
    frames = {f"WS{each['messages'][0]['$ref'].rpartition('/')[2]}" for each in asyncapi()["operations"].values()}
    listed = ["".join(text.split()) for text in links.all_inner_texts()]
    assert sorted(listed) == sorted(operations | {frame.replace("push.", "") for frame in frames})
    for operation in OPERATIONS:
        see(docs, f"#/{operation.name}")
        expect(docs.get_by_role("heading", level=1)).to_have_text(f"{operation.method} {operation.path}")
        expect(docs.get_by_text("method_not_allowed")).to_be_visible()
        assert docs.get_by_role("textbox", name="Body").count() == (operation.request is not None)
    for address in links.evaluate_all("(links) => links.map((link) => link.hash)"):
        see(docs, address)
        expect(docs.get_by_role("heading", level=1)).not_to_have_text("There is no such operation")


def test_fields_say_what_they_take(docs: Page) -> None:
    see(docs, "#/requeue_dead_letters")
    for text in (
        "ids list up to 50000 of string or null",
        "filter object with at least one of reason, consumer, older_than_secs, text or null",
        "filter.older_than_secs integer 0 to 4294967295 or null",
        "all true or null",
    ):
        expect(docs.get_by_role("term").filter(has_text=text)).to_be_visible()
    see(docs, "#/publish_batch")
    priority = "messages[].priority required integer 0 to 18446744073709551615 or string"
    expect(docs.get_by_role("term").filter(has_text=priority)).to_be_visible()


# Verifies: API-0140
def test_a_message_goes_all_its_way_through_the_forms(docs: Page, server: Served) -> None:
    docs.get_by_role("link", name="Make a queue").click()
    expect(send(docs)).to_contain_text("200")
    see(docs, "#/publish")
    docs.get_by_role("textbox", name="Body").fill(
        '{"queue": "jobs", "priority": 18446744073709551615, "payload": "hello"}'
    )
    answer = send(docs)
    expect(answer).to_contain_text('"id": "')
    answer.get_by_text("headers").click()
    expect(answer).to_contain_text("content-type: application/json")
    see(docs, "#/consume")
    docs.get_by_role("textbox", name="Body").fill('{"consumer_id": "worker-1", "details": true}')
    expect(send(docs)).to_contain_text("18446744073709551615")
    # What came is the message of the next form.
    see(docs, "#/ack")
    expect(docs.get_by_label("id")).not_to_have_value("")
    expect(send(docs)).to_contain_text("The body is empty.")
    assert server.ask("GET", "/queue-stats", queue="jobs")["total"] == 0


def test_an_error_is_shown_as_it_came_and_curl_gets_the_same(docs: Page, server: Served, faults: Faults) -> None:
    faults.allowed.append("Failed to load resource: the server responded with a status of 4")
    see(docs, "#/publish")
    body = docs.get_by_role("textbox", name="Body")
    for text, status, code in (
        ("it's no JSON", "400", "malformed_json"),
        ('{"queue": "jobs", "priority": -1, "payload": "x"}', "422", "wrong_shape"),
        ("@/etc/hostname", "400", "malformed_json"),
    ):
        body.fill(text)
        answer = send(docs)
        expect(answer).to_contain_text(code)
        expect(answer).to_contain_text(status)
        command = docs.get_by_role("region", name="curl command").inner_text()
        assert json.loads(server.in_shell(command))["code"] == code
    docs.get_by_role("button", name="The example again").click()
    expect(body).to_have_value('{\n  "queue": "jobs",\n  "priority": 5,\n  "payload": "hello"\n}')


@pytest.mark.parametrize("name", ["a/b", "..", "50 % off", "naïve?"])
def test_any_name_gets_to_the_server(docs: Page, server: Served, name: str) -> None:
    server.create(name)
    see(docs, "#/queue_stats")
    docs.get_by_label("queue").fill(name)
    expect(send(docs, "GET")).to_contain_text("200")
    command = docs.get_by_role("region", name="curl command").inner_text()
    assert json.loads(server.in_shell(command))["name"] == name


def test_what_can_t_be_undone_has_to_be_ticked(docs: Page, server: Served) -> None:
    server.create("jobs")
    see(docs, "#/delete_queue")
    button = docs.get_by_role("button", name="Send DELETE")
    expect(button).to_be_disabled()
    docs.get_by_role("checkbox").check()
    expect(send(docs, "DELETE")).to_contain_text("200")
    expect(button).to_be_disabled()
    assert server.ask("GET", "/queues") == []


def test_a_server_with_tokens_is_asked_with_one(open_page: Callable[..., Page], tmp_path: Path, faults: Faults) -> None:
    faults.allowed.append("Failed to load resource: the server responded with a status of 401")
    secret = "0f" * 32
    tokens = tmp_path / "tokens.toml"
    hashed = hashlib.sha256(secret.encode()).hexdigest()
    tokens.write_text(f'[[token]]\nname = "me"\nsha256 = "{hashed}"\ngrants = ["admin:*"]\n')
    tokens.chmod(0o600)
    with served(tmp_path / "data", QRUSTY_TOKENS_FILE=str(tokens)) as server:
        page = open_page(server.url, "#/queues", path="/docs")
        assert page.get_by_label("Token").count() == 0
        expect(send(page, "GET")).to_contain_text("unauthenticated")
        page.get_by_label("Token").fill(secret)
        page.get_by_role("button", name="Send GET").click()
        expect(page.locator(".docs-answer")).to_contain_text("200")
        command = page.get_by_role("region", name="curl command").inner_text()
        assert secret not in command
        assert server.in_shell(f"QRUSTY_TOKEN={secret}; {command}") == "[]"


def test_a_wait_can_be_stopped(docs: Page, server: Served) -> None:
    server.create("jobs")
    see(docs, "#/consume")
    docs.get_by_role("textbox", name="Body").fill('{"consumer_id": "worker-1", "wait_seconds": 60}')
    docs.get_by_role("button", name="Send POST").click()
    docs.get_by_role("button", name="Stop").click()
    expect(docs.get_by_text("Stopped.")).to_be_visible()


def test_a_search_finds_paths_fields_and_codes_and_can_be_linked(
    open_page: Callable[..., Page], server: Served
) -> None:
    page = open_page(server.url, "#/overview?search=duplicate_payload", path="/docs")
    listed = page.get_by_role("navigation", name="Operations").get_by_role("link")
    expect(listed.filter(has_text="/publish").first).to_be_visible()
    assert 0 < listed.count() < 10
    page.keyboard.press("/")
    search = page.get_by_role("searchbox")
    expect(search).to_be_focused()
    search.fill("wait_seconds batch")
    expect(listed).to_have_text(["POST/consume-batch/{queue}"])
    listed.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("POST /consume-batch/{queue}")
    assert page.url.endswith("/docs#/consume_batch?search=wait_seconds+batch")
    search.fill("nothing has this")
    expect(page.get_by_text("Nothing has all these words")).to_be_visible()
    see(page, "#/no_such")
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no such operation")


# Verifies: API-0140
def test_a_prefix_needs_no_setting(browser: Browser, server: Served) -> None:
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []

    def forward(route: Route) -> None:
        """As a proxy does that takes the prefix off."""
        asked.append(route.request.url)
        route.fulfill(response=route.fetch(url=route.request.url.replace(PREFIX, "", 1)))

    page.route("**/*", forward)
    page.goto(f"{server.url}{PREFIX}/docs#/health")
    expect(send(page, "GET")).to_contain_text("200")
    command = page.get_by_role("region", name="curl command").inner_text()
    assert f"{PREFIX}/health" in command
    page.get_by_role("link", name="Web UI").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    page.get_by_role("link", name="API").click()
    expect(page.get_by_role("navigation", name="Operations")).to_be_visible()
    page.unroute_all(behavior="ignoreErrors")
    context.close()
    assert [url for url in asked if not url.startswith(f"{server.url}{PREFIX}/")] == []


@pytest.mark.parametrize("width", [380, 1440])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(open_page: Callable[..., Page], server: Served, theme: str, width: int) -> None:
    size = {"width": width, "height": 800}
    page = open_page(server.url, path="/docs", color_scheme=theme, viewport=size, reduced_motion="reduce")
    page.evaluate((folder() / "vendor" / "axe.min.js").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for screen in ("overview", "publish", "delete_queue", "messages", "requeue_dead_letters", "ws-publish-receive"):
        see(page, f"#/{screen}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        if screen == "publish":
            send(page)
        result: dict[str, Any] = page.evaluate("(tags) => axe.run({runOnly: tags, resultTypes: ['violations']})", RULES)
        found[screen] = [
            f"{each['id']}: {node['html'][:200]}" for each in result["violations"] for node in each["nodes"]
        ]
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found[screen].append("it is wider than the screen")
    assert {screen: each for screen, each in found.items() if each} == {}


def test_on_a_phone_the_list_and_an_operation_are_pages_of_their_own(
    open_page: Callable[..., Page], server: Served
) -> None:
    page = open_page(server.url, path="/docs", viewport={"width": 380, "height": 800})
    operations = page.get_by_role("navigation", name="Operations")
    operations.get_by_role("link", name="/publish", exact=False).first.click()
    expect(operations).to_be_hidden()
    page.get_by_role("link", name="All operations").click()
    expect(operations).to_be_visible()
