"""What the documents say is what the code does: settings, versions, targets, locks; and files stay short."""

from __future__ import annotations

import importlib.metadata
import re
import struct
import tomllib
from pathlib import Path

import pytest
from hypercorn.config import Config
from packaging.requirements import Requirement

from qrusty_trio import __version__
from qrusty_trio.access import failures, sessions, tokens_file
from qrusty_trio.api import browsing, dead_letters
from qrusty_trio.api.batches import MAX_RESPONSE_BYTES
from qrusty_trio.api.identity import MAX_REQUEST_ID_BYTES
from qrusty_trio.api.json_bodies import MAX_DOUBTFUL_BYTES
from qrusty_trio.api.operations import MAX_BODY_BYTES
from qrusty_trio.api.overview import MAX_ROWS
from qrusty_trio.api.paging import MAX_LIMIT
from qrusty_trio.api.routes import MAX_ENCODED_BYTES, MAX_QUERY_PARAMETERS
from qrusty_trio.api.schema import MAX_WAIT_SECONDS, MAX_WAITED_QUEUES, RETENTION
from qrusty_trio.api.waiting import FULL_CHARACTERS, MAX_PLACES
from qrusty_trio.api.ws_budget import LIMIT_BYTES
from qrusty_trio.api.ws_burst import ID_BYTES, MESSAGE_BYTES, REQUEST_BYTES
from qrusty_trio.api.ws_frames import MAX_REQ_ID_CHARACTERS
from qrusty_trio.api.ws_outbox import BATCH_BYTES, FULL_BYTES, ROOM_BYTES
from qrusty_trio.api.ws_requests import MAX_CREDITS, MAX_SUBSCRIPTIONS
from qrusty_trio.api.ws_session import MAX_FRAME_BYTES
from qrusty_trio.config import TABLE, Setting, Settings
from qrusty_trio.core import ages, deadlines, finding, model, priorities
from qrusty_trio.core.broker import REMOVED_PER_CONSUME
from qrusty_trio.core.browsing import LOCK_NUMBERS_PER_STEP, LOCK_STEPS_PER_PAGE, LOCKS_PER_STEP
from qrusty_trio.core.dead_letters import LOOKED_AT_WITHOUT_INDEX
from qrusty_trio.core.trash import MAX_KEPT
from qrusty_trio.http import (
    access_log,
    byte_budget,
    closing_frames,
    handshakes,
    websocket,
    websocket_auth,
    websocket_bursts,
)
from qrusty_trio.http.chunked_reader import MAX_EXTRA_BYTES
from qrusty_trio.http.connection import REQUESTS_PER_STEP
from qrusty_trio.http.context import MAX_TURNED_AWAY
from qrusty_trio.http.fallback.root import MAX_ACCEPT_CHARACTERS
from qrusty_trio.http.fallback.share import LARGE_RESPONSES
from qrusty_trio.http.fast_websocket import HANDSHAKE_SECONDS
from qrusty_trio.http.handshakes import MAX_HANDSHAKES, MAX_STEPS
from qrusty_trio.http.header_block import (
    BODY_SECONDS,
    HEADER_SECONDS,
    IDLE_SECONDS,
    MAX_EMPTY_LINES,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    SEND_SECONDS,
)
from qrusty_trio.http.lingering import LINGER_BYTES, LINGER_SECONDS, LINGER_WHOLE_SECONDS
from qrusty_trio.http.listener import STOP_SECONDS
from qrusty_trio.http.pauses import READ_AHEAD_BYTES
from qrusty_trio.http.request_log import MAX_WARNINGS
from qrusty_trio.http.tls import MAX_WITHOUT_DATA
from qrusty_trio.logs import MAX_MESSAGE_CHARS, OUTPUT_RECORDS, RING_RECORDS
from qrusty_trio.server import audit_file, ending, webui_files
from qrusty_trio.server.bursts import REPLY_BYTES
from qrusty_trio.telemetry import served, spans, tracing
from qrusty_trio.unknown_settings import OF_COMMANDS
from qrusty_trio.wording import MAX_SENTENCE_CHARACTERS
from tests.server.running import running, settings_for, url
from tests.wire.http_client import open_client

