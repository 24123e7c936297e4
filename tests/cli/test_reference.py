"""docs/reference/cli.md has every command and option, and the examples do what they say."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from release.commands import DOCUMENT, commands, examples_of, written
from tests.cli.shell import Shell
from tests.cli.stored import make_store

TREE = dict(commands())
DOCUMENTED = DOCUMENT.read_text(encoding="utf-8")
NOT_HERE = {
    "qrusty-trio serve": "it serves for ever: tests/cli/test_serving.py",
    "qrusty-trio work": "it works for ever: tests/cli/test_working.py",
    "qrusty-trio top": "it looks for ever: tests/cli/test_live.py",
    "qrusty-trio watch": "it looks for ever: tests/cli/test_live.py",
}
FINE = {0, 1, 3, 4, 6}
"""1, 3, 4 and 6: the world of the example is another one. Never wrong usage."""


# Verifies: API-0134
def test_the_reference_is_what_the_commands_are() -> None:
    assert written(DOCUMENTED) == DOCUMENTED, "run `python -m release.commands`"


# Verifies: API-0134
@pytest.mark.parametrize("path", TREE)
def test_every_command_and_option_is_in_the_reference(path: str) -> None:
    (section,) = re.findall(
        rf"^## {re.escape(path.removeprefix('qrusty-trio '))}\n(.*?)(?=^## |\Z)", DOCUMENTED, re.MULTILINE | re.DOTALL
    )
    common = DOCUMENTED.split("## Options of most commands")[1].split("\n## ")[0]
    for parameter in TREE[path].params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            assert all(option in section + common for option in parameter.opts), parameter.name
            assert parameter.help


def test_help_begins_with_two_examples() -> None:
    assert {path for path, command in TREE.items() if len(examples_of(command)) != 2} == set()


@pytest.mark.parametrize("path", [path for path in TREE if path not in NOT_HERE])
def test_the_examples_run(shell: Shell, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "data")
    prepare(shell)
    for example in examples_of(TREE[path]):
        line = (
            example.replace("http://127.0.0.1:6784", shell.url)
            .replace("--within 60", "--within 1")
            .replace("=/data", "=./data")
        )
        line = line.replace("--wait 30", "--wait 0.1")
        if re.search(r"[|>]|&&|^[A-Z_]+=", line):
            done = subprocess.run(
                ["bash", "-c", line],
                env=shell.environment(QRUSTY_URL=shell.url, PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin"),
                capture_output=True,
                check=False,
                timeout=60,
            )
            status, said = done.returncode, done.stderr.decode()
        else:
            ran = shell.run(*shlex.split(line)[1:], typed="jobs\n")
            status, said = ran.status, ran.err
        assert status in FINE, (line, said)
        assert "a fault of this program" not in said


def prepare(shell: Shell) -> None:
    """A little of what the examples speak of."""
    for name in ("local", "production"):
        shell.ok("context", "add", name, shell.url)
    shell.ok("publish", "jobs", "--ndjson", stdin=b'"p"\n' * 3)
    shell.ok("queue", "create", "letters")
    shell.ok("queue", "create", "mail")
    shell.ok("publish", "jobs", "q", "-p", "9", "--max-retries", "1")
    (id,) = shell.ok("consume", "jobs", "-o", "name").lines
    shell.ok("nack", "jobs", id, "--error", "no such address")
