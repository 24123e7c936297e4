"""The blocking client is what its sources and the replacements give."""

from __future__ import annotations

import pytest

from release.blocking_client import WRITTEN, blocking, source, target


# Verifies: WS-0048
@pytest.mark.parametrize("name", WRITTEN)
def test_the_blocking_client_was_written_anew(name: str) -> None:
    text = source(name).read_text(encoding="utf-8")
    assert blocking(name, text) == target(name).read_text(encoding="utf-8"), "run `make blocking`"


@pytest.mark.parametrize("name", WRITTEN)
def test_a_source_that_changed_in_an_unknown_way(name: str) -> None:
    with pytest.raises(ValueError, match="async def aclose"):
        blocking(name, source(name).read_text(encoding="utf-8").replace("aclose", "end"))
