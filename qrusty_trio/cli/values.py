"""What is given on the command line, checked before a command sees it.

Rule: what can't be sent is refused here, by the name of its argument. Text is UTF-8, whatever the locale says.
"""

from __future__ import annotations

import inspect
import math
import os
from typing import Any

import typer

from qrusty_trio.cli.exits import Exit
from qrusty_trio.cli.failures import Failed

AS_GIVEN = object()
"""In an annotation: the bytes are not for a server, and stay as they are."""


def checked(given: dict[str, Any], parameters: list[inspect.Parameter]) -> dict[str, Any]:
    """The values as text and numbers that can be sent. Raises Failed."""
    notes = {each.name: getattr(each.annotation, "__metadata__", ()) for each in parameters}
    return {
        name: value if AS_GIVEN in notes[name] else _checked(_label(name, notes[name]), value)
        for name, value in given.items()
    }


def no_empty_name(value: Any) -> Any:
    """A callback of typer for names: one, several, or none."""
    if value == "" or (isinstance(value, list) and "" in value):
        raise typer.BadParameter("a name can't be empty")
    return value


def _label(name: str, notes: tuple[Any, ...]) -> str:
    """The name by which --help calls it."""
    for each in notes:
        if type(each).__name__ == "ArgumentInfo":
            return (each.metavar or name).strip("[].").upper()
        if type(each).__name__ == "OptionInfo" and each.param_decls:
            return str(each.param_decls[0].partition("/")[0])
    return "--" + name.replace("_", "-")


def _checked(label: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_checked(label, each) for each in value]
    if isinstance(value, float) and math.isnan(value):
        raise Failed(Exit.USAGE, f"{label} has to be a number, not nan")
    if isinstance(value, str) and not value.isascii():
        return _text(label, value)
    return value


def _text(label: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        # Bytes that the locale has no characters for. They may be UTF-8 all the same.
        try:
            return os.fsencode(value).decode()
        except UnicodeError:
            raise Failed(
                Exit.USAGE, f"{label} is not UTF-8: '{value}'. Encode what is no text, for example with base64"
            ) from None
    return value