ROOT = Path(__file__).parent.parent
MAX_LINES = {"qrusty_trio": 440, "smoke": 440, "release": 440, "tests": 500}
LOCKS = ("run", "serve", "dev", "fuzz", "bench", "release", "browser", "schemas", "docs")

GUIDES = [
    str(path.relative_to(ROOT))
    for pattern in ("operating.md", "tutorial.md", "guides/*.md", "explanation/*.md")
    for path in sorted((ROOT / "docs").glob(pattern))
]


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def assignments(source: str) -> dict[str, str]:
    """VARIABLE=value lines of an env file."""
    found = re.findall(r"^([A-Z_]+)=(.*)$", source, re.MULTILINE)
    assert len(found) == len(dict(found)), "a variable is there twice"
    return dict(found)


def test_example_env_has_every_setting_with_its_default() -> None:
    assert assignments(text("example.env")) == {row.variable: row.default for row in TABLE.values()}


def test_example_env_is_what_the_server_does_without_it() -> None:
    assert Settings.from_environment(assignments(text("example.env"))) == Settings()


# Verifies: SYS-0016
@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.variable)
def test_a_setting_reads_the_same_in_code_example_and_docs(row: Setting) -> None:
    unit = f" ({row.unit})" if row.unit else ""
    assert f"# {row.meaning}\n# Takes {row.check.allowed}{unit}.\n{row.variable}={row.default}\n" in text("example.env")
    default = f"`{row.default}`" if row.default else "(none)"
    line = f"| `{row.variable}` | {default} | {row.check.allowed}{unit} | {row.meaning} |\n"
    assert line in text("docs/operating.md")


def test_the_docs_name_no_setting_that_does_not_exist() -> None:
    known = {row.variable for row in TABLE.values()} | OF_COMMANDS
    for document in ("README.md", "ARCHITECTURE.md", *GUIDES):
        named = set(re.findall(r"\b(?:QRUSTY|ROCKSDB|WS_PING)_[A-Z_]+[A-Z]\b", text(document)))
        assert named <= known, document


