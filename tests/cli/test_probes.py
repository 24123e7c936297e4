"""`check` and `smoke`: what they find, print and exit with."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prometheus_client.parser import text_string_to_metric_families

from qrusty_trio.cli import smoke
from qrusty_trio.cli.probes import Status, judged
from qrusty_trio.client import HttpClient
from tests.cli.shell import Shell

SERVER = {
    "state": "ok",
    "storage": {"publishes_refused": False},
    "memory": {"usage_bytes": 25, "limit_bytes": 100, "publishes_refused": False},
}
COUNTS = {"available": 5.0, "dead": 0.0, "oldest_age_seconds": 1.0}
NO_LIMITS = dict.fromkeys(("available", "dead", "oldest_age_seconds", "memory_percent"), (None, None))


@pytest.mark.parametrize(
    ("change", "limits", "status"),
    [
        ({}, {}, Status.OK),
        ({}, {"available": (5, 6)}, Status.WARNING),
        ({}, {"available": (6, 7)}, Status.OK),
        ({}, {"available": (None, 5)}, Status.CRITICAL),
        ({}, {"available": (5, None), "memory_percent": (20, 25)}, Status.CRITICAL),
        ({"state": "starting"}, {}, Status.CRITICAL),
        ({"state": "storage_fault"}, {"available": (5, 6)}, Status.CRITICAL),
        ({"memory": {"usage_bytes": 1, "limit_bytes": 0, "publishes_refused": True}}, {}, Status.CRITICAL),
        ({"storage": {"publishes_refused": True}}, {}, Status.CRITICAL),
        ({"storage": {}}, {}, Status.OK),
    ],
)
def test_thresholds(
    change: dict[str, object], limits: dict[str, tuple[float | None, float | None]], status: Status
) -> None:
    assert judged({**SERVER, **change}, COUNTS, {**NO_LIMITS, **limits}).status is status


# Verifies: API-0129
def test_a_server_and_a_queue_are_checked(shell: Shell) -> None:
    shell.ok("publish", "jobs", "--ndjson", stdin=b'"p"\n' * 3)
    fine = shell.ok("check", "--warn-available", "4", "--crit-dead", "1")
    assert fine.out.startswith("QRUSTY OK - available 3, dead 0, oldest_age_seconds ")
    assert " | available=3;4;;0 dead=0;;1;0 " in fine.out
    warning = shell.run("check", "jobs", "--warn-available", "3")
    assert (warning.status, warning.lines[0].split(" |")[0]) == (
        1,
        "QRUSTY WARNING - available is 3, and 3 is the limit",
    )
    critical = shell.run("check", "--crit-available", "3", "--format", "json")
    assert (critical.status, critical.json["status"], critical.json["values"]["available"]["value"]) == (
        2,
        "CRITICAL",
        3,
    )
    assert shell.run("check", "--crit-available", "3", "-o", "json").json["status"] == "CRITICAL"
    unknown = shell.run("check", "nothing")
    assert (unknown.status, unknown.out.startswith("QRUSTY UNKNOWN - ")) == (3, True)
    found = list(text_string_to_metric_families(shell.run("check", "--warn-dead", "0", "--format", "prometheus").out))
    assert [each.name for each in found] == ["qrusty_check_status", "qrusty_check_value"]
    assert found[0].samples[0].value == 1


# Verifies: API-0129
def test_a_check_always_has_an_answer(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = f"http://127.0.0.1:{listener.getsockname()[1]}"
    done = shell.run("check", "--url", free)
    assert (done.status, done.out.count("\n"), done.out.startswith("QRUSTY CRITICAL - ")) == (2, 1, True)


# Verifies: API-0129
@pytest.mark.parametrize(
    "words",
    [
        ("--url", "nonsense"),
        ("--url", "ftp://x"),
        ("--context", "none"),
        ("--warn-dead", "many"),
        ("--what",),
        ("a", "b"),
    ],
)
def test_what_can_not_be_asked_is_unknown(shell: Shell, words: tuple[str, ...]) -> None:
    done = shell.run("check", *words)
    assert (done.status, done.out.count("\n"), done.out[:17]) == (3, 1, "QRUSTY UNKNOWN - ")
    assert done.err.count("\n") == 1


# Verifies: API-0129
def test_what_is_unknown_is_printed_as_asked(shell: Shell) -> None:
    for words in (("--format", "json"), ("-o", "json")):
        done = shell.run("check", "--context", "none", *words)
        assert (done.status, done.json["status"], done.json["url"]) == (3, "UNKNOWN", None)
    done = shell.run("check", "--context", "none", "--format", "prometheus")
    (found,) = text_string_to_metric_families(done.out)
    assert (done.status, found.samples[0].value) == (3, 3)


# Verifies: API-0129
@pytest.mark.parametrize("answer", [b"{}", b"[]", b'{"memory":7}', b'{"memory":{}}'])
@pytest.mark.parametrize("words", [(), ("jobs",), ("--verbose",)])
def test_another_kind_of_server_is_unknown(shell: Shell, answer: bytes, words: tuple[str, ...]) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            done = shell.run("check", "--url", f"http://127.0.0.1:{server.server_port}", *words)
        finally:
            server.shutdown()
            thread.join()
    assert (done.status, done.out.count("\n"), done.out[:17]) == (3, 1, "QRUSTY UNKNOWN - ")


# Verifies: API-0130
def test_smoke(shell: Shell) -> None:
    shell.ok("publish", "jobs", "p")
    done = shell.ok("smoke")
    assert [row["outcome"] for row in done.rows] == ["ok"] * 12
    assert done.err == f"all well ({shell.url})\n"
    assert shell.ok("queue", "list", "-o", "name").lines == ["jobs"]


# Verifies: API-0130
def test_smoke_names_the_step_that_failed_and_leaves_nothing(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    async def renew(self: HttpClient, queue: str, id: str, lock_seconds: int = 30) -> None:
        raise smoke.Wrong("it was not renewed")

    monkeypatch.setattr(HttpClient, "renew", renew)
    done = shell.run("smoke")
    assert (done.status, done.err) == (1, "error: renew its lock: it was not renewed\n")
    assert [row["step"] for row in done.rows][-1] == "nobody else gets it"
    assert shell.ok("queue", "list", "-o", "name").lines == []
