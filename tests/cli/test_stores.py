"""`store check` and `store dump`: a store in order passes, and each damage is found, named and left as it is."""

from __future__ import annotations

import base64
import hashlib
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qrusty_trio.core.keys import lock_key
from qrusty_trio.storage.base import Batch, Family, Storage
from tests.cli.shell import Shell, serving
from tests.cli.stored import make_store, opened

COUNTERS = struct.Struct(">7Q")
JOBS, NAMES, UNIQUE = (number.to_bytes(4, "big") for number in (1, 2, 3))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("sound") / "data")


@pytest.fixture
def nowhere(tmp_path: Path) -> Shell:
    return Shell("", tmp_path)


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def fingerprint(path: Path) -> dict[str, str]:
    return {
        str(each.relative_to(path)): hashlib.sha256(each.read_bytes()).hexdigest()
        for each in sorted(path.rglob("*"))
        if each.is_file()
    }


# Verifies: API-0133
def test_a_store_in_order(nowhere: Shell, store: Path) -> None:
    before = fingerprint(store)
    done = nowhere.ok("store", "check", str(store))
    assert (done.out, done.err) == ("", f"3 queues and 27 messages in {store}: all in order\n")
    assert nowhere.ok("store", "check", "-o", "json", DATA_PATH=str(store)).json == []
    assert fingerprint(store) == before
    assert "check" in nowhere.ok("store", "check", str(store), terminal=True, TERM="xterm", COLUMNS="90").err


def test_what_a_server_left_is_in_order(nowhere: Shell, tmp_path: Path) -> None:
    """The real server, with the log as kill -9 leaves it, too; and no server starts while it is looked at."""
    with serving(tmp_path) as url:
        shell = Shell(url, tmp_path)
        shell.ok("publish", "jobs", "--ndjson", stdin=b'"p"\n' * 100)
        shell.ok("publish", "jobs", stdin=b"x" * 100_000)
        shell.ok("consume", "jobs", "-n", "10", "-q")
        in_use = nowhere.run("store", "check", str(tmp_path / "data"))
        assert (in_use.status, "in use by a server" in in_use.err) == (1, True)
        shutil.copytree(tmp_path / "data", tmp_path / "copy")
    for name in ("data", "copy"):
        assert "101 messages" in nowhere.ok("store", "check", str(tmp_path / name)).err


def test_a_log_that_was_removed_is_not_found(nowhere: Shell, tmp_path: Path) -> None:
    """As docs/explanation/durability.md says: what is left contradicts nothing."""
    with serving(tmp_path) as url:
        Shell(url, tmp_path).ok("publish", "jobs", "--ndjson", stdin=b'"p"\n' * 100)
        shutil.copytree(tmp_path / "data", tmp_path / "copy")
    logs = [file for file in (tmp_path / "copy").glob("*.log") if file.stem.isdigit()]
    assert logs
    for file in logs:
        file.unlink()
    assert "0 messages" in (found := nowhere.ok("store", "check", str(tmp_path / "copy")).err)
    assert "all in order" in found


Damage = Callable[[Storage, Batch], None]


def families(storage: Storage) -> Iterator[tuple[Family, list[tuple[bytes, bytes]]]]:
    for family in Family:
        yield family, storage.scan(storage.families[family], b"", b"\xff" * 3000, 10_000)


def pairs(storage: Storage, family: Family, begin: bytes) -> list[tuple[bytes, bytes]]:
    return [pair for each, found in families(storage) if each is family for pair in found if pair[0].startswith(begin)]


def delete(family: Family, begin: bytes, which: int = 0) -> Damage:
    def damage(storage: Storage, batch: Batch) -> None:
        batch.delete(pairs(storage, family, begin)[which][0], storage.families[family])

    return damage


def put(family: Family, key: bytes, value: bytes) -> Damage:
    return lambda storage, batch: batch.put(key, value, storage.families[family])


def change(family: Family, begin: bytes, edit: Callable[[bytes], bytes], which: int = 0) -> Damage:
    def damage(storage: Storage, batch: Batch) -> None:
        key, value = pairs(storage, family, begin)[which]
        batch.put(key, edit(value), storage.families[family])

    return damage


def move(family: Family, begin: bytes, to: Callable[[bytes], bytes], which: int = 0) -> Damage:
    def damage(storage: Storage, batch: Batch) -> None:
        key, value = pairs(storage, family, begin)[which]
        batch.delete(key, storage.families[family])
        batch.put(to(key), value, storage.families[family])

    return damage


def damaged(store: Path, damage: Damage) -> None:
    storage = opened(store)
    batch = storage.batch()
    damage(storage, batch)
    storage.write(batch)
    storage.close()


def counter(place: int, value: int) -> Damage:
    def edit(counters: bytes) -> bytes:
        numbers = list(COUNTERS.unpack_from(counters))
        numbers[place] = value
        return COUNTERS.pack(*numbers) + counters[COUNTERS.size :]

    return change(Family.META, b"C" + JOBS, edit)


