"""What a shell is offered after Tab: names of queues from the server, names of contexts from the file.

Rule: Tab never fails and never waits long. Whatever goes wrong, nothing is offered.

Requirements: API-0127
"""

from __future__ import annotations

import os
from typing import Any

import typer

from qrusty_trio.cli import contexts
from qrusty_trio.cli.failures import Failed, leaves
from qrusty_trio.cli.output import Output
from qrusty_trio.cli.session import Session
from qrusty_trio.cli.targets import target_of
from qrusty_trio.client import ClientError, HttpClient

SECONDS = 1.0
"""How long a server may take. A person waits."""
MAX_NAMES = 200


def queue_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """The queues of the server that the command line names so far, those that begin with `incomplete`."""

    async def listed(client: HttpClient) -> list[str]:
        page: dict[str, Any] = await client.queue_list(search=incomplete or None, limit=MAX_NAMES)
        return [each["name"] for each in page["queues"]]

    try:
        target = target_of(ctx.params.get("url"), ctx.params.get("context"))
        return Session(target, Output(None, None), True, False, SECONDS).ask(listed)
    except (Failed, ClientError):
        return []
    except BaseExceptionGroup as group:
        if all(isinstance(each, ClientError) for each in leaves(group)):
            return []
        raise


def context_names(incomplete: str) -> list[str]:
    """The contexts."""
    try:
        return sorted(contexts.load(contexts.file_of(os.environ)).contexts)
    except Failed:
        return []
