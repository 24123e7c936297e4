"""A tokens file for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.access.guarded import TokenBook


@pytest.fixture
def book(tmp_path: Path) -> TokenBook:
    return TokenBook(tmp_path / "tokens.toml")
