"""Who is shown the page at the root, by what it accepts."""

from __future__ import annotations

import pytest

from qrusty_trio.http.fallback.root import MAX_ACCEPT_CHARACTERS, is_browser

PAGE = "text/html"


# Verifies: API-0054
@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        (PAGE, True),
        (" Text/HTML ", True),
        ("text/html,application/xhtml+xml,*/*;q=0.8", True),
        ("text/html;q=0", False),
        ("text/html;q=0.1", True),
        ("text/html; q = 0.1", True),
        ("text/html;level=1;q=0.5,application/json;q=0.4", True),
        ("text/html;q=0.4,application/json;q=0.5", False),
        ("text/html,application/json", False),
        ("text/html;q=2,application/json", False),
        ("text/html;q=-1", False),
        ("text/html;q=high", False),
        ("text/html;q=nan", False),
        ("application/json;q=-1,text/html;q=0", False),
        ("text/html;q=0.3;q=0,application/json;q=0.2", True),
        ("application/json", False),
        (" " * (MAX_ACCEPT_CHARACTERS - len(PAGE)) + PAGE, True),
        (" " * (MAX_ACCEPT_CHARACTERS - len(PAGE) + 1) + PAGE, False),
    ],
)
def test_who_is_shown_the_page(accept: str | None, expected: bool) -> None:
    assert is_browser(accept) is expected
