"""Whether this checkout is fit to be released: version, changelog, locks, documents, licences, and nothing uncommitted.

    python -m release.check

Rule: it changes nothing. Each thing that is amiss is one line that says what to do, and the exit status is then 1.
`make release-check` lints, tests and builds as well.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSION = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")
NEEDED = ("LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md")


def version_of(root: Path) -> str:
    """The one place that has the version."""
    found = re.search(r'^__version__ = "(.*)"$', (root / "qrusty_trio" / "__init__.py").read_text(), re.MULTILINE)
    return found[1] if found else ""


def version(root: Path) -> Iterator[str]:
    if not VERSION.fullmatch(version_of(root)):
        yield f"qrusty_trio/__init__.py: the version {version_of(root)!r} is none, it takes 1.2.3 or 1.2.3rc1"
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    if "version" in project:
        yield "pyproject.toml: the version belongs into qrusty_trio/__init__.py alone"
    for image in re.findall(r"image: qrusty-trio:(\S+)", (root / "deploy/kubernetes/qrusty-trio.yaml").read_text()):
        if image != version_of(root):
            yield f"deploy/kubernetes/qrusty-trio.yaml: the image has version {image}, not {version_of(root)}"


def changelog(root: Path) -> Iterator[str]:
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[([^\]\n]+)\](?: - ([^\n]+))?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if not sections:
        yield "CHANGELOG.md: it has no section"
        return
    newest, date, body = sections[0]
    if newest != version_of(root):
        yield f"CHANGELOG.md: the newest section is {newest}, the version {version_of(root)}"
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date):
        yield f"CHANGELOG.md: put the date of the release in place of {date!r}"
    if not re.search(r"^- ", body, re.MULTILINE):
        yield f"CHANGELOG.md: the section {newest} says nothing"
    for older, date, _ in sections[1:]:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date):
            yield f"CHANGELOG.md: the section {older} has no date"


def locks(root: Path) -> Iterator[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text())
    locked = "\n".join(path.read_text() for path in sorted((root / "locks").glob("*.txt")))
    pinned = {canonical(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", locked, re.MULTILINE)}
    declared = list(project["project"]["dependencies"])
    for group in project["dependency-groups"].values():
        declared += group
    for specifier in declared:
        name = canonical(re.split(r"[<>=!~ ;\[]", specifier)[0])
        if name not in pinned:
            yield f"locks/: {name} is declared and not pinned; run make lock"


def documents(root: Path) -> Iterator[str]:
    for name in NEEDED:
        if not (root / name).is_file():
            yield f"{name}: it is missing"


def licences(root: Path) -> Iterator[str]:
    """What was made by others and is in the tree has its licence beside it."""
    for manifest in (root / "webui/vendor/VENDOR.json", root / "tests/browser/vendor/VENDOR.json"):
        notices = manifest.with_name("LICENCES.txt")
        headings = set(notices.read_text(encoding="utf-8").splitlines()) if notices.is_file() else set()
        for file, entry in json.loads(manifest.read_text(encoding="utf-8")).items():
            if not (manifest.parent / file).is_file():
                yield f"{manifest.relative_to(root)}: {file} is not there"
            if f"{entry['package']} {entry['version']} ({entry['licence']})" not in headings:
                yield f"{notices.relative_to(root)}: the licence of {entry['package']} {entry['version']} is missing"


def nothing_uncommitted(root: Path) -> Iterator[str]:
    status = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=False)
    if status.returncode != 0:
        yield "this is no git checkout: release from one"
    for line in status.stdout.splitlines():
        yield f"{line[3:]}: commit it or remove it"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


CHECKS: tuple[Callable[[Path], Iterator[str]], ...] = (
    version,
    changelog,
    locks,
    documents,
    licences,
    nothing_uncommitted,
)


def main() -> int:
    amiss = [sentence for check in CHECKS for sentence in check(ROOT)]
    for sentence in amiss:
        print(sentence, file=sys.stderr)
    if not amiss:
        print(f"{version_of(ROOT)} is fit to be released")
    return 1 if amiss else 0


if __name__ == "__main__":
    sys.exit(main())
