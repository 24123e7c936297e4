"""A store of an earlier schema is brought up to date, whatever interrupts that."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from qrusty_trio.storage.base import Family
from tests.storage.test_rocksdb import open_store, run_python, set_schema


def schema_of(path: Path) -> tuple[str, int]:
    """What `FORMAT` and META say."""
    storage = open_store(path)
    stored = storage.get(storage.families[Family.META], b"schema_version")
    storage.close()
    assert stored is not None
    return (path / "FORMAT").read_text(), int.from_bytes(stored, "big")


NOW = ("qrusty-trio store, schema 3\n", 3)


# Verifies: PER-0059
@pytest.mark.parametrize("schema", [1, 2])
def test_a_store_of_an_earlier_schema_is_brought_up_to_date(tmp_path: Path, schema: int) -> None:
    set_schema(tmp_path, schema)
    (tmp_path / "FORMAT").write_text(f"qrusty-trio store, schema {schema}\n")
    assert schema_of(tmp_path) == NOW


KILLED_WHILE_MARKING = """
import os, signal, sys
from rocksdict import Rdict
from qrusty_trio.storage import rocksdb, rocksdb_format
from qrusty_trio.storage.rocksdb import RocksStorage

moment, count = sys.argv[2], 0

def kill(owner, name, before):
    function = getattr(owner, name)
    def replaced(*args):
        if before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args)
        os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, replaced)

if moment in ("before the mark", "after the mark"):
    kill(rocksdb_format.DirectoryLock, "mark", moment.startswith("before"))
elif moment == "written but not synced":
    kill(os, "fsync", True)
else:
    kill(Rdict, "flush_wal", moment.startswith("before"))
RocksStorage.open(sys.argv[1], cache_mb=8, write_buffer_mb=4, max_open_files=64)
"""


# Verifies: PER-0059
@pytest.mark.parametrize(
    "moment", ["before the mark", "written but not synced", "after the mark", "before the end", "after the end"]
)
def test_a_kill_while_a_store_is_brought_up_to_date(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "store"
    set_schema(path, 1)
    (path / "FORMAT").write_text("qrusty-trio store, schema 1\n")
    with run_python(KILLED_WHILE_MARKING, str(path), moment) as child:
        assert child.wait() == -signal.SIGKILL
    marked = (path / "FORMAT").read_text()
    assert marked == ("qrusty-trio store, schema 1\n" if moment == "before the mark" else NOW[0])
    assert schema_of(path) == NOW
