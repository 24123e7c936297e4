"""Publish, consume, ack, nack, renew, peek: from arguments, files and pipes, and what they exit with."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from tests.cli.shell import Shell

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def publish(shell: Shell, *payloads: str, queue: str = "jobs") -> list[str]:
    text = "".join(json.dumps(each) + "\n" for each in payloads).encode()
    return shell.ok("publish", queue, "--ndjson", stdin=text).lines


# Verifies: API-0125
@pytest.mark.parametrize("payload", ["hello", "", "two\nlines\n", "no end", "\x1b[31mé\x00\r\n", "-"])
def test_bytes_go_through_unchanged(shell: Shell, tmp_path: Path, payload: str) -> None:
    """From each of the four sources, and back again."""
    file = tmp_path / "payload"
    file.write_bytes(payload.encode())
    sources: list[tuple[tuple[str, ...], bytes]] = [
        (("jobs", "-"), payload.encode()),
        (("jobs",), payload.encode()),
        (("jobs", "-f", "-"), payload.encode()),
        (("jobs", "-f", str(file)), b""),
    ]
    if payload != "-":
        sources.append((("jobs", "--", payload), b""))
    for words, stdin in sources:
        shell.ok("publish", *words, stdin=stdin)
        assert shell.ok("peek", "jobs", "--raw").data == payload.encode()
        assert shell.ok("consume", "jobs", "--raw", "--ack").data == payload.encode()
    assert shell.run("consume", "jobs").status == 6


# Verifies: API-0121, API-0125, API-0126
def test_publish_consume_ack(shell: Shell) -> None:
    (low,) = shell.ok("publish", "jobs", "low", "--priority", "1").lines
    high = shell.ok("publish", "jobs", "high", "-p", str(2**64 - 1), "--max-retries", "1", "-o", "json").json["id"]
    (message,) = shell.ok("consume", "jobs").rows
    assert (message["id"], message["payload"], message["priority"]) == (high, "high", 2**64 - 1)
    assert (message["queue"], message["retry_count"]) == ("jobs", 1)
    done = shell.run("ack", "jobs", high, low)
    assert (done.status, done.lines) == (3, [f"{high}\tacked", f"{low}\tnot_found"])
    assert "1 message of 2 not locked by this consumer" in done.err
    done = shell.run("ack", "jobs", high)
    assert (done.status, done.err.count("\n")) == (4, 1)
    assert shell.ok("consume", "nothing", "jobs", "-o", "name").lines == [low]
    assert shell.run("ack", "jobs", low, "--consumer", "somebody else").status == 4
    assert shell.ok("ack", "jobs", "-", stdin=f"{low}\n".encode()).lines == [f"{low}\tacked"]
    empty = shell.run("consume", "jobs")
    assert (empty.status, empty.out, empty.err) == (6, "", "no message\n")
    assert shell.run("consume", "jobs", "-q").err == ""


# Verifies: API-0126
def test_nack_and_renew(shell: Shell) -> None:
    (id,) = shell.ok("publish", "jobs", "p", "--max-retries", "2").lines
    shell.ok("consume", "jobs", "--lock", "60")
    assert shell.ok("renew", "jobs", id, "--lock", "300").lines == [f"{id}\trenewed"]
    assert shell.ok("nack", "jobs", id).lines == [f"{id}\tunlocked"]
    assert shell.run("renew", "jobs", id).status == 4
    shell.ok("consume", "jobs")
    assert shell.ok("nack", "jobs", id, "--error", "no such address").lines == [f"{id}\tdead_lettered"]
    (letter,) = shell.ok("peek", "jobs", "--state", "dead").rows
    assert (letter["error"], letter["consumer"][:4]) == ("no such address", "cli-")


def test_a_dry_run_settles_nothing(shell: Shell) -> None:
    ids = publish(shell, "a", "b")
    shell.ok("consume", "jobs")
    for verb in ("ack", "nack", "renew"):
        done = shell.run(verb, "jobs", *ids, UNKNOWN, "--dry-run")
        assert (done.status, [line.split("\t")[1] for line in done.lines]) == (3, ["held", "not_found", "not_found"])
    assert shell.ok("queue", "show", "jobs", "-o", "json").json["locked"] == 1
    assert (
        "3 messages would be published in 'jobs'"
        in shell.ok("publish", "jobs", "--ndjson", "--dry-run", stdin=b'"a"\n"b"\n"c"\n').err
    )
    assert "would be made" in shell.ok("publish", "other", "x", "--dry-run").err
    assert shell.run("publish", "jobs", "x", "--text-priority", "a", "--dry-run").status == 1
    assert shell.ok("queue", "list", "-o", "name").lines == ["jobs"]


def test_many_at_once(shell: Shell, tmp_path: Path) -> None:
    """More than a batch; what `peek` prints can be published."""
    file = tmp_path / "lines"
    file.write_text("\n".join(json.dumps({"payload": str(number), "priority": number}) for number in range(1200)))
    assert len(shell.ok("publish", "jobs", "--ndjson", "-f", str(file)).lines) == 1200
    assert [each["payload"] for each in shell.ok("consume", "jobs", "-n", "3").rows] == ["1199", "1198", "1197"]
    seen = shell.ok("peek", "jobs", "-n", "450", "-o", "ndjson")
    assert len(seen.rows) == 450
    shell.ok("publish", "other", "--ndjson", stdin=seen.data)
    assert [each["payload"] for each in shell.ok("peek", "other", "-n", "450").rows] == [
        each["payload"] for each in seen.rows
    ]
    assert shell.ok("queue", "show", "jobs", "-o", "json").json["locked"] == 3


def test_a_line_that_is_refused_is_named(shell: Shell) -> None:
    shell.ok("queue", "create", "unique", "--no-duplicates")
    done = shell.run("publish", "unique", "--ndjson", stdin=b'"a"\n\n"a"\n"b"\n')
    assert (done.status, len(done.lines)) == (3, 2)
    assert "line 3 was refused: Duplicate payload rejected" in done.err
    done = shell.run("publish", "unique", "--ndjson", stdin=b'"c"\n{"payload": 1}\n')
    assert done.status == 1
    assert "line 2 is neither" in done.err
    assert shell.run("publish", "unique", "--ndjson", stdin=b'"a"\n').status == 1


def test_large_payloads(shell: Shell) -> None:
    """A list shows only their beginning: peek asks for the rest. What no server takes is refused here."""
    payload = ("é" * 20_000).encode()
    (id,) = shell.ok("publish", "jobs", stdin=payload).lines
    assert shell.ok("peek", "jobs", "--raw").data == payload
    assert shell.ok("peek", "jobs", id, "--raw").data == payload
    assert shell.run("peek", "jobs", UNKNOWN).status == 4
    assert shell.ok("find", id, "--raw").data == payload
    done = shell.run("publish", "jobs", stdin=b"x" * (2 * 1024 * 1024 + 1))
    assert (done.status, done.err.count("\n")) == (1, 1)
    done = shell.run("publish", "jobs", stdin=b"ab\xff")
    assert (done.status, "no UTF-8 from byte 2" in done.err) == (1, True)


# Verifies: API-0121
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("publish", "jobs", "x", "-f", "y"), "a payload and --file"),
        (("publish", "jobs", "x", "-p", "high"), "--text-priority"),
        (("publish", "jobs", "x", "-p", "1", "--text-priority", "a"), "give one of them"),
        (("publish", "jobs", "x", "--ndjson"), "leave out the payload"),
        (("consume", "a", "b", "-n", "2"), "name one"),
        (("consume", "jobs", "--count", "0"), "--count"),
        (("ack", "jobs", "-"), "one a line"),
        (("publish",), "QUEUE"),
        (("publish", "jobs", "x", "--what"), "--what"),
        (("peek", "jobs", "--state", "asleep"), "--state"),
        (("what",), "what"),
    ],
)
def test_wrong_usage_is_2_and_one_line(shell: Shell, words: tuple[str, ...], said: str) -> None:
    done = shell.run(*words)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1), done
    assert said in done.err


def test_nobody_types_a_payload_unasked(shell: Shell) -> None:
    assert shell.run("publish", "jobs", typed="").status == 2
    assert shell.ok("publish", "jobs", "-f", "-", typed="hello").lines
    done = shell.run("publish", "jobs", "-f", "/does/not/exist")
    assert (done.status, done.err) == (1, "error: /does/not/exist can't be read: No such file or directory\n")


def test_a_text_priority(shell: Shell) -> None:
    shell.ok("queue", "create", "names", "--kind", "Text", "--ordering", "MinFirst")
    for name in ("b", "7", "a"):
        shell.ok("publish", "names", name, "--text-priority", name)
    assert [each["priority"] for each in shell.ok("peek", "names").rows] == ["7", "a", "b"]
    done = shell.run("publish", "names", "x")
    assert (done.status, "expects Text but got Numeric" in done.err) == (1, True)
    assert msgspec.json.decode(shell.ok("peek", "names", "-o", "json").data)[0]["priority"] == "7"


# Verifies: API-0126, DLV-0061
def test_find(shell: Shell) -> None:
    """In whatever queue and state; a deep queue takes several requests."""
    (first,) = publish(shell, "p", queue="mail")
    shell.ok("publish", "jobs", "--ndjson", stdin=b'"p"\n' * 12_000)
    (last,) = publish(shell, "last")
    (found,) = shell.ok("find", last).rows
    assert (found["queue"], found["state"], found["payload"]) == ("jobs", "available", "last")
    assert not found.keys() & {"looked_at", "available", "complete", "cursor", "before"}
    shell.ok("consume", "mail")
    assert shell.ok("find", first).rows[0]["state"] == "locked"
    assert shell.ok("find", first, "-o", "name").lines == [first]
    unknown = shell.run("find", UNKNOWN)
    assert (unknown.status, unknown.data) == (4, b"")
    assert "in any queue" in unknown.err
    assert shell.run("find", "short").status == 1
