"""Running the calls of a burst: each becomes a reply, or turns out to take more than one step.

Rule: nothing here knows transactions. Whoever calls `run_calls` is inside one; `run_reads` needs none.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence

from qrusty_trio.api.call import Call, Operation, Reply, Services
from qrusty_trio.api.operations import error_reply
from qrusty_trio.errors import QrustyError, Starting, StorageFault

REPLY_BYTES = 512 * 1024
"""Bytes of answers from which on the rest of a burst is left to a further step: those of 2 MiB take 2 ms at most."""
REQUEST_WEIGHT = 2
"""A byte of a request counts as so many: a round of 64 publishes of 64 KiB took 10 ms, and 18 where duplicates are
refused."""

Long = Generator[None, None, Reply]
"""An operation that takes more than one step."""
log = logging.getLogger(__name__)


def run_calls(services: Services, calls: Sequence[Call], replies: list[Reply], now: int) -> Long | None:
    """Run calls from number len(replies) on, up to one that takes long: that one is returned, begun.

    None: all were run, or there is a lot to be answered. Raises StorageFault.
    """
    starting = services.gate.starting
    octets = 0
    for index in range(len(replies), len(calls)):
        call = calls[index]
        operation = call.operation
        octets += REQUEST_WEIGHT * len(call.body)
        try:
            if starting and operation.mutating:
                raise Starting("Qrusty is initialising. Retry shortly.")
            answer = operation.function(services, call, now)
            if type(answer) is not Reply:
                assert not isinstance(answer, Reply)
                return answer
            replies.append(answer)
            octets += len(answer.body)
        except StorageFault:
            raise
        except QrustyError as error:
            replies.append(error_reply(error))
        except Exception as error:
            if operation.mutating:
                raise
            replies.append(failed_read(operation, error))
        if octets >= REPLY_BYTES:
            return None
    return None


def run_reads(
    services: Services, calls: Sequence[Call], replies: list[Reply], now: int, fault: StorageFault
) -> Long | None:
    """The same while the store is not to be used: changes are refused with the fault."""
    octets = 0
    for index in range(len(replies), len(calls)):
        call = calls[index]
        operation = call.operation
        if operation.mutating:
            replies.append(error_reply(fault))
            continue
        try:
            answer = operation.function(services, call, now)
        except QrustyError as error:
            answer = error_reply(error)
        except Exception as error:  # noqa: BLE001  # logged there; only this request fails
            answer = failed_read(operation, error)
        if not isinstance(answer, Reply):
            return answer
        replies.append(answer)
        octets += len(answer.body)
        if octets >= REPLY_BYTES:
            return None
    return None


def next_step(long: Long) -> Reply | None:
    """Take a step of a long operation. Its reply when it is done."""
    try:
        next(long)
    except StopIteration as stop:
        reply: Reply = stop.value
        return reply
    return None


def failed_read(operation: Operation, error: Exception) -> Reply:
    """The answer to a request that failed in a way that nobody thought of."""
    log.error("%s failed in a way that should not be possible", operation.name, exc_info=error)
    return error_reply(QrustyError("The server failed to answer; its log says why"))


def only_synced(replies: list[Reply]) -> bool:
    """Whether a sync is waited for and no message was handed out."""
    synced = False
    for reply in replies:
        if reply.delivery is not None:
            return False
        if reply.needs_sync:
            synced = True
    return synced
