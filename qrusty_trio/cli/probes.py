"""`check`: a probe for monitoring systems, with their exit statuses.

Rule: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, and one line of text (or metrics, or JSON) on stdout, whatever happens. A
server that can't be reached is critical. A question that can't be answered is unknown, as is another kind of server.

Requirements: API-0129
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import typer

from qrusty_trio.cli.command import command
from qrusty_trio.cli.completion import queue_names
from qrusty_trio.cli.failures import leaves
from qrusty_trio.cli.output import Format, visible, write
from qrusty_trio.cli.queues import queue_of
from qrusty_trio.cli.session import Session
from qrusty_trio.cli.values import no_empty_name
from qrusty_trio.client import ClientError, HttpClient, NotFound, ProtocolError


class Status(IntEnum):
    """What monitoring plugins exit with."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


class Finding(NamedTuple):
    """A value and what its thresholds say."""

    name: str
    value: float
    warning: float | None
    critical: float | None

    @property
    def status(self) -> Status:
        if self.critical is not None and self.value >= self.critical:
            return Status.CRITICAL
        if self.warning is not None and self.value >= self.warning:
            return Status.WARNING
        return Status.OK


class Result(NamedTuple):
    """What was found."""

    status: Status
    sentence: str
    findings: list[Finding]


Threshold = float | None


def _threshold(option: str, text: str) -> Any:
    return typer.Option(option, min=0, help=text, show_default=False)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "check", failed=_failed)(check)


def check(
    session: Session,
    queue: Annotated[
        str | None,
        typer.Argument(
            metavar="[QUEUE]",
            help="One queue; all if not given.",
            autocompletion=queue_names,
            callback=no_empty_name,
            show_default=False,
        ),
    ] = None,
    warn_available: Annotated[
        Threshold, _threshold("--warn-available", "Warning from so many available messages.")
    ] = None,
    crit_available: Annotated[Threshold, _threshold("--crit-available", "Critical from so many.")] = None,
    warn_dead: Annotated[Threshold, _threshold("--warn-dead", "Warning from so many dead letters.")] = None,
    crit_dead: Annotated[Threshold, _threshold("--crit-dead", "Critical from so many.")] = None,
    warn_age: Annotated[
        Threshold, _threshold("--warn-age", "Warning if the oldest message waits so many seconds.")
    ] = None,
    crit_age: Annotated[Threshold, _threshold("--crit-age", "Critical if it does.")] = None,
    warn_memory: Annotated[Threshold, _threshold("--warn-memory", "Warning from so many percent of the limit.")] = None,
    crit_memory: Annotated[Threshold, _threshold("--crit-memory", "Critical from so many percent.")] = None,
    shape: Annotated[
        Literal["nagios", "prometheus", "json"], typer.Option("--format", help="What is printed.")
    ] = "nagios",
) -> Status:
    """Say whether a server, or a queue, is well.

    \b
    qrusty-trio check --warn-dead 1 --crit-available 100000
    qrusty-trio check jobs --warn-age 60 --crit-age 600 --format prometheus

    Exits with 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, as monitoring plugins do. A server that can't be reached, that is
    not ready, or that refuses publishes for lack of memory is critical.
    """
    thresholds = {
        "available": (warn_available, crit_available),
        "dead": (warn_dead, crit_dead),
        "oldest_age_seconds": (warn_age, crit_age),
        "memory_percent": (warn_memory, crit_memory),
    }

    async def look(client: HttpClient) -> Result:
        try:
            return judged(await client.server(), await _counts(client, queue), thresholds)
        except (KeyError, TypeError) as error:
            return Result(Status.UNKNOWN, f"the response is not that of this server: {error!r}", [])

    result = _asked(session, look)
    _print(result, shape, session.output.format(), session.target.url)
    return result.status


def unknown(sentence: str) -> Status:
    """Print that nothing could be found out, for somebody who reads text."""
    return _failed(sentence, {"shape": "nagios", "output": None})


