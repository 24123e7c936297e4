"""The queue in PostgreSQL that the benchmark measures: a real server, and the real load driver.

Rule: what the page says of it is shown here: what it syncs, that a message goes to one consumer, and that nothing of it
stays behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.driver import SOURCES, Load, load
from bench.postgresql import POSTGRESQL, USER, binaries
from bench.servers import Running

GO = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")

pytestmark = [
    pytest.mark.skipif(POSTGRESQL.missing() is not None, reason="PostgreSQL is missing: apt-get install postgresql"),
    pytest.mark.skipif(GO is None, reason="Go is missing: https://go.dev/dl/"),
]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Open to the account of PostgreSQL, as pytest's own directories are not."""
    with tempfile.TemporaryDirectory(prefix="qrusty-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="module")
def program(place: Path) -> Path:
    """A driver of these tests' own: others may be building that of the benchmark."""
    assert GO is not None
    built = place / "load-driver"
    environment = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    subprocess.run([GO, "build", "-o", str(built), "."], cwd=SOURCES, check=True, env=environment)
    return built


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Running]:
    with Running(POSTGRESQL, place / "shared") as running:
        yield running


def drive(program: Path, server: Running, mode: str, **options: int | float | str | bool) -> Load:
    return load(program, server.address, "postgres", mode, connections=8, payload=100, **options)


def sql(server: Running, statement: str) -> str:
    asked = [str(binaries() / "psql"), "-h", "127.0.0.1", "-p", str(server.port), "-U", USER, "-Atc", statement]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("mode", ["publish", "cycle"])
def test_a_run_has_no_errors(program: Path, server: Running, mode: str) -> None:
    found = drive(program, server, mode, count=400, queue=f"run-{mode}")
    assert (found["messages"], found["error_kinds"]) == (400, {})
    assert found["latency_us"][mode]["count"] == 400
    assert sql(server, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0"


def test_each_message_goes_to_one_consumer_and_is_gone_after_its_ack(program: Path, server: Running) -> None:
    """An ack of a message that another connection had, too, would be refused and counted."""
    found = drive(program, server, "drain", prefill=2000, count=2000, queue="drained", keep=True)
    assert (found["messages"], found["error_kinds"]) == (2000, {})
    assert sql(server, 'SELECT count(*) FROM "drained"') == "0"


def test_messages_come_by_priority_and_then_in_the_order_of_their_publishing(program: Path, server: Running) -> None:
    drive(program, server, "publish", count=300, queue="ordered", keep=True)
    expected = sql(server, 'SELECT id FROM "ordered" ORDER BY priority, id LIMIT 100').split()
    load(program, server.address, "postgres", "drain", connections=1, count=100, queue="ordered", keep=True)
    left = sql(server, 'SELECT id FROM "ordered"').split()
    assert len(left) == 200
    assert not set(expected) & set(left)


def test_taking_a_message_leaves_the_index_alone(program: Path, server: Running) -> None:
    """What it changes of a row is in no index."""
    drive(program, server, "publish", count=50, queue="indexed", keep=True)
    columns = sql(server, "SELECT indexdef FROM pg_indexes WHERE tablename = 'indexed'").partition(" USING ")[2]
    assert columns == "btree (priority, id)"


@pytest.mark.parametrize("setting", ["fsync", "synchronous_commit", "full_page_writes"])
def test_an_answer_means_that_the_change_is_on_the_disk(server: Running, setting: str) -> None:
    assert sql(server, f"SHOW {setting}") == "on"


def test_the_processor_time_of_a_connection_that_has_ended_counts(server: Running) -> None:
    before = server.cpu_seconds()
    sql(server, "SELECT sum(sqrt(number)) FROM generate_series(1, 2000000) AS number")
    assert server.cpu_seconds() - before > 0.05


def test_nothing_is_left_when_it_has_stopped(program: Path, place: Path) -> None:
    running = Running(POSTGRESQL, place / "stopped")
    with running:
        whole = psutil.Process(running.pid)
        processes = [whole, *whole.children(recursive=True)]
        assert len(processes) > 1
        assert all(process.username() != "root" for process in processes)
        drive(program, running, "publish", count=50)
    assert not any(process.is_running() for process in processes)
    assert not (place / "stopped" / "data" / "postmaster.pid").exists()


def test_it_starts_again_with_what_it_held(program: Path, place: Path) -> None:
    running = Running(POSTGRESQL, place / "again")
    with running:
        drive(program, running, "publish", count=50, queue="kept", keep=True)
    with running:
        assert sql(running, 'SELECT count(*) FROM "kept"') == "50"