def documented_limits() -> dict[str, str]:
    """What the table of limits has to say: what -> limit."""
    return {
        "body of a request, WebSocket frame": f"{MAX_BODY_BYTES // 2**20} MiB",
        "tokens; grants of one": f"{tokens_file.MAX_TOKENS}; {tokens_file.MAX_GRANTS}",
        "sessions of browsers, of a token": f"{sessions.MAX_OF_A_TOKEN}",
        "addresses whose failed tokens are remembered": f"{failures.MAX_ADDRESSES:,}",
        "time for the first frame of a WebSocket that showed no token": f"{websocket_auth.AUTH_SECONDS:g} s",
        "connections being turned away at a time": f"{MAX_TURNED_AWAY}",
        "TLS handshakes under way": f"{MAX_HANDSHAKES}",
        "time for a TLS handshake; pieces it may come in": f"{handshakes.HANDSHAKE_SECONDS:g} s; {MAX_STEPS}",
        "records of TLS without data in a row, such as new keys": f"{MAX_WITHOUT_DATA}",
        "requests of an HTTP connection run together": f"{REQUESTS_PER_STEP}",
        "body that repeats a field or escapes its name": f"{MAX_DOUBTFUL_BYTES:,} bytes and its strings",
        "request line and headers": f"{MAX_HEADER_BYTES // 2**10} KiB",
        "header lines": f"{MAX_HEADERS}",
        "time for the headers of a request, for its body": f"{HEADER_SECONDS:g} s, {BODY_SECONDS:g} s",
        "connection without a request": f"{IDLE_SECONDS:g} s",
        "client that takes no bytes of a response": f"{SEND_SECONDS:g} s",
        "`Accept` header of `GET /`": f"{MAX_ACCEPT_CHARACTERS:,} characters",
        "error message, quoted input included": f"{MAX_SENTENCE_CHARACTERS:,} characters",
        "parameters of a query": f"{MAX_QUERY_PARAMETERS}",
        "percent-encoded path segment or parameter": f"{MAX_ENCODED_BYTES:,} bytes",
        "queues": f"{model.MAX_QUEUES:,}",
        "name of a queue": f"{model.MAX_QUEUE_NAME_BYTES} bytes of UTF-8",
        "text priority": f"{model.MAX_TEXT_PRIORITY_BYTES:,} bytes of UTF-8",
        "consumer id": f"{model.MAX_CONSUMER_BYTES:,} bytes of UTF-8",
        "queues of a page of `GET /queue-list`": f"{MAX_ROWS}",
        "message ids of a batch": f"{model.MAX_BATCH_IDS:,}",
        "length of a wait (`wait_seconds`)": f"{MAX_WAIT_SECONDS} s",
        "queues of one consume": f"{MAX_WAITED_QUEUES}",
        "queues waited for by all waiting consumes, each counted": f"{MAX_PLACES:,}",
        "bytes of later requests read ahead while a consume waits": f"{READ_AHEAD_BYTES // 1024} KiB",
        "messages that a batch publishes": f"{model.MAX_BATCH_MESSAGES:,}",
        "messages that a batch consumes": f"{model.MAX_BATCH_DELIVERIES:,}",
        "messages of a delivery frame (`batch`)": f"{model.MAX_BATCH_DELIVERIES:,}, or {BATCH_BYTES // 2**10} KiB "
        "and one message",
        "response to a batch of consumes": f"{MAX_RESPONSE_BYTES // 2**20} MiB, or one message",
        "entries of a page (`limit`)": f"{MAX_LIMIT}",
        "list of messages": f"{browsing.MAX_LIST_BYTES // 1024} KiB, or one message",
        "payload shown in a list": f"{browsing.SHOWN_BYTES // 1024} KiB",
        "messages looked at in search of one": f"about {finding.MESSAGES_PER_SEARCH:,}, "
        f"in at most {finding.STEPS_PER_SEARCH} steps",
        "messages counted by priority one by one": f"{priorities.COUNTED_MESSAGES:,}",
        "priorities of a queue looked at for its oldest message": f"{ages.MAX_PRIORITIES}",
        "priorities listed": f"{priorities.MAX_PRIORITIES}",
        "locks looked at for a page": f"{LOCKS_PER_STEP * LOCK_STEPS_PER_PAGE:,}, or "
        f"{LOCK_NUMBERS_PER_STEP * LOCK_STEPS_PER_PAGE:,} lock numbers",
        "`error` of a nack": f"{model.MAX_ERROR_BYTES:,} bytes of UTF-8",
        "a page of dead letters": f"{dead_letters.MAX_LIST_BYTES // 1024} KiB",
        "payload of a dead letter in a page": f"{dead_letters.MAX_SHOWN_BYTES // 1024} KiB",
        "dead letters that one filtered page looks at": f"{dead_letters.LOOKED_AT:,}",
        "dead letters from before schema 2 that are looked at for an id": f"{LOOKED_AT_WITHOUT_INDEX:,}",
        "`undo_seconds`": f"{model.MAX_UNDO_SECONDS:,}",
        "purges and deletes that are kept aside": f"{MAX_KEPT:,}",
        "`dead_letter_max`": f"{RETENTION['dead_letter_max']:,}",
        "payload that a waiting batch of consumes is handed out": f"{FULL_CHARACTERS // 1024} KiB and one message",
        "`text` to look for in dead letters": f"{dead_letters.MAX_TEXT_BYTES:,} bytes of UTF-8",
        "`dead_letter_ttl_seconds`": f"{model.MAX_DEAD_LETTER_SECONDS // (365 * 86_400)} years",
        "length of a lock": f"{model.MAX_LOCK_SECONDS // (365 * 86_400)} years",
        "messages with a lost payload removed by one consume": f"{REMOVED_PER_CONSUME}",
        "responses of an HTTP connection made before it takes them": f"{REPLY_BYTES // 1024} KiB and one response",
        "responses that all HTTP connections have not taken": f"{byte_budget.LIMIT_BYTES // 2**20} MiB, or an eighth "
        "of the memory limit if that is less",
        "requests of all HTTP connections, incomplete or not yet run": "as much again",
        "what a client must take or send of these while others wait": f"{byte_budget.STALL_BYTES // 1024} KiB in "
        f"{byte_budget.STALL_SECONDS:g} s",
        "frame of HTTP/2": f"{Config.h2_max_inbound_frame_size // 1024} KiB",
        "large responses of an HTTP/2 connection at a time": f"{LARGE_RESPONSES}",
        "empty lines before a request": f"{MAX_EMPTY_LINES}",
        "extensions and trailers of a chunked body, which are skipped": f"{MAX_EXTRA_BYTES // 1024} KiB",
        "what is discarded after a refusal, so that the peer can read it": f"{LINGER_BYTES // 10**6} MB, "
        f"{LINGER_WHOLE_SECONDS:g} s, {LINGER_SECONDS:g} s without a byte",
        "handshake of a WebSocket": f"{HANDSHAKE_SECONDS:g} s",
        "subscriptions of a WebSocket": f"{MAX_SUBSCRIPTIONS:,}",
        "`deadline_soon_secs` of a subscription": f"{deadlines.MAX_SECONDS:,}, and less than its locks last",
        "different `deadline_soon_secs` at a time": f"{deadlines.MAX_LENGTHS}",
        "credits of a subscription": f"2^{MAX_CREDITS.bit_length() - 1}",
        "`req_id`": f"{MAX_REQ_ID_CHARACTERS:,} characters",
        "responses and deliveries that a WebSocket has not taken": f"{ROOM_BYTES // 2**10} KiB",
        "the same, including responses to its later requests": f"{FULL_BYTES // 2**20} MiB",
        "requests of a WebSocket that wait for a sync": f"{websocket_bursts.UNANSWERED_BYTES // 2**10} KiB: "
        f"their text and responses, {REQUEST_BYTES} bytes for each, {ID_BYTES} for each id of a batch, {MESSAGE_BYTES} "
        "for each of its messages",
        "what all WebSockets hold: unsent, or received and not yet served": f"{LIMIT_BYTES // 2**20} MiB",
        "the same, before deliveries stop": f"{LIMIT_BYTES * 3 // 2**21} MiB",
        "the same, before reading stops": f"{LIMIT_BYTES // 2**19} MiB",
        "pongs that a WebSocket has not taken": f"{websocket.CONTROL_BYTES // 2**10} KiB",
        "reading what a WebSocket sent before a send to it failed": f"{websocket.HEAR_SECONDS:g} s",
        "sending the rest to a WebSocket that ends": f"{websocket.DRAIN_SECONDS:g} s",
        "reply to a close frame": f"{websocket.CLOSE_SECONDS:g} s",
        "frames before that reply": f"{closing_frames.MOST_FRAMES:,}, or {closing_frames.MOST_BYTES // 2**20} MiB",
        "stop: requests in hand, closing the store": f"{STOP_SECONDS:g} s, {ending.CLOSE_SECONDS:g} s",
        "log records kept for `subscribe-logs`": f"{RING_RECORDS:,}, of {MAX_MESSAGE_CHARS:,} characters",
        "`X-Request-Id`": f"{MAX_REQUEST_ID_BYTES} bytes",
        "failed and slow requests logged in a minute": f"{MAX_WARNINGS}",
        "files of the web UI kept in memory": f"{webui_files.MAX_FILES}, of "
        f"{webui_files.MAX_FILE_BYTES // 1024} KiB each, {webui_files.MAX_TOTAL_BYTES // 1024**2} MiB in all, "
        f"among the first {webui_files.MAX_LOOKED_AT:,} of the directory",
        "messages whose publish is remembered for traces": f"{spans.MAX_MESSAGES:,}",
        "requests noted for traces and not yet made into spans": f"{served.MAX_ENTRIES:,}, or "
        f"{served.MAX_BYTES // 2**20} MiB",
        "exporting the last spans at a stop": f"{tracing.CLOSE_SECONDS:g} s",
        "log records waiting for stderr": f"{OUTPUT_RECORDS:,}",
        "records of the audit waiting for their file": f"{audit_file.WAITING_RECORDS:,}",
        "lines of the access log waiting for stdout": f"{access_log.WAITING_LINES:,}",
    }


