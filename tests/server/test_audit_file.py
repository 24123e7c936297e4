"""The file of the audit: its lines, rotation, a disk that is full, a power cut, and that what is lost is counted."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qrusty_trio.api.auditing import MAX_RECORDS, Kept
from qrusty_trio.errors import StartupRefused
from qrusty_trio.server import audit_file
from qrusty_trio.server.audit_file import OLD_FILES, AuditFile
from tests.server.running import ROOT

PATIENCE = 60


def record(number: int, size: int = 0) -> Kept:
    return Kept(number, json.dumps({"number": number, "x": "x" * size}).encode())


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["number"] for line in path.read_text().splitlines()]


@contextmanager
def opened(path: Path, max_bytes: int = 2**20) -> Iterator[AuditFile]:
    file = AuditFile(path, max_bytes)
    try:
        yield file
    finally:
        file.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# Verifies: API-0165
def test_records_are_lines_of_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    with opened(path) as file:
        for number in range(1, 201):
            file.put(record(number))
    assert numbers(path) == list(range(1, 201))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (file.lost, file.failing) == (0, False)
    with opened(path) as again:
        assert [each.number for each in again.earlier] == list(range(1, 201))
        again.put(record(201))
    assert numbers(path)[-2:] == [200, 201]


# Verifies: API-0167
def test_rotation(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    with opened(path, 500) as file:
        for number in range(1, 41):
            file.put(record(number, 200))
            until(lambda: file._waiting.empty())
    olds = [tmp_path / f"audit.{number}" for number in range(OLD_FILES, 0, -1)]
    assert sorted(tmp_path.iterdir()) == sorted([path, *olds])
    found = [number for each in [*olds, path] for number in numbers(each)]
    assert found == list(range(found[0], 41)), "the oldest go, and none between"
    assert all(each.stat().st_size <= 500 for each in [*olds, path])
    with opened(path, 500) as again:
        assert [each.number for each in again.earlier] == numbers(olds[-1]) + numbers(path)


def test_what_a_power_cut_left(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    path.write_bytes(record(1).line + b"\n" + b"\x00" * 10 + b"\n[]\n{}\n" + record(2).line[:-4])
    with opened(path) as file:
        assert [each.number for each in file.earlier] == [1]
        file.put(record(2))
    assert path.read_bytes().endswith(record(2).line[:-4] + b"\n" + record(2).line + b"\n")


def test_the_end_of_a_large_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    path.write_bytes(b"".join(record(number, 50).line + b"\n" for number in range(1, 60_000)))
    with opened(path, 2**30) as file:
        assert [each.number for each in file.earlier] == list(range(60_000 - MAX_RECORDS, 60_000))


@pytest.mark.parametrize("kind", ["directory", "no directory", "link"])
def test_a_file_that_can_not_be_written_refuses_the_start(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "there" / "audit"
    if kind != "no directory":
        path.parent.mkdir()
    if kind == "directory":
        path.mkdir()
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartupRefused, match=f"^QRUSTY_AUDIT_FILE='{path}' can't be written: "):
        AuditFile(path, 2**20)


# The limit on the size of files stands for a disk that is full and gets room again.
FULL_AND_BACK = """
import logging, resource, signal, sys, time
from pathlib import Path
from qrusty_trio.server import audit_file
from tests.server.test_audit_file import record, until
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
logging.basicConfig(format="%(message)s")
logging.getLogger("qrusty_trio").setLevel(logging.INFO)
audit_file.RETRY_SECONDS = 0.01
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
path = Path(sys.argv[1])
file = audit_file.AuditFile(path, 2**30)
file.put(record(1))
until(lambda: path.stat().st_size > 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
for number in (2, 3):
    file.put(record(number))
until(lambda: file.failing)
time.sleep(0.1)
if sys.argv[2] == "back":
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    until(lambda: not file.failing)
file.close()
print(file.lost)
"""


# Verifies: API-0167
@pytest.mark.parametrize("way", ["back", "full"])
def test_a_disk_that_is_full(tmp_path: Path, way: str) -> None:
    path = tmp_path / "audit"
    done = subprocess.run(
        [sys.executable, "-c", FULL_AND_BACK, str(path), way],
        check=True,
        timeout=PATIENCE,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    said = done.stderr.splitlines()
    assert said[0].endswith("not written yet: [Errno 27] File too large. Changes go on; make room")
    if way == "back":
        assert said[1:] == ["the audit is written again"]
        assert (numbers(path), done.stdout) == ([1, 2, 3], "0\n")
    else:
        assert numbers(path) == [1], "no part of a line is left"
        assert 0 < int(done.stdout) <= 2
        # Whatever measures the tests may fail at the end, too, on this disk.
        assert any(line.endswith("not written by the end") for line in said)


# A process without a free descriptor can rename the file, but open no new one.
NO_DESCRIPTOR = """
import os, resource, sys, time
from pathlib import Path
from qrusty_trio.server import audit_file
from tests.server.test_audit_file import record, until
audit_file.RETRY_SECONDS = 0.01
path = Path(sys.argv[1])
file = audit_file.AuditFile(path, 500)
for number in range(1, 21):
    file.put(record(number, 200))
    until(lambda: file._waiting.empty())
until(lambda: path.stat().st_size > 400)
free = os.dup(0)
os.close(free)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
file.put(record(21, 200))
until(lambda: file.failing)
time.sleep(0.3)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
until(lambda: not file.failing)
file.close()
"""


# Verifies: API-0167
def test_a_rotation_that_fails_in_the_middle_is_done_once(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    subprocess.run(
        [sys.executable, "-c", NO_DESCRIPTOR, str(path)],
        check=True,
        timeout=PATIENCE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    olds = [tmp_path / f"audit.{number}" for number in range(OLD_FILES, 0, -1)]
    assert [number for each in [*olds, path] for number in numbers(each)] == list(range(5, 22))


# Verifies: API-0167
def test_too_many_that_wait_are_lost_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit_file, "WAITING_RECORDS", 2)
    real, block = os.fdatasync, [True]

    def stuck(descriptor: int) -> None:
        while block[0]:
            time.sleep(0.002)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", stuck)
    path = tmp_path / "audit"
    with opened(path) as file:
        file.put(record(1))
        until(lambda: file._waiting.empty())
        begun = time.monotonic()
        for number in range(2, 10):
            file.put(record(number))
        assert time.monotonic() - begun < PATIENCE / 2, "it does not wait"
        assert file.lost == 6
        block[0] = False
    assert numbers(path) == [1, 2, 3]
    (line,) = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert line == "the audit: 1 record was lost since the start, as the file takes none"
