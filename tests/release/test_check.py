"""The check of a release: this checkout passes but for its date, and each thing that is amiss is told in a line."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qrusty_trio import __version__
from release import check
from tests.server.running import ROOT

FILES = (
    *("qrusty_trio/__init__.py", "pyproject.toml", "CHANGELOG.md", "LICENSE", "README.md", "SECURITY.md"),
    *("CONTRIBUTING.md", "deploy/kubernetes/qrusty-trio.yaml"),
    *("webui/vendor", "tests/browser/vendor", "locks"),
)
Check = Callable[[Path], Iterator[str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What the check reads, with the changelog dated."""
    for name in FILES:
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place)
        else:
            shutil.copy(ROOT / name, place)
    change(tmp_path, "CHANGELOG.md", "- unreleased", "- 2026-11-26")
    return tmp_path


def change(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text(encoding="utf-8")
    assert old in text
    (root / name).write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_version_is_that_of_the_package() -> None:
    assert check.version_of(ROOT) == __version__


@pytest.mark.parametrize("one", check.CHECKS[:-1], ids=lambda one: one.__name__)
def test_this_checkout_would_pass_with_a_date(root: Path, one: Check) -> None:
    assert list(one(root)) == []


@pytest.mark.parametrize(
    ("one", "name", "old", "new", "sentence"),
    [
        (check.version, "qrusty_trio/__init__.py", f'"{__version__}"', '"1.x"', "the version '1.x' is none"),
        (check.version, "qrusty_trio/__init__.py", f'"{__version__}"', '"9.0.0"', f"version {__version__}, not 9.0.0"),
        (check.version, "pyproject.toml", 'dynamic = ["version"]', 'version = "1.0.0"', "belongs into"),
        (check.changelog, "CHANGELOG.md", "- 2026-11-26", "- unreleased", "put the date of the release"),
        (check.changelog, "CHANGELOG.md", f"[{__version__}]", "[9.0.0]", "the newest section is 9.0.0"),
        (check.changelog, "CHANGELOG.md", "## [", "## [9.9.9] - 2026-11-27\n\n## [", "the section 9.9.9 says nothing"),
        (check.locks, "pyproject.toml", '"trio>=0.27"', '"trio>=0.27", "no-such>=1"', "no-such is declared"),
        (check.licences, "webui/vendor/LICENCES.txt", "preact ", "what ", "the licence of preact "),
        (check.licences, "webui/vendor/VENDOR.json", '"htm.js"', '"other.js"', "other.js is not there"),
    ],
)
def test_what_is_amiss_is_told(root: Path, one: Check, name: str, old: str, new: str, sentence: str) -> None:
    change(root, name, old, new)
    assert any(sentence in line for line in one(root))


def test_a_document_that_is_missing(root: Path) -> None:
    (root / "SECURITY.md").unlink()
    assert list(check.documents(root)) == ["SECURITY.md: it is missing"]


def test_what_is_not_committed(tmp_path: Path) -> None:
    assert list(check.nothing_uncommitted(tmp_path)) == ["this is no git checkout: release from one"]
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "new").touch()
    assert list(check.nothing_uncommitted(tmp_path)) == ["new: commit it or remove it"]
