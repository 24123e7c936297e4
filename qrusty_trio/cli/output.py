"""What a command prints: rows as a table, JSON, JSON lines, CSV or names.

Rule: stdout gets data and nothing else. A row is printed as soon as it is there, but for a table on a terminal, whose
columns need all rows. Only a terminal gets a table with lines and colours. Elsewhere a row is a line, its cells
separated by tabs. No byte of a payload reaches a terminal as a control sequence.

Requirements: API-0122
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import msgspec

from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed

Row = Mapping[str, Any]
"""A JSON object. A column names one of its members, or `outer.inner` for a member of a member."""


class Format(StrEnum):
    """The value of --output."""

    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    NAME = "name"


def write(data: bytes) -> None:
    """Write to stdout, byte by byte as it is."""
    with writing():
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


@contextmanager
def writing() -> Iterator[None]:
    """Around what writes to stdout. Raises BrokenPipeError if its reader has ended, else Failed."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        write_no_more()
        raise Failed(Exit.REFUSED, f"stdout can't be written: {error.strerror}") from error


def write_no_more() -> None:
    """Throw away what is in stdout's buffer, and what comes yet: it must not fail again when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(sentence: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(visible(sentence) + "\n")
    sys.stderr.flush()


def on_terminal() -> bool:
    return sys.stdout.isatty()


def with_colour() -> bool:
    """Whether a terminal may get colours: see https://no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def visible(text: str) -> str:
    """Text without control characters: they are shown as escapes, so that none of them moves the cursor."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char) or (
        f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"
    )


def cell(row: Row, column: str) -> str:
    """The text of a cell, control characters included."""
    value: Any = row
    for name in column.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return msgspec.json.encode(value).decode()


class Output:
    """How a command prints. `given` None: a table on a terminal, elsewhere what the command finds best."""

    def __init__(self, given: Format | None, columns: str | None) -> None:
        self._given = given
        self._columns = [each.strip() for each in columns.split(",")] if columns is not None else None
        if self._columns is not None and not all(self._columns):
            raise Failed(Exit.USAGE, f"--columns '{columns}' has an empty name: separate names with single commas")

    def format(self, best: Format = Format.TABLE) -> Format:
        """What is printed. `best`: where nothing is given and nobody looks."""
        if self._given is not None:
            return self._given
        return Format.TABLE if on_terminal() else best

    def rows(self, columns: Sequence[str], name: str, *, best: Format = Format.TABLE, whole: bool = True) -> RowWriter:
        """Print many rows: `with output.rows(...) as rows: rows.add(row)`. `name`: the column for --output name.

        `whole`: JSON is an array of the rows. Otherwise there is at most one row, and JSON is that object.
        """
        shown = self._columns or list(columns)
        chosen = self.format(best)
        if chosen is Format.TABLE:
            return _Table(shown) if on_terminal() else _Lines(shown)
        if chosen is Format.JSON:
            return _Array() if whole else _JsonLines(indent=on_terminal())
        if chosen is Format.NDJSON:
            return _JsonLines()
        return _Csv(shown) if chosen is Format.CSV else _Names(name)

    def stream(self, columns: Sequence[str], name: str) -> RowWriter:
        """Print rows that come over time, each at once: a table is lines on a terminal, too, and JSON is JSON lines."""
        chosen = self.format(Format.NDJSON)
        if chosen is Format.TABLE:
            return _Lines(self._columns or columns)
        if chosen is Format.JSON:
            return _JsonLines()
        return self.rows(columns, name, best=Format.NDJSON)

    def payloads(self) -> RowWriter:
        """Print payloads alone, byte by byte as they are, with nothing between them."""
        return _Payloads()

    def many(self, rows: Iterable[Row], columns: Sequence[str], name: str) -> None:
        with self.rows(columns, name) as writer:
            for row in rows:
                writer.add(row)

    def one(self, row: Row, columns: Sequence[str], name: str, *, best: Format = Format.TABLE) -> None:
        """Print an object: as a table, a line for each column."""
        shown = self._columns or columns
        if self.format(best) is Format.TABLE:
            pairs = [{"field": column, "value": cell(row, column)} for column in shown]
            with Output(Format.TABLE, None).rows(("field", "value"), "field") as writer:
                for pair in pairs:
                    writer.add(pair)
            return
        with self.rows(columns, name, best=best, whole=False) as writer:
            writer.add(row)


class RowWriter:
    """Prints rows. Use it as a context manager."""

    def add(self, row: Row) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Print what comes after the last row."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not isinstance(error, BrokenPipeError):
            self.close()


class _Lines(RowWriter):
    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns

    def add(self, row: Row) -> None:
        write("\t".join(visible(cell(row, column)) for column in self._columns).encode() + b"\n")


class _Table(RowWriter):
    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        self._rows.append(row)

    def close(self) -> None:
        if self._rows:
            with writing():
                console().print(table_of(self._columns, self._rows))


class _Array(RowWriter):
    def __init__(self) -> None:
        self._begun = False

    def add(self, row: Row) -> None:
        write((b"," if self._begun else b"[") + b"\n" + msgspec.json.encode(row))
        self._begun = True

    def close(self) -> None:
        write(b"\n]\n" if self._begun else b"[]\n")


class _JsonLines(RowWriter):
    def __init__(self, indent: bool = False) -> None:
        self._indent = indent

    def add(self, row: Row) -> None:
        line = msgspec.json.encode(row)
        write((msgspec.json.format(line, indent=2) if self._indent else line) + b"\n")


class _Csv(RowWriter):
    """RFC 4180, with a header line; control characters stay as they are, in quotes."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._line(columns)

    def _line(self, cells: Iterable[str]) -> None:
        text = io.StringIO()
        csv.writer(text).writerow(cells)
        write(text.getvalue().encode())

    def add(self, row: Row) -> None:
        self._line(cell(row, column) for column in self._columns)


class _Payloads(RowWriter):
    def add(self, row: Row) -> None:
        if row["payload"] is None:
            say(f"message {row['id']} has lost its payload: {row.get('payload_error')}")
        else:
            write(row["payload"].encode())


class _Names(RowWriter):
    def __init__(self, column: str) -> None:
        self._column = column

    def add(self, row: Row) -> None:
        write(visible(cell(row, self._column)).encode() + b"\n")


# What needs rich. It is loaded only where something is drawn on a terminal.


def console(*, stderr: bool = False) -> Any:
    """A rich console."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a locale may lack characters
    return Console(stderr=stderr, no_color=not with_colour(), highlight=False, soft_wrap=False)


def table_of(columns: Sequence[str], rows: Iterable[Row], title: str | None = None) -> Any:
    """A rich table. Numbers stand on the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        numbers = any(isinstance(row.get(column), int | float) for row in rows)
        table.add_column(
            column.replace("_", " ").replace("config.", ""),
            justify="right" if numbers else "left",
            overflow="ellipsis" if column == "payload" else "fold",
            no_wrap=column == "payload",
        )
    for row in rows:
        table.add_row(*(Text(visible(cell(row, column))) for column in columns))
    return table
