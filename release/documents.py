"""The documents of the project as pages in dist/docs, and a server for looking at them.

    python -m release.documents            # write the pages
    python -m release.documents --show     # and serve them on 127.0.0.1:8000

Rule: the pages are the Markdown documents and nothing else. Links between documents lead to their pages; a link to any
other file of the project leads nowhere, so the page names the file instead.
"""

from __future__ import annotations

import argparse
import html
import re
import shutil
import sys
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "dist" / "docs"
PORT = 8000
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
pre, code {{ font-family: monospace; background: #f4f4f4 }}
pre {{ padding: .5rem; overflow-x: auto }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
td, th {{ border: 1px solid #ccc; padding: .25rem .5rem; text-align: left; vertical-align: top }}
img {{ max-width: 100% }}
</style>
<nav>{navigation}</nav>
{body}
</html>
"""


def documents(root: Path) -> list[Path]:
    """All Markdown documents, relative to the root. README.md comes first."""
    found = sorted(path.relative_to(root) for path in (*root.glob("*.md"), *root.glob("docs/*.md")))
    return sorted(found, key=lambda path: path.name != "README.md")


def write_pages(root: Path, out: Path) -> list[Path]:
    """Write a page for each document, and copy the pictures. Returns the pages."""
    shutil.rmtree(out, ignore_errors=True)
    known = documents(root)
    markdown = MarkdownIt("commonmark").enable("table")
    pages = []
    for document in known:
        text = (root / document).read_text(encoding="utf-8")
        title = re.search(r"^# (.+)$", text, re.MULTILINE)
        up = "../" * (len(document.parts) - 1)
        links = (f'<a href="{up}{page_of(other)}">{html.escape(other.stem)}</a>' for other in known)
        body = with_anchors(with_links(markdown.render(text)))
        page = out / page_of(document)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(
            PAGE.format(
                title=html.escape(title[1] if title else document.stem), navigation=" · ".join(links), body=body
            ),
            encoding="utf-8",
        )
        pages.append(page)
    for picture in (*root.glob("docs/*.svg"), *root.glob("docs/images/*")):
        copy = out / picture.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, copy)
    shutil.copy(out / "README.html", out / "index.html")
    return pages


def page_of(document: Path) -> Path:
    return document.with_suffix(".html")


def with_links(body: str) -> str:
    """Links to documents lead to their pages; those to other files of the project are text."""

    def kept(link: re.Match[str]) -> str:
        address, _, anchor = link[1].partition("#")
        if not address.endswith(".md"):
            return link[2]
        return f'<a href="{address.removesuffix(".md")}.html{anchor and "#" + anchor}">{link[2]}</a>'

    return re.sub(r'<a href="(?![a-z]+:|#)([^"]+)">(.*?)</a>', kept, body, flags=re.DOTALL)


def with_anchors(body: str) -> str:
    """Headings with the names that links to them use."""

    def named(heading: re.Match[str]) -> str:
        words = html.unescape(re.sub(r"<[^>]+>", "", heading[2])).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        return f'<{heading[1]} id="{anchor}">{heading[2]}</{heading[1]}>'

    return re.sub(r"<(h[1-6])>(.*?)</\1>", named, body)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m release.documents", description="Write the documents as pages.")
    parser.add_argument("--show", action="store_true", help="serve the pages until Ctrl-C")
    parser.add_argument("--port", type=int, default=PORT)
    given = parser.parse_args()
    pages = write_pages(ROOT, PAGES)
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