# Verifies: SYS-0007
def test_the_documented_limits_are_those_of_the_code() -> None:
    documented = text("docs/operating.md")
    for what, limit in documented_limits().items():
        assert f"| {what} | {limit} |" in documented
    assert MAX_FRAME_BYTES == MAX_BODY_BYTES


# Verifies: SYS-0007
def test_every_documented_limit_is_held_to_the_code() -> None:
    """A row that names a setting is checked with the settings; all others are in `documented_limits`."""
    table = text("docs/operating.md").split("\n## Limits\n")[1].split("\n## ")[0]
    documented = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")][1:]
    settings = {"open connections", "locked messages"}
    assert set(documented) == set(documented_limits()) | settings


async def test_the_web_ui_has_an_icon(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path / "data")) as server, open_client(url(server.port)) as client:
        response = await client.request("GET", "/favicon.ico")
    assert response.status == 200
    assert response.body == (ROOT / "webui" / "favicon.ico").read_bytes()
    reserved, kind, images, width, height = struct.unpack("<HHHBB", response.body[:8])
    assert (reserved, kind, images, width, height) == (0, 1, 1, 16, 16)


def test_the_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("qrusty-trio") == __version__
    newest = re.search(r"^## \[([^\]]+)\]", text("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__


def test_the_changelog_has_one_line_an_entry_in_known_groups() -> None:
    entries = [line for line in text("CHANGELOG.md").split("\n## [")[1].splitlines()[1:] if line]
    headings = [line for line in entries if line.startswith("#")]
    assert set(headings) <= {
        f"### {group}" for group in ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
    }
    assert len(headings) == len(set(headings))
    assert all(line.startswith(("### ", "- ")) for line in entries)
    assert len(entries) == len(set(entries))


def test_files_stay_short() -> None:
    too_long = {
        str(path.relative_to(ROOT)): lines
        for tree, most in MAX_LINES.items()
        for path in (ROOT / tree).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines()) - tags_in(path)) > most
    }
    assert too_long == {}


