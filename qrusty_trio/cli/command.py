"""How a function becomes a command: the options that every command has, and what an exception means.

Rule: a command is a function whose first parameter is a `Session`. Its other parameters are its own arguments and
options. It returns an `Exit`, or nothing for `Exit.DONE`, and raises `Failed`.

Requirements: API-0121, API-0122
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from qrusty_trio.cli.completion import context_names
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed, explained, leaves
from qrusty_trio.cli.output import Format, Output, say
from qrusty_trio.cli.session import Session
from qrusty_trio.cli.targets import DEFAULT_URL, Target, default_consumer, target_of
from qrusty_trio.client import ClientError

P = ParamSpec("P")
Command = Callable[Concatenate[Session, P], IntEnum | None]

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
    app: typer.Typer, name: str, *, server: bool = True, failure: IntEnum | None = None
) -> Callable[[Command[P]], Command[P]]:
    """Make a function the command `name` of `app`. `server`: whether it talks to one. `failure`: what it exits with
    whatever goes wrong."""
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
            status = guarded(lambda: function(_session(options, server), **given), options, failure)  # type: ignore[call-arg]
            if status:
                raise typer.Exit(int(status))

        run.__name__ = function.__name__
        run.__doc__ = function.__doc__
        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in [*own, *shared]}
        app.command(name)(run)
        return function

    return register


def _session(options: dict[str, Any], server: bool) -> Session:
    target = target_of(options["url"], options["context"]) if server else NO_SERVER
    output = Output(options["output"], options["columns"])
    timeout = options.get("timeout", TIMEOUT_SECONDS)
    return Session(target, output, options["quiet"], options["verbose"], timeout)


def guarded(body: Callable[[], IntEnum | None], options: dict[str, Any], failure: IntEnum | None = None) -> IntEnum:
    """Run a command's body. Exceptions become a line on stderr and an exit status."""
    try:
        return body() or Exit.DONE
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:
        causes = list(leaves(error))
        if any(isinstance(each, KeyboardInterrupt) for each in causes):
            return Exit.INTERRUPTED
        for cause in causes:
            status = _status_of(cause, options)
            if status is not None:
                return status if failure is None else failure
        if options["verbose"]:
            raise
        say(f"error: a fault of this program: {causes[0]!r}. Please report it with what --verbose prints")
        return Exit.REFUSED if failure is None else failure


def _status_of(cause: BaseException, options: dict[str, Any]) -> Exit | None:
    """The exit status for an exception that was foreseen, after its line on stderr."""
    if isinstance(cause, BrokenPipeError):
        # Nobody reads on. What is left in the buffer must not fail again when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    if isinstance(cause, ClientError):
        cause = explained(cause, _url_of(options))
    if isinstance(cause, Failed):
        say(f"error: {cause}")
        return cause.status
    return None


def _url_of(options: dict[str, Any]) -> str:
    return target_of(options["url"], options["context"]).url


__all__ = ["NO_SERVER", "command", "default_consumer", "guarded"]
