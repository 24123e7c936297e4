"""`export` and `import`: what went out comes in again, and what is no whole export is told."""

from __future__ import annotations

import errno
import gzip
import json
import os
from pathlib import Path

import pytest

from qrusty_trio.cli import transfer
from qrusty_trio.cli.failures import Failed
from tests.cli.shell import Shell


def contents(shell: Shell, queue: str) -> list[tuple[object, ...]]:
    rows = shell.run("peek", queue, "-n", "1000").rows
    return [(each["payload"], each["priority"], each["max_retries"]) for each in rows]


def fill(shell: Shell) -> None:
    """Three queues of different kinds, with messages that are available, locked and dead."""
    shell.ok("queue", "create", "names", "--kind", "Text", "--ordering", "MinFirst", "--dead-letter-max", "9")
    shell.ok("queue", "create", "unique/1", "--no-duplicates", "--protect")
    for name in ("b", "a"):
        shell.ok("publish", "names", f"p\n{name}é", "--text-priority", name, "--max-retries", "7")
    shell.ok("publish", "unique/1", stdin=("é" * 20_000).encode())
    shell.ok(
        "publish",
        "jobs",
        "--ndjson",
        stdin=b"".join(b'{"payload":"%d","priority":%d}\n' % (n, 2**64 - 1 - n) for n in range(250)),
    )
    (dead,) = shell.ok("publish", "jobs", "dead", "-p", str(2**64 - 1), "--max-retries", "1", "-o", "name").lines
    for _ in range(2):
        shell.ok("consume", "jobs")
    shell.run("nack", "jobs", dead)


# Verifies: API-0131
def test_there_and_back(shell: Shell, tmp_path: Path) -> None:
    fill(shell)
    before = {name: contents(shell, name) for name in ("names", "unique/1")}
    counts = shell.ok("queue", "list", "-o", "csv", "--columns", "name,available,locked,dead").out
    whole = shell.ok("export", "--all-queues", "-q")
    assert shell.ok("queue", "list", "-o", "csv", "--columns", "name,available,locked,dead").out == counts
    header, *rows, end = whole.rows
    assert (header["format"], header["version"], header["url"]) == ("qrusty-trio export", 1, shell.url)
    assert end == {"end": True, "queues": 3, "messages": 254 - 1}
    jobs = [row["payload"] for row in rows if row["queue"] == "jobs" and "state" in row]
    assert len(jobs) == 250
    file = tmp_path / "jobs.jsonl"
    shell.ok("export", "jobs", "--state", "dead", "--state", "available", "-f", str(file))
    exists = shell.run("export", "jobs", "-f", str(file))
    assert (exists.status, exists.err) == (1, f"error: {file} exists: give another name, or remove it\n")

    shell.ok("queue", "update", "unique/1", "--no-protect")
    shell.ok("queue", "delete", "--all-queues", "--yes")
    rehearsed = shell.ok("import", "--dry-run", stdin=whole.data)
    assert f"253 messages of 3 queues would be imported ({shell.url})" in rehearsed.err
    assert shell.ok("queue", "list").out == ""
    done = shell.ok("import", stdin=whole.data)
    assert "253 messages of 3 queues imported" in done.err
    for name, held in before.items():
        assert contents(shell, name) == held
    config = shell.ok("queue", "show", "names", "-o", "json").json["config"]
    assert config == {"ordering": "MinFirst", "allow_duplicates": True, "priority_kind": "Text", "dead_letter_max": 9}
    assert shell.ok("queue", "show", "unique/1", "-o", "json").json["config"]["protected"] is True
    shell.ok("queue", "purge", "jobs", "--yes")
    skipped = shell.ok("import", "-f", str(file))
    assert "1 dead letter skipped" in skipped.err
    assert "queue 'jobs' exists, and keeps its configuration" in skipped.err
    shell.ok("import", "--requeue-dead", stdin=file.read_bytes())
    assert shell.ok("queue", "show", "jobs", "-o", "json").json["available"] == 2 * 249 + 1


# Verifies: API-0131
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("nonsense\n", "its first line does not name a format"),
        ('{"queue":"jobs"}\n', "its first line does not name a format"),
        ('{"format":"another","version":1}\n', "an export of another program: 'another'"),
        ('{"format":"qrusty-trio export","version":2}\n', "version 2, and this program knows version 1"),
    ],
)
def test_another_format_changes_nothing(shell: Shell, text: str, said: str) -> None:
    message = '{"queue":"jobs","state":"available","payload":"p"}\n'
    done = shell.run("import", stdin=(text + message if text else text).encode())
    assert (done.status, said in done.err, done.err.count("\n")) == (1, True, 1), done.err
    assert shell.ok("queue", "list").out == ""


