"""Deliveries to WebSockets leave after a sync of their locks, where that is wanted.

Rule: each step of the engine that made deliveries asks for one sync, for all WebSockets that got any. They hold their
frames back until it is over. If it fails they are closed. So nobody sees those deliveries, and they go back uncounted,
with whatever else those WebSockets held. A consume over HTTP waits for a sync itself, as any reply that needs one.

Requirements: PER-0061, PER-0062
"""

from __future__ import annotations

from functools import partial

from qrusty_trio.api.call import Services
from qrusty_trio.core.dispatch import Dispatcher
from qrusty_trio.core.unsynced import Unsynced
from qrusty_trio.errors import StorageFault
from qrusty_trio.server.committer import Committer
from qrusty_trio.server.sessions import Sessions


def sync_locks(services: Services, dispatcher: Dispatcher, committer: Committer) -> None:
    """From now on no message leaves before a sync of its lock, if the policy lets changes wait for a sync."""
    if committer.waits:
        services.sync_locks = True
        dispatcher.unsynced = Unsynced()


def release_after_sync(dispatcher: Dispatcher, committer: Committer, sessions: Sessions) -> None:
    """Let the deliveries of this step leave after the next sync."""
    unsynced = dispatcher.unsynced
    if unsynced is not None and unsynced.waiting:
        dispatcher.unsynced = Unsynced()
        committer.when_locked(partial(_finish, unsynced, sessions), len(unsynced.waiting))


def _finish(unsynced: Unsynced, sessions: Sessions, fault: StorageFault | None) -> None:
    if fault is None:
        unsynced.finish()
    else:
        unsynced.failed = True
        sessions.sync_failed(unsynced.waiting)
