"""The documentation site in dist/docs, and a server for looking at it.

    python -m release.documents            # write the pages and check every link
    python -m release.documents --show     # and serve them on 127.0.0.1:8000

Rule: MkDocs writes the pages, strictly: whatever it warns of is an error. Then every link and every picture of every
page is looked up in what was written, and nothing may be loaded from another host. So it all works without a network.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "dist" / "docs"
PORT = 8000
LOADED = {"script": "src", "img": "src", "link": "href", "source": "src", "iframe": "src"}
"""Elements that make a browser load something, and the attribute that says what."""


class DocumentsError(Exception):
    """The pages could not be written. The text is what MkDocs said."""


def write_pages(out: Path) -> list[Path]:
    """Write the site. Returns its pages. Raises DocumentsError."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DocumentsError(done.stdout + done.stderr)
    return sorted(out.rglob("*.html"))


class Page(HTMLParser):
    """What a page has: the names that links may lead to, its links, and what it makes a browser load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.names.update(given[name] for name in ("id", "name") if name in given)
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADED and LOADED[tag] in given:
            self.loaded.append(given[LOADED[tag]])


def amiss(out: Path) -> Iterator[str]:
    """A sentence for each link that leads nowhere, and for each thing that would be loaded from elsewhere."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(out.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(out)
        for address in page.loaded:
            if re.match(r"[a-z]+:|//", address) and not address.startswith("data:"):
                yield f"{name} loads {address}"
        for address in page.links + page.loaded:
            if re.match(r"[a-z]+:|//", address):
                continue
            file, _, anchor = unquote(address).partition("#")
            file = file.partition("?")[0]
            target = path if not file else (out / file.lstrip("/") if file[0] == "/" else path.parent / file).resolve()
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                yield f"{name} has a link to {address}, which is not there"
            elif anchor and target in pages and anchor not in pages[target].names and anchor != "__skip":
                yield f"{name} has a link to {address}, and there is no such heading"
    for sheet in out.rglob("*.css"):
        for address in re.findall(r"url\([\"']?((?:https?:)?//[^)]+)", sheet.read_text(encoding="utf-8")):
            yield f"{sheet.relative_to(out)} loads {address}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m release.documents", description="Write the documentation site.")
    parser.add_argument("--show", action="store_true", help="serve the pages until Ctrl-C")
    parser.add_argument("--port", type=int, default=PORT)
    given = parser.parse_args()
    try:
        pages = write_pages(PAGES)
    except DocumentsError as error:
        print(error, file=sys.stderr)
        return 1
    faults = list(amiss(PAGES))
    for sentence in faults:
        print(sentence, file=sys.stderr)
    if faults:
        return 1
    print(f"{len(pages)} pages in {PAGES.relative_to(ROOT)}")
    if given.show:
        handler = partial(SimpleHTTPRequestHandler, directory=str(PAGES))
        with ThreadingHTTPServer(("127.0.0.1", given.port), handler) as server:
            print(f"http://127.0.0.1:{server.server_port}/ shows them; Ctrl-C ends that", flush=True)
            with suppress(KeyboardInterrupt):
                server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