def tags_in(path: Path) -> int:
    """Lines that name requirements: they come and go with those, and make no file harder to read."""
    return len(re.findall(r"^(?:# Verifies:| *Requirements:)", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_every_module_says_what_it_is_for() -> None:
    for path in (ROOT / "qrusty_trio").rglob("*.py"):
        assert path.read_text(encoding="utf-8").startswith('"""'), path


def test_documented_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):(?!=)", text("Makefile"), re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md", *GUIDES):
        for target in re.findall(r"`make ([a-z-]+)", text(document)) + re.findall(
            r"^(?:    )?make ([a-z-]+)$", text(document), re.MULTILINE
        ):
            assert target in targets, (document, target)


def test_links_between_documents_lead_somewhere() -> None:
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), (document.name, link)


def test_the_files_that_documents_name_are_there() -> None:
    places = (
        ROOT,
        ROOT / "qrusty_trio",
        ROOT / "tests" / "storage",
        ROOT / "tests" / "simulation",
        ROOT / "tests" / "api",
    )
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        # Blocks with a fence are run by tests/docs, in a directory of their own.
        prose = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for name in re.findall(r"(?<![/\w])[a-z][a-z0-9_/]*\.(?:py|toml|json)\b", prose):
            assert any((place / name).is_file() for place in places), (document.name, name)