def lock_of_jobs_is_available_too(storage: Storage, batch: Batch) -> None:
    from qrusty_trio.core.records import unpack_lock

    lock = unpack_lock(pairs(storage, Family.LOCKS, JOBS)[0][1])
    batch.put(lock.key, lock.record, storage.families[Family.MESSAGES])


DAMAGES: dict[str, tuple[Damage, set[str]]] = {
    "the count of available ones": (counter(0, 4), {"count"}),
    "the count of locked ones": (counter(1, 0), {"count"}),
    "the count of dead ones": (counter(2, 9), {"count"}),
    "the next sequence number": (counter(3, 1), {"sequence"}),
    "the next lock": (counter(4, 0), {"lock_number"}),
    "the next dead letter": (counter(5, 0), {"dead_number"}),
    "the length of the head": (counter(6, 1000), {"head"}),
    "counters cut short": (
        change(Family.META, b"C" + JOBS, lambda value: value[:20]),
        {"unreadable", "count", "sequence", "lock_number", "dead_number"},
    ),
    "no counters": (
        delete(Family.META, b"C" + JOBS),
        {"no_counters", "count", "sequence", "lock_number", "dead_number"},
    ),
    "a head behind the first message": (
        change(
            Family.META,
            b"C" + JOBS,
            lambda value: COUNTERS.pack(*COUNTERS.unpack_from(value)[:6], 4) + (2).to_bytes(4, "big") + JOBS,
        ),
        {"before_head"},
    ),
    "trimmed beyond the head": (
        change(Family.META, b"C" + JOBS, lambda value: value + b"\xff" * 9),
        {"head"},
    ),
    "a configuration that is no JSON": (
        change(Family.META, b"Q" + NAMES, lambda value: b"{"),
        {"unreadable", "no_queue", "external", "sums"},
    ),
    "two queues of one name": (
        change(Family.META, b"Q" + JOBS, lambda value: value.replace(b'"jobs"', b'"unique"')),
        {"same_name"},
    ),
    "no configuration": (delete(Family.META, b"Q" + JOBS), {"no_queue"}),
    "the next queue": (put(Family.META, b"N", JOBS), {"next_queue"}),
    "an unknown key": (put(Family.META, b"Zzz", b""), {"unknown_key"}),
    "a message less": (delete(Family.MESSAGES, JOBS), {"count"}),
    "a message of no queue": (put(Family.MESSAGES, b"\0\0\0\x09" + bytes(16), b""), {"no_queue"}),
    "a record cut short": (change(Family.MESSAGES, JOBS, lambda value: value[:30]), {"unreadable"}),
    "flags that mean nothing": (change(Family.MESSAGES, JOBS, lambda value: b"\x02" + value[1:]), {"unreadable"}),
    "a payload that is no UTF-8": (change(Family.MESSAGES, JOBS, lambda value: value + b"\xff" * 9), {"payload"}),
    "a key that no priority makes": (move(Family.MESSAGES, JOBS, lambda key: key + b"\0"), {"key", "sequence"}),
    "a lock less": (delete(Family.LOCKS, JOBS), {"count"}),
    "a lock cut short": (change(Family.LOCKS, JOBS, lambda value: value[:5]), {"unreadable"}),
    "deliveries": (
        change(Family.LOCKS, JOBS, lambda value: value[:8] + (7).to_bytes(4, "big") + value[12:]),
        {"deliveries"},
    ),
    "locked and available": (lock_of_jobs_is_available_too, {"twice", "count", "before_head"}),
    "a lock of no queue": (put(Family.LOCKS, lock_key(9, 0), b""), {"no_queue"}),
    "a dead letter less": (delete(Family.DEAD, JOBS), {"count", "dead_index"}),
    "a dead letter without its index": (delete(Family.DEAD, JOBS + b"\xff"), {"dead_index"}),
    "an index that leads nowhere": (
        change(Family.DEAD, JOBS + b"\xff", lambda value: (99).to_bytes(8, "big")),
        {"dead_index"},
    ),
    "no digest": (delete(Family.DEDUP, UNIQUE), {"digest"}),
    "the digest of another": (change(Family.DEDUP, UNIQUE, lambda value: bytes(36)), {"digest"}),
    "a digest too many": (put(Family.DEDUP, UNIQUE + bytes(16), bytes(36)), {"digest"}),
    "a digest where duplicates are allowed": (put(Family.DEDUP, JOBS + bytes(16), bytes(36)), {"digest"}),
    "no entry of a payload": (delete(Family.EXTERNAL, b""), {"external"}),
    "the entry of another": (change(Family.EXTERNAL, b"", lambda value: bytes(36) + value[36:]), {"external"}),
    "an entry too many": (
        put(Family.EXTERNAL, struct.pack(">IIBQ", 1, 2, 0, 9999), bytes(36) + NAMES + bytes(12)),
        {"external"},
    ),
    "sums of payloads": (change(Family.META, b"S", lambda value: struct.pack(">3Q", 99, 1, 2**40)), {"sums"}),
    "the end of payloads": (change(Family.META, b"S", lambda value: value[:16] + bytes(8)), {"sums"}),
}


