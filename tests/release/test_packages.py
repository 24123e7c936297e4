"""The packages: the same source gives the same bytes, nothing is left out, and the wheel needs no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from qrusty_trio import __version__
from release import packages
from smoke.servers import started
from tests.server.running import ROOT
from tests.smoke.test_smoke_test import free_port
from tests.wire.http_client import open_client

EPOCH = "1750000000"
NOT_IN_THE_SDIST = (".ci/", ".github/", ".pre-commit-config.yaml")
"""What only a checkout needs."""


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The files of the project, as a clone has them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("only a git checkout knows which files belong to the project")
    return [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def copied(tracked: list[str], place: Path) -> Path:
    for name in tracked:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, place / name)
    return place


@pytest.fixture(scope="module")
def built(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Wheel and sdist of a copy of the project."""
    directory = tmp_path_factory.mktemp("built")
    found = packages.build(copied(tracked, directory / "source"), directory / "dist", "sdist", "wheel", epoch=EPOCH)
    wheel, sdist = sorted(found, key=lambda path: path.suffix, reverse=True)
    yield wheel, sdist
    shutil.rmtree(directory)


def test_the_names_have_the_version(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    assert wheel.name == f"qrusty_trio-{__version__}-py3-none-any.whl"
    assert sdist.name == f"qrusty_trio-{__version__}.tar.gz"


def test_the_same_source_gives_the_same_bytes(
    built: tuple[Path, Path], tracked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the directory, the times and modes of the files, the time zone and the order of hashes."""
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    source = copied(tracked, tmp_path / "elsewhere")
    for name in tracked:
        os.utime(source / name, (1_000_000_000, 1_000_000_000))
        (source / name).chmod(0o600)
    again = packages.build(source, tmp_path / "dist", "sdist", "wheel", epoch=EPOCH)
    assert sorted(path.read_bytes() for path in again) == sorted(path.read_bytes() for path in built)


def test_the_sdist_gives_the_same_wheel(built: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, sdist = built
    tree = packages.unpacked(sdist, tmp_path / "sdist")
    (again,) = packages.build(tree, tmp_path / "dist", "wheel", epoch=EPOCH)
    assert again.read_bytes() == wheel.read_bytes()


def test_the_sdist_has_every_file(built: tuple[Path, Path], tracked: list[str]) -> None:
    with tarfile.open(built[1]) as archive:
        held = {name.split("/", 1)[1] for name in archive.getnames()}
    assert held - {"PKG-INFO"} == {name for name in tracked if not name.startswith(NOT_IN_THE_SDIST)}


def test_the_wheel_has_the_server_and_the_web_ui_and_nothing_else(built: tuple[Path, Path], tracked: list[str]) -> None:
    information = f"qrusty_trio-{__version__}.dist-info/"
    with zipfile.ZipFile(built[0]) as archive:
        held = {name for name in archive.namelist() if not name.startswith(information)}
        assert archive.read(f"{information}licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    code = {name for name in tracked if name.startswith("qrusty_trio/")}
    assert held == code | {f"qrusty_trio/{name}" for name in tracked if name.startswith("webui/")}


def installed(wheel: Path, place: Path) -> Path:
    """An environment with the wheel. Only what it depends on is taken from the environment of the tests."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    (libraries,) = place.glob("lib/python*/site-packages")
    (libraries / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin"


async def test_the_wheel_serves_without_the_checkout(
    built: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = installed(built[0], tmp_path / "environment")
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", str(tmp_path))
    where = await trio.run_process(
        [programs / "python", "-c", "import qrusty_trio; print(qrusty_trio.__file__)"], capture_stdout=True
    )
    assert where.stdout.decode().startswith(str(tmp_path))
    log = tmp_path / "log"
    variables = {"DATA_PATH": str(tmp_path / "data")}
    async with (
        started([str(programs / "qrusty-trio")], variables, free_port(), log) as server,
        open_client(server.url) as client,
    ):
        body = b'{"queue":"q","priority":1,"payload":"x"}'
        assert (await client.request("POST", "/publish", body)).status == 200
        assert (await client.request("GET", "/ui/")).body == (ROOT / "webui" / "index.html").read_bytes()
        await client.aclose()
        assert await server.stop() == 0
    assert "there is no web UI" not in log.read_text(encoding="utf-8")
