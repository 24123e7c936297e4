"""The commands for queues: what they show, what they change, and that nothing goes unasked."""

from __future__ import annotations

import subprocess
import threading

import pytest

from qrusty_trio.cli import queues
from tests.cli.shell import Shell


def names(shell: Shell) -> list[str]:
    return shell.ok("queue", "list", "-o", "name").lines


def fill(shell: Shell, *queues: str, messages: int = 2) -> None:
    for name in queues:
        shell.ok("publish", name, "--ndjson", stdin=b'"p"\n' * messages)


# Verifies: API-0122
def test_every_form_of_output(shell: Shell) -> None:
    fill(shell, "b", "a\tb\n")
    assert shell.ok("queue", "list").lines[0].startswith("a\\tb\\n\t2\t0\t0\t")
    assert shell.ok("queue", "list", "-o", "name").lines == ["a\\tb\\n", "b"]
    assert [each["name"] for each in shell.ok("queue", "list", "-o", "json").json] == ["a\tb\n", "b"]
    assert [each["available"] for each in shell.ok("queue", "list", "-o", "ndjson").rows] == [2, 2]
    table = shell.ok("queue", "list", "-o", "csv", "--columns", "name,config.ordering")
    assert table.data == b'name,config.ordering\r\n"a\tb\n",MaxFirst\r\nb,MaxFirst\r\n'
    assert shell.ok("queue", "list", "--columns", "available,name").lines == ["2\ta\\tb\\n", "2\tb"]
    assert shell.ok("queue", "show", "b", "-o", "json").json["config"]["priority_kind"] == "Numeric"
    assert "available\t2" in shell.ok("queue", "show", "b").lines
    assert shell.run("queue", "list", "--columns", "a,,b").status == 2
    shell.ok("queue", "delete", "--all-queues", "--yes")
    assert (shell.ok("queue", "list", "-o", "json").json, shell.ok("queue", "list").out) == ([], "")


# Verifies: API-0122
def test_a_terminal_gets_a_table_and_colours_only_if_it_wants(shell: Shell) -> None:
    shell.ok("publish", "jobs", "\x1b]0;gotcha\x07 \x1b[2J")
    plain = shell.ok("peek", "jobs", terminal=True, NO_COLOR="1", COLUMNS="200", TERM="xterm")
    assert "payload" in plain.lines[1]
    assert "\\x1b]0;gotcha\\x07 \\x1b[2J" in plain.out
    assert "\x1b]" not in plain.out
    assert "\x1b[3" not in plain.out
    assert "name" in shell.ok("queue", "list", terminal=True, COLUMNS="200").lines[1]


def test_create_show_update(shell: Shell) -> None:
    shell.ok("queue", "create", "mail", "--dry-run")
    assert names(shell) == []
    done = shell.ok("queue", "create", "mail", "--ordering", "Fifo", "--dead-letter-max", "5", "--no-duplicates")
    assert done.err == f"queue 'mail' was created ({shell.url})\n"
    again = shell.run("queue", "create", "mail")
    assert (again.status, again.err.count("\n")) == (1, 1)
    assert shell.run("queue", "create", "mail", "--dry-run").status == 1
    assert "stays as it is" in shell.ok("queue", "create", "mail", "--if-not-exists").err
    shell.ok("queue", "update", "mail", "--rename", "post", "--dead-letter-max", "none", "--protect", "--duplicates")
    config = shell.ok("queue", "show", "post", "-o", "json").json["config"]
    assert config == {"ordering": "Fifo", "allow_duplicates": True, "priority_kind": "Numeric", "protected": True}
    assert "would be changed: protected=False" in shell.ok("queue", "update", "post", "--no-protect", "--dry-run").err
    assert shell.run("queue", "update", "post", "--rename", "mail").status == 1
    assert shell.run("queue", "update", "post").status == 2
    assert shell.run("queue", "update", "post", "--dead-letter-ttl", "soon").status == 2
    for words in (
        ("show", "nothing"),
        ("update", "nothing", "--protect"),
        ("update", "nothing", "--protect", "--dry-run"),
    ):
        done = shell.run("queue", *words)
        assert (done.status, done.err.count("\n")) == (4, 1), words


# Verifies: API-0128
@pytest.mark.parametrize("verb", ["purge", "delete"])
def test_what_cannot_be_undone_is_asked(shell: Shell, verb: str) -> None:
    fill(shell, "jobs")
    nobody = shell.run("queue", verb, "jobs")
    assert (nobody.status, "--yes" in nobody.err) == (2, True)
    other = shell.run("queue", verb, "jobs", typed="job\n")
    assert other.status == 1
    assert f"{verb} 1 queue with 2 messages of {shell.url}" in other.err
    assert shell.ok("queue", verb, "jobs", "--dry-run").lines == ["jobs\t2\t0\t0"]
    assert shell.ok("queue", "show", "jobs", "-o", "json").json["available"] == 2
    done = shell.ok("queue", verb, "jobs", typed="jobs\n")
    assert f"1 queue {verb}d, 2 messages gone ({shell.url})" in done.err
    assert names(shell) == (["jobs"] if verb == "purge" else [])


