"""What a command is given: its server, its way to print, and how to ask that server.

Rule: this module alone knows how the client is run. A command is a plain function; the part of it that talks to a
server is an async function that gets an `HttpClient`.

Requirements: API-0123
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import trio

from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed
from qrusty_trio.cli.output import Output, say
from qrusty_trio.cli.targets import Target
from qrusty_trio.client import HttpClient, ProtocolError
from qrusty_trio.client.operations import TABLE, Request

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a command."""

    target: Target
    output: Output
    quiet: bool
    verbose: bool
    timeout: float
    """Seconds for a response."""

    def ask(
        self, talk: Callable[[HttpClient], Awaitable[T]], *, consumer: str | None = None, changes: bool = False
    ) -> T:
        """Run `talk` with a client. `changes`: it is refused in a context that is read-only."""
        if changes:
            self.check_writable()

        async def main() -> T:
            async with HttpClient(
                self.target.url,
                consumer_id=consumer or self.target.consumer,
                timeout_seconds=self.timeout,
                patience_seconds=0,
                watch=_Watch(self.target if self.verbose else None),
                token=self.target.token,
                **self.target.tls,
            ) as client:
                return await talk(client)

        return trio.run(main)

    def check_writable(self) -> None:
        """Raises Failed in a context that is read-only."""
        if self.target.read_only:
            raise Failed(
                Exit.REFUSED,
                f"{self.target.source} is read-only. Change that with `qrusty-trio context add --replace`, or name "
                f"another server with --url",
            )

    def tell(self, sentence: str) -> None:
        """Say what was done, and where, unless --quiet is given."""
        if not self.quiet:
            say(f"{sentence} ({self.target.url})")

    def note(self, sentence: str) -> None:
        """Say something about the way, unless --quiet is given."""
        if not self.quiet:
            say(sentence)


_RESPONSES: dict[str, dict[str, Any]] = {
    "queue_list": {"queues": list, "totals": dict},
    "messages": {"messages": list, "cursor": str | None},
    "message": {"state": str | None, "cursor": str | None},
    "find": {"state": str | None, "cursor": str | None, "looked_at": int, "available": int},
    "dead_letters": {"messages": list, "cursor": str | None},
    "stats": {"queues": list, "summary": dict},
    "server": {"state": str, "memory": dict},
}
"""What the commands read in responses of which the client does not know the shape."""


class _Watch:
    """Prints each request as the equal call of curl, if it is given a target, and looks at responses."""

    def __init__(self, told: Target | None) -> None:
        self._told = told

    def asked(self, operation: str, request: Request) -> None:
        if self._told is not None:
            say(curl_of(self._told, request))

    def answered(self, operation: str, content: Any) -> None:
        """Raise ProtocolError for a response that no such server gives."""
        for member, kind in _RESPONSES.get(operation, {}).items():
            if not isinstance(content, dict) or not isinstance(content.get(member, self), kind):
                raise ProtocolError(f"its response to {TABLE[operation].path} has no '{member}'")


_CURL = {"ca_file": "--cacert", "certificate_file": "--cert", "key_file": "--key"}


def curl_of(target: Target, request: Request) -> str:
    """The request as a command for a shell."""
    url = urlsplit(target.url)
    words = ["curl"]
    for name, file in target.tls.items():
        words += [_CURL[name], file]
    if request.method != "GET":
        words += ["-X", request.method]
    if request.body is not None:
        words += ["-H", "Content-Type: application/json", "-d", request.body.decode()]
    command = shlex.join([*words, f"{url.scheme}://{url.netloc}{request.target}"])
    if target.token is not None:
        command = command.replace("curl", 'curl -H "Authorization: Bearer $QRUSTY_TOKEN"', 1)
    return command
