"""README and the guides are carried out: each block runs against a real server, and prints what the page says."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import SERVER, blocks_of, needs_of
from tests.docs.runner import Reader, Server, bare, pattern
from tests.server.running import ROOT

PAGES = sorted(
    (
        ROOT / "README.md",
        ROOT / "docs/workers.md",
        ROOT / "docs/clients.md",
        ROOT / "docs/faq.md",
        *ROOT.glob("docs/tutorial.md"),
        *ROOT.glob("docs/guides/*.md"),
        *ROOT.glob("docs/explanation/*.md"),
        *ROOT.glob("integrations/*.md"),
    )
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all pages that don't start one of their own."""
    place = tmp_path_factory.mktemp("server")
    server = Server(place / "data", place / "log")
    server.start()
    yield server
    server.end(signal.SIGTERM)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_true(page: Path, server: Server, tmp_path: Path) -> None:
    for needed in needs_of(page):
        if shutil.which(needed) is None:
            pytest.skip(f"needs {needed}")
    place = tmp_path / "reader"
    place.mkdir()
    own = any(block.title == SERVER for block in blocks_of(page))
    if own:
        server = Server(place / "data", tmp_path / "log")
    else:
        server.clear()
    try:
        whole = Reader(server, place).carry_out(page)
    finally:
        if own:
            server.end(signal.SIGTERM)
    if not whole:
        pytest.skip("its JavaScript needs Node")


def test_what_is_not_run_says_why() -> None:
    reasons = {block.not_run for page in PAGES for block in blocks_of(page) if block.not_run}
    assert reasons <= {
        "it needs systemd",
        "it needs an engine for containers",
    }


def test_output_and_its_pattern() -> None:
    assert pattern('{"id": "...", "n": 1}').fullmatch(bare('{"id":"a-b","n":1}\n'))
    assert not pattern('{"id": "...", "n": 1}').fullmatch(bare('{"id":"a-b","n":2}'))
    assert bare("\x1b7\x1b[1A\x1b[1L< {}\x1b8") == "<{}"


def test_blocks_are_told_apart(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        'a\n\n```bash\ncurl\n```\n\n```json\n{}\n```\n\n```python title="a.py"\nx\n```\n\n<!-- not run: why -->\n'
        "```ini\ny\n```\n"
    )
    found = [(block.line, block.language, block.title, block.not_run, block.is_output) for block in blocks_of(page)]
    assert found == [
        (3, "bash", "", "", False),
        (7, "json", "", "", True),
        (11, "python", "a.py", "", False),
        (16, "ini", "", "why", False),
    ]


@pytest.mark.parametrize("text", ["a\n\n    curl\n", "```ini\ny\n```\n", '```ini title="Elsewhere"\ny\n```\n'])
def test_a_block_that_would_not_be_run_is_refused(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError, match=r"without a fence|nobody knows"):
        list(blocks_of(page))


def test_the_runbook_has_every_alert() -> None:
    alerts = re.findall(r"- alert: (\w+)", (ROOT / "docs/monitoring/alerts.yml").read_text(encoding="utf-8"))
    runbook = (ROOT / "docs/guides/runbook.md").read_text(encoding="utf-8")
    assert len(alerts) > 5
    assert [alert for alert in alerts if f"`{alert}`" not in runbook] == []


def test_the_glossary_is_sorted() -> None:
    rows = re.findall(r"^\| (.+?) \|", (ROOT / "docs/glossary.md").read_text(encoding="utf-8"), re.MULTILINE)[2:]
    words = [row.strip("`").replace("_", " ").lower() for row in rows]
    assert words == sorted(words)
