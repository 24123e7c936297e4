"""The section of the peers, from rounds as `bench.run` keeps them.

Rule: the rounds are made up, so that what the section must say of them is known.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bench.driver import Latencies, Load
from bench.peers_report import text
from bench.postgresql import POSTGRESQL
from bench.workloads import EVERYONE, WORKLOADS

if TYPE_CHECKING:
    from bench.run import Measured


def one_round(mode: str, rate: float, milliseconds: float) -> Load:
    step = Latencies(p50=milliseconds * 1000, p90=0.0, p99=milliseconds * 2000, max=0.0, count=1)
    return Load(
        protocol="http",
        mode=mode,
        connections=32,
        window=64,
        payload_bytes=100,
        prefill=0,
        messages=int(rate * 3),
        seconds=3.0,
        rate=rate,
        latency_us={mode: step},
        empty=0,
        errors=0,
        error_kinds={},
        driver_cpu_seconds=1.0,
        run_seconds=4.0,
        server_cpu_seconds=2.0,
    )


def measured(key: str, rates: dict[str, float], missing: tuple[str, ...] = ()) -> Measured:
    mode = key.partition("-")[0]
    return {
        "workload": key,
        "date": "2026-11-27",
        "seconds": 3.0,
        "machine": {"processor": "two cores"},
        "missing": list(missing),
        "failures": {},
        "rounds": {side: [one_round(mode, rate, 1000 / rate)] for side, rate in rates.items()},
    }


def rows_of(section: str, title: str) -> list[list[str]]:
    """The cells of all tables below a heading."""
    (part,) = (part for part in section.split("\n### ") if part.startswith(f"{title}\n"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:1] == "|"]


def test_a_row_has_the_processor_time_of_a_message() -> None:
    section = text({"cycle-8-100": measured("cycle-8-100", {"postgresql": 1000.0, "ours-always": 2000.0})})
    head, _, ours, postgresql = rows_of(section, "Cycle (publish, consume, ack), 8 connections, 100 B")
    # In 4 seconds there were 4,000 messages, for which the server took 2 seconds and the driver 1.
    assert dict(zip(head, postgresql, strict=True))["server, µs each"] == "500.0 (500.0 to 500.0)"
    assert dict(zip(head, postgresql, strict=True))["driver, µs each"] == "250.0 (250.0 to 250.0)"
    assert dict(zip(head, ours, strict=True))["server, µs each"] == "250.0 (250.0 to 250.0)"


def test_rounds_without_the_servers_processor_time_are_shown_without_it() -> None:
    stored = measured("cycle-8-100", {"redis": 1000.0})
    del stored["rounds"]["redis"][0]["server_cpu_seconds"]
    head, _, row = rows_of(text({"cycle-8-100": stored}), "Cycle (publish, consume, ack), 8 connections, 100 B")
    assert dict(zip(head, row, strict=True))["server, µs each"] == "-"


def test_a_rate_that_is_due_stands_beside_the_closed_loop() -> None:
    section = text(
        {
            "publish-32-100": measured("publish-32-100", {"redis": 10_000.0, "ours-always": 8_000.0}),
            "publish-32-100-due-500": measured("publish-32-100-due-500", {"redis": 500.0}),
        }
    )
    rows = rows_of(section, "Publish, 32 connections, 100 B, 500 messages/s due")
    # Ours has no figure for this rate, so it has no row.
    head, _, redis = rows[-3:]
    assert head == [
        *("server", "closed loop, messages/s", "500/s due, messages/s"),
        *("p50 ms, closed", "due", "p99 ms, closed", "due"),
    ]
    assert redis == [
        *("Redis", "10,000 (10,000 to 10,000)", "500 (500 to 500)"),
        *("0.10", "2.00", "0.20", "4.00"),
    ]


def test_servers_that_reach_the_same_rate_are_compared_by_latency() -> None:
    due = measured("publish-32-100-due-500", {"redis": 500.0, "ours-always": 500.0})
    (ours,) = due["rounds"]["ours-always"]
    ours["rate"] = 501.0
    ours["latency_us"]["publish"]["p50"] *= 2
    section = text({due["workload"]: due})
    title = "Publish, 32 connections, 100 B, 500 messages/s due"
    assert ["Redis", "**0.50 (0.50 to 0.50)**"] in [[row[0], row[5]] for row in rows_of(section, title)]
    assert rows_of(section, "Where we lose")[-1] == [title, "always", "2.00"]


def test_headers_that_change_stand_beside_constant_ones() -> None:
    stored = {key: measured(key, {"ours-always": 1000.0}) for key in ("publish-32-100", "publish-32-100-changing")}
    rows = rows_of(text(stored), "Publish, 32 connections, 100 B, headers that change")
    assert rows[-1] == ["qrusty_trio (always)", "1,000 (1,000 to 1,000)", "1,000 (1,000 to 1,000)", "1.00"]


def test_a_peer_that_is_not_installed_is_left_out_with_a_line() -> None:
    why = replace(POSTGRESQL, program="/nowhere/postgres").missing()
    assert why == "PostgreSQL: no /nowhere/postgres here"
    section = text({"cycle-8-100": measured("cycle-8-100", {"redis": 1000.0}, (why,))})
    assert "\nNot measured: PostgreSQL: no /nowhere/postgres here.\n" in section
    assert len(rows_of(section, "Cycle (publish, consume, ack), 8 connections, 100 B")) == 3


@pytest.mark.parametrize("key", ["publish-1-100", "publish-8-100", "publish-32-100", "cycle-1-100", "cycle-8-100"])
def test_all_peers_have_a_part_in_publish_and_cycle(key: str) -> None:
    (workload,) = (workload for workload in WORKLOADS if workload.key == key)
    assert [side.server for side in workload.sides] == list(EVERYONE)


def test_what_a_workload_is_put_beside_is_there() -> None:
    keys = {workload.key for workload in WORKLOADS}
    assert {workload.closed for workload in WORKLOADS} | {workload.constant for workload in WORKLOADS} <= keys | {""}
