"""Log lines that peers can cause: how often, and as what."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from qrusty_trio.http.seldom import LOG_SECONDS, Seldom


# Verifies: API-0043
@pytest.mark.contained
async def test_a_line_is_logged_seldom_and_a_failure_as_an_error(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    seldom, failure = Seldom(), ValueError("x")
    seldom.log("odd")
    seldom.log("failed", failure)
    await trio.sleep(LOG_SECONDS)
    seldom.log("failed", failure)
    assert seldom.count == 3
    assert [(each.levelno, each.getMessage(), bool(each.exc_info)) for each in caplog.records] == [
        (logging.WARNING, "odd", False),
        (logging.ERROR, "failed (1 such lines were left out)", True),
    ]
