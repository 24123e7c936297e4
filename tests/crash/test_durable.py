"""No response leaves before its change is on the disk: the server under strace, and a power cut made from its trace."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from bisect import bisect_left
from contextlib import suppress
from functools import cache
from itertools import accumulate
from math import inf
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.crash import audit
from tests.crash.ledger import Ledger
from tests.crash.test_kill import create_queues
from tests.crash.test_kill_dead_letters import places
from tests.crash.tracing import SYNCS, SystemCall, after_power_cut, read_trace, traced, until
from tests.crash.workers import GONE, BatchWorker, HttpWorker, WebSocketWorker
from tests.server.running import child_server, client_of
from tests.wire.http_client import HttpClient

RESPONSES = 1500
WORKERS = 8
LETTERS = 600
BATCH = 50
BLOCK_BYTES = 32 * 1024
HEADER_BYTES = 7
"""RocksDB's log consists of blocks, each of which begins with a header, in the midst of a record or not."""
UUID = re.compile(rb'"id":"([0-9a-f-]{36})"')


@cache
def _why_not() -> str:
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(traced(Path("/dev/null")) + ["true"], capture_output=True, text=True, check=False)
    return f"strace can't trace here: {tried.stderr.strip()}" if tried.returncode else ""


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not())


class Trace:
    """What matters of the calls of a server."""

    def __init__(self, output: Path) -> None:
        self.calls = read_trace(output)
        self.log_writes = [call for call in self.calls if call.name not in SYNCS and call.path.endswith(".log")]
        self._logs = []
        """For each log: its content without the headers at the begin of blocks; where each write ended."""
        for path in {call.path for call in self.log_writes}:
            writes = [call for call in self.log_writes if call.path == path]
            ends = accumulate(len(call.data) for call in writes)
            content = b"".join(call.data for call in writes)
            blocks = range(0, len(content), BLOCK_BYTES)
            text = b"".join(content[at + HEADER_BYTES : at + BLOCK_BYTES] for at in blocks)
            self._logs.append((text, list(zip(ends, writes, strict=True))))
        self.log_syncs = [call for call in self.calls if call.name in SYNCS and call.path.endswith(".log")]
        sent = [call for call in self.calls if "socket:" in call.path]
        self.responses = [call for call in sent if call.data.startswith(b"HTTP/1.1 ") or b'"type":' in call.data]

    def first_write_of(self, id: bytes) -> SystemCall:
        """The write to the log that first holds an id, to its last byte."""
        for text, writes in self._logs:
            if (found := text.find(id)) >= 0:
                block, offset = divmod(found + len(id) - 1, BLOCK_BYTES - HEADER_BYTES)
                position = block * BLOCK_BYTES + HEADER_BYTES + offset + 1
                return writes[bisect_left(writes, position, key=lambda each: each[0])][1]
        raise AssertionError(f"{id!r} is not in the log")

    def check_covered(self, write: SystemCall, response: SystemCall) -> None:
        """A sync of the log began after the write and had ended before the response."""
        assert any(
            write.end < sync.begin and sync.end < response.begin and sync.path == write.path and sync.result == 0
            for sync in self.log_syncs
        ), f"an answer left before a sync of its change: {response.data[:300]!r}"


async def _post(client: HttpClient, target: str, **body: Any) -> Any:
    response = await client.request("POST", target, json.dumps(body).encode())
    assert response.status == 200, response
    return response.json() if response.body else None


async def _let_the_trace_follow(client: HttpClient) -> None:
    """One more response: a kill may come before the end of the last call is in the trace."""
    assert (await client.request("GET", "/health")).status == 200


