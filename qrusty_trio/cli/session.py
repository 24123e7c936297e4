"""What a command is given: its server, its way to print, and how to ask that server.

Rule: this module alone knows how the client is run. A command is a plain function; the part of it that talks to a
server is an async function that gets an `HttpClient`.

Requirements: API-0123
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import trio

from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed
from qrusty_trio.cli.output import Output, say
from qrusty_trio.cli.targets import Target
from qrusty_trio.client import HttpClient, ProtocolError
from qrusty_trio.client.operations import TABLE, Request, request_for

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
                **self.target.tls,
            ) as client:
                if self.verbose:
                    _tell_requests(client, self.target)
                _check_responses(client)
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


def _check_responses(client: HttpClient) -> None:
    """Make a client raise ProtocolError for a response that no such server gives."""
    call = client._call

    async def asked(name: str, *given: Any, **options: Any) -> Any:
        response = await call(name, *given, **options)
        for member, kind in _RESPONSES.get(name, {}).items():
            if not isinstance(response, dict) or not isinstance(response.get(member, call), kind):
                raise ProtocolError(f"its response to {TABLE[name].path} has no '{member}'")
        return response

    client._call = asked


def _tell_requests(client: HttpClient, target: Target) -> None:
    """Make a client print each request as the equal call of curl."""
    call = client._call

    async def told(
        name: str,
        params: Mapping[str, str] | None = None,
        fields: Mapping[str, object] | None = None,
        **options: Any,
    ) -> Any:
        say(curl_of(target, request_for(TABLE[name], params or {}, fields or {})))
        return await call(name, params, fields, **options)

    client._call = told


_CURL = {"ca_file": "--cacert", "certificate_file": "--cert", "key_file": "--key"}


def curl_of(target: Target, request: Request) -> str:
    """The request as a command for a shell."""
    words = ["curl"]
    for name, file in target.tls.items():
        words += [_CURL[name], file]
    if request.method != "GET":
        words += ["-X", request.method]
    if request.body is not None:
        words += ["-H", "Content-Type: application/json", "-d", request.body.decode()]
    return shlex.join([*words, target.url + request.target])
