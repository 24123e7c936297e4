"""How far `publish --ndjson` and `import` came when they end early, and which line that was."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import IO

import msgspec
import pytest
import trio

from qrusty_trio.cli.payloads import MAX_PAYLOAD_BYTES
from qrusty_trio.client import HttpClient
from tests.cli.shell import Shell, serving

HEADER = b'{"format":"qrusty-trio export","version":1}\n{"queue":"jobs","config":{"ordering":"Fifo"}}\n'
MESSAGE = b'{"queue":"jobs","state":"available","payload":"p"}\n'
AGAIN = "A second run publishes them again, except in a queue that refuses duplicates"
SO_FAR = re.compile(
    r"(500 messages of the first 502 lines imported"
    r"|0 messages of the first \d lines imported; lines 3 to 502 may be, too)"
    rf"\. {AGAIN}"
)
"""The server has the messages before the program has the response, which may never come."""
PATIENCE = 60


def available(shell: Shell) -> int:
    found = shell.ok("queue", "list", "-o", "json").json
    return sum(each["available"] for each in found)


# Verifies: API-0131
def test_what_precedes_a_broken_line_is_imported(shell: Shell) -> None:
    broken = HEADER + MESSAGE * 3 + b"{\n" + MESSAGE
    done = shell.run("import", "--dry-run", stdin=broken)
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert done.err.startswith("error: line 6 can't be read: ")
    assert done.err.endswith(". 3 messages of the first 5 lines would be imported\n")
    done = shell.run("import", stdin=broken)
    assert (done.status, available(shell)) == (1, 3)
    assert done.err.endswith(f". 3 messages of the first 5 lines imported. {AGAIN}\n")
    wrong = b'{"queue":"other","config":{"ordering":"Any"}}\n'
    done = shell.run("import", stdin=HEADER + MESSAGE + wrong)
    assert (done.status, available(shell)) == (1, 4)
    assert "error: line 4, queue 'other': 'config.ordering' must be" in done.err


def feed(shell: Shell, process: subprocess.Popen[bytes]) -> IO[bytes]:
    """A batch and one message more, of which the batch was imported."""
    assert process.stdin is not None
    process.stdin.write(HEADER + MESSAGE * 501)
    process.stdin.flush()
    while available(shell) < 500:
        assert process.poll() is None
    return process.stdin


# Verifies: API-0131
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_import_says_how_far_it_came(shell: Shell, number: signal.Signals) -> None:
    with shell.popen("import") as process:
        feed(shell, process)
        process.send_signal(number)
        process.wait(PATIENCE)  # With its stdin still open: at its end it would import the rest.
        _, err = process.communicate(timeout=PATIENCE)
    said = err.decode().splitlines()[-1]
    assert (process.returncode, available(shell)) == (130, 500)
    assert SO_FAR.fullmatch(said)


# Verifies: API-0131
def test_a_server_that_goes_away(tmp_path: Path) -> None:
    with serving(tmp_path) as url:
        shell = Shell(url, tmp_path)
        process = shell.popen("import")
        feed(shell, process)
    _, err = process.communicate(MESSAGE, timeout=PATIENCE)
    assert process.returncode == 5
    assert SO_FAR.search(err.decode())


# Verifies: API-0125
def test_a_batch_without_an_answer_may_be_there(shell: Shell) -> None:
    """The peer takes the request, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        words = ("--url", f"http://127.0.0.1:{silent.getsockname()[1]}", "--timeout", "0.2")
        done = shell.run("publish", "jobs", "--ndjson", *words, stdin=b'"p"\n\n"p"\n')
    assert (done.status, done.out) == (5, "")
    assert f". 0 messages of the first 0 lines published; lines 1 to 3 may be, too. {AGAIN}\n" in done.err


# Verifies: API-0125
def test_a_refused_batch_names_the_line(shell: Shell) -> None:
    text = b'"p"\n' * 501 + b'{"payload": "p", "priority": -1}\n' + b'"p"\n'
    done = shell.run("publish", "jobs", "--ndjson", stdin=text)
    assert (done.status, len(done.lines), available(shell)) == (1, 500, 500)
    assert done.err.startswith("error: lines 501 to 503 refused because of line 502: 'messages[1].priority' must be")
    assert f". 500 messages of the first 500 lines published. {AGAIN}\n" in done.err
    text = b'"p"\n' * 2 + b"1\n"
    done = shell.run("publish", "jobs", "--ndjson", stdin=text)
    assert (done.status, len(done.lines), available(shell)) == (1, 2, 502)
    assert f"2 messages of the first 2 lines published. {AGAIN}\n" in done.err


# Verifies: API-0125, API-0131
@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"payload": "\xff"}', "it is no UTF-8"),
        (b'{"payload": "p", "more": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "it is nested too deep"),
    ],
)
def test_a_line_of_bad_bytes(shell: Shell, line: bytes, said: str) -> None:
    for words, begin in ((("publish", "jobs", "--ndjson"), b""), (("import",), b""), (("import",), HEADER)):
        done = shell.run(*words, stdin=begin + line + b"\n")
        assert (done.status, done.err.count("\n")) == (1, 1), done.err
        assert "a fault of this program" not in done.err
        assert said in done.err or (words == ("import",) and not begin), done.err
    assert "it is no UTF-8" in shell.run("publish", "jobs", "--ndjson", stdin=b'"\xff"\n').err


# Verifies: API-0125, API-0131
def test_a_message_that_fills_a_request(shell: Shell) -> None:
    """It comes in again if `publish` has room for it. Of one that has no room the line is named, and the rest comes."""
    room = MAX_PAYLOAD_BYTES - len(b'{"queue":"jobs","payload":"","priority":0,"max_retries":3}')
    large, over = "x" * room, "y" * (room + 1)

    async def publish() -> None:
        async with HttpClient(shell.url) as client:
            await client._call("publish", {}, {"queue": "jobs", "payload": over, "priority": 0})

    trio.run(publish)
    shell.ok("publish", "jobs", "--ndjson", stdin=msgspec.json.encode(large) + b"\n")
    shell.ok("publish", "jobs", "last")
    whole = shell.ok("export", "jobs").data
    shell.ok("queue", "purge", "jobs", "--yes")
    for words, came in ((("import", "--dry-run"), []), (("import",), [large, "last"])):
        done = shell.run(*words, stdin=whole)
        assert done.status == 3
        assert "queue 'jobs': 1 message refused: its request has more than 2,097,152 bytes" in done.err
        assert "(line 3)" in done.err
        assert [each["payload"] for each in shell.run("peek", "jobs").rows] == came


# Verifies: API-0125
def test_a_priority_of_many_digits(shell: Shell) -> None:
    done = shell.run("publish", "jobs", "p", "-p", "9" * 5000)
    assert done.status == 2
    assert done.err == "error: --priority has 5,000 digits, and the largest one is 18446744073709551615\n"
    assert shell.ok("publish", "jobs", "p", "-p", "0" * 50 + "7").lines
