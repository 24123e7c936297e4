"""The commands for dead letters: what they list, requeue and purge, and what is left alone."""

from __future__ import annotations

from pathlib import Path

from tests.cli.shell import Shell

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def bury(shell: Shell, *payloads: str, queue: str = "jobs") -> list[str]:
    """Make dead letters, in this order; the reason is the payload."""
    ids = []
    for payload in payloads:
        (id,) = shell.ok("publish", queue, payload, "--max-retries", "1").lines
        shell.ok("consume", queue, "-q")
        shell.ok("nack", queue, id, "--error", f"cannot {payload}")
        ids.append(id)
    return ids


def test_list_and_show(shell: Shell, tmp_path: Path) -> None:
    assert shell.run("dead", "list", "jobs").status == 4
    shell.ok("queue", "create", "jobs")
    assert shell.run("dead", "list", "jobs").status == 6
    ids = bury(shell, "sing", "dance", "jump")
    assert shell.ok("dead", "list", "jobs", "-o", "name").lines == ids
    assert shell.ok("dead", "list", "jobs", "--text", "cannot d", "-o", "name").lines == [ids[1]]
    assert shell.ok("dead", "list", "jobs", "--limit", "2", "-o", "name").lines == ids[:2]
    assert shell.run("dead", "list", "jobs", "--reason", "expired").status == 6
    assert shell.run("dead", "list", "jobs", "--by", "nobody").status == 6
    assert shell.ok("dead", "list", "jobs").rows[0]["reason"] == "nacked"
    letter = shell.ok("dead", "show", "jobs", ids[0], "-o", "json").json
    assert (letter["payload"], letter["error"], letter["deliveries"]) == ("sing", "cannot sing", 1)
    assert shell.ok("dead", "show", "jobs", ids[0], "--raw").data == b"sing"
    assert shell.run("dead", "show", "jobs", UNKNOWN).status == 4


# Verifies: API-0128
def test_requeue(shell: Shell) -> None:
    ids = bury(shell, "sing", "dance", "jump", "run")
    seen = shell.ok("dead", "requeue", "jobs", "--text", "cannot", "--dry-run")
    assert seen.json["count"] == 4
    assert "4 dead letters of 'jobs' would be requeued" in seen.err
    assert shell.run("dead", "requeue", "jobs", "--every").status == 2
    done = shell.run("dead", "requeue", "jobs", ids[0], UNKNOWN)
    assert (done.status, done.json["requeued"]) == (3, 1)
    assert f"{UNKNOWN}: no dead letter of this queue" in done.err
    assert shell.run("dead", "requeue", "jobs", UNKNOWN).status == 4
    shell.ok("queue", "create", "again")
    shell.ok("dead", "requeue", "jobs", "-", "--to", "again", "--priority", "9", stdin=ids[1].encode() + b"\n")
    assert [each["priority"] for each in shell.ok("peek", "again").rows] == [9]
    shell.ok("dead", "requeue", "jobs", "--text", "cannot jump", typed="jobs\n")
    assert [each["payload"] for each in shell.ok("peek", "jobs").rows] == ["sing", "jump"]
    assert shell.run("dead", "requeue", "jobs").status == 2
    assert shell.run("dead", "requeue", "jobs", ids[0], "--every").status == 2
    assert shell.run("dead", "requeue", "nothing", "--every", "--yes").status == 4


# Verifies: API-0128
def test_purge_asks_and_says_how_many(shell: Shell) -> None:
    ids = bury(shell, "sing", "dance", "jump")
    assert shell.run("dead", "purge", "jobs", ids[0]).status == 2
    other = shell.run("dead", "purge", "jobs", "--every", typed="job\n")
    assert (other.status, f"purge 3 dead letters of 'jobs' on {shell.url}" in other.err) == (1, True)
    assert shell.ok("dead", "purge", "jobs", "--every", "--dry-run").json["count"] == 3
    assert shell.ok("dead", "purge", "jobs", "--text", "dance", "--yes").json["purged"] == 1
    done = shell.ok("dead", "purge", "jobs", "--every", typed="jobs\n")
    assert f"2 dead letters of 'jobs' purged ({shell.url})" in done.err
    assert shell.run("dead", "list", "jobs").status == 6
    shell.ok("queue", "update", "jobs", "--protect")
    bury(shell, "sing")
    assert shell.run("dead", "purge", "jobs", "--every", "--yes").status == 1
