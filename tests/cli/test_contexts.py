"""Which server a command talks to: flags, QRUSTY_URL, contexts, the default; and what is said if it does not answer."""

from __future__ import annotations

import json
import socket
import stat
from pathlib import Path

import pytest

from tests.cli.shell import Shell


@pytest.fixture
def nowhere(tmp_path: Path) -> Shell:
    """A shell without QRUSTY_URL."""
    return Shell("", tmp_path)


def used(shell: Shell, *words: str, **variables: str) -> tuple[str, str]:
    found = shell.ok("config", *words, "-o", "json", **variables).json
    return found["url"], found["source"]


# Verifies: API-0124
def test_the_nearest_word_counts(nowhere: Shell) -> None:
    shell = nowhere
    assert used(shell) == ("http://127.0.0.1:6784", "default")
    shell.ok("context", "add", "one", "http://one:1/", "--select")
    shell.ok("context", "add", "two", "https://two/prefix", "--consumer", "me")
    assert used(shell) == ("http://one:1", "context one")
    shell.ok("context", "select", "two")
    assert used(shell) == ("https://two/prefix", "context two")
    assert used(shell, QRUSTY_URL="http://three:3") == ("http://three:3", "QRUSTY_URL")
    assert used(shell, "--context", "one", QRUSTY_URL="http://three:3") == ("http://one:1", "context one")
    assert used(shell, "--url", "http://four:4", QRUSTY_URL="http://three:3") == ("http://four:4", "--url")
    assert shell.ok("config", "--context", "two", "-o", "json").json["consumer"] == "me"
    assert shell.run("config", "--url", "http://a", "--context", "one").status == 2
    assert shell.run("config", "--context", "none").status == 4
    for wrong in ("four:4", "ftp://four", "http://", "http://a:b", "http://[::1"):
        assert shell.run("config", "--url", wrong).status == 2
        assert shell.run("config", QRUSTY_URL=wrong).status == 2
        assert shell.run("context", "add", "x", wrong).status == 2


# Verifies: API-0124
def test_contexts_are_in_a_file_of_the_user(nowhere: Shell) -> None:
    shell, file = nowhere, nowhere.home / "qrusty-trio" / "contexts.json"
    shell.ok("context", "add", "one", "http://one:1", "--dry-run")
    assert not file.exists()
    shell.ok("context", "add", "one", "http://one:1")
    shell.ok("context", "add", "two", "http://two:2", "--read-only", "--select")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text()) == {
        "selected": "two",
        "contexts": {"one": {"url": "http://one:1"}, "two": {"url": "http://two:2", "read_only": True}},
    }
    assert shell.ok("context", "ls", "-o", "name").lines == ["one", "two"]
    assert shell.ok("context", "ls").lines[1] == "two\thttp://two:2\ttrue\ttrue\t"
    assert shell.ok("context", "show", "two", "-o", "json").json["read_only"] is True
    assert shell.run("context", "add", "one", "http://x").status == 1
    shell.ok("context", "add", "one", "http://x", "--replace")
    shell.ok("context", "rm", "two", "--dry-run")
    shell.ok("context", "rm", "two")
    assert used(shell) == ("http://127.0.0.1:6784", "default")
    for words in (("show", "two"), ("rm", "two"), ("select", "two")):
        done = shell.run("context", *words)
        assert (done.status, done.err.count("\n")) == (4, 1)
    file.write_text("{")
    assert shell.run("context", "ls").status == 1
    file.unlink()
    file.mkdir()
    assert shell.run("config").status == 1
    assert shell.run("context", "add", "one", "http://one:1").status == 1
    assert sorted(path.name for path in file.parent.iterdir()) == ["contexts.json"]


def test_a_context_that_is_read_only_changes_nothing(shell: Shell) -> None:
    shell.ok("publish", "jobs", "p")
    shell.ok("context", "add", "look", shell.url, "--read-only")
    for words in (
        ("publish", "jobs", "x"),
        ("consume", "jobs"),
        ("ack", "jobs", "x"),
        ("queue", "create", "x"),
        ("queue", "update", "jobs", "--protect"),
        ("queue", "purge", "jobs", "--yes"),
        ("queue", "delete", "jobs", "--yes"),
    ):
        done = shell.run(*words, "--context", "look")
        assert (done.status, "read-only" in done.err) == (1, True), words
    shell.ok("queue", "delete", "jobs", "--dry-run", "--context", "look")
    assert shell.ok("stats", "-o", "json", "--context", "look").json["summary"]["total_available"] == 1


# Verifies: API-0121
def test_a_server_that_does_not_answer(nowhere: Shell) -> None:
    """Nobody listens; somebody who says nothing; somebody who is no such server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        silent = nowhere.run("publish", "jobs", "p", "--url", address, "--timeout", "0.2")
        assert (silent.status, silent.err.count("\n")) == (5, 1)
        assert "may have been carried out" in silent.err
    done = nowhere.run("stats", "--url", address)
    assert (done.status, done.out, done.err.count("\n")) == (5, "", 1)
    assert "can't connect" in done.err
    assert "--url" in done.err


# Verifies: API-0123
def test_the_equal_call_of_curl(shell: Shell) -> None:
    done = shell.ok("publish", "it's", "p", "--verbose")
    body = """'{"queue":"it'"'"'s","payload":"p","priority":0,"max_retries":3}'"""
    assert done.err == f"curl -X POST -H 'Content-Type: application/json' -d {body} {shell.url}/publish\n"
    assert shell.ok("queue", "list", "--verbose").err.startswith(f"curl '{shell.url}/queue-list?")
