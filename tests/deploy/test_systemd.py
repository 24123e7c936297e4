"""The systemd units: systemd finds nothing wrong with them, the service is hardened, and its times are the server's."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qrusty_trio.addresses import Address
from qrusty_trio.cli.serving import EXIT_REFUSED
from qrusty_trio.config import Settings
from qrusty_trio.http.listener import STOP_SECONDS
from qrusty_trio.server.ending import CLOSE_SECONDS
from tests.server.running import ROOT

UNIT = ROOT / "deploy" / "systemd" / "qrusty-trio.service"
SOCKET = UNIT.with_suffix(".socket")
DEFAULTS = ROOT / "deploy" / "systemd" / "qrusty-trio.default"
MOST_EXPOSED = 1.5
"""Of 10, by the count of `systemd-analyze security`."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")


def unit() -> dict[str, str]:
    """Setting -> its last value."""
    return dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with a binary that is there, as systemd looks for it."""
    binary = Path(sys.executable).with_name("qrusty-trio")
    text, count = re.subn(r"^ExecStart=.*$", f"ExecStart={binary}", UNIT.read_text("utf-8"), flags=re.MULTILINE)
    assert count == 1
    place = tmp_path / UNIT.name
    place.write_text(text, encoding="utf-8")
    return place


def analyzed(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_systemd
def test_systemd_finds_nothing_wrong(installed: Path) -> None:
    done = analyzed("verify", installed)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("offered", [False, True], ids=["as it is", "with all that it offers"])
def test_systemd_finds_nothing_wrong_with_the_socket(installed: Path, offered: bool) -> None:
    text = SOCKET.read_text("utf-8")
    if offered:
        text = re.sub(r"^#([A-Z]\w+=)", r"\1", text, flags=re.MULTILINE).replace("www-data", "root")
        assert text.count("ListenStream=") == 2
    place = installed.with_suffix(".socket")
    place.write_text(text, encoding="utf-8")
    done = analyzed("verify", place)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_socket_is_where_the_defaults_listen() -> None:
    assert "ListenStream=127.0.0.1:6784\n" in SOCKET.read_text("utf-8")


@needs_systemd
def test_it_is_hardened(installed: Path) -> None:
    done = analyzed("security", "--offline=true", "--no-pager", installed)
    exposed = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposed is not None, done.stderr
    assert float(exposed[1]) <= MOST_EXPOSED
    assert f"It scores {exposed[1]} " in (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")


def test_its_times_and_statuses_are_those_of_the_server() -> None:
    found = unit()
    assert found["Type"] == "notify"
    assert float(found["TimeoutStopSec"]) > STOP_SECONDS + CLOSE_SECONDS
    assert found["RestartPreventExitStatus"] == str(EXIT_REFUSED)
    assert float(found["WatchdogSec"]) > 0


def test_the_defaults_are_settings_that_fit_the_unit() -> None:
    text = DEFAULTS.read_text(encoding="utf-8")
    set_here = dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))
    offered = dict(re.findall(r"^#([A-Z_]+)=(.*)$", text, re.MULTILINE))
    settings = Settings.from_environment(set_here)
    assert str(settings.data_path) == f"/var/lib/{unit()['StateDirectory']}"
    assert settings.bind_addr == (Address("127.0.0.1", 6784),)
    assert Settings.from_environment(offered) == Settings(), "what is offered are the defaults"
    assert unit()["EnvironmentFile"] == "-/etc/default/qrusty-trio"
