"""docs/clients.md names every operation and every error, and says of each what the code does."""

from __future__ import annotations

import re

from qrusty_trio import client as q
from qrusty_trio.client.operations import TABLE
from tests.server.running import ROOT

PAGE = (ROOT / "docs/clients.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its first row."""
    section = re.split(r"^#+ ", PAGE, flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(heading + "\n"))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_it_says_of_every_operation_whether_it_is_sent_again() -> None:
    said = {name: row[0] for row in rows("What is sent again") for name in re.findall(r"`(\w+)`", row[1])}
    assert said.keys() == TABLE.keys()
    assert {name for name, answer in said.items() if answer == "sent again"} == {
        each.name for each in TABLE.values() if each.repeatable
    }


def test_it_has_every_error() -> None:
    errors = {
        name: kind
        for name, kind in vars(q).items()
        if isinstance(kind, type) and issubclass(kind, q.ClientError) and kind not in (q.ClientError, q.RequestError)
    }
    assert {row[0]: row[1] for row in rows("When something goes wrong")} == {
        f"`{name}`": f"`{kind.code}`" for name, kind in errors.items()
    }