# Verifies: API-0131
def test_a_part_of_an_export_is_told(shell: Shell) -> None:
    shell.ok("publish", "jobs", "--ndjson", stdin=b'"p"\n' * 3)
    lines = shell.ok("export", "jobs").data.splitlines(keepends=True)
    done = shell.run("import", stdin=b"".join(lines[:-1]))
    assert (done.status, "it is a part of one" in done.err) == (3, True)
    broken = shell.run("import", stdin=b"".join(lines[:2]) + b'{"queue":"jobs"}\n')
    assert (broken.status, "line 3 is neither" in broken.err) == (1, True)
    again = shell.run("import", stdin=b"".join(lines[:2]) + b"{\n")
    assert (again.status, "line 3 can't be read" in again.err) == (1, True)
    assert shell.ok("queue", "show", "jobs", "-o", "json").json["available"] == 6
    shell.ok("queue", "create", "unique", "--no-duplicates")
    other = [line.replace(b'"queue":"jobs"', b'"queue":"unique"') for line in lines]
    refused = shell.run("import", stdin=b"".join(other))
    assert (refused.status, "2 messages refused: Duplicate payload rejected" in refused.err) == (3, True)


HEADER = b'{"format":"qrusty-trio export","version":1}\n'
QUEUE = b'{"queue":"jobs","config":{"ordering":"Fifo"}}\n'
MESSAGE = b'{"queue":"jobs","state":"available","payload":"p"}\n'
END = b'{"end":true,"queues":1,"messages":1}\n'


# Verifies: API-0131
def test_several_exports_follow_each_other(shell: Shell) -> None:
    one = HEADER + QUEUE + MESSAGE + END
    done = shell.ok("import", stdin=one + b"\n" + one.replace(b'"jobs"', b'"mail"'))
    assert f"2 messages of 2 queues imported ({shell.url})" in done.err
    assert shell.ok("queue", "list", "-o", "csv", "--columns", "name,available").lines[1:] == ["jobs,1", "mail,1"]
    part = shell.run("import", "--dry-run", stdin=one + HEADER + QUEUE + MESSAGE)
    assert (part.status, "the end of the export is missing" in part.err) == (3, True)
    for last, said in (
        (MESSAGE, "what begins in line 5 is no export: its first line does not name a format"),
        (HEADER.replace(b"1", b"2"), "what begins in line 5 is an export of version 2"),
    ):
        done = shell.run("import", "--dry-run", stdin=one + last)
        assert (done.status, said in done.err) == (1, True), done.err
        assert "1 message of the first 4 lines would be imported\n" in done.err


# Verifies: API-0131
def test_the_last_line_is_held_against_what_came(shell: Shell) -> None:
    done = shell.run("import", stdin=HEADER + QUEUE + MESSAGE + MESSAGE + END)
    assert done.status == 3
    assert "the export that ends in line 5 is not whole: it had 1 message of 1 queue" in done.err
    assert ", and 2 messages of 1 queue came\n" in done.err
    assert "2 messages of 1 queue imported" in done.err
    done = shell.run("import", "--dry-run", stdin=HEADER + MESSAGE + END)
    assert (done.status, "1 message of 0 queues came" in done.err) == (3, True)
    assert "1 message of 1 queue would be imported" in done.err
    done = shell.run("import", "--dry-run", stdin=HEADER + QUEUE + MESSAGE + b'{"end":true}\n')
    assert (done.status, "line 4 is the end, but does not say how many" in done.err) == (1, True)


# Verifies: API-0131
def test_a_queue_that_is_named_twice_is_exported_once(shell: Shell) -> None:
    shell.ok("publish", "jobs", "p")
    rows = shell.ok("export", "jobs", "jobs").rows
    assert (len(rows), rows[-1]) == (4, {"end": True, "queues": 1, "messages": 1})


def test_what_can_not_be_written_leaves_nothing(shell: Shell, tmp_path: Path) -> None:
    assert shell.run("export", "jobs").status == 4
    assert shell.run("export").status == 2
    assert shell.run("export", "jobs", "--all-queues").status == 2
    shell.ok("queue", "create", "jobs")
    done = shell.run("export", "jobs", "-f", str(tmp_path / "no" / "such"))
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert shell.run("import", "-f", str(tmp_path / "none")).status == 1
    zipped = gzip.compress(b"x")
    assert shell.run("import", stdin=zipped).status == 1


def test_only_a_fault_of_the_file_is_told_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "out.jsonl"
    with pytest.raises(BrokenPipeError), transfer._sink(file):
        raise BrokenPipeError
    assert not file.exists()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Failed, match="can't be written: No space left"), transfer._sink(file) as put:
        put({"a": 1})
    assert not file.exists()


def test_progress_is_drawn_on_a_terminal_only(shell: Shell) -> None:
    shell.ok("publish", "jobs", "p")
    drawn = shell.ok("export", "jobs", "-o", "json", terminal=True, TERM="xterm", COLUMNS="80")
    assert "export" in drawn.err
    assert [json.loads(line) for line in drawn.lines][-1]["end"] is True
    assert "\x1b" not in shell.ok("export", "jobs").err
