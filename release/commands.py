"""Write the reference of the commands, docs/reference/cli.md, from the commands themselves.

    python -m release.commands

Rule: what stands above the first command is written by hand. What comes after it is what `--help` says, in another
form.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from qrusty_trio.cli.exits import MEANINGS
from qrusty_trio.cli.program import NAME, make_app

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "reference" / "cli.md"
BEGIN = "<!-- From here on: python -m release.commands -->"
EVERYWHERE = ("output", "columns", "quiet", "verbose", "url", "context", "timeout", "help")
"""Options that most commands have: they are described once."""


def commands(command: Any = None, path: str = NAME) -> Iterator[tuple[str, Any]]:
    """Each command with its words, groups left out."""
    command = get_command(make_app()) if command is None else command
    for name, each in getattr(command, "commands", {}).items():
        if getattr(each, "commands", None):
            yield from commands(each, f"{path} {name}")
        else:
            yield f"{path} {name}", each


def examples_of(command: Any) -> list[str]:
    """The examples of a command's help."""
    found = re.search(r"\n\n\x08\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(command.help), re.DOTALL)
    return found[1].splitlines() if found else []


def generated() -> str:
    """What follows the line BEGIN."""
    found = list(commands())
    statuses = "\n".join(f"| {status.value} | {meaning} |" for status, meaning in MEANINGS.items())
    common = {each.name: each for _, command in found for each in command.params if _is_common(each)}
    parts = [
        f"## Exit statuses\n\n| status | meaning |\n|---:|---|\n{statuses}",
        f"## Options of most commands\n\n{_table(common[name] for name in EVERYWHERE if name in common)}",
        *(_section(path, command) for path, command in found),
    ]
    return "\n\n".join(parts) + "\n"


def _is_common(parameter: Any) -> bool:
    return parameter.name in EVERYWHERE and parameter.param_type_name == "option"


def _section(path: str, command: Any) -> str:
    paragraphs = re.sub(r"\n\n\x08\n.*?(?=\n\n|\Z)", "", inspect.cleandoc(command.help), flags=re.DOTALL)
    own = [each for each in command.params if not _is_common(each)]
    words = [path, "[OPTIONS]", *(_metavar(each) for each in own if each.param_type_name == "argument")]
    examples = "\n".join(["```bash", *examples_of(command), "```"])
    parts = [f"## {path.removeprefix(NAME + ' ')}", f"`{' '.join(words)}`", paragraphs, examples]
    if own:
        parts.append(_table(own))
    return "\n\n".join(part for part in parts if part)


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _table(parameters: Any) -> str:
    rows = []
    for each in parameters:
        argument = each.param_type_name == "argument"
        name = _metavar(each) if argument else "/".join((*each.opts, *each.secondary_opts))
        rows.append(f"| `{_cell(name)}` | {_cell(each.help or '')} | {_cell(_default(each))} |")
    return "\n".join(["| what | meaning | default |", "|---|---|---|", *rows])


def _default(parameter: Any) -> str:
    default = parameter.default
    if default in (None, False, "", ()) or callable(default) or parameter.required or parameter.is_eager:
        return ""
    return f"`{getattr(default, 'value', default)}`".replace("`True`", "yes")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def written(document: str) -> str:
    """The document with its generated part anew."""
    begin, mark, _ = document.partition(BEGIN)
    assert mark, "the line is missing from which on the document is generated"
    return f"{begin}{BEGIN}\n\n{generated()}"


def main() -> int:
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
