"""Tokens on the command line: made, kept in a context or a variable, shown to a server, and told to nobody."""

from __future__ import annotations

import stat
from pathlib import Path

from qrusty_trio.access.tokens_file import digest, read_tokens
from tests.cli.shell import Shell, serving


def create(shell: Shell, *words: str) -> str:
    return shell.ok("token", "create", *words).out.strip()


# Verifies: API-0192
def test_a_token_is_printed_once_with_the_lines_for_the_file(tmp_path: Path) -> None:
    shell = Shell("", tmp_path)
    words = ("--grant", "publish:orders.*", "--grant", "read:*", "--expires", "2027-01-31", "--requests", "10")
    done = shell.ok("token", "create", "ci", *words, "--messages", "0.5")
    token = done.out.strip()
    assert token.startswith("qrt_")
    assert token not in done.err
    made = read_tokens(done.err.encode())
    assert list(made.by_digest) == [digest(token.encode())]
    assert [str(each) for each in made.by_name["ci"].grants] == ["publish:orders.*", "read:*"]
    assert made.by_name["ci"].expires_ms == 1_801_353_600_000


# Verifies: API-0192
def test_a_token_is_added_to_a_file(tmp_path: Path) -> None:
    shell, file = Shell("", tmp_path), tmp_path / "tokens.toml"
    first = create(shell, "one", "--grant", "read:*", "--file", str(file))
    assert stat.S_IMODE(file.stat().st_mode) & 0o007 == 0
    second = create(shell, "two", "--grant", "admin:*", "--file", str(file))
    assert list(read_tokens(file.read_bytes()).by_digest) == [digest(first.encode()), digest(second.encode())]
    before = file.read_bytes()
    assert create(shell, "three", "--grant", "read:*", "--file", str(file), "--dry-run") == ""
    for words, sentence in (
        (("two", "--grant", "read:*"), "the name 'two' is given twice"),
        (("a b", "--grant", "read:*"), "'a b' can't be a token's name"),
        (("x", "--grant", "eat:*"), "'eat:*' must be a grant"),
    ):
        done = shell.run("token", "create", *words, "--file", str(file))
        assert (done.status, done.data) == (2, b"")
        assert sentence in done.err
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.toml"]


# Verifies: API-0193
def test_a_server_with_tokens(tmp_path: Path) -> None:
    file, secret = tmp_path / "tokens.toml", tmp_path / "secret"
    maker = Shell("", tmp_path)
    token = create(maker, "ann", "--grant", "publish:*", "--grant", "read:*", "--file", str(file))
    secret.write_text(f"{token}\n")
    with serving(tmp_path, QRUSTY_TOKENS_FILE=str(file)) as url:
        shell = Shell(url, tmp_path)
        done = shell.run("queue", "list")
        assert done.status != 0
        assert "A token is needed" in done.err
        assert "Set QRUSTY_TOKEN" in done.err
        shell.ok("publish", "jobs", "hello", QRUSTY_TOKEN=token)
        done = shell.ok("queue", "list", "-o", "name", "--verbose", QRUSTY_TOKEN=token)
        assert done.lines == ["jobs"]
        assert 'curl -H "Authorization: Bearer $QRUSTY_TOKEN"' in done.err
        assert token not in done.err
        shell.ok("context", "add", "it", url, "--token-file", str(secret))
        assert shell.ok("queue", "list", "-o", "name", "--context", "it").lines == ["jobs"]
        assert shell.run("queue", "list", QRUSTY_TOKEN="qrt_wrong").status != 0
        done = shell.run("queue", "delete", "jobs", "--yes", "--context", "it")
        assert "The token 'ann' has no grant manage on queue 'jobs'" in done.err
        for words in (("context", "ls"), ("context", "show", "it", "-o", "json"), ("config", "--context", "it")):
            assert token not in shell.ok(*words).out
    assert stat.S_IMODE((tmp_path / "qrusty-trio" / "contexts.json").stat().st_mode) == 0o600
    assert token not in (tmp_path / "server.log").read_text()


def test_a_token_file_that_is_none(tmp_path: Path) -> None:
    shell, empty = Shell("", tmp_path), tmp_path / "empty"
    empty.write_text("a b\n")
    for path in (empty, tmp_path / "missing"):
        done = shell.run("context", "add", "it", "http://a:1", "--token-file", str(path))
        assert done.status == 2
        assert str(path) in done.err
