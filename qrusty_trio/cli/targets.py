"""Which server a command talks to, and as whom.

Rule: the nearest word counts. First --url or --context, then QRUSTY_URL, then the selected context, then the address
that a server has by default. The token is that of the context, or else QRUSTY_TOKEN. It is never an argument, as
everybody on the machine can read those.

Requirements: API-0124
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from qrusty_trio.cli import contexts
from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed
from qrusty_trio.client import InvalidUrl
from qrusty_trio.client.addresses import UNIX, address_of

DEFAULT_URL = "http://127.0.0.1:6784"
VARIABLE = "QRUSTY_URL"
TOKEN_VARIABLE = "QRUSTY_TOKEN"
TLS_VARIABLES = {"ca_file": "QRUSTY_CA", "certificate_file": "QRUSTY_CLIENT_CERT", "key_file": "QRUSTY_CLIENT_KEY"}
"""Files for https: whose certificates are trusted, what is shown to the server, and its key."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server."""

    url: str
    source: str
    """Which word decided: --url, QRUSTY_URL, context NAME, default."""
    consumer: str
    """For whom messages are locked."""
    read_only: bool = False
    tls: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the client: those of `TLS_VARIABLES` that are set."""
    token: str | None = field(default=None, repr=False)
    """What the server asks for, if it has tokens."""

    @property
    def websocket_url(self) -> str:
        """The address of its WebSocket."""
        if self.url.startswith(UNIX):
            return self.url
        return "ws" + self.url.rstrip("/").removeprefix("http") + "/ws"


def target_of(url: str | None, context: str | None, environment: Mapping[str, str] = os.environ) -> Target:
    """Raises Failed for an unknown context, an address that is none, or both words at once."""
    if url is not None and context is not None:
        raise Failed(Exit.USAGE, "--url and --context name a server each: give one of them")
    tls = {name: environment[variable] for name, variable in TLS_VARIABLES.items() if environment.get(variable)}
    return replace(_named(url, context, environment), tls=tls)


def _named(url: str | None, context: str | None, environment: Mapping[str, str]) -> Target:
    token = environment.get(TOKEN_VARIABLE) or None
    if url is not None:
        return Target(checked(url, "--url"), "--url", default_consumer(), token=token)
    if context is not None:
        return _of_context(context, environment)
    variable = environment.get(VARIABLE)
    if variable:
        return Target(checked(variable, VARIABLE), VARIABLE, default_consumer(), token=token)
    selected = contexts.load(contexts.file_of(environment)).selected
    if selected is not None:
        return _of_context(selected, environment)
    return Target(DEFAULT_URL, "default", default_consumer(), token=token)


def _of_context(name: str, environment: Mapping[str, str]) -> Target:
    found = contexts.load(contexts.file_of(environment)).get(name)
    url = checked(found.url, f"context {name}")
    token = found.token or environment.get(TOKEN_VARIABLE) or None
    return Target(url, f"context {name}", found.consumer or default_consumer(), found.read_only, token=token)


def checked(url: str, source: str) -> str:
    """The address without a slash at its end. `source` is named if it is none. Raises Failed."""
    try:
        address_of(url)
        if urlsplit(url).port == 0:
            raise InvalidUrl
    except InvalidUrl as error:
        # What may hold a password is not repeated.
        text = (
            str(error)
            if "@" in url
            else f"'{url}' is no address of a server. It has to be like http://host:port or unix:/path"
        )
        raise Failed(Exit.USAGE, f"{source}: {text}") from None
    return url.rstrip("/")


def default_consumer() -> str:
    """The same for each call, so that what one command has locked another can ack."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return f"cli-{user}@{socket.gethostname()}"