# Verifies: API-0128
@pytest.mark.parametrize("verb", ["purge", "delete"])
def test_a_protected_queue(shell: Shell, verb: str) -> None:
    shell.ok("queue", "create", "prot", "--protect")
    done = shell.run("queue", verb, "prot", "--yes")
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert done.err.startswith(f"error: nothing was {verb}d, as 'prot' is protected. Lift that with `qrusty-trio queue")


# Verifies: API-0128
def test_patterns_are_shown_and_protected_queues_skipped(shell: Shell) -> None:
    fill(shell, "test-1", "test-2", "test-3", "mail")
    shell.ok("queue", "update", "test-3", "--protect")
    seen = shell.ok("queue", "delete", "--match", "test-*", "--dry-run")
    assert [line.split("\t")[0] for line in seen.lines] == ["test-1", "test-2"]
    assert "1 protected queue skipped: 'test-3'" in seen.err
    assert "2 queues with 4 messages would be deleted" in seen.err
    shell.ok("queue", "delete", "--match", "test-*", typed="2\n")
    assert names(shell) == ["mail", "test-3"]
    done = shell.run("queue", "purge", "test-3", "--yes")
    assert (done.status, "--no-protect" in done.err) == (1, True)
    assert shell.run("queue", "delete", "--all-queues").status == 2
    shell.ok("queue", "delete", "--all-queues", "--yes")
    assert names(shell) == ["test-3"]
    assert shell.run("queue", "delete", "mail", "--yes").status == 4
    assert shell.ok("queue", "delete", "mail", "--yes", "--if-exists").out == ""
    assert shell.run("queue", "delete", "mail", "--all-queues").status == 2
    assert shell.run("queue", "delete").status == 2


@pytest.mark.parametrize("name", ["a/b", "..", "-x", "ü ?&=#%2F+", "*"])
def test_queues_of_any_name(shell: Shell, name: str) -> None:
    shell.ok("queue", "create", "--", name)
    (id,) = shell.ok("publish", "--", name, "p").lines
    assert shell.ok("consume", "-o", "name", "--", name).lines == [id]
    shell.ok("ack", "--", name, id)
    assert names(shell) == [name]
    shell.ok("queue", "delete", "--yes", "--", name)
    assert names(shell) == []


def test_more_than_a_page(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "PAGE", 3)
    for number in range(7):
        shell.ok("queue", "create", f"q{number}")
    assert names(shell) == [f"q{number}" for number in range(7)]
    assert shell.ok("queue", "list", "--limit", "4", "--desc", "-o", "name").lines == ["q6", "q5", "q4", "q3"]
    assert shell.ok("queue", "list", "--search", "Q5", "-o", "name").lines == ["q5"]


def test_wait(shell: Shell) -> None:
    shell.ok("queue", "wait", "jobs", "--empty")
    fill(shell, "jobs")
    done = shell.run("queue", "wait", "jobs", "--empty", "--within", "0.3")
    assert (done.status, done.err) == (1, "queue 'jobs' is not empty after 0.3 s\n")
    shell.ok("queue", "wait", "jobs", "--available", "2")
    assert shell.run("queue", "wait", "jobs").status == 2
    with shell.popen("queue", "wait", "jobs", "--empty", stdin=subprocess.DEVNULL) as waiting:
        threading.Thread(target=shell.popen("queue", "purge", "jobs", "--yes").communicate).start()
        assert waiting.wait(60) == 0


# Verifies: API-0188
def test_purge_and_delete_are_undone(shell: Shell) -> None:
    fill(shell, "jobs", "mail")
    shell.ok("queue", "update", "mail", "--no-duplicates")
    assert shell.run("trash", "list").status == 6
    asked = shell.ok("queue", "delete", "jobs", "--undo", "600", typed="jobs\n")
    assert "can be undone for 600 seconds" in asked.err
    assert "trash list" in asked.err
    (kept,) = shell.ok("trash", "list", "-o", "json").json
    assert (kept["queue"], kept["what"], kept["messages"]) == ("jobs", "deleted", 2)
    assert "2 messages put back into 'other'" in shell.ok("trash", "restore", str(kept["id"]), "--to", "other").err
    assert names(shell) == ["mail", "other"]
    shell.ok("queue", "purge", "mail", "other", "--undo", "600", "--yes")
    mail, other = shell.ok("trash", "list", "-o", "name").lines
    fill(shell, "mail", messages=1)
    assert shell.run("trash", "restore", mail).status == 3
    assert shell.run("trash", "erase", other, typed="nothing\n").status == 1
    assert "2 messages of 'other' erased" in shell.ok("trash", "erase", other, "--yes").err
    assert shell.run("trash", "erase", other, "--yes").status == 4
    assert shell.run("trash", "restore", other).status == 4
