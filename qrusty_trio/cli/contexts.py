"""Contexts: servers that have a name, in a file of the user, and which of them is selected.

Rule: the file is read whole, changed and replaced whole, so a kill leaves the old one or the new one. Only its owner
can read it.

Requirements: API-0124
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile

import msgspec

from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed


class Context(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A server with a name."""

    url: str
    consumer: str | None = None
    read_only: bool = False
    """Whether commands that change something are refused."""
    token: str | None = None


class Contexts(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What the file holds."""

    selected: str | None = None
    contexts: dict[str, Context] = {}

    def get(self, name: str) -> Context:
        """Raises Failed."""
        found = self.contexts.get(name)
        if found is None:
            known = ", ".join(sorted(self.contexts)) or "none yet"
            raise Failed(
                Exit.NOT_FOUND,
                f"there is no context '{name}' (there is: {known}). Make it with `qrusty-trio context add NAME URL`",
            )
        return found


def file_of(environment: Mapping[str, str]) -> Path:
    """Where the contexts are: under XDG_CONFIG_HOME, or under ~/.config."""
    configured = environment.get("XDG_CONFIG_HOME", "")
    # The specification has relative paths ignored.
    base = Path(configured) if configured.startswith("/") else Path(environment.get("HOME", "/")) / ".config"
    return base / "qrusty-trio" / "contexts.json"


def load(path: Path) -> Contexts:
    """The contexts of the file; none if it does not exist. Raises Failed."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Contexts)
    except FileNotFoundError:
        return Contexts()
    except OSError as error:
        raise Failed(Exit.REFUSED, f"{path} can't be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise Failed(Exit.REFUSED, f"{path} is damaged ({error}). Correct it, or remove it to begin anew") from error


def save(path: Path, contexts: Contexts) -> None:
    """Replace the file. Raises Failed."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=".contexts-", delete=False) as file:  # it has mode 0600
            try:
                file.write(msgspec.json.format(msgspec.json.encode(contexts), indent=2) + b"\n")
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise Failed(Exit.REFUSED, f"{path} can't be written: {error.strerror}") from error
