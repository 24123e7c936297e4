"""The web UI's files: what was copied is what it was, what is ours keeps its rules, and all of it is small."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WEBUI = ROOT / "webui"
MAX_COMPRESSED_BYTES = 150 * 1024
MAX_LINES = 400
OURS = sorted([*(WEBUI / "src").rglob("*.js"), *(WEBUI / "style").glob("*.css"), *WEBUI.glob("*.html")])


@pytest.mark.parametrize("vendor", [WEBUI / "vendor", ROOT / "tests" / "browser" / "vendor"], ids=["webui", "tests"])
def test_what_was_copied_is_unchanged_and_its_licence_is_there(vendor: Path) -> None:
    manifest = json.loads((vendor / "VENDOR.json").read_text(encoding="utf-8"))
    licences = (vendor / "LICENCES.txt").read_text(encoding="utf-8")
    copied = {path.name for path in vendor.iterdir() if not path.name.endswith((".d.ts", ".json", ".txt"))}
    assert copied == set(manifest)
    for name, entry in manifest.items():
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == entry["sha256"], name
        assert f"{entry['package']} {entry['version']} ({entry['licence']})" in licences


def test_the_versions_are_those_that_are_declared() -> None:
    declared = json.loads((ROOT / "webui_dev" / "package.json").read_text(encoding="utf-8"))
    versions = declared["dependencies"] | declared["devDependencies"]
    for vendor in (WEBUI / "vendor", ROOT / "tests" / "browser" / "vendor"):
        for entry in json.loads((vendor / "VENDOR.json").read_text(encoding="utf-8")).values():
            assert versions[entry["package"]] == entry["version"]


def test_it_is_small() -> None:
    sent = [path for path in WEBUI.rglob("*") if path.suffix in {".js", ".css", ".html", ".svg", ".ico"}]
    assert sum(len(zlib.compress(path.read_bytes(), 9)) for path in sent) <= MAX_COMPRESSED_BYTES


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(WEBUI)))
def test_a_file_is_short_says_what_it_is_for_and_names_no_other_server(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES or path.suffix == ".css"
    if path.suffix != ".html":
        assert text.startswith(("/**", "/*"))
    assert "://" not in text.replace("http://here/", "")
    assert not re.search(r"""(?:src|href)=["']/""", text)


def test_only_one_file_fetches_and_none_makes_markup_of_text() -> None:
    for path in (WEBUI / "src").rglob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert path.name == "api.js" or not re.search(r"\bfetch\(|new WebSocket\(|EventSource", text), path
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|dangerously|document\.write|\beval\(|Function\(", text
        )


def test_only_the_tokens_have_colours() -> None:
    for path in (WEBUI / "style").glob("*.css"):
        if path.name != "tokens.css":
            assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgba?\(|hsla?\(", path.read_text(encoding="utf-8")), path.name


def test_every_import_leads_to_a_file() -> None:
    for path in WEBUI.rglob("*.js"):
        for target in re.findall(
            r"""^(?:import|export)[^"']*?from ?["']([^"']+)["']""", path.read_text(), re.MULTILINE
        ):
            assert target.startswith("."), (path, target)
            assert (path.parent / target).is_file(), (path, target)


@pytest.mark.parametrize(
    ("page", "main", "prefix"), [("index.html", "src/main.js", ""), ("docs.html", "src/docs/main.js", "ui/")]
)
def test_all_modules_are_loaded_at_once(page: str, main: str, prefix: str) -> None:
    """Otherwise each level of imports waits for the one above it."""
    text = (WEBUI / page).read_text(encoding="utf-8")
    assert f'src="{prefix}{main}"' in text
    listed = re.findall(r'<link rel="modulepreload" href="([^"]+)">', text)
    modules = sorted(modules_of(main), key=lambda name: (not name.startswith("vendor/"), name))
    assert listed == [prefix + name for name in modules]


def test_each_module_belongs_to_a_page() -> None:
    modules = {
        path.relative_to(WEBUI).as_posix() for folder in ("vendor", "src") for path in (WEBUI / folder).rglob("*.js")
    }
    mains = {"src/main.js", "src/docs/main.js"}
    assert modules - {"src/types.js"} == mains.union(*map(modules_of, mains))


def modules_of(main: str) -> set[str]:
    """What a module imports, and what that imports in turn."""
    found: set[str] = set()
    left = [WEBUI / main]
    while left:
        path = left.pop()
        for target in re.findall(r"""\bfrom ?["'](\.[^"']+)["']""", path.read_text(encoding="utf-8")):
            imported = (path.parent / target).resolve()
            name = imported.relative_to(WEBUI).as_posix()
            if name not in found:
                found.add(name)
                left.append(imported)
    return found
