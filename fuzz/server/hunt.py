"""The hunt: conversations at random against a server, good clients beside them, checks all the while and afterwards.

Rule: nothing that is found ends the hunt; it is told once, with what it takes to see it again.
"""

from __future__ import annotations

import math
import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random

import trio

from fuzz.server import control
from fuzz.server.conversation import Conversation, Player
from fuzz.server.dump import ENDED
from fuzz.server.findings import Finding, What, attribute, look
from fuzz.server.generator import PHASES, conversation, is_fast, sweeps
from fuzz.server.held import Ports, explain
from fuzz.server.target import Resources, Target, target
from tests.wire.http_client import open_client

PHASE_SECONDS = 30.0
LEAST_PHASE_SECONDS = 6.0
AT_ONCE = 16
"""Conversations at a time."""
SUSPECT_SECONDS = 1.5
"""Who has ended within that time before a finding may have caused it."""
SILENT = "no answer to a ping"
"""Why the server closes the WebSocket of a client that shows no sign of life for `WS_PING_TIMEOUT_SECS`."""
LATE_SECONDS = 1.0
"""A good client whose loop was late by more may miss that."""
LATE_SPAN_SECONDS = 5.0
"""How long ago its loop may have been late: a ping, and the time for its answer."""
LOOK_SECONDS = 0.05
WARM_SECONDS = 4.0
"""From the start of a phase until its memory is measured for the first time."""
SETTLE_SECONDS = 40.0
"""For connections, locks and memory to be given back. The fallback lingers for a few seconds, locks last two; one whose
`timeout_seconds` was damaged lasts thirty and is waited for longer."""
LOCK_SECONDS = 40.0
MORE_MIB = 64
"""Resident memory may be so much above that of the first seconds, once all is quiet."""
PEAK_MIB = 600
"""And at no time more than this: there are 48 connections at most."""
MORE_FILES = 150
"""Table files and segments; the server holds at most 128 tables open."""
MORE_THREADS = 12
STOP_SECONDS = 20.0
DUMP_SECONDS = 20.0
"""For the server to log what it has of each connection. One whose loop is stuck does not."""
COUNTS = {
    "qrusty_connections": 1,
    "qrusty_websockets": 0,
    "qrusty_websocket_held_bytes": 0,
    "qrusty_requests_held_bytes": 0,
    "qrusty_responses_held_bytes": 0,
}
"""What the server counts of its clients, and what of it the one that asks may have."""
MIB = 1024 * 1024


class Hunt:
    """One run over many phases."""

    def __init__(self, first: int, directory: Path, say: Callable[[str], None] = print, *, tls: bool = False) -> None:
        self._first = first
        self._tls = tls
        self._seeds = {phase: count(first + (phase - first) % PHASES, PHASES) for phase in range(PHASES)}
        self._directory = directory
        self._end = 0.0
        self.say = say
        self.findings: dict[tuple[What, str], Finding] = {}
        self.played = 0

    @property
    def faults(self) -> int:
        return sum(not finding.contained for finding in self.findings.values())

    async def run(self, seconds: float) -> None:
        """Hunt for about that long."""
        self._end = trio.current_time() + seconds
        length = min(PHASE_SECONDS, max(LEAST_PHASE_SECONDS, seconds / 5))
        for phase in count(self._first):
            left = self._end - trio.current_time()
            if left < LEAST_PHASE_SECONDS / 2:
                return
            await self._phase(phase % PHASES, min(length, left))

    async def alone(self, one: Conversation) -> None:
        """Play one conversation on a server of its own."""
        async with target(one.fast, self._tls) as server:
            self.played += 1
            await Player(one).play(server.attack_port)
            with trio.move_on_after(1.0):
                await server.child.process.wait()
            await self.look_at(server, one)

    async def look_at(self, server: Target, one: Conversation) -> None:
        """Whatever is wrong with the server, the conversation has done it."""
        for finding in await look(server, What.BROKEN):
            finding.culprit = one
            await self._found(finding)

    async def _phase(self, phase: int, seconds: float) -> None:
        self.say(
            f"phase {phase}: fast path {'on' if is_fast(phase) else 'off'}"
            f"{', purging and deleting all' if sweeps(phase) else ''}, {seconds:.0f} s"
        )
        async with target(is_fast(phase), self._tls) as server:
            found = await Phase(server, phase, self._seeds[phase]).run(seconds, self)
        for finding in found:
            await self._found(finding)

    async def _found(self, finding: Finding) -> None:
        if finding.key in self.findings:
            return
        self.findings[finding.key] = finding
        if finding.culprit is None:
            began = trio.current_time()
            await attribute(finding)
            self._end += trio.current_time() - began
        self.say("\n" + finding.tell(self._directory) + "\n")