def _failed(sentence: str, given: dict[str, Any]) -> Status:
    _print(Result(Status.UNKNOWN, sentence, []), given["shape"], given["output"], None)
    return Status.UNKNOWN


def _print(result: Result, shape: str, output: Format | None, url: str | None) -> None:
    as_json = shape == "json" or output is Format.JSON
    write((_json(result, url) if as_json else _PRINTED[shape](result)).encode())


def _asked(session: Session, look: Any) -> Result:
    try:
        result: Result = session.ask(look)
    except (ClientError, BaseExceptionGroup) as error:
        causes = [each for each in leaves(error) if isinstance(each, ClientError)]
        if not causes:
            raise
        status = Status.UNKNOWN if isinstance(causes[0], (NotFound, ProtocolError)) else Status.CRITICAL
        return Result(status, str(causes[0]), [])
    return result


async def _counts(client: HttpClient, queue: str | None) -> dict[str, float]:
    if queue is not None:
        found = await queue_of(client, queue)
        return {**found, "oldest_age_seconds": found["oldest_age_seconds"] or 0.0}
    page = await client.queue_list(sort="oldest", order="desc", limit=1)
    oldest = next((each["oldest_age_seconds"] for each in page["queues"]), None)
    return {**page["totals"], "oldest_age_seconds": oldest or 0.0}


def judged(
    server: dict[str, Any], counts: dict[str, float], thresholds: dict[str, tuple[Threshold, Threshold]]
) -> Result:
    """What the state of a server and the counts mean. `server` is what `GET /server` answers."""
    memory = server["memory"]
    percent = 100 * memory["usage_bytes"] / memory["limit_bytes"] if memory["limit_bytes"] else 0.0
    values = {**counts, "memory_percent": round(percent, 1)}
    findings = [Finding(name, values[name], *limits) for name, limits in thresholds.items()]
    if server["state"] != "ok":
        text = f"the server is {server['state'].replace('_', ' ')}"
        return Result(Status.CRITICAL, text, findings)
    if memory["publishes_refused"]:
        return Result(Status.CRITICAL, "publishes are refused for lack of memory", findings)
    if server["storage"].get("publishes_refused"):  # not told by servers before it was there
        return Result(Status.CRITICAL, "publishes are refused, as the disk has little room", findings)
    worst = max(findings, key=lambda each: each.status)
    if worst.status is Status.OK:
        shown = ", ".join(f"{each.name} {each.value:g}" for each in findings)
        return Result(Status.OK, shown, findings)
    limit = worst.critical if worst.status is Status.CRITICAL else worst.warning
    return Result(worst.status, f"{worst.name} is {worst.value:g}, and {limit:g} is the limit", findings)


def _nagios(result: Result) -> str:
    perfdata = " ".join(
        f"{each.name}={each.value:g};{_given(each.warning)};{_given(each.critical)};0" for each in result.findings
    )
    # A bar would begin the figures.
    sentence = visible(result.sentence).replace("|", "/")
    return f"QRUSTY {result.status.name} - {sentence}" + (f" | {perfdata}" if perfdata else "") + "\n"


def _given(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _prometheus(result: Result) -> str:
    lines = [
        "# HELP qrusty_check_status What the check found: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.",
        "# TYPE qrusty_check_status gauge",
        f"qrusty_check_status {result.status.value}",
    ]
    if result.findings:
        lines += ["# HELP qrusty_check_value What the check looked at.", "# TYPE qrusty_check_value gauge"]
        lines += [f'qrusty_check_value{{name="{each.name}"}} {each.value:g}' for each in result.findings]
    return "\n".join(lines) + "\n"


def _json(result: Result, url: str | None) -> str:
    values = {
        each.name: {"value": each.value, "warning": each.warning, "critical": each.critical} for each in result.findings
    }
    row = {"status": result.status.name, "message": result.sentence, "url": url, "values": values}
    return msgspec.json.encode(row).decode() + "\n"


_PRINTED: dict[str, Callable[[Result], str]] = {"nagios": _nagios, "prometheus": _prometheus}
