"""`top` and `watch`: one look after the other, on a terminal and in a pipe, and over a restart of the server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.shell import Shell, serving


# Verifies: API-0135
def test_top_in_a_pipe_is_json_lines(shell: Shell) -> None:
    shell.ok("publish", "jobs", "p")
    shell.ok("queue", "create", "mail")
    rows = shell.ok("top", "--count", "2", "--interval", "0.2", "--sort", "name").rows
    assert [each["name"] for each in rows] == ["jobs", "mail"] * 2
    assert shell.ok("top", "-n", "1", "-o", "csv", "--columns", "name,available").lines[1] == "jobs,1"


# Verifies: API-0135
def test_top_draws_on_a_terminal(shell: Shell) -> None:
    shell.ok("publish", "jobs\x1b[2J", "p")
    drawn = shell.ok("top", "-n", "1", terminal=True, TERM="xterm", COLUMNS="120", LINES="30")
    assert "jobs\\x1b[2J" in drawn.out
    assert "queues 1  available 1  locked 0  dead 0" in drawn.out
    assert shell.url in drawn.out


def test_watch_prints_changes_only(shell: Shell) -> None:
    shell.ok("publish", "jobs", "p")
    with shell.popen("watch", "jobs", "mail", "--interval", "0.2", stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        first = [json.loads(process.stdout.readline()) for _ in range(2)]
        shell.ok("publish", "mail", "p")
        then = json.loads(process.stdout.readline())
        process.kill()
    assert [(each["queue"], each["available"]) for each in (*first, then)] == [("jobs", 1), ("mail", 0), ("mail", 1)]
    row = shell.ok("watch", "-n", "1", "-o", "csv").lines[1].split(",")
    assert row[1:] == ["*", "2", "0", "0"]


# Verifies: API-0135
def test_watch_goes_on_when_the_server_is_back(tmp_path: Path) -> None:
    with serving(tmp_path) as url:
        shell = Shell(url, tmp_path)
        process = shell.popen("watch", "jobs", "--interval", "0.2", stdin=subprocess.DEVNULL)
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["available"] == 0
    with process:
        assert b"not reachable, trying again" in process.stderr.readline()
        with serving(tmp_path, BIND_ADDR=url.removeprefix("http://")):
            shell.ok("publish", "jobs", "p")
            assert json.loads(process.stdout.readline())["available"] == 1
        process.kill()


# Verifies: API-0135
def test_top_in_a_pipe_goes_on_when_the_server_is_back(tmp_path: Path) -> None:
    with serving(tmp_path) as url:
        shell = Shell(url, tmp_path)
        shell.ok("publish", "jobs", "p")
        process = shell.popen("top", "--interval", "0.2", stdin=subprocess.DEVNULL)
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["available"] == 1
    with process:
        assert b"not reachable, trying again" in process.stderr.readline()
        with serving(tmp_path, BIND_ADDR=url.removeprefix("http://")):
            shell.ok("publish", "jobs", "p")
            while json.loads(process.stdout.readline())["available"] != 2:
                pass
        process.kill()


@pytest.mark.parametrize("command", ["top", "watch"])
def test_a_server_that_was_never_there_is_an_error(tmp_path: Path, command: str) -> None:
    done = Shell("http://127.0.0.1:1", tmp_path).run(command)
    assert (done.status, done.err.count("\n")) == (5, 1)
