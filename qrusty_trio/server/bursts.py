"""Running the calls of a burst: each one gives a reply, or turns out to take more than one step.

Rule: nothing here knows about transactions. `run_calls` must be called inside one; `run_reads` needs none.

Requirements: SYS-0006
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from qrusty_trio.api.authorizing import authorize, charge, refused
from qrusty_trio.api.call import Call, Reply, Services, Steps, Wait
from qrusty_trio.api.identity import identified
from qrusty_trio.api.operations import error_reply
from qrusty_trio.core.model import Delivery
from qrusty_trio.errors import QrustyError, StorageFault

REPLY_BYTES = 512 * 1024
"""After this many bytes of replies, the rest of a burst is left to a later step. A reply of 2 MiB takes up to 2 ms."""
REQUEST_WEIGHT = 2
"""How much a byte of a request counts compared to a byte of a reply. 64 publishes of 64 KiB in one step took 10 ms, or
18 ms in queues that refuse duplicates."""

log = logging.getLogger(__name__)


class Long:
    """An operation that takes more than one step, on its way to its reply."""

    __slots__ = ("_steps", "begun", "call", "operation", "so_far")

    def __init__(self, steps: Steps, call: Call) -> None:
        self._steps = steps
        self.call = call
        self.operation = call.operation
        self.begun = False
        """A step of it has ended, so a part may be done."""
        self.so_far: dict[str, int] | None = None
        """How much is done and in the store, if it tells. See `Call.done`."""

    @property
    def deliveries(self) -> Sequence[Delivery]:
        """What it has handed out so far."""
        return self.call.handed_out or ()

    def step(self) -> Reply | Wait | None:
        """Run one step. Returns the reply when it is done, otherwise None. Instead of a reply it may have to wait."""
        try:
            next(self._steps)
        except StopIteration as stop:
            reply: Reply | Wait = stop.value
            return reply
        self.begun = True
        return None

    def written(self) -> None:
        """What its steps have done is in the store."""
        if self.call.done is not None:
            self.so_far = self.call.done()

    def failed(self, error: Exception) -> Reply:
        """The reply after an error at a step."""
        reply = refused(self.call, error) if isinstance(error, QrustyError) else failed_read(self.call, error)
        if self.begun and self.operation.mutating:
            # What its earlier steps did stands, and the reply may tell of it.
            reply.needs_sync = True
        if self.begun and isinstance(error, QrustyError) and not isinstance(error, StorageFault):
            self.written()
        return reply

    def close(self) -> None:
        """It will not go on."""
        self._steps.close()


def run_calls(services: Services, calls: Sequence[Call], replies: list[Reply], now: int) -> Long | Wait | None:
    """Run the calls that have no reply yet, up to one that takes more than one step or has to wait. Returns that one.

    Appends to `replies`. Returns None when all calls were run, or when `REPLY_BYTES` were reached. Raises StorageFault.

    Requirements: PER-0048
    """
    gate = services.gate
    closed = gate.starting or gate.read_only
    guarded = services.guarded
    octets = 0
    for index in range(len(replies), len(calls)):
        call = calls[index]
        operation = call.operation
        octets += REQUEST_WEIGHT * len(call.body)
        try:
            if guarded:
                authorize(call, now)
            if closed and operation.needs_store:
                refusal = gate.refusal(operation.mutating)
                if refusal is not None:
                    raise refusal
            result = operation.function(services, call, now)
            if type(result) is not Reply:
                if type(result) is Wait:
                    return result
                assert not isinstance(result, Reply | Wait)
                return Long(result, call)
            replies.append(result)
            octets += len(result.body)
            if guarded:
                charge(call, result)
        except StorageFault:
            raise
        except QrustyError as error:
            replies.append(refused(call, error))
        except Exception as error:
            if operation.mutating:
                raise
            replies.append(failed_read(call, error))
        if octets >= REPLY_BYTES:
            return None
    return None


def run_reads(
    services: Services, calls: Sequence[Call], replies: list[Reply], now: int, fault: StorageFault
) -> Long | None:
    """Like `run_calls`, while the store is unusable: calls that need it are answered with `fault`.

    Requirements: PER-0043
    """
    octets = 0
    for index in range(len(replies), len(calls)):
        call = calls[index]
        operation = call.operation
        try:
            if services.guarded:
                authorize(call, now)
            if operation.needs_store:
                raise fault.with_traceback(None)
            result = operation.function(services, call, now)
        except QrustyError as error:
            result = refused(call, error)
        except Exception as error:  # noqa: BLE001  # logged there; only this request fails
            result = failed_read(call, error)
        if not isinstance(result, Reply):
            assert not isinstance(result, Wait)  # a consume needs the store
            return Long(result, call)
        replies.append(result)
        octets += len(result.body)
        if octets >= REPLY_BYTES:
            return None
    return None


def failed_read(call: Call, error: Exception) -> Reply:
    """Log an unexpected error of a request with the request's id, and return the reply to it.

    Requirements: PER-0048
    """
    identity = call.identity = identified(call.identity)
    log.error(
        "%s failed in a way that should not be possible (request %s)",
        call.operation.name,
        identity.name,
        exc_info=error,
        extra=identity.tags,
    )
    return error_reply(QrustyError("The server failed to answer; its log says why"))


def only_synced(replies: list[Reply]) -> bool:
    """Whether some reply needs a sync, and none has a delivery that leaves without one."""
    synced = False
    for reply in replies:
        if reply.needs_sync:
            synced = True
        elif reply.deliveries:
            return False
    return synced
