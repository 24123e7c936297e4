"""The plots of docs/benchmarks.md, as SVG files beside it.

Rule: the axis of messages per second begins at nothing, and every server that was measured is in the plot.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

from bench.report import DOCUMENT
from bench.workloads import WORKLOADS, Side, Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bench.run import Measured

COLOURS = {
    "ours-always": "#1b5e9b",
    "ours-never": "#6fb1e0",
    "qrusty-0.26.0": "#c4501b",
    "qrusty-0.19.19": "#e8a57f",
    "beanstalkd-f0": "#3c7a3c",
    "beanstalkd-F": "#9ccb8f",
    "redis": "#8a2f4d",
    "rabbitmq": "#7a6a2f",
    "postgresql": "#5b4a9b",
}
CONNECTIONS = (1, 8, 32, 128)


def draw(stored: Mapping[str, Measured]) -> list[tuple[str, Path]]:
    """Draw what there are figures for; gives title and file of each plot."""
    drawn = []
    groups = (
        ("cycle", "Publish, consume and ack over HTTP or the server's own protocol, 100 B", _by_connections("cycle")),
        ("publish", "Publish over HTTP or the server's own protocol, 100 B", _by_connections("publish")),
        ("websocket", "WebSocket, 64 in flight on each socket, 100 B", [w for w in WORKLOADS if w.socket]),
    )
    # The same figures give the same bytes, and the text stays text.
    with mpl.rc_context({"svg.hashsalt": "qrusty_trio", "svg.fonttype": "none"}):
        for name, title, workloads in groups:
            present = [workload for workload in workloads if workload.key in stored]
            if present:
                path = DOCUMENT.parent / f"benchmarks-{name}.svg"
                _bars(path, title, present, stored)
                drawn.append((title, path))
    return drawn


def _by_connections(mode: str) -> list[Workload]:
    keys = [f"{mode}-{connections}-100" for connections in CONNECTIONS]
    return [workload for workload in WORKLOADS if workload.key in keys]


def _bars(path: Path, title: str, workloads: list[Workload], stored: Mapping[str, Measured]) -> None:
    sides = workloads[0].sides
    figure, axes = plt.subplots(figsize=(9.0, 5.2), layout="constrained")
    width = 0.86 / len(sides)
    for place, side in enumerate(sides):
        _one_server(axes, side, (place - (len(sides) - 1) / 2) * width, width, workloads, stored)
    axes.set_xticks(range(len(workloads)), [_name(workload) for workload in workloads])
    axes.set_ylabel("messages/s (median; line: lowest to highest)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:,.0f}"))
    axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=11)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _one_server(
    axes: Axes, side: Side, shift: float, width: float, workloads: list[Workload], stored: Mapping[str, Measured]
) -> None:
    """One server's bars: height the median, line from the lowest round to the highest."""
    places, medians, below, above = [], [], [], []
    for at, workload in enumerate(workloads):
        values = [result["rate"] for result in stored[workload.key]["rounds"].get(side.key, [])]
        if values:
            median = statistics.median(values)
            places.append(at + shift)
            medians.append(median)
            below.append(median - min(values))
            above.append(max(values) - median)
    if places:
        axes.bar(
            places,
            medians,
            width,
            yerr=[below, above],
            label=f"{side.server.label}: fsync {side.server.fsync}",
            color=COLOURS[side.server.key],
            error_kw={"linewidth": 0.8},
        )


def _name(workload: Workload) -> str:
    plural = "" if workload.connections == 1 else "s"
    if workload.socket:
        what = "publish" if workload.mode == "publish" else "publish, deliver, ack"
        return f"{what}\n{workload.connections} socket{plural}"
    return f"{workload.connections} connection{plural}"
