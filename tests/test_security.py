"""SECURITY.md: each test that it names is there and has tests in it, and every threat names one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL = (ROOT / "SECURITY.md").read_text("utf-8").partition("## The threat model")[2]


def test_each_test_that_is_named_is_there() -> None:
    named = set(re.findall(r"`(tests/[^`]+)`", MODEL))
    assert len(named) > 20
    for path in sorted(named):
        assert re.search(r"^ *(async )?def test_", (ROOT / path).read_text("utf-8"), re.MULTILINE), path


def test_every_threat_names_a_test() -> None:
    table = MODEL.partition("| who | tries |")[2].partition("\n\n")[0]
    rows = [line for line in table.splitlines()[2:] if line.startswith("|")]
    assert len(rows) > 15
    assert [row for row in rows if "`tests/" not in row.split("|")[4]] == []
