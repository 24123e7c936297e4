"""The file `FORMAT`, when it is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qrusty_trio.errors import StartupRefused
from qrusty_trio.storage.rocksdb_format import DirectoryLock


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_format_that_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "FORMAT")
    with pytest.raises(StartupRefused, match="FORMAT is no file"):
        DirectoryLock.acquire(tmp_path)