# Verifies: PER-0001, PER-0064
@pytest.mark.parametrize("kernel_syncs", [True, False], ids=["kernel", "thread"])
async def test_each_change_is_synced_before_its_answer(tmp_path: Path, kernel_syncs: bool) -> None:
    """One request at a time: whatever was written between two responses belongs to the second of them."""
    tracer = traced(tmp_path / "trace", kernel_syncs=kernel_syncs)
    async with child_server(tmp_path / "data", tracer, QRUSTY_FSYNC="always") as server:
        async with client_of(server) as client:
            await _post(client, "/create-queue", name="q", config={"ordering": "Fifo"})
            for number in range(20):
                id = (await _post(client, "/publish", queue="q", priority=1, payload=f"{number}"))["id"]
                assert (await _post(client, "/consume/q", consumer_id="c"))["retry_count"] == 1
                await _post(client, f"/nack/q/{id}", consumer_id="c")
                assert (await _post(client, "/consume/q", consumer_id="c"))["retry_count"] == 2
                if number % 2:
                    await _post(client, f"/ack/q/{id}", consumer_id="c")
                else:
                    await _post(client, "/ack-batch/q", consumer_id="c", message_ids=[id])
            await _post(client, "/update-queue", name="q", config={"name": "r"})
            await _post(client, "/publish", queue="r", priority=1, payload="x")
            await _post(client, "/purge-queue/r")
            await _let_the_trace_follow(client)
        await server.kill()
    trace = Trace(tmp_path / "trace")
    kinds = ["change"] + ["change", "consume", "change", "consume", "change"] * 20 + ["change"] * 3
    responses = trace.responses[: len(kinds)]
    assert len(responses) == len(kinds)
    before: float = trace.log_syncs[0].end
    for kind, response in zip(kinds, responses, strict=True):
        if kind == "change":
            writes = [write for write in trace.log_writes if before < write.begin < response.begin]
            assert writes, f"nothing was written for {response.data!r}"
            trace.check_covered(writes[-1], response)
        before = response.end
    by_kernel = sum(sync.by_kernel for sync in trace.log_syncs)
    assert by_kernel > len(kinds) / 2 if kernel_syncs else not by_kernel


# Verifies: PER-0065
async def test_a_new_log_is_synced_before_an_answer_relies_on_it(tmp_path: Path) -> None:
    """Small memtables: RocksDB goes on to a new log every few hundred publishes, and flushes the old ones meanwhile."""
    ids: list[str] = []
    async with (
        child_server(
            tmp_path / "data", traced(tmp_path / "trace"), QRUSTY_FSYNC="always", ROCKSDB_WRITE_BUFFER_MB="1"
        ) as server,
        client_of(server) as client,
    ):
        for name in ("from", "to"):
            await _post(client, "/create-queue", name=name, config={"ordering": "MaxFirst"})
        for number in range(LETTERS):
            payload = f"{number}".ljust(4000)
            ids.append((await _post(client, "/publish", queue="from", priority=1, payload=payload))["id"])
        await _let_the_trace_follow(client)
        await server.kill()
    trace = Trace(tmp_path / "trace")
    assert len({write.path for write in trace.log_writes}) > 3
    assert sum(sync.by_kernel for sync in trace.log_syncs) > LETTERS / 2
    for id, response in zip(ids, trace.responses[2:], strict=False):
        assert id.encode() in response.data
        trace.check_covered(trace.first_write_of(id.encode()), response)
    after_power_cut(trace.calls, tmp_path / "data", tmp_path / "left")
    left = places(tmp_path / "left", tmp_path / "audit")
    assert left.available == set(ids)


# Verifies: PER-0001
async def test_many_at_once_are_synced_before_their_answers(tmp_path: Path, ledger: Ledger) -> None:
    """Under load, over HTTP and WebSocket: the log holds the id that a response gives, and a sync lies in between."""
    workers: list[Any] = [*_http_workers(ledger, WORKERS), WebSocketWorker(ledger, "ws")]
    await _load(tmp_path, ledger, workers)
    trace = Trace(tmp_path / "trace")
    published = 0
    for response in trace.responses:
        data = response.data
        if b'"type":"deliver' in data or b'"retry_count"' in data:
            continue  # Those name messages that were published before.
        for id in UUID.findall(data):
            trace.check_covered(trace.first_write_of(id), response)
            published += 1
    assert published > 100
    assert len(trace.log_syncs) < published, "there was no group commit"


# Verifies: PER-0026
@pytest.mark.parametrize("kernel_syncs", [True, False], ids=["kernel", "thread"])
async def test_a_payload_file_is_synced_before_its_answer(tmp_path: Path, kernel_syncs: bool) -> None:
    tracer = traced(tmp_path / "trace", kernel_syncs=kernel_syncs)
    async with child_server(tmp_path / "data", tracer, QRUSTY_FSYNC="always") as server:
        async with client_of(server) as client:
            for number in range(5):
                await _post(client, "/publish", queue="q", priority=1, payload=f"{number}" * 10_000)
            await _let_the_trace_follow(client)
        await server.kill()
    trace = Trace(tmp_path / "trace")
    segment_syncs = [call for call in trace.calls if call.name in SYNCS and call.path.endswith(".payloads")]
    for number, response in enumerate(trace.responses[:5]):
        content = f"{number}".encode() * 10_000
        write = next(call for call in trace.calls if call.path.endswith(".payloads") and content in call.data)
        assert any(write.end < sync.begin and sync.end < response.begin for sync in segment_syncs)
        trace.check_covered(trace.log_writes[-1], SystemCall("", "", 10**9, inf))
    assert sum(sync.by_kernel for sync in segment_syncs) == (4 if kernel_syncs else 0)


