"""Build the wheel and the sdist in dist/, and start what was built.

    python -m release.packages

Rule: what is released is what was tested. The wheel that is installed here, in an environment of its own, is the file
in dist/. The same commit gives the same bytes, and so does the sdist when a wheel is built from it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
SMOKE_SECONDS = 5


def build(source: Path, out: Path, *kinds: str, epoch: str) -> list[Path]:
    """Build packages ("wheel", "sdist") of the tree `source`, with all times set to `epoch` (seconds)."""
    targets = [part for kind in kinds for part in ("--target", kind)]
    command = [sys.executable, "-m", "hatchling", "build", *targets, "--directory", str(out)]
    run(command, cwd=source, environment={"SOURCE_DATE_EPOCH": epoch})
    return sorted(out.iterdir())


def epoch_of(source: Path) -> str:
    """SOURCE_DATE_EPOCH, or when the newest commit was made, or a fixed time for a tree without git."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return given
    found = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=source, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "1580601600"


def unpacked(sdist: Path, directory: Path) -> Path:
    """The tree in an sdist."""
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (tree,) = directory.iterdir()
    return tree


def environment_with(wheel: Path, directory: Path) -> Path:
    """A new virtual environment with the wheel and what locks/serve.txt pins. Returns its bin directory."""
    run([sys.executable, "-m", "venv", str(directory)])
    pip = [str(directory / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    locked = ["--require-hashes", "--only-binary", ":all:", "-r", str(ROOT / "locks" / "serve.txt")]
    run([*pip, "install", "--quiet", *locked])
    run([*pip, "install", "--quiet", "--no-deps", str(wheel)])
    run([*pip, "check"])
    return directory / "bin"


def run(command: Sequence[str], cwd: Path | None = None, environment: dict[str, str] | None = None) -> None:
    """Raises CalledProcessError when it fails."""
    subprocess.run(command, cwd=cwd, env={**os.environ, **(environment or {})}, check=True)


def main() -> int:
    shutil.rmtree(DIST, ignore_errors=True)
    epoch = epoch_of(ROOT)
    built = build(ROOT, DIST, "sdist", "wheel", epoch=epoch)
    (wheel,) = (path for path in built if path.suffix == ".whl")
    (sdist,) = (path for path in built if path.suffix == ".gz")
    with tempfile.TemporaryDirectory(prefix="qrusty-build-") as name:
        directory = Path(name)
        tree = unpacked(sdist, directory / "sdist")
        (again,) = build(tree, directory / "again", "wheel", epoch=epoch)
        if again.read_bytes() != wheel.read_bytes():
            print("the wheel of the sdist differs from that of the checkout", file=sys.stderr)
            return 1
        run([sys.executable, "-m", "twine", "check", "--strict", *map(str, built)])
        programs = environment_with(wheel, directory / "environment")
        smoke = [sys.executable, str(ROOT / "smoke" / "smoke_test.py"), "--duration", str(SMOKE_SECONDS)]
        run([*smoke, "--binary", str(programs / "qrusty-trio")], cwd=directory)
    for path in built:
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        print(f"failed: {' '.join(map(str, error.cmd))}", file=sys.stderr)
        sys.exit(1)