class Lateness:
    """How late the loop of this program is, on which the good clients are, too."""

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque()
        """When it was late, and by how much, in seconds."""

    async def measure(self) -> None:
        while True:
            due = trio.current_time() + LOOK_SECONDS
            await trio.sleep_until(due)
            self._late.append((due, trio.current_time() - due))
            while self._late[0][0] < due - LATE_SPAN_SECONDS:
                self._late.popleft()

    def recent(self) -> float:
        """The most in the last `LATE_SPAN_SECONDS`."""
        return max((late for _, late in self._late), default=0.0)


class Phase:
    """One server and what it has to bear."""

    def __init__(self, server: Target, number: int, seeds: Iterator[int]) -> None:
        self._server = server
        self._sweeping = sweeps(number)
        self._seeds = seeds
        self._recent: deque[list[Conversation | float]] = deque()
        """Conversations with the time of their end."""
        self._found: list[Finding] = []
        self._scope = trio.CancelScope()
        self._warm: Resources | None = None
        self._lateness = Lateness()
        self._ports = Ports()

    async def run(self, seconds: float, hunt: Hunt) -> list[Finding]:
        self._hunt = hunt
        start = self._server.resources()
        with trio.move_on_after(seconds) as self._scope:
            async with trio.open_nursery() as nursery:
                for good in (control.over_http, control.over_websocket):
                    nursery.start_soon(self._control, good)
                for _ in range(AT_ONCE):
                    nursery.start_soon(self._play_on)
                nursery.start_soon(self._watch)
                nursery.start_soon(self._lateness.measure)
        if not self._server.dead and not any(finding.what is What.BROKEN for finding in self._found):
            await self._settle(start)
        await self._end()
        return self._found

    async def _play_on(self) -> None:
        for seed in self._seeds:
            one = conversation(seed)
            entry: list[Conversation | float] = [one, math.inf]
            self._recent.append(entry)
            self._hunt.played += 1
            player = Player(one)
            try:
                await player.play(self._server.attack_port)
            finally:
                # Who could not connect has done nothing.
                entry[1] = trio.current_time() if player.local_port else -math.inf
                if player.local_port:
                    self._ports.note(player.local_port, one, player.began)
            if not player.local_port:
                await trio.sleep(0.2)
            if b"HTTP/1.1 500 " in player.received:
                text = bytes(player.received)[-2000:].decode(errors="replace")
                self._add(Finding(What.BROKEN, "a status 500", text, [one], one))

    async def _control(self, good: Callable[..., object]) -> None:
        try:
            await good(self._server.control_port, self._sweeping, Random(1))  # type: ignore[misc]  # both are coroutines
        except control.Broken as broken:
            with trio.move_on_after(1.0):  # When the server has ended, that is the finding.
                await self._server.child.process.wait()
            if not self._server.dead:
                late = self._lateness.recent()
                told = f"{broken} (the clients' loop was late by {late:.2f} s at most)"
                if SILENT in str(broken) and late > LATE_SECONDS:
                    # The good client, which lives in this loop, could not answer the ping in time.
                    self._hunt.say(f"not counted: {told}")
                else:
                    self._add(Finding(What.BROKEN, str(broken)[:60], told, self._suspects()))
                self._scope.cancel()

    async def _watch(self) -> None:
        began = trio.current_time()
        while True:
            await trio.sleep(0.1)
            await self._look()
            if self._server.dead:
                self._scope.cancel()
                continue
            now = self._server.resources()
            if self._warm is None and trio.current_time() > began + WARM_SECONDS:
                self._warm = now
            if now.resident > PEAK_MIB * MIB:
                self._add(Finding(What.HELD, "memory at its peak", f"{now.resident / MIB:.0f} MiB", self._suspects()))

    async def _look(self) -> None:
        suspects = self._suspects()
        for finding in await look(self._server):
            finding.suspects = suspects
            self._add(finding)

    def _add(self, finding: Finding) -> None:
        if finding.key not in [found.key for found in self._found]:
            self._found.append(finding)

    def _suspects(self) -> list[Conversation]:
        """Who is at it or was a moment ago; the last to begin first."""
        since = trio.current_time() - SUSPECT_SECONDS
        while self._recent and self._recent[0][1] < since:  # type: ignore[operator]  # the second is a time
            self._recent.popleft()
        return [entry[0] for entry in reversed(self._recent) if entry[1] >= since]  # type: ignore[misc,operator]

    async def _settle(self, start: Resources) -> None:
        """All clients have gone: nothing of theirs may be left."""
        server = self._server
        with trio.move_on_after(SETTLE_SECONDS) as scope:
            while server.resources().sockets > start.sockets:  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.1)
        if scope.cancelled_caught:
            number = server.resources().sockets - start.sockets
            before = len(server.child.log)
            server.child.send_signal(signal.SIGUSR2)
            with trio.move_on_after(DUMP_SECONDS):
                await server.child.logged(ENDED)
            held = explain(server.child.log[before:], server.child.process.pid, self._ports)
            self._hunt.say(held.text)
            self._add(Finding(What.HELD, "connections", f"{number} after {SETTLE_SECONDS} s, see above", held.owners))
        await self._settle_counts()
        await self._settle_locks()
        await self._settle_resources(start)

    async def _settle_counts(self) -> None:
        async with open_client(f"http://127.0.0.1:{self._server.control_port}") as client:
            left = dict.fromkeys(COUNTS, "?")
            with trio.move_on_after(SETTLE_SECONDS), suppress(control.Broken):
                while left:
                    with control.soon("GET /metrics"):
                        response = await client.request("GET", "/metrics", None)
                    lines = (line.rpartition(" ") for line in response.body.decode().splitlines())
                    told = {name: value for name, _, value in lines}
                    left = {name: told[name] for name, most in COUNTS.items() if float(told[name]) > most}
                    await trio.sleep(0.1)
            if left:
                self._add(Finding(What.HELD, "counts", f"{left} after {SETTLE_SECONDS} s"))

    async def _settle_locks(self) -> None:
        async with open_client(f"http://127.0.0.1:{self._server.control_port}") as client:
            with trio.move_on_after(LOCK_SECONDS) as scope, suppress(control.Broken):
                while True:
                    stats = await control.request(client, "GET", "/stats")
                    locked = {queue["name"]: queue["locked"] for queue in stats["queues"] if queue["locked"]}
                    locked.pop(control.HTTP_QUEUE, None)  # Cut off in the midst of a round.
                    if not locked:
                        return
                    await trio.sleep(0.2)
            if scope.cancelled_caught:
                self._add(Finding(What.HELD, "locks", f"{locked} after {LOCK_SECONDS} s"))

    async def _settle_resources(self, start: Resources) -> None:
        first = self._warm if self._warm is not None else start
        limit = first.resident + MORE_MIB * MIB
        with trio.move_on_after(SETTLE_SECONDS):
            while self._server.resources().resident > limit:  # noqa: ASYNC110  # nobody tells
                await trio.sleep(0.5)
        last = self._server.resources()
        if last.resident > limit:
            told = f"{first.resident / MIB:.0f} -> {last.resident / MIB:.0f} MiB"
            self._add(Finding(What.HELD, "memory", told))
        if last.files > start.files + MORE_FILES:
            self._add(Finding(What.HELD, "files", f"{start.files} -> {last.files}"))
        if last.threads > start.threads + MORE_THREADS:
            self._add(Finding(What.HELD, "threads", f"{start.threads} -> {last.threads}"))
        self._hunt.say(
            f"  memory {start.resident / MIB:.0f}, {first.resident / MIB:.0f}, {last.resident / MIB:.0f} MiB;"
            f" files {start.files}, {last.files}; threads {start.threads}, {last.threads}"
        )

    async def _end(self) -> None:
        """A last look, and an orderly stop."""
        server = self._server
        if not server.dead:
            with trio.move_on_after(STOP_SECONDS) as scope:
                status = await server.child.stop()
            if scope.cancelled_caught:
                self._add(Finding(What.HELD, "SIGTERM", f"still there after {STOP_SECONDS} s"))
                return
            if status == 0:
                for traceback in server.tracebacks():
                    told = Finding(What.TRACEBACK, traceback.signature, traceback.text, self._suspects())
                    told.contained = traceback.contained
                    self._add(told)
                return
        await self._look()
