"""Tells what this machine lacks for the other browser tests, which can't even be imported without it."""

from __future__ import annotations

import pytest

from tests.browser.conftest import missing


def test_this_machine_has_what_the_browser_tests_need() -> None:
    if missing():
        pytest.skip(missing())
