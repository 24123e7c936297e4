"""The HTTP client against the real server, over real sockets, on both transports: every operation."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from qrusty_trio import client as q
from qrusty_trio.api.operations import OPERATIONS
from tests.client.hosting import Host
from tests.http.ws_server import PATIENCE, Running, both_paths, running

UNKNOWN = "00000000-0000-0000-0000-000000000000"


def client_of(server: Running, consumer_id: str | None = None) -> q.HttpClient:
    return q.HttpClient(f"http://127.0.0.1:{server.port}", consumer_id=consumer_id)


# Verifies: WS-0046
@both_paths
async def test_messages(fast_path: bool) -> None:
    async with running(fast_path) as server, client_of(server, "me") as client:
        await client.create_queue("jobs", "MaxFirst")
        assert await client.consume("jobs") is None
        ids = [await client.publish("jobs", f"p{number}", number) for number in range(3)]
        first = await client.consume("jobs", lock_seconds=60)
        assert first is not None
        assert (first.queue, first.id, first.payload, first.retry_count) == ("jobs", ids[2], "p2", 1)
        end = await client.renew("jobs", first.id, 300)
        assert 290 < (end - datetime.now(UTC)).total_seconds() < 310
        await client.ack("jobs", first.id)
        for settle in (client.ack, client.nack, client.renew):
            with pytest.raises(q.NotLocked) as caught:
                await settle("jobs", first.id)
            assert (caught.value.code, caught.value.status) == ("message_not_locked", 404)
        second = await client.consume("jobs")
        assert second is not None
        await client.nack("jobs", second.id, "not today")
        again = await client.consume("jobs")
        assert again is not None
        assert (again.id, again.retry_count) == (second.id, 2)
        with pytest.raises(q.PublishFailed):
            await client.publish("jobs", "p", "high")
        with pytest.raises(q.InvalidRequest):
            await client.publish("jobs", "p", -1)


class Refusing:
    """Notes what it is told, and takes no response to `stats`."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def asked(self, operation: str, request: q.Request) -> None:
        self.told.append((operation, request.method, request.target))

    def answered(self, operation: str, content: object) -> None:
        self.told.append(content)
        if operation == "stats":
            raise q.ProtocolError("not these")


# Verifies: WS-0046
@both_paths
async def test_each_request_and_its_response_can_be_seen(fast_path: bool) -> None:
    watch = Refusing()
    async with running(fast_path) as server, q.HttpClient(f"http://127.0.0.1:{server.port}", watch=watch) as client:
        assert await client.consume("a/b") is None
        with pytest.raises(q.QueueNotFound):
            await client.priorities("none")
        with pytest.raises(q.ProtocolError, match="not these"):
            await client.stats()
    assert watch.told[:3] == [
        ("consume", "POST", "/consume?queue=a%2Fb"),
        None,
        ("priorities", "GET", "/queues/none/priorities"),
    ]
    assert watch.told[3] == ("stats", "GET", "/stats")
    assert len(watch.told) == 5


@both_paths
async def test_batches(fast_path: bool) -> None:
    async with running(fast_path) as server, client_of(server) as client:
        await client.create_queue("jobs", "Fifo", allow_duplicates=False)
        messages = [q.NewMessage(payload=payload, max_retries=1) for payload in ("a", "b", "a", "c", "d", "e")]
        published = await client.publish_batch("jobs", messages)
        assert [(each.index, each.code) for each in published.rejected] == [(2, "duplicate_payload")]
        taken = await client.consume_batch("jobs", 4, lock_seconds=60)
        assert [each.payload for each in taken] == ["a", "b", "c", "d"]
        ids = [each.id for each in taken]
        assert ids == published.ids[:4]
        assert await client.renew_batch("jobs", [ids[0], UNKNOWN], 60) == q.Renewed([ids[0]], [UNKNOWN])
        assert await client.ack_batch("jobs", [*ids[:2], UNKNOWN]) == q.Acked(ids[:2], [UNKNOWN])
        assert await client.nack_batch("jobs", [ids[2], ids[0]], "no") == q.Nacked([], [ids[2]], [], [ids[0]])
        assert server.counts() == (1, 1, 1)
        assert await client.consume_batch("other", 10) == []