def test_every_file_of_http_has_its_place_in_the_picture() -> None:
    table = text("ARCHITECTURE.md").split("### Every file of `http/`")[1].split("\n## ")[0]
    named = re.findall(r"`http/([\w/]+\.py)`", table)
    http = ROOT / "qrusty_trio" / "http"
    assert sorted(named) == sorted(str(path.relative_to(http)) for path in http.rglob("[!_]*.py"))


def test_the_ratios_in_the_readme_are_those_that_were_measured() -> None:
    header, _, *rows = (line for line in text("README.md").splitlines() if line.startswith("|"))
    connections = [cell.split()[0] for cell in header.strip("| ").split(" | ")[1:]]
    assert connections == ["1", "8", "32", "128"]
    measured = re.split(r"^### ", text("docs/benchmarks.md"), flags=re.MULTILINE)
    for row in rows:
        name, *ratios = row.strip("| ").split(" | ")
        server = name.partition(" (")[0]
        for count, ratio in zip(connections, ratios, strict=True):
            (workload,) = (one for one in measured if re.match(rf"Cycle [^\n]*, {count} connections?, 100 B\n", one))
            (line,) = (line for line in workload.splitlines() if line.startswith(f"| {server} |"))
            assert line.split(" | ")[5].strip("*").split()[0] == ratio, (server, count)


def requirements(lock: str) -> dict[str, tuple[str, int]]:
    """Package -> (version, how many hashes)."""
    found = {}
    for entry in re.split(r"^(?=[a-z0-9])", text(f"locks/{lock}.txt"), flags=re.MULTILINE):
        if entry.strip():
            match = re.match(r"([a-z0-9._-]+)==([^ ;\\]+)", entry)
            assert match is not None, f"locks/{lock}.txt is not fully pinned: {entry!r}"
            found[match[1]] = (match[2], entry.count("--hash=sha256:"))
    return found


def test_what_is_installed_to_run_is_all_there() -> None:
    """`--require-hashes` takes no package that the lock does not name, and pip would ask for it."""
    pinned = {canonical(line.partition("==")[0]) for line in text("locks/run.txt").splitlines() if "==" in line}
    needed = {"qrusty-trio"}
    todo = ["qrusty-trio"]
    while todo:
        for line in importlib.metadata.requires(todo.pop()) or ():
            requirement = Requirement(line)
            name = canonical(requirement.name)
            if (requirement.marker is None or requirement.marker.evaluate({"extra": ""})) and name not in needed:
                needed.add(name)
                todo.append(name)
    assert needed - {"qrusty-trio"} <= pinned


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_versions_and_hashes_and_names_no_registry(lock: str) -> None:
    locked = requirements(lock)
    assert locked
    assert all(hashes for _, hashes in locked.values())
    assert "://" not in text(f"locks/{lock}.txt")
    assert "index" not in text(f"locks/{lock}.txt")


def test_locks_agree_with_each_other_and_hold_what_is_declared() -> None:
    locks = {lock: requirements(lock) for lock in LOCKS}
    for lock in LOCKS[1:]:
        for name, (version, _) in locks[lock].items():
            assert locks["dev"].get(name, (version,))[0] == version, (lock, name)
            assert locks["run"].get(name, (version,))[0] == version, (lock, name)
    project = tomllib.loads(text("pyproject.toml"))
    groups = project["dependency-groups"]
    declared = {
        "serve": project["project"]["dependencies"],
        "run": project["project"]["dependencies"] + groups["build"],
        "dev": project["project"]["dependencies"]
        + project["project"]["optional-dependencies"]["otel"]
        + [one for group in ("build", "test", "lint", "requirements", "coverage") for one in groups[group]],
        "fuzz": groups["fuzz"],
        "bench": groups["bench"],
        "release": groups["release"],
        "browser": groups["browser"],
        "schemas": groups["schemas"],
        "docs": groups["docs"],
    }
    for lock, specifiers in declared.items():
        names = {re.split(r"[<>=! ;\[]", specifier)[0] for specifier in specifiers}
        assert names <= set(locks[lock]), lock
