"""The pages: one for each document, and no link that leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

from release.documents import documents, with_anchors, with_links, write_pages
from tests.server.running import ROOT


def test_every_document_has_a_page_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    pages = write_pages(ROOT, tmp_path)
    assert len(pages) == len(documents(ROOT)) >= 8
    anchors = {page: set(re.findall(r'id="([^"]+)"', page.read_text(encoding="utf-8"))) for page in pages}
    for page in pages:
        for link in re.findall(r'(?:href|src)="(?!https?:)([^"]+)"', page.read_text(encoding="utf-8")):
            address, _, anchor = link.partition("#")
            target = (page.parent / address).resolve() if address else page
            assert target.is_file(), (page.name, link)
            assert not anchor or anchor in anchors[target], (page.name, link)
    assert (tmp_path / "index.html").read_bytes() == (tmp_path / "README.html").read_bytes()


def test_links() -> None:
    assert with_links('<a href="docs/a.md#b">c</a>') == '<a href="docs/a.html#b">c</a>'
    assert with_links('<a href="LICENSE">MIT</a>') == "MIT"
    assert with_links('<a href="https://example.org/x.md">x</a>') == '<a href="https://example.org/x.md">x</a>'


def test_anchors() -> None:
    assert with_anchors("<h2>Where <code>a</code> &amp; b</h2>") == (
        '<h2 id="where-a--b">Where <code>a</code> &amp; b</h2>'
    )
