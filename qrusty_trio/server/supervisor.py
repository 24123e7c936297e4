"""The nursery tree: which tasks run, and in which order they start and stop.

    serve
      stores open (in a thread; refuses before anything is changed)
      background: committer, recovery, dispatch, search, reaper, warnings, ages, sampler, watch, memory
                  monitor, upkeep, payload compactor
        front: listeners and connections (the gate is closed: 503), start-up loader (opens the gate)

Rule: inner tasks end before outer ones. SIGTERM or SIGINT stops the front: no new connections are accepted, requests in
progress are finished, and WebSockets are closed with 1001 (10 s at most). Then the background stops, then comes the
last sync, and the store is closed. `Ending` limits how long that takes. A crash of any task cancels all others. `serve`
raises it with its traceback.

Requirements: SYS-0013
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import trio

from qrusty_trio import __version__
from qrusty_trio.access.access import Access
from qrusty_trio.addresses import Address
from qrusty_trio.api.about import About
from qrusty_trio.api.call import Services
from qrusty_trio.api.gate import Gate
from qrusty_trio.api.operations import MAX_BODY_BYTES
from qrusty_trio.config import Settings, StorageMode, UnknownQueue, webui_directory
from qrusty_trio.core.broker import Broker
from qrusty_trio.core.dispatch import Dispatcher
from qrusty_trio.core.model import (
    MAX_BATCH_IDS,
    MAX_CONSUMER_BYTES,
    MAX_LOCK_SECONDS,
    MAX_QUEUE_NAME_BYTES,
    MAX_QUEUES,
    MAX_TEXT_PRIORITY_BYTES,
)
from qrusty_trio.core.timings import Timings
from qrusty_trio.http import listener
from qrusty_trio.http.admission import Admission
from qrusty_trio.http.byte_budget import Budget, limit_for
from qrusty_trio.http.context import HttpContext, TlsContexts
from qrusty_trio.http.websocket import WebSocketServices
from qrusty_trio.logs import LogRing
from qrusty_trio.server import descriptors, startup
from qrusty_trio.server.activation import PassedSocket
from qrusty_trio.server.ages import watch_ages
from qrusty_trio.server.auditor import Auditor
from qrusty_trio.server.certificates import certificates_of
from qrusty_trio.server.clock import Clock
from qrusty_trio.server.committer import Committer
from qrusty_trio.server.compactor import Compactor
from qrusty_trio.server.deadlines import warn
from qrusty_trio.server.descriptors import Fitted
from qrusty_trio.server.disk_room import keep_room
from qrusty_trio.server.ending import Ending, watch_signals
from qrusty_trio.server.engine import Engine
from qrusty_trio.server.listening import Listening
from qrusty_trio.server.lock_syncs import sync_locks
from qrusty_trio.server.memory_usage import MemoryUsage, UsageSource, return_freed
from qrusty_trio.server.metrics import Metrics
from qrusty_trio.server.notes import Notes
from qrusty_trio.server.notify import READY, Notifier
from qrusty_trio.server.pressure import MIB, PressureSettings, PressureStatus, monitor
from qrusty_trio.server.recovery import recover
from qrusty_trio.server.reloading import Reloader
from qrusty_trio.server.retention import retain
from qrusty_trio.server.sampler import Lag, sample
from qrusty_trio.server.shedding import Shedding
from qrusty_trio.server.startup import Stores
from qrusty_trio.server.tokens import OPEN_TO_ALL, TokensFile, beyond_this_machine
from qrusty_trio.server.trash import empty_trash, little_room
from qrusty_trio.server.upkeep import Collector, Upkeep
from qrusty_trio.server.watch import watch, watch_syncs
from qrusty_trio.server.webui_files import read_files
from qrusty_trio.telemetry import tracing
from qrusty_trio.telemetry.engine import NotingEngine
from qrusty_trio.telemetry.frames import FrameNotes
from qrusty_trio.telemetry.tracing import Tracing

NOTES_SECONDS = 5.0
"""Deadline for what was noted of clients to be written."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Server:
    """A running server, as `serve` reports it once it listens."""

    port: int
    """Of its first TCP address; 0 if there is none."""
    engine: Engine
    stopping: trio.Event
    """Set it to stop the server as SIGTERM does."""
    access: Access | None = None
    """Its tokens; None if it has none."""


