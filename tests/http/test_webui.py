"""Files of the web UI that are kept in memory: both paths answer for them alike, and none hands a connection over."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qrusty_trio.http.request_line import RequestLines
from qrusty_trio.http.request_parser import Request, RequestParser
from qrusty_trio.http.webui import PAGE_HEADERS, web_file
from tests.http.web import HOST, PATHS, Client, request, running

INDEX = b"<title>index</title>" * 100
ICON = bytes(range(200))
FILES = {
    b"/ui/": web_file("index.html", INDEX),
    b"/favicon.ico": web_file("favicon.ico", ICON),
}
GZIP = b"Accept-Encoding: gzip, deflate, br\r\n"


@asynccontextmanager
async def client_of(fast_path: bool) -> AsyncIterator[Client]:
    # There is no such directory, so what is answered was in memory.
    async with running(fast_path, files=FILES, webui_dir=Path("/nowhere")) as web, web.client() as client:
        yield client


# Verifies: API-0053
@pytest.mark.parametrize("fast_path", PATHS)
async def test_a_file_is_sent_as_it_is_or_compressed(fast_path: bool) -> None:
    async with client_of(fast_path) as client:
        plain = await client.ask("GET", "/ui/?a=b")
        packed = await client.ask("GET", "/ui/", headers=GZIP)
        head = await client.ask("HEAD", "/ui/", headers=GZIP)
        icon = await client.ask("GET", "/favicon.ico", headers=GZIP)
    assert (plain.status, plain.body, plain.headers.get("content-encoding")) == (200, INDEX, None)
    assert (packed.status, packed.headers["content-encoding"]) == (200, "gzip")
    assert gzip.decompress(packed.body) == INDEX
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(packed.body)))
    assert (icon.body, icon.headers.get("content-encoding")) == (ICON, None), "it would not be smaller"
    assert packed.headers["etag"] != plain.headers["etag"]
    for response in (plain, packed, head):
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert {name: response.headers[name.lower()] for name in PAGE_HEADERS} == PAGE_HEADERS


# Verifies: API-0073
@pytest.mark.parametrize("fast_path", PATHS)
async def test_who_has_the_file_does_not_get_it_again(fast_path: bool) -> None:
    async with client_of(fast_path) as client:
        for encoding in (b"", GZIP):
            tag = (await client.ask("GET", "/ui/", headers=encoding)).headers["etag"]
            tags = ((tag, 304), (f'"other", W/{tag}', 304), ('"other"', 200), ("*", 304), ('"*"', 200))
            for known, status in tags:
                response = await client.ask("GET", "/ui/", headers=encoding + f"If-None-Match: {known}\r\n".encode())
                assert (response.status, response.headers["etag"]) == (status, tag), known
                assert bool(response.body) is (status == 200)


# Verifies: API-0053
@pytest.mark.parametrize("fast_path", PATHS)
@pytest.mark.parametrize(
    ("accepts", "packed"),
    [
        ("gzip;q=1", True),
        ("br, GZip ; q=0.001", True),
        ("*", True),
        ("identity;q=1, *;q=0.5", True),
        ("br\r\nAccept-Encoding: gzip", True),
        ("gzip;q=0", False),
        ("gzip, gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("*;q=0", False),
        ("gzipped", False),
        ("", False),
    ],
)
async def test_what_a_client_accepts(fast_path: bool, accepts: str, packed: bool) -> None:
    async with client_of(fast_path) as client:
        response = await client.ask("GET", "/ui/", headers=f"Accept-Encoding: {accepts}\r\n".encode())
        assert (response.status, response.headers.get("content-encoding")) == (200, "gzip" if packed else None)
        known = f'If-None-Match: "other"\r\nIf-None-Match: {response.headers["etag"]}\r\n'.encode()
        again = await client.ask("GET", "/ui/", headers=f"Accept-Encoding: {accepts}\r\n".encode() + known)
        assert again.status == 304


@pytest.mark.parametrize("fast_path", PATHS)
async def test_files_and_operations_have_their_responses_in_turn(fast_path: bool) -> None:
    paths = ["/ui/", "/health", "/favicon.ico", "/ui/", "/nothing"] * 20
    async with client_of(fast_path) as client:
        await client.send(b"".join(request("GET", path) for path in paths))
        for path in paths:
            response = await client.response()
            expected = {"/ui/": INDEX, "/favicon.ico": ICON}.get(path, response.body)
            assert (response.status, response.body) == (404 if path == "/nothing" else 200, expected)


# Verifies: SYS-0019
@pytest.mark.parametrize("fast_path", PATHS)
async def test_a_page_of_another_host_gets_no_file_and_others_methods_none(fast_path: bool) -> None:
    async with client_of(fast_path) as client:
        await client.send(b"GET /ui/ HTTP/1.1\r\nHost: evil.example\r\nSec-Fetch-Site: none\r\n\r\n")
        refused = await client.response()
        assert (refused.status, refused.json()["code"]) == (403, "host_not_allowed")
        posted = await client.ask("POST", "/ui/", {})
        assert (posted.status, posted.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("fast_path", PATHS)
async def test_the_connection_ends_when_that_was_asked(fast_path: bool) -> None:
    async with client_of(fast_path) as client:
        response = await client.ask("GET", "/ui/", headers=b"Connection: close\r\nX-Request-Id: r-1\r\n")
        assert (response.body, response.headers["connection"]) == (INDEX, "close")
        assert response.headers["x-request-id"] == "r-1"
        assert await client.ended()


def test_a_kept_file_hands_no_connection_over() -> None:
    parser = RequestParser(RequestLines(FILES))
    parser.feed(b"GET /ui/ HTTP/1.1\r\n" + HOST + b"\r\n")
    asked = parser.next()
    assert isinstance(asked, Request)
    assert asked.line.file is FILES[b"/ui/"]
