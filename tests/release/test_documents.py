"""The documentation site: a page for each document, no link that leads nowhere, and nothing from another host."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from release.documents import amiss, write_pages
from release.site_hook import OTHER_DOCUMENTS, with_links
from tests.server.running import ROOT

DOCS = ROOT / "docs"


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs MkDocs, which `make docs` installs")
def test_every_document_has_a_page_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    pages = {page.relative_to(tmp_path) for page in write_pages(tmp_path)}
    documents = {page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md")}
    assert pages >= documents | {Path(page).with_suffix(".html") for page in OTHER_DOCUMENTS}
    assert list(amiss(tmp_path)) == []


def test_what_is_amiss_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html">b</a><a href="#no">c</a><img src="https://example.org/x.png"><a id="yes" href="#yes">d</a>'
        '<a href="https://example.org/">elsewhere</a>'
    )
    (tmp_path / "a.css").write_text("@font-face { src: url(https://example.org/font) }")
    assert list(amiss(tmp_path)) == [
        "a.html loads https://example.org/x.png",
        "a.html has a link to b.html, which is not there",
        "a.html has a link to #no, and there is no such heading",
        "a.css loads https://example.org/font",
    ]


@pytest.mark.parametrize(
    ("page", "link", "fitted"),
    [
        ("index.md", "[a](docs/workers.md#b)", "[a](workers.md#b)"),
        ("workers.md", "[a](../README.md)", "[a](index.md)"),
        ("guides/a.md", "[a](../../CHANGELOG.md)", "[a](../changelog.md)"),
        ("guides/a.md", "![a](../images/webui-log.png)", "![a](../images/webui-log.png)"),
        ("index.md", "[MIT](LICENSE)", "MIT"),
        ("index.md", "[a](docs/no-such.md)", "[a](docs/no-such.md)"),
        ("index.md", "[a](https://example.org/x.md)", "[a](https://example.org/x.md)"),
        ("index.md", "[a](#b)", "[a](#b)"),
    ],
)
def test_links(page: str, link: str, fitted: str) -> None:
    known = {"index.md", "workers.md", "changelog.md", "images/webui-log.png"}
    assert with_links(f"see {link}.", page, known, DOCS) == f"see {fitted}."
