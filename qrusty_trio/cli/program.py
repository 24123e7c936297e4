"""The tree of commands.

Rule: each family of commands is registered by its own module. What a command needs beyond typer is imported where it
runs.

Requirements: API-0134
"""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from qrusty_trio import __version__
from qrusty_trio.cli import (
    consuming,
    letters,
    live,
    naming,
    probes,
    publishing,
    queues,
    removing,
    reports,
    serving,
    smoke,
    stores,
    tokens,
    transfer,
    trash,
    working,
)
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.output import say

NAME = "qrusty-trio"


def make_app() -> typer.Typer:
    """The program."""
    app = typer.Typer(
        name=NAME,
        rich_markup_mode=None,  # plain help: the same on a terminal, in a pipe and in the reference
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
    )
    app.callback(invoke_without_command=True)(_root)
    app.command("serve", help=f"{inspect.getdoc(_serve)}\n\n\b\n{serving.settings_text()}")(_serve)
    publishing.register(app)
    consuming.register(app)
    working.register(app)
    queue = _group(app, "queue", "Queues: list, show, create, update, purge, delete, wait.")
    queues.register(queue)
    removing.register(queue)
    letters.register(_group(app, "dead", "Dead letters: list, show, requeue, purge."))
    trash.register(_group(app, "trash", "What purges and deletes have kept aside: list, restore, erase."))
    reports.register(app)
    live.register(app)
    transfer.register(app)
    stores.register(_group(app, "store", "The directory of a server that is stopped: check, dump."))
    probes.register(app)
    smoke.register(app)
    naming.register(_group(app, "context", "Contexts: servers that have a name."))
    tokens.register(_group(app, "token", "Tokens of a server: create."))
    return app


def _group(app: typer.Typer, name: str, text: str) -> typer.Typer:
    group = typer.Typer(rich_markup_mode=None, help=text)
    app.add_typer(group, name=name)
    return group


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"{NAME} {__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """A persistent priority queue server, and commands for one that runs.

    \b
    qrusty-trio                                     # serve, with the settings of the environment
    qrusty-trio publish jobs "hello" --priority 7   # talk to http://127.0.0.1:6784

    Without a command it serves. The commands talk to the server of --url or --context, else of QRUSTY_URL, else of the
    selected context, else to http://127.0.0.1:6784. For https, QRUSTY_CA names a file with the certificates to trust,
    and QRUSTY_CLIENT_CERT and QRUSTY_CLIENT_KEY the certificate to show and its key, for a server that asks for one.
    They show the token of the context, else QRUSTY_TOKEN.
    """
    if context.invoked_subcommand is None:
        raise typer.Exit(serving.serve())


def _serve() -> None:
    """Serve until SIGTERM or SIGINT.

    \b
    qrusty-trio serve
    BIND_ADDR=0.0.0.0:6784 DATA_PATH=/data qrusty-trio serve

    It is the same as the command without arguments. Environment variables configure it, and --help lists them.
    """
    raise typer.Exit(serving.serve())


def run(arguments: list[str]) -> int:
    """Run a command and return its exit status."""
    try:
        status = make_app()(arguments, prog_name=NAME, standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else NAME
        sentence = f"{error.format_message().rstrip('.')}. See `{command} --help`"
        say(f"error: {sentence}")
        return probes.unknown(sentence) if arguments[:1] == ["check"] else error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    return status if isinstance(status, int) else Exit.DONE
