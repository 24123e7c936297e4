"""Draws each screen of the web UI with a server that is at work, for the documents: `make screenshots`.

Rule: what is seen is real: queues, messages, workers and figures of a server that ran for half a minute.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser.conftest import CHROMIUM, missing
from tests.browser.serving import Served, served
from tests.server.running import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

IMAGES = ROOT / "docs" / "images"
WORK_SECONDS = 75
COLOURS = 256
"""Of the palette of an image: the screens have few, and the file is a third as large."""
DESK, PHONE = (1280, 820), (380, 780)
QUEUES = (
    ("billing.charges", "Fifo", True),
    ("exports.weekly", "MinFirst", True),
    ("invoices.pdf", "Fifo", False),
    ("mail.bounce", "MaxFirst", True),
    ("mail.out", "MaxFirst", True),
    ("orders.new", "MaxFirst", False),
    ("orders.retry", "MinFirst", True),
    ("search.index", "MaxFirst", True),
    ("sessions.cleanup", "Fifo", True),
    ("thumbnails", "MaxFirst", True),
    ("webhooks", "MaxFirst", True),
)


class Traffic(threading.Thread):
    """Publishers and workers of different speed."""

    def __init__(self, server: Served) -> None:
        super().__init__(daemon=True)
        self.ending = threading.Event()
        self._server = server
        self._random = random.Random(7)

    def run(self) -> None:
        number = 0
        while not self.ending.is_set():
            number += 1
            self._publish("mail.out", number, self._random.choice((1, 5, 5, 9)))
            self._work("mail.out", "mailer-2", 0.97)
            if number % 2:
                self._publish("orders.new", number, 5)
                self._publish("thumbnails", number, self._random.choice((1, 2, 3)))
            self._work("search.index", "indexer-1", 1.0)
            self._work("search.index", "indexer-2", 1.0)
            if number % 3 == 0:
                self._work("orders.new", "orders-1", 1.0)
                self._work("thumbnails", "thumbs-4", 0.9)
            time.sleep(0.03)

    def _publish(self, queue: str, number: int, priority: int) -> None:
        self._server.publish(queue, json.dumps({"number": number, "to": f"user{number}@example.org"}), priority)

    def _work(self, queue: str, worker: str, share: float) -> None:
        message = self._server.ask("POST", "/consume", {"consumer_id": worker}, queue=queue)
        if message is not None:
            verb = "/ack" if self._random.random() < share else "/nack"
            self._server.ask("POST", verb, {"consumer_id": worker}, queue=queue, id=message["id"])


def prepare(server: Served) -> None:
    for name, ordering, duplicates in QUEUES:
        server.create(name, ordering, allow_duplicates=duplicates)
    for number in range(1600):
        server.publish("search.index", f'{{"document": {number}}}', number % 4)
    for number in range(7):
        body = json.dumps({"event": "order.paid", "order": 2**60 + number, "url": "https://hooks.example/in"})
        server.bury("webhooks", body, "HTTP 503: upstream connect error")
    for number in range(40):
        body = json.dumps({"event": "order.paid", "order": 2**60 + 100 + number, "items": [{"sku": "A-7", "count": 2}]})
        server.publish("webhooks", body, (1, 1, 1, 5, 9)[number % 5])
    for number in range(3):
        worker = {"consumer_id": f"hooks-{number}", "timeout_seconds": 600}
        server.ask("POST", "/consume", worker, queue="webhooks")
    for number in range(12):
        server.publish("billing.charges", f"charge {number}")


def shoot(browser: Browser, url: str, name: str, address: str, theme: str, size: tuple[int, int]) -> None:
    context = browser.new_context(color_scheme=theme, viewport={"width": size[0], "height": size[1]}, timezone_id="UTC")
    page = context.new_page()
    page.goto(f"{url}/ui/{address}")
    page.wait_for_timeout(3000)
    save(page, name)
    context.close()


def save(page: Page, name: str) -> None:
    """Save the screen with a small palette."""
    from PIL import Image

    path = IMAGES / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as image:
        reduced = image.convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE)
    reduced.save(path, optimize=True)


def main() -> None:
    if missing():
        sys.exit(missing())
    from playwright.sync_api import sync_playwright

    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, served(Path(directory) / "data") as server:
        prepare(server)
        traffic = Traffic(server)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            overview = browser.new_context(viewport={"width": DESK[0], "height": DESK[1]}, timezone_id="UTC").new_page()
            overview.goto(f"{server.url}/ui/")
            traffic.start()
            overview.wait_for_timeout(WORK_SECONDS * 1000)
            save(overview, "webui-overview")
            for name, address, theme, size in (
                ("webui-queues", "#/queues?sort=trouble&order=desc", "light", DESK),
                ("webui-dead-letters", "#/queue?name=webhooks&tab=dead", "dark", DESK),
                ("webui-queue", "#/queue?name=webhooks", "light", DESK),
                ("webui-log", "#/log", "dark", DESK),
                ("webui-timings", "#/timings", "light", DESK),
                ("webui-phone", "#/queues?sort=trouble&order=desc", "dark", PHONE),
            ):
                shoot(browser, server.url, name, address, theme, size)
            browser.close()
        traffic.ending.set()
        traffic.join()


if __name__ == "__main__":
    main()
