"""The blocking client is what its source and the replacements give."""

from __future__ import annotations

import pytest

from release.blocking_client import SOURCE, TARGET, blocking


# Verifies: WS-0048
def test_the_blocking_client_was_written_anew() -> None:
    assert blocking(SOURCE.read_text(encoding="utf-8")) == TARGET.read_text(encoding="utf-8"), "run `make blocking`"


def test_a_source_that_changed_in_an_unknown_way() -> None:
    with pytest.raises(ValueError, match="async def aclose"):
        blocking(SOURCE.read_text(encoding="utf-8").replace("aclose", "end"))
