"""What the documents say is what the code does: settings, versions, targets, locks; and files stay short."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

from qrusty_trio import __version__
from qrusty_trio.api.operations import MAX_BODY_BYTES
from qrusty_trio.api.ws_requests import MAX_SUBSCRIPTIONS
from qrusty_trio.api.ws_session import MAX_FRAME_BYTES
from qrusty_trio.config import TABLE, Setting, Settings
from qrusty_trio.core import model
from qrusty_trio.http.head import BODY_SECONDS, HEAD_SECONDS, IDLE_SECONDS, MAX_HEAD_BYTES, SEND_SECONDS
from qrusty_trio.logs import MAX_MESSAGE_CHARS, OUTPUT_RECORDS, RING_RECORDS

ROOT = Path(__file__).parent.parent
MAX_LINES = {"qrusty_trio": 440, "tests": 500}
LOCKS = ("run", "dev", "fuzz", "bench")


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


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.variable)
def test_a_setting_reads_the_same_in_code_example_and_docs(row: Setting) -> None:
    unit = f" ({row.unit})" if row.unit else ""
    assert f"# {row.meaning}\n# Takes {row.check.allowed}{unit}.\n{row.variable}={row.default}\n" in text("example.env")
    default = f"`{row.default}`" if row.default else "(none)"
    line = f"| `{row.variable}` | {default} | {row.check.allowed}{unit} | {row.meaning} |\n"
    assert line in text("docs/operating.md")


def test_the_docs_name_no_setting_that_does_not_exist() -> None:
    known = {row.variable for row in TABLE.values()}
    for document in ("README.md", "docs/operating.md", "ARCHITECTURE.md"):
        named = set(re.findall(r"\b(?:QRUSTY|ROCKSDB|WS_PING)_[A-Z_]+[A-Z]\b", text(document)))
        assert named <= known, document


def test_the_documented_limits_are_those_of_the_code() -> None:
    rows = {
        "body of a request, WebSocket frame": f"{MAX_BODY_BYTES // 2**20} MiB",
        "request line and headers": f"{MAX_HEAD_BYTES // 2**10} KiB",
        "time for the headers of a request, for its body": f"{HEAD_SECONDS:g} s, {BODY_SECONDS:g} s",
        "connection without a request": f"{IDLE_SECONDS:g} s",
        "client that takes no bytes of an answer": f"{SEND_SECONDS:g} s",
        "queues": f"{model.MAX_QUEUES:,}",
        "name of a queue": f"{model.MAX_QUEUE_NAME_BYTES} bytes of UTF-8",
        "text priority": f"{model.MAX_TEXT_PRIORITY_BYTES:,} bytes of UTF-8",
        "consumer id": f"{model.MAX_CONSUMER_BYTES:,} bytes of UTF-8",
        "lock": f"{model.MAX_LOCK_SECONDS // (365 * 86_400)} years",
        "subscriptions of a WebSocket": f"{MAX_SUBSCRIPTIONS:,}",
        "log records kept for `subscribe-logs`": f"{RING_RECORDS:,}, of {MAX_MESSAGE_CHARS:,} characters",
        "log records waiting for stderr": f"{OUTPUT_RECORDS:,}",
    }
    documented = text("docs/operating.md")
    for what, limit in rows.items():
        assert f"| {what} | {limit} |" in documented
    assert MAX_FRAME_BYTES == MAX_BODY_BYTES


def test_the_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("qrusty-trio") == __version__
    newest = re.search(r"^## \[([^\]]+)\]", text("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__


def test_files_stay_short() -> None:
    too_long = {
        str(path.relative_to(ROOT)): lines
        for tree, most in MAX_LINES.items()
        for path in (ROOT / tree).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > most
    }
    assert too_long == {}


def test_every_module_says_what_it_is_for() -> None:
    for path in (ROOT / "qrusty_trio").rglob("*.py"):
        assert path.read_text(encoding="utf-8").startswith('"""'), path


def test_documented_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):(?!=)", text("Makefile"), re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md", "docs/operating.md"):
        for target in re.findall(r"`make ([a-z-]+)", text(document)) + re.findall(
            r"^    make ([a-z-]+)$", text(document)
        ):
            assert target in targets, (document, target)


def test_links_between_documents_lead_somewhere() -> None:
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), (document.name, link)


def requirements(lock: str) -> dict[str, tuple[str, int]]:
    """Package -> (version, how many hashes)."""
    found = {}
    for entry in re.split(r"^(?=[a-z0-9])", text(f"locks/{lock}.txt"), flags=re.MULTILINE):
        if entry.strip():
            match = re.match(r"([a-z0-9._-]+)==([^ ;\\]+)", entry)
            assert match is not None, f"locks/{lock}.txt is not fully pinned: {entry!r}"
            found[match[1]] = (match[2], entry.count("--hash=sha256:"))
    return found


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
        "run": project["project"]["dependencies"] + groups["build"],
        "dev": project["project"]["dependencies"] + groups["build"] + groups["test"] + groups["lint"],
        "fuzz": groups["fuzz"],
        "bench": groups["bench"],
    }
    for lock, specifiers in declared.items():
        names = {re.split(r"[<>=! ;\[]", specifier)[0] for specifier in specifiers}
        assert names <= set(locks[lock]), lock
