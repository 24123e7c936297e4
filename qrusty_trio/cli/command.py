"""How a function becomes a command: the options that every command has, and what an exception means.

Rule: a command is a function whose first parameter is a `Session`. Its other parameters are its own arguments and
options. It returns an `Exit`, or nothing for `Exit.DONE`, and raises `Failed`.

Requirements: API-0121, API-0122
"""

from __future__ import annotations

import inspect
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from qrusty_trio.cli.completion import context_names
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed, explained, leaves
from qrusty_trio.cli.output import Format, Output, say, write_no_more
from qrusty_trio.cli.session import Session
from qrusty_trio.cli.targets import DEFAULT_URL, Target, default_consumer, target_of
from qrusty_trio.cli.values import checked
from qrusty_trio.client import ClientError

P = ParamSpec("P")
Command = Callable[Concatenate[Session, P], IntEnum | None]
Failing = Callable[[str, dict[str, Any]], IntEnum]

TIMEOUT_SECONDS = 30.0

_OUTPUT: dict[str, tuple[Any, Any]] = {
    "output": (
        Annotated[
            Format | None,
            typer.Option("--output", "-o", help="How to print: a table on a terminal if not given."),
        ],
        None,
    ),
    "columns": (Annotated[str | None, typer.Option(help="Columns of a table or CSV, separated by commas.")], None),
    "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.")], False),
    "verbose": (Annotated[bool, typer.Option("--verbose", help="Print each request as a call of curl.")], False),
}
_SERVER: dict[str, tuple[Any, Any]] = {
    "url": (
        Annotated[str | None, typer.Option(help=f"The server. Else QRUSTY_URL, the context, {DEFAULT_URL}.")],
        None,
    ),
    "context": (
        Annotated[str | None, typer.Option(help="The server by its name.", autocompletion=context_names)],
        None,
    ),
    "timeout": (Annotated[float, typer.Option(min=0.001, help="Seconds for a response.")], TIMEOUT_SECONDS),
}
NO_SERVER = Target("", "none", "")


def command(
    app: typer.Typer, name: str, *, server: bool = True, failed: Failing | None = None
) -> Callable[[Command[P]], Command[P]]:
    """Make a function the command `name` of `app`. `server`: whether it talks to one. `failed`: gets the sentence and
    all arguments when something goes wrong, and returns the exit status."""
    common = {**(_SERVER if server else {}), **_OUTPUT}

    def register(function: Command[P]) -> Command[P]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        shared = [
            inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for each, (annotation, default) in common.items()
        ]
        own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]

        def run(**given: Any) -> None:
            options = {each: given.pop(each) for each in common}
            on_failure = (lambda sentence: failed(sentence, options | given)) if failed is not None else None

            def body() -> IntEnum | None:
                options.update(checked(options, shared))
                return function(_session(options, server), **checked(given, own))  # type: ignore[call-arg]

            with _interrupted_by_sigterm():
                status = guarded(body, options, on_failure)
            if status:
                raise typer.Exit(int(status))

        run.__name__ = function.__name__
        run.__doc__ = function.__doc__
        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in [*own, *shared]}
        app.command(name)(run)
        return function

    return register


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that a command that it ends says how far it came.

    Without effect where Ctrl-C is ignored, as it is for what a shell starts in the background, and in other threads.
    """
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    unset = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if threading.current_thread() is not threading.main_thread() or not (heard and unset):
        yield
        return
    # Trio waits for SIGINT, and can't be interrupted anywhere else.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _session(options: dict[str, Any], server: bool) -> Session:
    target = target_of(options["url"], options["context"]) if server else NO_SERVER
    output = Output(options["output"], options["columns"])
    timeout = options.get("timeout", TIMEOUT_SECONDS)
    return Session(target, output, options["quiet"], options["verbose"], timeout)


def guarded(
    body: Callable[[], IntEnum | None], options: dict[str, Any], failed: Callable[[str], IntEnum] | None = None
) -> IntEnum:
    """Run a command's body. Exceptions become a line on stderr and an exit status: that of `failed`, if it is given."""
    try:
        return body() or Exit.DONE
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:
        causes = list(leaves(error))
        if any(isinstance(each, KeyboardInterrupt) for each in causes):
            return Exit.INTERRUPTED
        failure = next((found for each in causes if (found := _foreseen(each, options)) is not None), None)
        if failure is None:
            if options["verbose"] and failed is None:
                raise
            failure = Failed(
                Exit.REFUSED,
                f"a fault of this program: {causes[0]!r}. Please report it with what --verbose prints",
            )
            if options["verbose"]:
                traceback.print_exception(error)
        if failure.status is not Exit.BROKEN_PIPE:
            say(f"error: {failure}")
        return failure.status if failed is None else failed(str(failure))


def _foreseen(cause: BaseException, options: dict[str, Any]) -> Failed | None:
    """The sentence and the exit status for an exception that was foreseen."""
    if isinstance(cause, BrokenPipeError):
        write_no_more()
        return Failed(Exit.BROKEN_PIPE, "nobody reads the output")
    if isinstance(cause, ClientError):
        return explained(cause, _url_of(options))
    return cause if isinstance(cause, Failed) else None


def _url_of(options: dict[str, Any]) -> str:
    return target_of(options["url"], options["context"]).url


__all__ = ["NO_SERVER", "command", "default_consumer", "guarded"]