async def serve(
    settings: Settings,
    ring: LogRing,
    *,
    memory: UsageSource | None = None,
    notifier: Notifier | None = None,
    passed: Sequence[PassedSocket] = (),
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a server until SIGTERM or SIGINT. `memory` reads the memory usage (default: from the kernel's accounting).

    `notifier` is told when the server is ready, alive and stopping (default: nobody is). `passed`: sockets to listen on
    in place of BIND_ADDR.

    Reports as started when it listens; the gate may still be closed. Raises StartupRefused when it must not start.

    Requirements: SYS-0015, WS-0029
    """
    # First of all, so that a signal while the store is being opened also stops the server in order.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals, Ending() as ending:
        stopping = trio.Event()
        hurry = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            reloaders: list[Reloader] = []
            nursery.start_soon(watch_signals, signals, stopping, hurry, reloaders, ending)
            notifier = notifier or Notifier(None, None)
            nursery.start_soon(notifier.run, stopping)
            fitted = descriptors.fit(settings)
            if settings.tracing:
                tracing.check_installed()
            certificates = await trio.to_thread.run_sync(certificates_of, fitted.settings)
            if certificates is not None:
                reloaders.append(Reloader("the certificate", certificates.files.paths, certificates.read_again))
            tokens = None
            if settings.tokens_file is not None:
                tokens = await trio.to_thread.run_sync(TokensFile, settings.tokens_file)
                reloaders.append(Reloader("the tokens file", [tokens.path], tokens.read_again))
            stores = await trio.to_thread.run_sync(startup.open_stores, fitted.settings)
            for reloader in reloaders:
                await nursery.start(reloader.run)
            tls = certificates.context if certificates is not None else None
            with hurry, closing(MemoryUsage(settings.memory_limit_mb)) as own:
                await _serve(
                    fitted, stores, ring, memory or own, notifier, passed, stopping, ending, tls, tokens, task_status
                )
            nursery.cancel_scope.cancel()
    log.info("stopped")


async def _serve(
    fitted: Fitted,
    stores: Stores,
    ring: LogRing,
    memory: UsageSource,
    notifier: Notifier,
    passed: Sequence[PassedSocket],
    stopping: trio.Event,
    ending: Ending,
    tls: TlsContexts | None,
    tokens: TokensFile | None,
    task_status: trio.TaskStatus[Server],
) -> None:
    """Run with open stores, and close them at the end."""
    spans = notes = None
    try:
        ring.attach(_reach_loop())
        notes = await trio.to_thread.run_sync(Notes, fitted.settings)
        ending.closing.append(notes.close)
        if fitted.settings.tracing:
            spans = await trio.to_thread.run_sync(tracing.start_tracing, __version__)
        await _run(
            fitted, stores, ring, memory, notifier, passed, stopping, ending, tls, tokens, spans, notes, task_status
        )
    finally:
        ring.detach()
        # Shielded: even when cancelled, changes acknowledged under `everysec` or `never` must still be synced.
        ending.begin()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(stores.close)
        if spans is not None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + tracing.CLOSE_SECONDS):
                await trio.to_thread.run_sync(spans.close, abandon_on_cancel=True)
        if notes is not None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + NOTES_SECONDS):
                await trio.to_thread.run_sync(notes.close, abandon_on_cancel=True)


async def _run(
    fitted: Fitted,
    stores: Stores,
    ring: LogRing,
    memory: UsageSource,
    notifier: Notifier,
    passed: Sequence[PassedSocket],
    stopping: trio.Event,
    ending: Ending,
    tls: TlsContexts | None,
    tokens: TokensFile | None,
    spans: Tracing | None,
    notes: Notes,
    task_status: trio.TaskStatus[Server],
) -> None:
    settings = fitted.settings
    status = PressureStatus()
    engine = make_engine(settings, stores, status)
    if notes.trail is not None:
        engine.services.audit = notes.trail
        engine.auditor = Auditor(notes.trail, engine.clock)
    compactor = None
    if stores.payloads is not None and stores.removed_log is not None:
        compactor = Compactor(engine, stores.payloads, stores.removed_log, settings.compact_interval_secs)
    collector = Collector()
    shedding = Shedding(engine, stores.storage, compactor, collector)
    listening = Listening()
    try:
        listening.adopt(passed)
        if not passed:
            for address in settings.bind_addr:
                await listening.open(address)
        described = listening.described()
        async with trio.open_nursery() as background:
            background.start_soon(ending.begin_when_cancelled)
            await background.start(engine.committer.run)
            await background.start(recover, engine, partial(reopen, stores, compactor))
            await background.start(engine.dispatch)
            lag = Lag()
            await background.start(sample, engine, lag)
            if stores.storage.persistent:
                await background.start(watch, engine, stores)
                await background.start(watch_syncs, engine)
                await background.start(keep_room, engine.services.gate, settings.data_path)
            async with trio.open_nursery() as front:
                metrics = Metrics(engine, lag)
                access = tokens.open(engine.clock.now_ms) if tokens is not None else None
                if access is not None:
                    await background.start(engine.waiters.guard, access)
                limit = memory.read().limit_bytes
                context = await _context(fitted, engine, ring, stopping, tls, limit, metrics, spans, access, notes)
                front.start_soon(_note_stopping, stopping, engine.services.gate)
                await front.start(listener.serve, listening.listeners, context)
                port = listening.port
                for level, note in fitted.notes:
                    log.log(level, "%s", note)
                for each in described:
                    log.info("listening on %s", each)
                if access is None and beyond_this_machine(listening.listeners):
                    log.warning("%s", OPEN_TO_ALL)
                task_status.started(Server(port, engine, stopping, access))
                await _load(engine, compactor, stopping)
                if not stopping.is_set():
                    await background.start(engine.reap)
                    await background.start(engine.search)
                    await background.start(warn, engine)
                    await background.start(watch_ages, engine)
                    if not settings.read_only:
                        await background.start(retain, engine)
                        if stores.storage.persistent:
                            await background.start(empty_trash, engine, partial(little_room, settings.data_path))
                    limits = PressureSettings(settings.rocksdb_cache_mb * MIB, settings.thresholds)
                    await background.start(monitor, memory, shedding, limits, status)
                    await background.start(Upkeep(engine, stores.storage, collector).run)
                    if compactor is not None:
                        await background.start(compactor.run)
                    await notifier.tell(READY)
            background.cancel_scope.cancel()
    finally:
        # No checkpoint here: it would raise when cancelled.
        listening.close()
        # A remaining reference to the engine must not keep the store from closing.
        engine.broker.journal.detach()


def reopen(stores: Stores, compactor: Compactor | None) -> None:
    """Open the store again after a fault. Blocks. Raises StorageFault while it can't be opened."""
    stores.reopen()
    if compactor is not None:
        compactor.doubt()


async def _load(engine: Engine, compactor: Compactor | None, stopping: trio.Event) -> None:
    """Load the store. Stops early when `stopping` is set. Raises StartupRefused.

    Requirements: API-0058
    """
    async with trio.open_nursery() as nursery:

        async def give_up() -> None:
            await stopping.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(give_up)
        await startup.load(engine, compactor)
        nursery.cancel_scope.cancel()


def make_engine(settings: Settings, stores: Stores, status: PressureStatus) -> Engine:
    broker = Broker(
        stores.storage,
        hot_tier_size=settings.hot_tier_size,
        refill_threshold=settings.refill_threshold,
        max_locked_index=settings.max_locked_index,
        payloads=stores.payloads,
        externalize_min_bytes=settings.externalize_min_bytes if settings.payload_store else None,
    )
    broker.catalog.refuses_unknown = settings.unknown_queue is UnknownQueue.REFUSE
    payloads = stores.payloads
    clock = Clock()
    services = Services(
        broker,
        Gate(starting=True, read_only=settings.read_only),
        Timings(),
        status,
        payloads.disk_bytes if payloads is not None else lambda: 0,
        _about(settings, clock.now_ms()),
        guarded=settings.tokens_file is not None,
    )
    engine = Engine(services, Dispatcher(), clock)
    engine.committer = Committer(stores.storage, payloads, settings.fsync, engine.write, engine.fail)
    if settings.fsync_locks:
        sync_locks(engine.services, engine.dispatcher, engine.committer)
    return engine


def _about(settings: Settings, now: int) -> About:
    """What `GET /server` tells. `now`: wall milliseconds."""
    return About(
        storage_mode=settings.storage_mode,
        fsync=settings.fsync,
        payload_store=settings.payload_store and settings.storage_mode is StorageMode.ROCKSDB,
        environment=settings.environment,
        environment_colour=settings.environment_colour,
        started_ms=now,
        max_connections=settings.max_connections,
        thresholds=settings.thresholds,
        limits={
            "queues": MAX_QUEUES,
            "queue_name_bytes": MAX_QUEUE_NAME_BYTES,
            "body_bytes": MAX_BODY_BYTES,
            "text_priority_bytes": MAX_TEXT_PRIORITY_BYTES,
            "consumer_id_bytes": MAX_CONSUMER_BYTES,
            "batch_ids": MAX_BATCH_IDS,
            "locked_messages": settings.max_locked_index,
            "lock_seconds": MAX_LOCK_SECONDS,
        },
    )


async def _note_stopping(stopping: trio.Event, gate: Gate) -> None:
    await stopping.wait()
    gate.stopping = True


async def _context(
    fitted: Fitted,
    engine: Engine,
    ring: LogRing,
    stopping: trio.Event,
    tls: TlsContexts | None,
    memory_limit: int,
    metrics: Metrics,
    spans: Tracing | None,
    access: Access | None,
    notes: Notes,
) -> HttpContext:
    settings = fitted.settings
    webui = webui_directory(settings.webui_dir)
    if webui is None:
        log.warning("there is no web UI: neither in %s nor in the package", settings.webui_dir)
    bound = {each.host.lower().removesuffix(".") for each in settings.bind_addr if isinstance(each, Address)}
    hosts = settings.allowed_hosts | bound
    websocket = WebSocketServices(
        engine,
        engine.dispatcher,
        engine.services.gate,
        ring,
        ping_interval=settings.ws_ping_interval_secs,
        ping_timeout=settings.ws_ping_timeout_secs,
        allowed_origins=settings.allowed_origins,
        allowed_hosts=hosts,
        tokens=access,
        stopping=stopping,
        access=notes.access,
        take_notes=partial(FrameNotes, spans.inbox.put) if spans is not None else None,
        return_freed=return_freed,
    )
    limit = limit_for(memory_limit)
    files = await trio.to_thread.run_sync(read_files, webui) if webui is not None else {}
    return HttpContext(
        engine if spans is None else NotingEngine(engine, spans.inbox.put),
        websocket,
        webui if webui is not None else settings.webui_dir,
        settings.max_connections,
        access=notes.access,
        tokens=access,
        admission=Admission(settings.max_connections_per_address, settings.trusted_proxies),
        tls=tls,
        files=files,
        fast_path=settings.fast_path,
        allowed_origins=settings.allowed_origins,
        stopping=stopping,
        allowed_hosts=hosts,
        max_turned_away=fitted.turned_away,
        received=Budget(limit),
        unsent=Budget(limit),
        connections=engine.services.about.connections,
        metrics=metrics.render,
    )


def _reach_loop() -> Callable[[Callable[[], None]], object]:
    """A function by which other threads can call a function on this event loop."""
    token = trio.lowlevel.current_trio_token()
    return partial(token.run_sync_soon, idempotent=True)