@both_paths
async def test_waiting(fast_path: bool) -> None:
    got: list[q.Taken | None] = []

    async with running(fast_path) as server, client_of(server) as client:
        await client.create_queue("jobs", "Fifo")

        async def asked(count: int) -> None:
            with trio.fail_after(PATIENCE):
                while len(server.engine.waiters) != count:  # noqa: ASYNC110  # the server announces no such thing
                    await trio.sleep(0.002)

        async def one() -> None:
            got.append(await client.consume("jobs", lock_seconds=60, wait_seconds=30))

        async def one_of_two() -> None:
            got.append(await client.consume_from(["new", "jobs"], wait_seconds=30))

        async def many() -> None:
            got.extend(await client.consume_batch("jobs", 5, wait_seconds=30))

        for wait, queue in ((one, "jobs"), (one_of_two, "new"), (many, "jobs")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await asked(1)
                await client.publish(queue, "p", 7, repeat=False)
            taken = got[-1]
            assert taken is not None
            assert (taken.queue, taken.payload, taken.priority, taken.retry_count) == (queue, "p", 7, 1)
            assert taken.created_at is not None
            assert taken.lock_until_ms is not None
            assert abs((datetime.now(UTC) - taken.created_at).total_seconds()) < PATIENCE
            await client.ack(queue, taken.id)
        assert await client.consume("jobs", wait_seconds=0.01) is None
        # One that is cancelled waits no more, and takes nothing.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            await asked(1)
            nursery.cancel_scope.cancel()
        await asked(0)
        await client.publish("jobs", "p")
        assert server.counts() == (1, 0, 0)
        with pytest.raises(q.InvalidRequest, match="wait_seconds"):
            await client.consume("jobs", wait_seconds=61)


@both_paths
async def test_locks_and_looking(fast_path: bool) -> None:
    async with running(fast_path) as server, client_of(server, "me") as client:
        await client.create_queue("jobs", "Fifo")
        ids = [await client.publish("jobs", f"p{number}", number) for number in range(5)]
        for _ in range(3):
            await client.consume("jobs")
        page = await client.locks("jobs", limit=2, consumer="me")
        rest = await client.locks("jobs", cursor=page["cursor"])
        assert [each["id"] for each in page["locks"] + rest["locks"]] == ids[:3]
        assert rest["cursor"] is None
        assert await client.locks("jobs", consumer="you") == {"locks": [], "cursor": None}
        assert await client.force_unlock("jobs", ids=[ids[0], UNKNOWN]) == 1
        assert await client.force_unlock("jobs", consumer_id="me") == 2
        assert await client.force_unlock("jobs", all=True) == 0
        page = await client.messages("jobs", state="available", limit=3)
        assert [each["payload"] for each in page["messages"]] == ["p0", "p1", "p2"]
        page = await client.messages("jobs", cursor=page["cursor"])
        assert [each["payload"] for each in page["messages"]] == ["p3", "p4"]
        message = await client.message("jobs", ids[3])
        assert (message["state"], message["payload"]) == ("available", "p3")
        found = await client.find(ids[3])
        assert (found["queue"], found["payload"], found["available"]) == ("jobs", "p3", 5)
        with pytest.raises(q.MessageNotFound):
            await client.message("jobs", UNKNOWN)
        with pytest.raises(q.MessageNotFound):
            await client.find(UNKNOWN)
        with pytest.raises(q.QueueNotFound):
            await client.messages("other")
        assert sum(each["count"] for each in (await client.priorities("jobs"))["priorities"]) == 5
        with pytest.raises(q.InvalidRequest, match="exactly one"):
            await client.force_unlock("jobs")


@both_paths
@pytest.mark.parametrize("name", ["jobs", "a/b", "..", ".", "ü ?&=#%2F+", '"\x01'])
async def test_queues_of_any_name(fast_path: bool, name: str) -> None:
    async with running(fast_path) as server, client_of(server) as client:
        await client.create_queue(name)
        with pytest.raises(q.QueueExists):
            await client.create_queue(name)
        id = await client.publish(name, "p")
        taken = await client.consume(name)
        assert taken is not None
        assert (taken.queue, taken.id) == (name, id)
        await client.ack(name, id)
        await client.publish(name, "p")
        assert (await client.queue_stats(name))["available"] == 1
        assert (await client.metrics(name))["queue"] == name
        assert (await client.queue_list(name=name))["totals"]["available"] == 1
        assert await client.purge_queue(name) == 1
        await client.update_queue(name, new_name="renamed", allow_duplicates=False)
        assert await client.queues() == ["renamed"]
        with pytest.raises(q.QueueNotFound):
            await client.update_queue(name, new_name="again")
        assert await client.delete_queue("renamed") == 0
        await client.create_queue("kept", protected=True)
        with pytest.raises(q.QueueProtected):
            await client.delete_queue("kept")
        await client.update_queue("kept", protected=False)
        assert await client.delete_queue("kept") == 0


@both_paths
async def test_reports(fast_path: bool) -> None:
    async with running(fast_path) as server, client_of(server) as client:
        for name in "abc":
            await client.publish(name, "p")
        assert (await client.stats())["summary"]["total_available"] == 3
        assert [each["name"] for each in (await client.queue_list(sort="name", order="desc", limit=2))["queues"]] == [
            "c",
            "b",
        ]
        assert sum(each["count"] for each in (await client.operation_timings(60))["publish"]) == 3
        assert (await client.operation_histograms())["operations"]["publish"]["count"] == 3
        assert (await client.health())["status"] == (await client.live())["status"] == "ok"
        assert (await client.server())["limits"]
        assert await client.audit(limit=1) == {
            "enabled": False,
            "records": [],
            "cursor": None,
            "lost": 0,
            "failing": False,
        }
        assert await client.ready() is True
        server.engine.services.gate.starting = True
        assert await client.ready() is False
        server.engine.services.gate.starting = False
        assert await client.purge_all() == {"purged_queues": 3, "purged_messages": 3}
        assert await client.delete_all() == {"deleted_queues": 3, "deleted_messages": 0}


@both_paths
async def test_a_server_that_starts_is_waited_for(fast_path: bool) -> None:
    async with running(fast_path) as server, client_of(server) as client, trio.open_nursery() as nursery:
        gate = server.engine.services.gate
        for name in ("starting", "memory_critical"):
            setattr(gate, name, True)
            done = trio.Event()

            async def publish(done: trio.Event = done) -> None:
                await client.publish("jobs", "p")
                done.set()

            nursery.start_soon(publish)
            with trio.move_on_after(0.3):
                await done.wait()
            assert not done.is_set()
            setattr(gate, name, False)
            with trio.fail_after(PATIENCE):
                await done.wait()
        assert server.counts() == (2, 0, 0)


@both_paths
async def test_dead_letters(fast_path: bool) -> None:
    """What failed is found, read, requeued and consumed, and purged in the end."""
    async with running(fast_path) as server, client_of(server, "me") as client:
        await client.create_queue("jobs", "Fifo", dead_letter_max=5)
        ids = [await client.publish("jobs", f"p{number}", max_retries=1) for number in range(3)]
        for id in ids:
            taken = await client.consume("jobs")
            assert taken is not None
            await client.nack("jobs", id, f"no such address: {taken.payload}")
        page = await client.dead_letters("jobs", limit=1, reason="nacked", text="address: p1")
        (letter,) = page["messages"]
        assert (letter["id"], letter["error"], page["up_to"]) == (ids[1], "no such address: p1", 3)
        assert (await client.dead_letter("jobs", ids[1])) == letter
        with pytest.raises(q.NotFound):
            await client.dead_letter("jobs", UNKNOWN)
        assert (await client.requeue_dead_letters("jobs", all=True, dry_run=True))["count"] == 3
        with pytest.raises(q.InvalidRequest):
            await client.requeue_dead_letters("jobs", all=True, ids=ids)
        assert (await client.requeue_dead_letters("jobs", ids=[ids[1]]))["requeued"] == 1
        again = await client.consume("jobs")
        assert again is not None
        assert (again.id, again.retry_count) == (ids[1], 1)
        assert server.counts() == (0, 1, 2)
        assert (await client.purge_dead_letters("jobs", filter={"consumer": "me"}, up_to=1))["purged"] == 1
        assert (await client.purge_dead_letters("jobs", all=True))["purged"] == 1
        assert server.counts() == (0, 1, 0)


@both_paths
async def test_it_outlives_a_restart_of_the_server(fast_path: bool, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        host = Host(nursery, fast_path, tmp_path / "data")
        server = await host.start()
        port = server.port
        async with client_of(server) as client:
            await client.publish("jobs", "1")
            await host.stop()
            nursery.start_soon(host.start, port)
            await client.publish("jobs", "2")
            assert (await client.queue_stats("jobs"))["available"] == 2
        await host.stop()


@both_paths
async def test_a_hundred_tasks_share_it(fast_path: bool) -> None:
    acked: list[str] = []

    async with running(fast_path) as server, client_of(server) as client:

        async def work(number: int) -> None:
            await client.publish("jobs", str(number))
            taken = await client.consume("jobs")
            assert taken is not None
            await client.ack("jobs", taken.id)
            acked.append(taken.payload)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(work, number)
        assert sorted(acked) == sorted(str(number) for number in range(100))
        assert server.counts() == (0, 0, 0)


# Verifies: WS-0046
def test_every_operation_is_tested_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [each.name for each in OPERATIONS if f"client.{each.name}" not in text] == []


@both_paths
async def test_what_is_kept_aside(fast_path: bool, tmp_path: Path) -> None:
    async with running(fast_path, data_path=tmp_path) as server, client_of(server) as client:
        await client.publish("jobs", "p")
        assert await client.purge_queue("jobs", undo_seconds=600) == 1
        (kept,) = await client.trash()
        assert await client.restore(kept["id"]) == {"queue": "jobs", "restored_messages": 1, "refused": 0}
        assert await client.delete_queue("jobs", undo_seconds=600) == 1
        (kept,) = await client.trash()
        assert (await client.restore(kept["id"], to="ü/")) == {"queue": "ü/", "restored_messages": 1, "refused": 0}
        assert await client.delete_queue("ü/", undo_seconds=600) == 1
        (kept,) = await client.trash()
        assert await client.erase(kept["id"]) == 1
        with pytest.raises(q.NotFound):
            await client.restore(kept["id"])
        assert await client.trash() == []
    async with running(fast_path) as server, client_of(server) as client:
        await client.publish("jobs", "p")
        with pytest.raises(q.UndoNotPossible):
            await client.purge_queue("jobs", undo_seconds=1)
        assert await client.purge_queue("jobs", undo_seconds=0) == 1
