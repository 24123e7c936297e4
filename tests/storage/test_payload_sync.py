"""Syncs of payloads from several threads, of which one fails."""

from __future__ import annotations

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qrusty_trio.errors import StorageFault
from tests.storage.test_payloads import open_store


def test_a_sync_that_waited_for_one_that_failed_fails_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even when the loss is taken note of in between: what its caller appended was lost, and nobody looks again."""
    store = open_store(tmp_path, 1024 * 1024)
    store.append(b"one")
    began, may_fail = threading.Event(), threading.Event()

    def fail(descriptor: int) -> None:
        began.set()
        assert may_fail.wait(30)
        raise OSError(errno.EIO, "Input/output error")

    with ThreadPoolExecutor() as pool:
        monkeypatch.setattr(os, "fdatasync", fail)
        first = pool.submit(store.sync)
        assert began.wait(30)
        store.append(b"another")
        # It waits for the first; the loss is taken note of before it has its turn.
        really = store._syncing
        turn = threading.Lock()
        turn.acquire()
        monkeypatch.setattr(store, "_syncing", turn)
        second = pool.submit(store.sync)
        while not second.running():
            time.sleep(0.001)
        time.sleep(0.01)
        monkeypatch.undo()
        may_fail.set()
        with pytest.raises(StorageFault):
            first.result()
        assert really is store._syncing
        assert store.recover() == {1: 0}
        turn.release()
        with pytest.raises(StorageFault, match="earlier sync"):
            second.result()
    store.append(b"after")
    store.sync()
    store.close()
