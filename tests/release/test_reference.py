"""docs/reference/ says what the description says, has each of its parts once, and leads nowhere that is not there."""

from __future__ import annotations

import re

import pytest

from release.reference import DOCUMENTS, MARKED, PARTS, renewed

NAMES = sorted(path.name for path in DOCUMENTS.glob("*.md"))


def text(name: str) -> str:
    return (DOCUMENTS / name).read_text(encoding="utf-8")


# Verifies: API-0111, API-0112
@pytest.mark.parametrize("name", NAMES)
def test_a_document_is_up_to_date(name: str) -> None:
    assert renewed(text(name)) == text(name), "run `make reference`"


def test_every_part_is_in_one_document() -> None:
    assert sorted(part for name in NAMES for _, part, _ in MARKED.findall(text(name))) == sorted(PARTS)


@pytest.mark.parametrize("name", NAMES)
def test_links_within_a_document_lead_to_a_heading(name: str) -> None:
    headings = re.findall(r"^#+ (.+)$", text(name), re.MULTILINE)
    anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert len(anchors) == len(set(anchors))
    assert {link.replace("\n", "") for link in re.findall(r"\]\(#([^)]+)\)", text(name))} <= set(anchors)
