"""The blocks of code of a page, in order.

A block is fenced and names its language. `bash`, `python` and `js` are run. A `text` or `json` block right behind one
is what it prints: `...` stands for anything, and white space for none. The title says what else a block may be:

    ```bash title="The server's terminal"      `make run` starts a server in its directory, `kill %1` and
                                               `kill -9 %1` end it
    ```bash title="Another terminal"           is left running (Python and JavaScript, too)
    ```text title="The other terminal prints"  what that prints in the end
    ```text title="Type there"                 is typed there
    ```python title="worker.py"                is a file of this name

What runs in another terminal ends with its section.

Rule: a block that is not run says why, in a comment before it: `<!-- not run: ... -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r'^```(?:(\w+)(?: title="([^"]*)")?)?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\n+\Z")
NEEDS = re.compile(r"^<!-- needs: (.+) -->$", re.MULTILINE)
INDENTED = re.compile(r"(?:\A|\n)\n {4}\S")

SERVER = "The server's terminal"
ANOTHER = "Another terminal"
PRINTS = "The other terminal prints"
TYPED = "Type there"
FILE = re.compile(r"[\w-]+\.\w+")
RUN = ("bash", "python", "js")
SHOWN = ("text", "json")


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    title: str
    text: str
    not_run: str
    """Why it is not run, or nothing."""
    section: int
    """How many headings of sections stand before it."""

    @property
    def is_output(self) -> bool:
        """It shows what the block before it prints."""
        return self.language in SHOWN and not self.title and not self.not_run


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks of a page. Raises AssertionError for one that is not written as this module says."""
    text = page.read_text(encoding="utf-8")
    end = section = 0
    for match in FENCE.finditer(text):
        between = text[end : match.start()]
        end = match.end()
        line = text.count("\n", 0, match.start()) + 1
        assert not INDENTED.search(between), f"{page.name}:{line}: before this there is a block without a fence"
        reason = NOT_RUN.search(between)
        section += len(re.findall(r"^## ", between, re.MULTILINE))
        block = Block(line, match[1] or "", match[2] or "", match[3], reason[1] if reason else "", section)
        assert block.not_run or _is_known(block), f"{page.name}:{line}: nobody knows how to run this block"
        yield block
    assert not INDENTED.search(text[end:]), f"{page.name}: at its end there is a block without a fence"


def needs_of(page: Path) -> list[str]:
    """The commands that a page needs beyond what every reader has: `<!-- needs: nginx openssl -->`."""
    found = NEEDS.search(page.read_text(encoding="utf-8"))
    return found[1].split() if found else []


def _is_known(block: Block) -> bool:
    if not block.title:
        return block.language in RUN + SHOWN
    if block.title == SERVER:
        return block.language == "bash"
    if block.title in (PRINTS, TYPED):
        return block.language in SHOWN
    return (block.title == ANOTHER and block.language in RUN) or FILE.fullmatch(block.title) is not None
