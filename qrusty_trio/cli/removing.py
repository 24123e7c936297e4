"""`queue purge` and `queue delete`. What `--undo` keeps aside is in `trash.py`.

Rule: a dry run and the real one choose by the same code. Patterns are shown expanded before anything is asked.

Requirements: API-0128
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any

import typer

from qrusty_trio.cli.asking import confirm
from qrusty_trio.cli.command import command
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed
from qrusty_trio.cli.output import say
from qrusty_trio.cli.parameters import AnyQueues, DryRun, EveryQueue, Match, Yes
from qrusty_trio.cli.queues import queues_of
from qrusty_trio.cli.session import Session
from qrusty_trio.client import HttpClient, QueueProtected
from qrusty_trio.wording import counted


def register(app: typer.Typer) -> None:
    """Add the commands to the group `queue`."""
    command(app, "purge")(purge)
    command(app, "delete")(delete)


UndoSeconds = Annotated[
    int, typer.Option("--undo", min=0, help="Keep it aside for so many seconds, so that it can be put back.")
]
IfExists = Annotated[bool, typer.Option("--if-exists", help="No error for a queue that does not exist.")]


def purge(
    session: Session,
    queues: AnyQueues = None,
    match: Match = None,
    all_queues: EveryQueue = False,
    if_exists: IfExists = False,
    dry_run: DryRun = False,
    undo: UndoSeconds = 0,
    yes: Yes = False,
) -> Exit:
    """Remove all messages of queues, locked ones too. Dead letters stay.

    \b
    qrusty-trio queue purge jobs
    qrusty-trio queue purge --match "test-*" --dry-run

    It asks for the queue's name, or for the number of queues. Protected queues are skipped.
    """
    return _remove(session, "purge", queues or [], match, all_queues, if_exists, dry_run, undo, yes)


def delete(
    session: Session,
    queues: AnyQueues = None,
    match: Match = None,
    all_queues: EveryQueue = False,
    if_exists: IfExists = False,
    dry_run: DryRun = False,
    undo: UndoSeconds = 0,
    yes: Yes = False,
) -> Exit:
    """Remove queues with their messages and dead letters.

    \b
    qrusty-trio queue delete jobs
    qrusty-trio queue delete jobs --undo 600

    It asks for the queue's name, or for the number of queues. Protected queues are skipped.
    """
    return _remove(session, "delete", queues or [], match, all_queues, if_exists, dry_run, undo, yes)


def _remove(
    session: Session,
    verb: str,
    names: list[str],
    match: str | None,
    all_queues: bool,
    if_exists: bool,
    dry_run: bool,
    undo: int,
    yes: bool,
) -> Exit:
    if bool(names) + (match is not None) + all_queues != 1:
        raise Failed(Exit.USAGE, "give the names of queues, --match PATTERN or --all-queues: exactly one of these")
    if all_queues and not (yes or dry_run):
        raise Failed(Exit.USAGE, f"--all-queues needs --yes. See what it would {verb} with --dry-run")
    if not dry_run:
        session.check_writable()
    chosen, missing = session.ask(lambda client: _chosen(client, names, match))
    spared = [each for each in chosen if each["config"].get("protected")]
    chosen = [each for each in chosen if not each["config"].get("protected")]
    if missing and not if_exists:
        raise Failed(
            Exit.NOT_FOUND,
            f"there is no queue {_named(missing)}. `qrusty-trio queue list` names those there are; --if-exists goes on",
        )
    if names and spared:
        raise Failed(
            Exit.REFUSED,
            f"nothing was {verb}d, as {_named([each['name'] for each in spared])} "
            f"{'is' if len(spared) == 1 else 'are'} protected. Lift that with `qrusty-trio queue update QUEUE "
            f"--no-protect`",
        )
    hit = sum(each["available"] + each["locked"] for each in chosen)
    what = f"{counted(len(chosen), 'queue')} with {counted(hit, 'message')}"
    _show(session, chosen, what if not dry_run else f"{what} would be {verb}d")
    if spared:
        session.note(f"{counted(len(spared), 'protected queue')} skipped: {_named([each['name'] for each in spared])}")
    if dry_run or not chosen:
        return Exit.DONE
    answer = chosen[0]["name"] if len(chosen) == 1 else str(len(chosen))
    confirm(f"{verb} {what} of {session.target.url}", answer, yes, undo)
    done, refused = session.ask(lambda client: _apply(client, verb, chosen, undo), changes=True)
    session.tell(f"{counted(len(chosen) - refused, 'queue')} {verb}d, {counted(done, 'message')} gone")
    if undo:
        session.note(f"kept aside for {counted(undo, 'second')}: see `qrusty-trio trash list`")
    return Exit.PARTLY if refused else Exit.DONE


async def _chosen(client: HttpClient, names: list[str], match: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    """The queues that are meant, and the names that no queue has."""
    if not names:
        return [each async for each in queues_of(client) if match is None or fnmatchcase(each["name"], match)], []
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        for each in (await client.queue_list(name=name))["queues"]:
            found[name] = each
    return list(found.values()), [name for name in names if name not in found]


async def _apply(client: HttpClient, verb: str, chosen: list[dict[str, Any]], undo: int) -> tuple[int, int]:
    """How many messages are gone, and how many queues were protected meanwhile."""
    done = refused = 0
    for each in chosen:
        try:
            remove = client.purge_queue if verb == "purge" else client.delete_queue
            done += await remove(each["name"], undo_seconds=undo or None)
        except QueueProtected as error:
            say(error.message)
            refused += 1
    return done, refused


def _show(session: Session, chosen: list[dict[str, Any]], what: str) -> None:
    session.output.many(chosen, ("name", "available", "locked", "dead"), "name")
    session.note(what)


def _named(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
