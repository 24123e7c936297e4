"""What the app alone serves: the web UI's files, and only those; /ws without an upgrade."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from qrusty_trio.http.fallback.documents import DOCUMENTS
from qrusty_trio.http.request_line import DOCUMENT_PATHS, app_serves
from tests.http.web import PATHS, running

pytestmark = pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])

INDEX = "<title>index</title>"
SECRET = "secret"


@pytest.fixture
def ui(tmp_path: Path) -> Path:
    """A web UI with a secret beside it and links inside it."""
    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "webui-old").mkdir()
    (tmp_path / "webui-old" / "secret.txt").write_text(SECRET)
    root = tmp_path / "webui"
    (root / "assets").mkdir(parents=True)
    (root / "index.html").write_text(INDEX)
    (root / "favicon.ico").write_bytes(b"\0icon")
    (root / "assets" / "app.js").write_text("app()")
    (root / "assets" / "ü x.css").write_text("css")
    (root / "assets" / "strange").write_text("?")
    (root / "assets" / "leak").symlink_to(tmp_path / "secret.txt")
    (root / "assets" / "inside.js").symlink_to(root / "assets" / "app.js")
    (root / "assets" / "out").symlink_to(tmp_path)
    (root / "assets" / "round").symlink_to(root / "assets" / "round")
    os.mkfifo(root / "assets" / "pipe")
    return root


# Verifies: API-0052
async def test_files_of_the_ui(fast_path: bool, ui: Path) -> None:
    async with running(fast_path, webui_dir=ui) as web, web.client() as client:
        for path, body, content_type in [
            ("/ui/", INDEX, "text/html; charset=utf-8"),
            ("/ui/index.html", INDEX, "text/html; charset=utf-8"),
            ("/ui/queues/some%2Fname", INDEX, "text/html; charset=utf-8"),
            ("/ui/?a=b", INDEX, "text/html; charset=utf-8"),
            ("/ui/assets/app.js", "app()", "text/javascript; charset=utf-8"),
            ("/assets/app.js", "app()", "text/javascript; charset=utf-8"),
            ("/assets/inside.js", "app()", "text/javascript; charset=utf-8"),
            ("/assets/%C3%BC%20x.css", "css", "text/css; charset=utf-8"),
            ("/assets/strange", "?", "application/octet-stream"),
            ("/favicon.ico", "\0icon", "image/vnd.microsoft.icon"),
        ]:
            response = await client.ask("GET", path)
            assert (response.status, response.body.decode()) == (200, body), path
            assert response.headers["content-type"] in {content_type, "image/x-icon"}
            assert response.headers["x-content-type-options"] == "nosniff"
        moved = await client.ask("GET", "/ui")
        assert (moved.status, moved.headers["location"]) == (308, "ui/")
        assert await client.ended()
    async with running(fast_path, webui_dir=ui) as web, web.client() as client:
        head = await client.ask("HEAD", "/ui/")
        assert (head.status, head.headers["content-length"], head.body) == (200, str(len(INDEX)), b"")
        # The connection goes on with what the fast path would have served.
        assert (await client.ask("GET", "/health")).status == 200


# Verifies: API-0052
@pytest.mark.parametrize(
    "way",
    [
        "../secret.txt",
        "../../secret.txt",
        "%2e%2e/secret.txt",
        "%2e%2e%2fsecret.txt",
        "..%2fsecret.txt",
        "..%5csecret.txt",
        "a/../../secret.txt",
        "/secret.txt",
        "../webui-old/secret.txt",
        "%2fetc%2fpasswd",
        "//etc/passwd",
        "leak",
        "out/secret.txt",
        "round",
        "pipe",
        ".",
        "",
        "a%00b",
        "%00",
        "%ff",
        "a" * 5000,
        "a/" * 2000,
    ],
)
async def test_no_way_out_of_the_directory(fast_path: bool, ui: Path, way: str) -> None:
    async with running(fast_path, webui_dir=ui) as web, web.client() as client:
        in_assets = await client.ask("GET", f"/assets/{way}")
        assert (in_assets.status, in_assets.json()["code"]) == (404, "not_found")
        for prefix in ("/ui/", "/ui/assets/", "/ui/x/../"):
            response = await client.ask("GET", prefix + way)
            assert (response.status, response.body.decode()) == (200, INDEX), prefix


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_a_file_that_can_t_be_read_just_now_is_not_missing(
    fast_path: bool, ui: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(self: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    async with running(fast_path, webui_dir=ui) as web:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", fail)
            response = await web.ask("GET", "/ui/")
        assert (response.status, response.json()["code"]) == (503, "unavailable")
        assert os.strerror(number) in response.json()["error"]
        assert (await web.ask("GET", "/ui/")).status == 200


async def test_without_a_web_ui_there_is_an_error(fast_path: bool, tmp_path: Path) -> None:
    async with running(fast_path, webui_dir=tmp_path / "none") as web:
        response = await web.ask("GET", "/ui/")
        assert (response.status, response.json()["code"]) == (404, "not_found")


async def test_what_is_not_for_files_is_refused(fast_path: bool, ui: Path) -> None:
    async with running(fast_path, webui_dir=ui) as web, web.client() as client:
        for path in ("/ui/", "/assets/app.js", "/favicon.ico"):
            response = await client.ask("POST", path, {})
            assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")
        plain = await client.ask("GET", "/ws")
        assert (plain.status, plain.json()["code"]) == (426, "upgrade_required")
        assert plain.headers["upgrade"] == "websocket"


# Verifies: API-0053
async def test_files_come_with_the_rules_for_the_page(fast_path: bool, ui: Path) -> None:
    async with running(fast_path, webui_dir=ui) as web, web.client() as client:
        for path in ("/ui/", "/ui/assets/app.js", "/assets/app.js", "/favicon.ico"):
            headers = (await client.ask("GET", path)).headers
            policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
            assert policy["default-src"] == "'self'"
            assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["referrer-policy"] == "same-origin"


# Verifies: API-0073
async def test_a_file_that_did_not_change_is_not_sent_again(fast_path: bool, ui: Path) -> None:
    async with running(fast_path, webui_dir=ui) as web, web.client() as client:
        first = await client.ask("GET", "/ui/assets/app.js")
        tag = first.headers["etag"]
        again = await client.ask("GET", "/ui/assets/app.js", headers=f"If-None-Match: {tag}\r\n".encode())
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        (ui / "assets" / "app.js").write_text("other()")
        changed = await client.ask("GET", "/ui/assets/app.js", headers=f"If-None-Match: {tag}\r\n".encode())
        assert (changed.status, changed.body) == (200, b"other()")
        assert changed.headers["etag"] != tag


# Verifies: API-0110, API-0113
async def test_documents_of_the_api(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        for path, name in (("/openapi.json", "openapi"), ("/asyncapi.json", "asyncapi")):
            response = await client.ask("GET", path)
            assert (response.status, response.headers["content-type"]) == (200, "application/json")
            assert response.json()[name].startswith("3.")
            tag = response.headers["etag"]
            again = await client.ask("GET", path, headers=f"If-None-Match: {tag}\r\n".encode())
            assert (again.status, again.body) == (304, b"")
            assert again.headers.get("content-length") in (None, response.headers["content-length"])
            assert (await client.ask("POST", path, {})).status == 405
        assert set(DOCUMENTS) == DOCUMENT_PATHS
        links = (await client.ask("GET", "/")).json()["links"]
        assert (links["openapi"], links["asyncapi"]) == ("openapi.json", "asyncapi.json")


# Verifies: API-0140
async def test_the_page_of_the_api(fast_path: bool, ui: Path) -> None:
    (ui / "docs.html").write_text("<p>the API")
    async with running(fast_path, webui_dir=ui) as web, web.client() as client:
        page = await client.ask("GET", "/docs")
        assert (page.status, page.body) == (200, b"<p>the API")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert (await client.ask("GET", "/")).json()["links"]["docs"] == "docs"
        assert (await client.ask("POST", "/docs", {})).status == 405
        elsewhere = await client.ask("GET", "/docs/")
        assert (elsewhere.status, elsewhere.headers["location"]) == (308, "../docs")
        (ui / "docs.html").unlink()
    async with running(fast_path, webui_dir=ui) as web, web.client() as client:
        assert (await client.ask("GET", "/docs")).status == 404


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/openapi.json", True),
        (b"/openapi.json/", False),
        (b"/docs", True),
        (b"/docs/", True),
        (b"/docs/a", False),
        (b"/ws", True),
        (b"/ui", True),
        (b"/ui/a", True),
        (b"/uix", False),
        (b"/assets", False),
        (b"/ws/", False),
    ],
)
async def test_which_paths_are_the_apps(fast_path: bool, path: bytes, expected: bool) -> None:
    assert app_serves(path) is expected
