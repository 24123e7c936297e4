"""Schemathesis asks the real server what its OpenAPI document allows and forbids, with all of its checks.

It is a command in an environment of its own, as it is a plugin of pytest, too. `make test-schemas` installs it.

Verifies: API-0110
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from qrusty_trio.api.operations import OPERATIONS
from tests.browser.serving import served
from tests.server.running import ROOT

COMMAND = ROOT / "build" / "schemathesis" / "bin" / "schemathesis"
PLACE = Path(__file__).parent
SECONDS = 280
"""It takes 30 on a machine that has nothing else to do."""

pytestmark = pytest.mark.skipif(not COMMAND.is_file(), reason="needs Schemathesis, which `make test-schemas` installs")


def test_the_server_does_what_its_document_says(tmp_path: Path) -> None:
    with served(tmp_path / "data") as server:
        run = subprocess.run(
            [
                *(COMMAND, "--no-color", "--config-file", PLACE / "schemathesis.toml"),
                *("run", "--warnings", "off", f"{server.url}/openapi.json"),
            ],
            env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(PLACE)},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert server.ask("GET", "/health")["status"] == "ok"
    assert run.returncode == 0, run.stdout + run.stderr
    count = len(OPERATIONS)
    assert f"{count} selected / {count} total" in run.stdout
    generated, passed = map(int, re.findall(r"(\d+) generated, (\d+) passed", run.stdout)[0])
    assert generated == passed > 1000
