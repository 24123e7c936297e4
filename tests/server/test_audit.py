"""The audit of a whole server: who did what, over both paths, and what is there after kill -9."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio

from qrusty_trio.api.call import Call
from qrusty_trio.api.operations import OPERATIONS, resolve
from qrusty_trio.config import Fsync
from qrusty_trio.core import dead_letter_moves, trash
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.journal import Journal
from qrusty_trio.core.model import QueueConfig
from qrusty_trio.errors import StorageFault
from tests.http.web import PATHS, Client
from tests.server.running import child_server, client_of, running, settings_for, until_ready

both_paths = pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])
CHANGES: list[tuple[str, str, Any]] = [
    ("POST", "/create-queue", {"name": "jobs", "config": {"ordering": "MaxFirst"}}),
    ("POST", "/publish", {"queue": "jobs", "priority": 1, "payload": "secret"}),
    ("POST", "/update-queue", {"name": "jobs", "config": {"name": "new"}}),
    ("POST", "/force-unlock/new", {"all": True}),
    ("POST", "/queues/new/dead-letters/requeue", {"all": True}),
    ("POST", "/queues/new/dead-letters/purge", {"all": True}),
    ("POST", "/purge-queue/new", None),
    ("DELETE", "/delete-queue/new", None),
    ("POST", "/purge-all", None),
    ("POST", "/delete-all", None),
]
MANY = 300
"""Messages. That many steps are enough for another task to come in between."""


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Verifies: API-0165
@both_paths
@pytest.mark.parametrize("body", [b'"\xff"', b"[" * 1000 + b"]" * 1000], ids=["no UTF-8", "deep"])
async def test_a_body_that_nothing_reads_hides_no_change(tmp_path: Path, fast_path: bool, body: bytes) -> None:
    path = tmp_path / "audit"
    settings = settings_for(tmp_path / "data", audit_file=path, fast_path=fast_path)
    async with running(settings) as server, client_of(server) as client:
        await until_ready(server)
        await client.request("POST", "/publish", b'{"queue":"q","priority":1,"payload":"p"}')
        assert (await client.request("POST", "/purge-queue/q", body)).status == 200
    (found,) = lines(path)
    assert (found["operation"], found["request"]) == ("purge_queue", {"bytes": len(body)})


# Verifies: API-0165, API-0166
@both_paths
async def test_each_change_is_recorded_once(tmp_path: Path, fast_path: bool) -> None:
    path = tmp_path / "audit"
    settings = settings_for(tmp_path / "data", audit_file=path, fast_path=fast_path)
    async with running(settings) as server, client_of(server) as client:
        await until_ready(server)
        for method, target, body in CHANGES:
            text = json.dumps(body).encode() if body is not None else None
            assert (await client.request(method, target, text)).status == 200, target
        for target in ("/create-queue", "/force-unlock/nothing"):
            assert (await client.request("POST", target, b"{}")).status >= 400
        shown = (await client.request("GET", "/audit?limit=100")).json()
        metrics = (await client.request("GET", "/metrics")).body
    found = lines(path)
    assert shown["records"] == found[::-1]
    assert [each["operation"] for each in found] == [
        "create_queue",
        "update_queue",
        "force_unlock",
        "requeue_dead_letters",
        "purge_dead_letters",
        "purge_queue",
        "delete_queue",
        "purge_all",
        "delete_all",
    ]
    assert [each["queue"] for each in found[:6]] == ["jobs", "jobs", "new", "new", "new", "new"]
    assert [each["number"] for each in found] == list(range(1, len(found) + 1))
    assert {each["outcome"] for each in found} == {"done"}
    assert all(each["who"] == each["peer"] and each["peer"].startswith("127.0.0.1:") for each in found)
    assert "secret" not in path.read_text()
    assert b"qrusty_audit_lost_total 0.0" in metrics
    assert b"qrusty_audit_failing 0.0" in metrics


# Verifies: API-0165
async def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    variables = {"QRUSTY_AUDIT_FILE": str(path)}
    async with child_server(tmp_path / "data", **variables) as server:
        async with client_of(server) as client:
            assert (await client.request("POST", "/purge-all")).status == 200
            with trio.fail_after(60):
                while not path.read_bytes():  # noqa: ASYNC110  # a thread writes it
                    await trio.sleep(0.002)
        await server.kill()
    async with child_server(tmp_path / "data", **variables) as server:
        async with client_of(server) as client:
            assert (await client.request("POST", "/delete-all")).status == 200
            shown = (await client.request("GET", "/audit")).json()
        assert await server.stop() == 0
    assert [each["operation"] for each in shown["records"]] == ["delete_all", "purge_all"]
    assert [each["number"] for each in lines(path)] == [1, 2]


# Verifies: API-0165
async def test_a_client_that_leaves_in_the_middle_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    async with running(settings_for(tmp_path / "data", audit_file=path)) as server:
        await until_ready(server)
        async with client_of(server) as client:
            for number in range(100):
                body = json.dumps({"name": f"q{number}", "config": {"ordering": "Fifo"}}).encode()
                assert (await client.request("POST", "/create-queue", body)).status == 200
        purge_all = next(each for each in OPERATIONS if each.name == "purge_all")
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.engine.run([Call(purge_all)])
        assert scope.cancelled_caught
    last = lines(path)[-1]
    assert (last["operation"], last["outcome"], last["who"]) == ("purge_all", "interrupted", "-")
    assert last["so_far"]["purged_messages"] == 0
    assert 0 < last["so_far"]["purged_queues"] < 100


# Verifies: API-0165
async def test_a_client_that_leaves_before_its_response_is_recorded(tmp_path: Path) -> None:
    """What it changed stands."""
    path = tmp_path / "audit"
    async with running(settings_for(tmp_path / "data", audit_file=path, fsync=Fsync.ALWAYS)) as server:
        await until_ready(server)
        create = next(each for each in OPERATIONS if each.name == "create_queue")
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.engine.run([Call(create, body=b'{"name":"q","config":{"ordering":"Fifo"}}')])
        assert scope.cancelled_caught
        assert server.engine.broker.catalog.names() == ["q"]
    last = lines(path)[-1]
    assert (last["operation"], last["queue"], last["outcome"]) == ("create_queue", "q", "done")


TAKEN_AWAY = {
    "requeue_dead_letters": ({"all": True, "to": "other"}, "requeued"),
    "purge_dead_letters": ({"filter": {"reason": "nacked"}}, "purged"),
}


def bury_all(broker: Broker, now: int) -> None:
    broker.catalog.create("other", QueueConfig())
    for number in range(MANY):
        broker.publish("jobs", 1, f"p{number}", 0, now)
    while (delivery := broker.consume("jobs", "c", 30, now)) is not None:
        broker.nack("jobs", delivery.id, "c", now)


# Verifies: API-0199
@pytest.mark.parametrize("end", ["cancelled", "fault", "failed write"])
@pytest.mark.parametrize("name", TAKEN_AWAY)
async def test_a_change_that_breaks_off_says_how_far_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, end: str
) -> None:
    monkeypatch.setattr(dead_letter_moves, "PER_STEP", 1)
    path = tmp_path / "audit"
    body, done = TAKEN_AWAY[name]
    operation = next(each for each in OPERATIONS if each.name == name)
    async with running(settings_for(tmp_path / "data", audit_file=path)) as server:
        await until_ready(server)
        engine = server.engine
        await engine.transact(bury_all, sync=True)
        queue = engine.broker.catalog.by_name["jobs"]
        with trio.CancelScope() as scope:

            async def end_it() -> None:
                while queue.dead > MANY - 10:  # no event tells of it
                    await trio.lowlevel.checkpoint()
                if end == "cancelled":
                    scope.cancel()
                elif end == "fault":
                    engine.fail(StorageFault("The disk failed."))
                else:
                    monkeypatch.setattr(Journal, "commit", fail)

            def fail(_: Journal) -> None:
                monkeypatch.undo()
                raise StorageFault("The disk failed.")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(end_it)
                await engine.run([Call(operation, ("jobs",), json.dumps(body).encode())])
                nursery.cancel_scope.cancel()
        with trio.fail_after(60):
            while engine.fault is not None:  # noqa: ASYNC110  # no event tells of it
                await trio.sleep(0.001)
        left = engine.broker.catalog.by_name["jobs"].dead
    last = lines(path)[-1]
    assert (last["operation"], last["outcome"]) == (name, "interrupted" if end == "cancelled" else "failed")
    assert 0 < left < MANY
    assert last["so_far"] == {done: MANY - left}


# Verifies: API-0197
@both_paths
@pytest.mark.parametrize(
    ("target", "other", "status"),
    [
        ("/trash/{id}/restore", ("POST", "/trash/{id}/erase"), 404),
        ("/trash/{id}/restore", ("DELETE", "/delete-queue/jobs"), 409),
        ("/queues/jobs/dead-letters/requeue", ("DELETE", "/delete-queue/other"), 404),
    ],
    ids=["erased meanwhile", "its queue deleted meanwhile", "requeue"],
)
async def test_what_is_refused_in_the_middle_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast_path: bool, target: str, other: tuple[str, str], status: int
) -> None:
    monkeypatch.setattr(trash, "PER_STEP", 1)
    monkeypatch.setattr(dead_letter_moves, "PER_STEP", 1)
    path = tmp_path / "audit"
    async with running(settings_for(tmp_path / "data", audit_file=path, fast_path=fast_path)) as server:
        await until_ready(server)
        broker = server.engine.broker
        into = "jobs" if "restore" in target else "other"

        def fill(broker: Broker, now: int) -> int:
            for number in range(MANY):
                broker.publish("jobs", 1, f"p{number}", 0, now)
            if "dead-letters" in target:
                while (delivery := broker.consume("jobs", "c", 30, now)) is not None:
                    broker.nack("jobs", delivery.id, "c", now)
                broker.catalog.create("other", QueueConfig())
                return 0
            _, kept = broker.trash.purge("jobs", 600, now)
            assert kept is not None
            return kept.number

        id = await server.engine.transact(fill, sync=True)
        async with client_of(server) as client, trio.open_nursery() as nursery:
            replies = []

            async def ask() -> None:
                replies.append(await client.request("POST", target.format(id=id), b'{"all":true,"to":"other"}'))

            nursery.start_soon(ask)
            with trio.fail_after(60):
                while not broker.catalog.by_name[into].available:  # no event tells of it
                    await trio.lowlevel.checkpoint()
            method, between = other
            operation, params = resolve(method, between.format(id=id).encode())
            (done,) = server.engine.run_to_end([Call(operation, params)])
            assert done.status == 200
        (reply,) = replies
        assert reply.status == status
    (record,) = [each for each in lines(path) if each["outcome"] != "done"]
    assert (record["outcome"], record["response"]) == ("failed", reply.json())
    (so_far,) = record["so_far"].values()
    assert 0 < so_far < MANY
    if "restore" in target:
        moved = int(record["response"]["error"].rpartition(": ")[2].split()[0])
        assert moved == so_far


# Verifies: API-0164, API-0165, API-0166
@both_paths
async def test_who_is_the_name_of_the_token(tmp_path: Path, fast_path: bool) -> None:
    tokens = tmp_path / "tokens.toml"
    grants = {"boss": "admin:*", "worker": "manage:jobs"}
    tokens.write_text(
        "".join(
            f'[[token]]\nname = "{name}"\nsha256 = "{sha256(name.encode()).hexdigest()}"\ngrants = ["{grant}"]\n'
            for name, grant in grants.items()
        )
    )
    path = tmp_path / "audit"
    settings = settings_for(tmp_path / "data", audit_file=path, tokens_file=tokens, fast_path=fast_path)
    async with running(settings) as server:
        await until_ready(server)
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            client = Client(stream)
            for name, method, target, status in [
                ("worker", "POST", "/purge-queue/jobs", 404),
                ("boss", "POST", "/purge-all", 200),
                ("worker", "POST", "/purge-all", 403),
                ("nobody", "POST", "/purge-all", 401),
                ("worker", "GET", "/audit", 403),
                ("boss", "GET", "/audit", 200),
            ]:
                login = b"Authorization: Bearer %b\r\n" % name.encode()
                reply = await client.ask(method, target, None, login)
                if status != 404:
                    assert reply.status == status, (name, target)
    assert {each["who"] for each in lines(path) if each["operation"] == "purge_all"} == {"boss"}
    assert sum(each["operation"] == "purge_all" for each in lines(path)) == 1
    assert not any(each["peer"] == each["who"] for each in lines(path))
