"""What went wrong, as one line with the way out, and as an exit status.

Rule: whoever reads the line knows what to do next. No traceback, unless `--verbose` is given and the fault is ours.

Requirements: API-0121
"""

from __future__ import annotations

from collections.abc import Iterator

from qrusty_trio.cli.exits import Exit
from qrusty_trio.client import (
    BadTlsFile,
    ClientError,
    ConnectFailed,
    ConnectionLost,
    MemoryPressure,
    NotFound,
    NotLocked,
    NotSent,
    ProtocolError,
    QueueExists,
    QueueNotFound,
    QueueProtected,
    ReadOnly,
    RequestError,
    Starting,
    TimedOut,
    Unauthenticated,
)


class Failed(Exception):
    """Ends a command with `status`. `str(failure)` is the line for stderr."""

    def __init__(self, status: Exit, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def explained(error: ClientError, url: str) -> Failed:
    """The line and the exit status for an error of the client that talked to `url`."""
    if isinstance(error, RequestError) and error.code.startswith("http_3"):
        return Failed(
            Exit.UNREACHABLE,
            f"no Qrusty server answers at {url}: it is a redirect to another address. Check the address",
        )
    if isinstance(error, RequestError):
        sentence = error.message.rstrip(".")
        way_out = next((text for kind, text in _WAYS_OUT.items() if isinstance(error, kind)), "")
        return Failed(_exit_of(error), f"{sentence}. {way_out}" if way_out else sentence)
    if isinstance(error, (NotSent, ConnectFailed)):
        text = str(error)
        if "certificate is refused" in text:
            return Failed(
                Exit.UNREACHABLE,
                f"{text}. QRUSTY_CA names the file with the certificate of the authority that has signed it",
            )
        reason = text if text.startswith("can't connect") else f"can't connect to {url}: {text}"
        return Failed(
            Exit.UNREACHABLE,
            f"{reason}. Start a server with `qrusty-trio`, or name another one with --url or --context",
        )
    if isinstance(error, TimedOut):
        return Failed(Exit.UNREACHABLE, f"{url}: {error}. It may have been carried out; --timeout gives it longer")
    if isinstance(error, ConnectionLost):
        return Failed(Exit.UNREACHABLE, f"{url}: {error}. It may have been carried out: look before you repeat it")
    if isinstance(error, ProtocolError):
        return Failed(Exit.UNREACHABLE, f"no Qrusty server answers at {url}: {error}. Check the address")
    if isinstance(error, BadTlsFile):
        return Failed(Exit.USAGE, f"{error}. QRUSTY_CA, QRUSTY_CLIENT_CERT and QRUSTY_CLIENT_KEY name these files")
    return Failed(Exit.REFUSED, f"{url}: {error}")


_WAYS_OUT: dict[type[RequestError], str] = {
    Unauthenticated: "Set QRUSTY_TOKEN, or give the context one: `qrusty-trio context add --replace --token-file`",
    QueueNotFound: "`qrusty-trio queue list` names those that exist",
    NotLocked: "Its lock has ended, or --consumer differs from that of the consume",
    QueueProtected: "Lift it with `qrusty-trio queue update QUEUE --no-protect`",
    QueueExists: "`qrusty-trio queue update` changes it; --if-not-exists leaves it as it is",
    ReadOnly: "Ask whoever runs it, or name another server with --url or --context",
    Starting: "Try again in a moment",
    MemoryPressure: "Consume what is queued, or give the server more memory",
}


def _exit_of(error: RequestError) -> Exit:
    if isinstance(error, (NotFound, NotLocked)):
        return Exit.NOT_FOUND
    if isinstance(error, Starting) or error.code in ("http_502", "http_503", "http_504"):
        return Exit.UNREACHABLE
    return Exit.REFUSED


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group; the exception itself if it is none."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    else:
        yield error
