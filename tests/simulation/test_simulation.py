"""Five hundred worlds, and what makes them worth something: the same seed takes the same course."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SEEDS = 500
PART = 50
LONGEST = 280
"""Seconds: many times what a part takes on its own."""


def simulate(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """In a process of its own: much of what is replaced there belongs to all of Python."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )


# Verifies: SYS-0004, PER-0010, SCH-0010, DLV-0059, DLV-0060, DLV-0061, DLV-0063
@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_no_promise_is_broken(first: int) -> None:
    done = simulate("--seeds", str(first), str(first + PART))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seed_takes_the_same_course_in_every_process() -> None:
    once, again = (simulate("--seed", "7", hash_seed=each) for each in ("1", "2"))
    assert once.returncode == 0, once.stdout + once.stderr
    assert len(once.stdout.splitlines()) > 100
    assert once.stdout == again.stdout
