"""The section "Side by side" and its plots, from the stored rounds of `bench.run`.

Rule: a workload in which this server is behind is shown like any other, and stands once more in the table
"Where we lose".
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench import machine
from bench.report import relative, section, spread, table
from bench.workloads import EVERYONE, GOALS, WORKLOADS, Side, Workload

if TYPE_CHECKING:
    from bench.driver import Load
    from bench.run import Measured

Stored = Mapping[str, "Measured"]
Drawn = Sequence[tuple[str, Path]]
"""Title and file of each plot."""
DUE = {workload.key: workload.rate for workload in WORKLOADS}
OURS = ("ours-always", "ours-never")
Losses = dict[tuple[str, str], dict[str, str]]
"""Workload and policy of ours -> label of a server that is faster -> how many times our rate it has."""
LOSSES = (
    "How many times our rate the other server reaches; where messages are due, how many times sooner its median "
    "response comes. An empty cell: it is not ahead, or was not compared. Without fsync, qrusty_trio is compared only "
    "with servers that don't sync either."
)
HEAD = (
    *("server", "fsync", "messages/s", "p50 ms", "p99 ms", "ours (always) : it", "ours (never) : it"),
    *("server, µs each", "driver, µs each"),
)
PROCESSOR_TIME = (
    "The last two columns have the processor time for a message, of all processes and threads of the server and of the "
    "driver: connecting, warm-up and the server's background work in the round included."
)


def write(stored: Stored, drawn: Drawn) -> None:
    """Write the section."""
    section("peers", text(stored, drawn))


def text(stored: Stored, drawn: Drawn = ()) -> str:
    """The section in Markdown, with the plots that were drawn."""
    parts = ["## Side by side", _circumstances(stored)]
    parts += [f"![{title}]({relative(path)})" for title, path in drawn]
    parts += [_goals(stored), _losses(stored)]
    parts += [_workload(workload, stored) for workload in WORKLOADS if workload.key in stored]
    return "\n\n".join(part for part in parts if part)


def rates(measured: Measured, key: str) -> list[float]:
    return [result["rate"] for result in measured["rounds"].get(key, [])]


def speeds(measured: Measured, key: str) -> list[float]:
    """What is compared: rates. Where the rate is given, how soon the median response comes."""
    if not DUE.get(measured["workload"]):
        return rates(measured, key)
    latencies = [result["latency_us"].get(result["mode"]) for result in measured["rounds"].get(key, [])]
    return [1 / found["p50"] if found and found["p50"] > 0 else 0.0 for found in latencies]


def ratios(measured: Measured, ours: str, other: str) -> list[float]:
    """Ours over theirs, round by round: they took turns, so a slow minute of the machine hits both."""
    pairs = zip(speeds(measured, ours), speeds(measured, other), strict=False)
    return [mine / theirs for mine, theirs in pairs if theirs > 0]


def percentile_ms(results: list[Load], step: str, name: str) -> str:
    """Median over the rounds of one percentile, in milliseconds."""
    found = [result["latency_us"][step] for result in results if step in result["latency_us"]]
    if not found:
        return "-"
    values = {"p50": [one["p50"] for one in found], "p99": [one["p99"] for one in found]}[name]
    return f"{statistics.median(values) / 1000:.2f}"


def microseconds(results: list[Load], whose: Literal["server_cpu_seconds", "driver_cpu_seconds"]) -> str:
    """Processor time for a message. It is that of the whole run, so the messages of the warm-up count, too."""
    each = [
        result[whose] * 1e6 / (result["rate"] * result["run_seconds"])
        for result in results
        if whose in result and result["rate"] > 0
    ]
    return spread(each, 1) if each else "-"


def _circumstances(stored: Stored) -> str:
    newest = max(stored.values(), key=lambda measured: measured["date"])
    missing = sorted({why for measured in stored.values() for why in measured["missing"]})
    lines = [machine.sentence(newest["machine"]), f"Measured on {newest['date']}."]
    lines += [f"Not measured: {why}." for why in missing]
    lines.append(
        "What stands for publish, consume and ack elsewhere:\n\n"
        "- **beanstalkd**: put, reserve, delete.\n"
        "- **Redis** has no acknowledged priority queue. Three scripts stand in, over a sorted set, a hash, and a "
        "second sorted set for messages in work.\n"
        "- **RabbitMQ**: a durable queue with x-max-priority, persistent messages, confirms, and a consumer with "
        "prefetch 1. It sends the next message ahead, and does not respond to an ack: a cycle ends when the ack is "
        "written.\n"
        "- **PostgreSQL**: a table for each queue, whose primary key is the order of delivery. INSERT; an UPDATE of "
        "the row that SELECT ... FOR UPDATE SKIP LOCKED finds first, which leases it for 30 seconds; DELETE. Each is a "
        "prepared statement and a transaction of its own. fsync, synchronous_commit and full_page_writes are on, so an "
        "answer promises what one of qrusty_trio (always) does: the change is on the disk. It differs from the server "
        "as it comes in that it takes 200 connections, and that autovacuum looks every second and makes no pauses.\n"
        "- **qrusty** has no setting for fsync and never syncs its log. So qrusty_trio (always) is compared with it, "
        "although it promises more."
    )
    lines.append(PROCESSOR_TIME)
    return "\n\n".join(lines)


def _workload(workload: Workload, stored: Stored) -> str:
    measured = stored[workload.key]
    step = "cycle" if workload.mode == "cycle" else "publish"
    rows = [_row(side, measured, step) for side in workload.sides if measured["rounds"].get(side.key)]
    count = max(len(results) for results in measured["rounds"].values())
    busy = max(result["driver_cpu_seconds"] / result["run_seconds"] for result in _all(measured))
    words = [
        f"{count} rounds of {measured['seconds']:g} s.",
        workload.note,
        f"The driver took at most {busy:.0%} of a core.",
    ]
    parts = [f"### {workload.title}", " ".join(word for word in words if word)]
    parts += [table(HEAD, rows), _troubles(workload, measured)]
    if workload.key == "deep":
        parts.append(_depths(workload, measured))
    if workload.constant in stored:
        parts.append(_beside_constant(workload, measured, stored[workload.constant]))
    if workload.closed in stored:
        parts.append(_beside_closed(workload, measured, stored[workload.closed]))
    return "\n\n".join(part for part in parts if part)


def _all(measured: Measured) -> list[Load]:
    return [result for results in measured["rounds"].values() for result in results]


def _row(side: Side, measured: Measured, step: str) -> list[str]:
    results = measured["rounds"][side.key]
    row = [side.label, side.server.fsync, spread(rates(measured, side.key))]
    row += [percentile_ms(results, step, "p50"), percentile_ms(results, step, "p99")]
    suffix = f"@{side.depth}" if side.depth else ""
    for ours in OURS:
        compared = [] if side.key == ours + suffix else ratios(measured, ours + suffix, side.key)
        row.append(_ratio(compared) if compared else "-")
    return [*row, microseconds(results, "server_cpu_seconds"), microseconds(results, "driver_cpu_seconds")]


def _ratio(values: list[float]) -> str:
    words = spread(values, 2)
    return f"**{words}**" if statistics.median(values) < 1 else words


def _troubles(workload: Workload, measured: Measured) -> str:
    """What was refused, lost or found empty."""
    lines = []
    for side in workload.sides:
        results = measured["rounds"].get(side.key, [])
        kinds: Counter[str] = Counter()
        for result in results:
            kinds.update(result["error_kinds"])
            kinds["consume found nothing"] += result["empty"]
        words = [f"{kind}: {count:,}" for kind, count in sorted(kinds.items()) if count]
        words += measured["failures"].get(side.key, [])
        if words:
            messages = sum(result["messages"] for result in results)
            lines.append(f"- {side.label}, in {messages:,} messages: {'; '.join(words)}")
    return "Errors:\n\n" + "\n".join(lines) if lines else "No errors, no empty consumes."


def _depths(workload: Workload, measured: Measured) -> str:
    rows = [
        [side.server.label, spread(values, 2)]
        for side in workload.sides
        if side.depth and (values := ratios(measured, side.key, side.server.key))
    ]
    return table(("server", "deep : empty"), rows)


def _beside_constant(workload: Workload, measured: Measured, constant: Measured) -> str:
    """Rates with headers that change, beside those with headers that are always the same."""
    rows = []
    for side in workload.sides:
        changing, same = rates(measured, side.key), rates(constant, side.key)
        if changing and same:
            ratio = statistics.median(changing) / statistics.median(same)
            rows.append([side.label, spread(same), spread(changing), f"{ratio:.2f}"])
    return table(
        ("server", "constant headers, messages/s", "changing headers, messages/s", "changing : constant"), rows
    )


def _beside_closed(workload: Workload, measured: Measured, closed: Measured) -> str:
    """Latencies at the rate that is due, beside those of the closed loop at the rate that it reached."""
    rows = []
    for side in workload.sides:
        open_loop, other = measured["rounds"].get(side.key), closed["rounds"].get(side.key)
        if open_loop and other:
            rates_of_both = [spread(rates(one, side.key)) for one in (closed, measured)]
            latencies = [
                percentile_ms(results, workload.mode, name) for name in ("p50", "p99") for results in (other, open_loop)
            ]
            rows.append([side.label, *rates_of_both, *latencies])
    head = ("server", "closed loop, messages/s", f"{workload.rate:,.0f}/s due, messages/s", "p50 ms, closed", "due")
    return table((*head, "p99 ms, closed", "due"), rows)


def _goals(stored: Stored) -> str:
    titles = {workload.key: workload.title for workload in WORKLOADS}
    labels = {side.key: side.label for workload in WORKLOADS for side in workload.sides}
    rows = []
    for goal in GOALS:
        values = ratios(stored[goal.workload], goal.ours, goal.other) if goal.workload in stored else []
        if values:
            reached = "yes" if statistics.median(values) >= goal.ratio else "**no**"
            words = [titles[goal.workload], labels[goal.ours], labels[goal.other]]
            rows.append([*words, spread(values, 2), f"{goal.ratio:g}", reached])
    head = ("workload", "this", "against", "ratio", "to reach", "reached")
    return "### The ratios aimed at\n\n" + table(head, rows) if rows else ""


def _losses(stored: Stored) -> str:
    losses: Losses = {}
    for ours, policy in zip(OURS, ("always", "never"), strict=True):
        for workload in WORKLOADS:
            if workload.key not in stored:
                continue
            for side in workload.sides:
                # Without fsync, this server is only compared with those that do without it too.
                unfair = ours == "ours-never" and side.server.fsync != "never"
                suffix = f"@{side.depth}" if side.depth else ""
                values = ratios(stored[workload.key], ours + suffix, side.key)
                if side.server.ours or unfair or not values or (ratio := statistics.median(values)) >= 1:
                    continue
                title = f"{workload.title}: {side.depth:,} deep" if side.depth else workload.title
                losses.setdefault((title, policy), {})[side.server.label] = f"{1 / ratio:.2f}"
    return "### Where we lose\n\n" + (losses_table(losses) if losses else "In no workload that was measured.")


def losses_table(losses: Losses) -> str:
    """One row for each workload and policy of ours, one column for each server that is faster somewhere."""
    labels = [server.label for server in EVERYONE if any(server.label in row for row in losses.values())]
    rows = [[*names, *(row.get(label, "") for label in labels)] for names, row in losses.items()]
    return f"{LOSSES}\n\n{table(('workload', 'our fsync', *labels), rows)}"
