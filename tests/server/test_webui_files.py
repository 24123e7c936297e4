"""Which files of a web UI are kept in memory, and under which paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qrusty_trio.server import webui_files
from qrusty_trio.server.webui_files import MAX_FILE_BYTES, read_files


def test_the_page_is_kept_whole() -> None:
    directory = Path("webui")
    kept = read_files(directory)
    names = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert {path.decode() for path in kept} == {f"/ui/{name}" for name in names} | {"/ui/", "/docs", "/favicon.ico"}
    assert kept[b"/ui/"].body == (directory / "index.html").read_bytes()
    assert len(kept[b"/ui/vendor/uPlot.js"].packed) < len(kept[b"/ui/vendor/uPlot.js"].body) / 2


def test_what_is_no_plain_file_of_moderate_size_is_left_to_the_disk(tmp_path: Path) -> None:
    root = tmp_path / "webui"
    (root / "assets").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (root / "assets" / "app.js").write_text("app()")
    (root / "assets" / "ü x.js").write_text("app()")
    (root / "assets" / ".hidden").write_text("?")
    (root / "assets" / "large.js").write_bytes(bytes(MAX_FILE_BYTES + 1))
    (root / "leak.js").symlink_to(tmp_path / "secret.txt")
    (root / "out").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    assert set(read_files(root)) == {b"/ui/assets/app.js", b"/assets/app.js"}
    assert read_files(tmp_path / "none") == {}


@pytest.mark.parametrize(("limit", "value"), [("MAX_FILES", 2), ("MAX_TOTAL_BYTES", 2), ("MAX_LOOKED_AT", 2)])
def test_a_large_directory_is_kept_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    for number in range(5):
        (tmp_path / f"{number}.js").write_text("x")
    monkeypatch.setattr(webui_files, limit, value)
    assert sorted(read_files(tmp_path)) == [b"/ui/0.js", b"/ui/1.js"]