# Verifies: API-0133
@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_found(nowhere: Shell, store: Path, name: str) -> None:
    damage, codes = DAMAGES[name]
    damaged(store, damage)
    before = fingerprint(store)
    done = nowhere.run("store", "check", str(store), "-o", "ndjson")
    assert done.status == 1, done.err
    assert {row["code"] for row in done.rows} == codes, done.rows
    assert "problem" in done.err
    assert fingerprint(store) == before


def flipped(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


# Verifies: API-0133
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: flipped(file, -1), "checksum"),
        (lambda file: flipped(file, 0), "damaged header"),
        (lambda file: file.write_bytes(file.read_bytes()[:-5]), "short segment"),
        (Path.unlink, "missing segment"),
    ],
)
def test_lost_payloads_are_found(nowhere: Shell, store: Path, damage: Callable[[Path], object], reason: str) -> None:
    damage(next((store / "payloads").glob("*.payloads")))
    done = nowhere.run("store", "check", str(store), "-o", "json")
    assert (done.status, {row["code"] for row in done.json}) == (1, {"payload"})
    assert all(reason in row["sentence"] for row in done.json)


# Verifies: API-0133
def test_a_lost_payload_hides_no_digest_that_leads_nowhere(nowhere: Shell, store: Path) -> None:
    """Not even that of a dead letter, which has no digest."""
    damaged(store, put(Family.DEDUP, UNIQUE + bytes(16), bytes(36)))
    for file in (store / "payloads").glob("*.payloads"):
        file.unlink()
    rows = nowhere.run("store", "check", str(store), "-o", "ndjson").rows
    assert [row["sentence"] for row in rows if row["code"] == "digest"] == ["1 digests lead to messages that are gone"]


# Verifies: API-0133
def test_sums_that_are_missing_count_as_none(nowhere: Shell, store: Path) -> None:
    damaged(store, delete(Family.META, b"S"))
    sentences = [row["sentence"] for row in nowhere.run("store", "check", str(store), "-o", "ndjson").rows]
    assert "META has 0 payloads with 0 octets" in sentences[0]
    assert "end at 0," in sentences[1]


# Verifies: API-0133
def test_a_block_that_can_not_be_read_is_found(nowhere: Shell, store: Path) -> None:
    for table in store.glob("*.sst"):
        flipped(table, 10)
    done = nowhere.run("store", "check", str(store), "-o", "json")
    assert (done.status, {row["code"] for row in done.json} >= {"unreadable"}) == (1, True), done
    # Once, and by a path that is still there.
    sentences = [row["sentence"] for row in done.json]
    assert len(set(sentences)) == len(sentences)
    assert (
        done.err
        == f"0 queues and 0 messages in {store}: 1 problem. Put back a backup, or ask before you start a server on it\n"
    )
    assert all(str(store) in each and "/qrusty-" not in each for each in sentences), sentences
    dumped = nowhere.run("store", "dump", str(store))
    assert (dumped.status, str(store) in dumped.err, "/qrusty-" in dumped.err) == (1, True, False)


def test_what_is_no_store(nowhere: Shell, tmp_path: Path, store: Path) -> None:
    for words in ((str(tmp_path / "none"),), (str(tmp_path),)):
        done = nowhere.run("store", "check", *words)
        assert (done.status, done.err.count("\n")) == (1, 1)
    assert nowhere.run("store", "check").status == 2
    (store / "CURRENT").unlink()
    done = nowhere.run("store", "check", str(store))
    assert (done.status, done.err.count("\n")) == (1, 1)
    (store / "FORMAT").write_text("qrusty-trio store, schema 99\n")
    assert "schema 99" in nowhere.run("store", "check", str(store)).err


def test_more_problems_than_fit(nowhere: Shell, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qrusty_trio.cli import stores

    monkeypatch.setattr(stores, "SHOWN_PROBLEMS", 2)
    for file in (store / "payloads").glob("*.payloads"):
        file.unlink()
    done = nowhere.run("store", "check", str(store))
    assert (done.status, len(done.lines), "more: -o ndjson prints all" in done.err) == (1, 2, True)
    assert len(nowhere.run("store", "check", str(store), "-o", "ndjson").lines) > 2


def test_dump(nowhere: Shell, store: Path) -> None:
    before = fingerprint(store)
    rows = nowhere.ok("store", "dump", str(store)).rows
    assert {row["family"] for row in rows} == {"meta", "messages", "locks", "dead", "dedup", "external"}
    meta = nowhere.ok("store", "dump", str(store), "--family", "meta", "--limit", "3").rows
    assert [row["family"] for row in meta] == ["meta"] * 3
    found = {bytes.fromhex(row["key"]): base64.b64decode(row["value"]) for row in rows}
    assert found[b"schema_version"] == (3).to_bytes(4, "big")
    assert b'"jobs"' in found[b"Q" + JOBS]
    assert fingerprint(store) == before
