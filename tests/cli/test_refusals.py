"""What can't be sent, printed or understood: one clear line, the right status, and nothing locked or changed."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.shell import Shell

PATIENCE = 60


def process(shell: Shell, command: str, **options: str) -> tuple[int, str]:
    """Run `qrusty-trio` in a shell: with `<command>`, as that shell reads it. Its status and stderr."""
    program = f"{sys.executable} -m qrusty_trio"
    done = subprocess.run(
        ["bash", "-c", command.replace("PROGRAM", program)],
        env=shell.environment(QRUSTY_URL=shell.url, **options),
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    return done.returncode, done.stderr.decode()


def one_line(err: str) -> bool:
    return err.startswith("error: ") and err.count("\n") == 1 and "fault" not in err


# Verifies: API-0121
@pytest.mark.parametrize(
    "command", ["consume jobs", "consume jobs --ack -o json", "export jobs", "queue show jobs", "peek jobs -o csv"]
)
def test_a_full_disk(shell: Shell, command: str) -> None:
    shell.ok("publish", "jobs", "p")
    status, err = process(shell, f"PROGRAM {command} > /dev/full")
    assert (status, err) == (1, "error: stdout can't be written: No space left on device\n")
    counts = shell.ok("queue", "show", "jobs", "-o", "json").json
    assert counts["available"] + counts["locked"] == 1


# Verifies: API-0121
def test_closed_streams(shell: Shell) -> None:
    shell.ok("publish", "jobs", "p")
    status, err = process(shell, "PROGRAM consume jobs --ack >&-")
    assert (status, one_line(err), "stdout is closed" in err) == (2, True, True)
    assert process(shell, "PROGRAM check >&-")[0] == 3
    assert process(shell, "PROGRAM --version >&-")[0] == 2
    assert shell.ok("queue", "show", "jobs", "-o", "json").json["available"] == 1
    assert process(shell, "PROGRAM publish jobs q <&- 2>&-") == (0, "")
    assert process(shell, "PROGRAM queue show nothing 2>&-") == (4, "")


# Verifies: API-0125
def test_arguments_that_are_not_utf_8(shell: Shell, tmp_path: Path) -> None:
    for words, label in (
        ("publish jobs $'\\xff'", "PAYLOAD"),
        ("publish $'\\xff' p", "QUEUE"),
        ("consume jobs $'\\xff'", "QUEUE"),
        ("nack jobs id --error $'\\xff'", "--error"),
        ("peek jobs --url $'\\xff'", "--url"),
    ):
        status, err = process(shell, f"PROGRAM {words}")
        assert (status, one_line(err), f"{label} is not UTF-8" in err) == (2, True, True), err
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0"}
    assert process(shell, "PROGRAM publish caf$'\\xc3\\xa9' p$'\\xc3\\xa9'", **plain) == (0, "")
    assert shell.ok("consume", "café", "--raw").out == "pé"
    # A path and a command are bytes.
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    Path(name).write_bytes(b"q")
    assert process(shell, f"PROGRAM publish jobs -f {tmp_path}/$'\\xff'") == (0, "")


@pytest.mark.parametrize(
    ("words", "label"),
    [
        (("queue", "list", "--timeout", "nan"), "--timeout"),
        (("watch", "--interval", "nan"), "--interval"),
        (("queue", "wait", "jobs", "--empty", "--within", "nan"), "--within"),
        (("consume", "jobs", "--wait", "nan"), "--wait"),
        (("work", "jobs", "--grace", "nan", "--", "true"), "--grace"),
        (("check", "--warn-age", "nan"), "--warn-age"),
    ],
)
def test_nan(shell: Shell, words: tuple[str, ...], label: str) -> None:
    done = shell.run(*words)
    assert (done.status, done.err) == (
        3 if words[0] == "check" else 2,
        f"error: {label} has to be a number, not nan\n",
    )


@pytest.mark.parametrize(
    "words",
    [
        ("publish", "", "p"),
        ("consume", "jobs", ""),
        ("queue", "create", ""),
        ("queue", "delete", "", "--yes"),
        ("queue", "update", "jobs", "--rename", ""),
        ("watch", ""),
        ("check", ""),
        ("dead", "list", ""),
        ("work", "", "--", "true"),
    ],
)
def test_a_name_that_is_empty(words: tuple[str, ...], tmp_path: Path) -> None:
    """It is refused before anything is sent."""
    done = Shell("http://127.0.0.1:1", tmp_path).run(*words)
    assert (done.status, one_line(done.err)) == (3 if words[0] == "check" else 2, True), done
    assert "a name can't be empty" in done.err
    assert ("--rename" if "--rename" in words else "QUEUE") in done.err


# Verifies: API-0124
@pytest.mark.parametrize(
    "url",
    [
        "http://bob:secret@127.0.0.1:1",
        "http://127.0.0.1:1/?a=b",
        "http://127.0.0.1:1/a b",
        "http://127.0.0.1:1/\r\nX: y",
    ],
)
def test_a_url_that_is_refused(shell: Shell, url: str) -> None:
    for words in (("queue", "list", "--verbose"), ("export", "jobs"), ("work", "jobs", "--", "true")):
        at = words.index("--") if "--" in words else len(words)
        done = shell.run(*words[:at], "--url", url, *words[at:])
        assert (done.status, one_line(done.err), "secret" in done.err) == (2, True, False), done
        assert done.err.startswith("error: --url: ")
    assert shell.run("context", "add", "it", url).status == 2


@contextmanager
def another_server(status: int, body: bytes, **headers: str) -> Iterator[str]:
    """A server of something else, which answers everything alike. Its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815  # as the library calls them

        def log_message(self, *given: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


QUESTIONS = [
    ("queue", "list"),
    ("queue", "show", "jobs"),
    ("queue", "delete", "jobs", "--yes"),
    ("peek", "jobs"),
    ("peek", "jobs", "id"),
    ("find", "id"),
    ("stats",),
    ("dead", "list", "jobs"),
    ("watch", "-n", "1"),
    ("top", "-n", "1"),
    ("export", "jobs"),
    ("consume", "jobs"),
    ("publish", "jobs", "p"),
]


# Verifies: API-0121
@pytest.mark.parametrize("body", [b"{}", b"[]"])
def test_no_server_of_this_kind(tmp_path: Path, body: bytes) -> None:
    with another_server(200, body) as url:
        for words in QUESTIONS:
            done = Shell(url, tmp_path).run(*words)
            assert (done.status, one_line(done.err)) == (5, True), (words, done)
            assert done.err.startswith(f"error: no Qrusty server answers at {url}: "), (words, done)
        assert Shell(url, tmp_path).run("check").status == 3


def test_a_redirect(tmp_path: Path) -> None:
    with another_server(302, b"", Location="https://example.com/login") as url:
        done = Shell(url, tmp_path).run("queue", "list")
    assert (done.status, one_line(done.err), "redirect" in done.err) == (5, True, True), done
