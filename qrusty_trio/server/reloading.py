"""Files that a running server reads anew: on SIGHUP, and when they have changed.

Rule: what is wrong with a new file is logged, and what was read before stays. A file is taken when it has not changed
since the last look, so that one which is just being written, or whose twin is, is left alone for a moment. If the
system refused to let it be read, it is read again at the next look: a token that was taken out must not stay valid
because descriptors were short for a moment.

Requirements: API-0182
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from qrusty_trio.errors import QrustyError
from qrusty_trio.server.trouble import Trouble

LOOK_SECONDS = 5.0
"""How often the files are looked at."""

log = logging.getLogger(__name__)

State = tuple[tuple[int, int, int] | None, ...]
"""Of each file: its number, size and time of change, permissions included; None if it can't be looked at."""


class Reloader:
    """Calls `read` in a thread whenever `files` are to be read anew. It raises QrustyError or OSError if they are bad.

    What it returns is logged. `what` names the files in the log, such as "the certificate".
    """

    def __init__(self, what: str, files: Sequence[Path], read: Callable[[], str | None]) -> None:
        self._what = what
        self._files = files
        self._read = read
        self._hung_up = trio.Event()
        self._limiter = trio.CapacityLimiter(1)
        """A disk that hangs blocks only this thread."""
        self._refused = Trouble(log, f"{what} stays as it was, and is read again every {LOOK_SECONDS:g} s")

    def hang_up(self) -> None:
        """SIGHUP has come: read them now, whether they have changed or not."""
        self._hung_up.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Never returns.

        Requirements: API-0182
        """
        seen = await self._look()
        taken: State | None = seen
        task_status.started()
        trouble = Trouble(
            log, f"{self._what} could not be read anew, and is looked at again on SIGHUP and every {LOOK_SECONDS:g} s"
        )
        while True:
            with trio.move_on_after(LOOK_SECONDS):
                await self._hung_up.wait()
            # Before anything can fail: a signal that stays would end the next wait at once.
            hung_up = self._hung_up.is_set()
            self._hung_up = trio.Event()
            try:
                state = await self._look()
                if hung_up or (state != taken and state == seen):
                    taken = state if await self._reload("SIGHUP" if hung_up else "changed") else None
                seen = state
            except Exception as error:  # noqa: BLE001  # logged there; no error here may end the server
                trouble.note(error)
                if hung_up:
                    taken = None  # The signal counts at the next look.

    async def _reload(self, why: str) -> bool:
        """Read them. Returns False if the system did not let them be read, which may pass."""
        try:
            found = await trio.to_thread.run_sync(self._read, abandon_on_cancel=True, limiter=self._limiter)
        except (QrustyError, OSError) as error:
            if _may_pass(error):
                self._refused.note(error)
                return False
            log.error("%s stays as it was: %s", self._what, error)  # noqa: TRY400  # a traceback would add nothing
        else:
            log.info("%s was read anew (%s)%s", self._what, why, f": {found}" if found else "")
        return True

    async def _look(self) -> State:
        return await trio.to_thread.run_sync(self._states, abandon_on_cancel=True, limiter=self._limiter)

    def _states(self) -> State:
        return tuple(_state(path) for path in self._files)


def _may_pass(error: BaseException | None) -> bool:
    """Whether the system was to blame, and not what is in a file, nor that it is gone."""
    while error is not None:
        if isinstance(error, OSError):
            return not isinstance(error, FileNotFoundError | ssl.SSLError)
        error = error.__cause__
    return False


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_ctime_ns
