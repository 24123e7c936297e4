"""`trash`: list, restore, erase what `queue purge --undo` and `queue delete --undo` have kept aside.

Requirements: API-0188
"""

from __future__ import annotations

from typing import Annotated

import typer

from qrusty_trio.cli.asking import confirm
from qrusty_trio.cli.command import command
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed
from qrusty_trio.cli.output import Format
from qrusty_trio.cli.parameters import Yes
from qrusty_trio.cli.session import Session
from qrusty_trio.client import HttpClient
from qrusty_trio.wording import counted

COLUMNS = ("id", "queue", "what", "messages", "dead_letters", "kept_at", "expires_at")

Number = Annotated[int, typer.Argument(metavar="ID", help="An id of `trash list`.", min=0, show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands to the group `trash`."""
    command(app, "list")(list_trash)
    command(app, "restore")(restore)
    command(app, "erase")(erase)


def list_trash(session: Session) -> Exit:
    """List what purges and deletes with --undo have kept aside, the oldest first.

    \b
    qrusty-trio trash list
    qrusty-trio trash list -o json

    Exits with 6 if there is none.
    """
    kept = session.ask(HttpClient.trash)
    session.output.many(kept, COLUMNS, "id")
    if not kept:
        session.note("nothing is kept aside")
        return Exit.EMPTY
    return Exit.DONE


def restore(
    session: Session,
    id: Number,
    to: Annotated[str | None, typer.Option(help="As a new queue of this name.", show_default=False)] = None,
) -> Exit:
    """Put back what is kept aside: a deleted queue, or purged messages into their queue.

    \b
    qrusty-trio trash restore 7
    qrusty-trio trash restore 7 --to jobs-of-monday

    Exits with 3 if the queue refuses some as duplicates; these stay in the trash.
    """
    outcome = session.ask(lambda client: client.restore(id, to), changes=True)
    session.output.one(outcome, ("queue", "restored_messages", "refused"), "queue", best=Format.JSON)
    session.tell(f"{counted(outcome['restored_messages'], 'message')} put back into '{outcome['queue']}'")
    if not outcome["refused"]:
        return Exit.DONE
    session.note(f"{counted(outcome['refused'], 'message')} refused as duplicates: still in the trash")
    return Exit.PARTLY


def erase(session: Session, id: Number, yes: Yes = False) -> Exit:
    """Erase what is kept aside, for good.

    \b
    qrusty-trio trash erase 7
    qrusty-trio trash erase 7 --yes

    It asks for the queue's name.
    """
    session.check_writable()
    kept = next((each for each in session.ask(HttpClient.trash) if each["id"] == id), None)
    if kept is None:
        raise Failed(Exit.NOT_FOUND, f"nothing with id {id} is kept aside. `qrusty-trio trash list` names what is")
    what = counted(kept["messages"] + kept["dead_letters"], "message")
    confirm(f"erase {what} of '{kept['queue']}' of {session.target.url}", kept["queue"], yes)
    erased = session.ask(lambda client: client.erase(id), changes=True)
    session.tell(f"{counted(erased, 'message')} of '{kept['queue']}' erased")
    return Exit.DONE
