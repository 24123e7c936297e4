"""One server for each module of tests of the command line, and a shell that talks to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.shell import Shell, serving


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def shell(address: str, tmp_path: Path) -> Shell:
    """A shell with a server that is empty."""
    shell = Shell(address, tmp_path)
    for name in shell.ok("queue", "list", "-o", "name").lines:
        shell.run("queue", "update", name, "--no-protect")
    shell.ok("queue", "delete", "--all-queues", "--yes")
    return shell