# Verifies: PER-0066
async def test_a_power_cut_between_log_and_payload(tmp_path: Path) -> None:
    """The log was synced, and the segment beside it was not: nobody was answered, and nothing is taken for damage."""
    config = {"ordering": "Fifo", "allow_duplicates": False}
    payloads = [f"{number}" * 10_000 for number in range(5)]
    async with (
        child_server(tmp_path / "data", traced(tmp_path / "trace"), QRUSTY_FSYNC="always") as server,
        client_of(server) as client,
    ):
        await _post(client, "/create-queue", name="q", config=config)
        for payload in payloads:
            await _post(client, "/publish", queue="q", priority=1, payload=payload)
        await _let_the_trace_follow(client)
        await server.kill()
    calls = read_trace(tmp_path / "trace")
    last = max(call.begin for call in calls if call.name in SYNCS and call.path.endswith(".payloads"))
    after_power_cut(
        until(calls, last, lambda call: call.name not in SYNCS or call.path.endswith(".log")),
        tmp_path / "data",
        tmp_path / "left",
    )
    async with child_server(tmp_path / "left") as server, client_of(server) as client:
        stats = (await client.request("GET", "/queue-stats/q")).json()
        assert stats["available"] == 4
        # The publisher sends again what nobody answered for.
        await _post(client, "/publish", queue="q", priority=1, payload=payloads[-1])
        found = await _post(client, "/consume-batch/q", consumer_id="c", max_messages=10)
        assert [message["payload"] for message in found["messages"]] == payloads
        assert not [line for line in server.log if " ERROR " in line]
    lines = (tmp_path / "left" / "removed-messages.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in lines] == ["cut off"]


# Verifies: PER-0003, PER-0004
@pytest.mark.parametrize("policy", ["never", "everysec"])
async def test_other_policies_sync_for_no_request(tmp_path: Path, policy: str) -> None:
    requests = 200
    async with child_server(tmp_path / "data", traced(tmp_path / "trace"), QRUSTY_FSYNC=policy) as server:
        async with client_of(server) as client:
            for number in range(requests):
                await _post(client, "/publish", queue="q", priority=1, payload=f"{number}")
            if policy == "everysec":
                # By now a sync must be in the trace that covers the last of them.
                await trio.sleep(2.5)
            await _let_the_trace_follow(client)
        await server.kill()
    trace = Trace(tmp_path / "trace")
    responses = trace.responses[:requests]
    assert len(responses) == requests
    first, last = responses[0], responses[-1]
    between = [sync for sync in trace.log_syncs if first.begin < sync.begin < last.begin]
    if policy == "never":
        assert not between
    else:
        assert len(between) < requests / 2
        trace.check_covered(trace.log_writes[-1], SystemCall("", "", 10**9, inf))


# Verifies: SYS-0001
@pytest.mark.parametrize("kernel_syncs", [True, False], ids=["kernel", "thread"])
@pytest.mark.parametrize("transport", ["http", "batches", "websocket"])
async def test_power_cut(tmp_path: Path, ledger: Ledger, transport: str, kernel_syncs: bool) -> None:
    """Everything that was not synced is gone; what was answered is not."""
    kinds: dict[str, Any] = {"http": HttpWorker, "batches": BatchWorker, "websocket": WebSocketWorker}
    count = 2 if transport == "websocket" else WORKERS
    workers = [kinds[transport](ledger, f"w{number}") for number in range(count)]
    await _load(tmp_path, ledger, workers, kernel_syncs=kernel_syncs)
    after_power_cut(read_trace(tmp_path / "trace"), tmp_path / "data", tmp_path / "left")
    audit.check(ledger, tmp_path / "left", tmp_path / "audit", power_cut=True)
    assert sum(message.acked for message in ledger.messages.values()) > 50


# Verifies: PER-0061
async def test_a_power_cut_takes_no_lock_that_was_told_of(tmp_path: Path) -> None:
    """With QRUSTY_FSYNC_LOCKS. Nothing but the consumes themselves asks for a sync."""
    consumer = {"consumer_id": "c", "timeout_seconds": 3600}
    async with (
        child_server(
            tmp_path / "data", traced(tmp_path / "trace"), QRUSTY_FSYNC="always", QRUSTY_FSYNC_LOCKS="on"
        ) as server,
        client_of(server) as client,
    ):
        for number in range(5):
            await _post(client, "/publish", queue="q", priority=1, payload=f"{number}")
        told = [(await _post(client, "/consume/q", **consumer))["id"]]
        batch = await _post(client, "/consume-batch/q", max_messages=3, **consumer)
        told += [message["id"] for message in batch["messages"]]
        renewed = await _post(client, f"/renew/q/{told[0]}", consumer_id="c", timeout_seconds=7200)
        await _let_the_trace_follow(client)
        await server.kill()
    after_power_cut(read_trace(tmp_path / "trace"), tmp_path / "data", tmp_path / "left")
    async with child_server(tmp_path / "left") as server, client_of(server) as client:
        locks = (await client.request("GET", "/queues/q/locks")).json()["locks"]
        assert {lock["id"] for lock in locks} == set(told)
        # The clock of the new process is another one, so that ends are the same but for its rounding.
        (end,) = (lock["lock_until"] for lock in locks if lock["id"] == told[0])
        assert abs(end - renewed["lock_until"]) < 60_000


# Verifies: SYS-0001
async def test_power_cut_in_a_requeue(tmp_path: Path, ledger: Ledger) -> None:
    """Each dead letter is in one place. Those whose requeue was answered are where they were sent."""
    ids: dict[str, str] = {}
    async with (
        child_server(tmp_path / "data", traced(tmp_path / "trace"), QRUSTY_FSYNC="always") as server,
        client_of(server) as client,
    ):
        for name in ("from", "to"):
            await _post(client, "/create-queue", name=name, config={"ordering": "MaxFirst"})
        for _ in range(LETTERS // BATCH):
            payloads = [str(len(ids) + number).ljust(5000 if number == 7 else 10) for number in range(BATCH)]
            messages = [{"priority": 1, "payload": payload, "max_retries": 1} for payload in payloads]
            told = await _post(client, "/publish-batch", queue="from", messages=messages)
            ids |= dict(zip(told["ids"], payloads, strict=True))
            await _post(client, "/consume-batch/from", consumer_id="c", max_messages=BATCH)
            await _post(client, "/nack-batch/from", consumer_id="c", message_ids=told["ids"])
        target = "/queues/from/dead-letters/requeue"
        moved = await _post(client, target, filter={"text": "7"}, to="to")
        sure = {id for id, payload in ids.items() if "7" in payload}
        assert moved["requeued"] == len(sure)
        async with trio.open_nursery() as nursery:

            async def requeue() -> None:
                with suppress(*GONE):
                    await _post(client, target, filter={"reason": "nacked"})

            nursery.start_soon(requeue)
            await trio.sleep(ledger.random.uniform(0, 0.05))
            await server.kill()
    after_power_cut(read_trace(tmp_path / "trace"), tmp_path / "data", tmp_path / "left")
    left = places(tmp_path / "left", tmp_path / "audit")
    assert left.available | left.dead == set(ids)
    assert left.available >= sure


async def test_a_power_cut_takes_what_was_not_synced(tmp_path: Path, ledger: Ledger) -> None:
    """The same with policy `never` loses messages: the power cut of these tests is none in name only."""
    await _load(tmp_path, ledger, _http_workers(ledger, WORKERS), policy="never")
    after_power_cut(read_trace(tmp_path / "trace"), tmp_path / "data", tmp_path / "left")
    with pytest.raises(AssertionError, match=r"answered messages are lost"):
        audit.check(ledger, tmp_path / "left", tmp_path / "audit", power_cut=True)


def _http_workers(ledger: Ledger, count: int) -> list[Any]:
    return [HttpWorker(ledger, f"http{number}") for number in range(count)]


async def _load(
    tmp_path: Path, ledger: Ledger, workers: list[Any], policy: str = "always", kernel_syncs: bool = True
) -> None:
    """Let workers loose on a traced server, and kill it in their midst."""
    tracer = traced(tmp_path / "trace", kernel_syncs=kernel_syncs)
    async with child_server(tmp_path / "data", tracer, QRUSTY_FSYNC=policy) as server:
        await create_queues(server)
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            for worker in workers:
                nursery.start_soon(worker.run, server.port, stop)
            while ledger.responses < RESPONSES:
                assert not server.log_ended.is_set(), server.log
                await trio.sleep(0.001)
            await server.kill()
            stop.set()
