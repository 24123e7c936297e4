"""A file of the web UI, and the response to a request for it.

Rule: no disk, no socket. The fast path answers for the files that are kept in memory; for any other, the fallback looks
on the disk. Both make their response here.

Requirements: API-0053, API-0073
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from collections.abc import Mapping

import msgspec

PAGE_HEADERS = {
    # Only files of this server, nothing inline, no HTML made of text, in no frame of another page.
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}
"""Headers of every file of the web UI."""


class WebFile(msgspec.Struct, frozen=True, gc=False):
    """A file as it is sent."""

    body: bytes
    packed: bytes
    """The same, compressed by gzip; empty if that would hardly be smaller."""
    tag: str
    """Changes with the content. No part of it needs quoting."""
    content_type: str


class FileResponse(msgspec.Struct, frozen=True, gc=False):
    """What to send for a file. `status` 304: without the body, which the client has."""

    status: int
    body: bytes
    headers: dict[str, str]


def web_file(name: str, body: bytes, *, pack: bool = True) -> WebFile:
    """A file by its name and content. `pack`: take the time to compress it."""
    # Without a time in it, the same file gives the same bytes.
    packed = gzip.compress(body, 9, mtime=0) if pack else b""
    smaller = packed if len(packed) < 0.9 * len(body) else b""
    return WebFile(body, smaller, hashlib.blake2b(body, digest_size=16).hexdigest(), _content_type(name))


def file_response(file: WebFile, none_match: str, takes_gzip: bool) -> FileResponse:
    """The response to a GET with this If-None-Match ('' for none), from a client that takes gzip or not."""
    body, tag = file.body, f'"{file.tag}"'
    headers = {**PAGE_HEADERS, "Content-Type": file.content_type}
    if takes_gzip and file.packed:
        body, tag = file.packed, f'"{file.tag}-gzip"'
        headers["Content-Encoding"] = "gzip"
    headers["ETag"] = tag
    known = tag in none_match or none_match.strip() == "*"
    return FileResponse(304 if known else 200, body, headers)


def _content_type(name: str) -> str:
    guessed, encoding = mimetypes.guess_type(name)
    if guessed is None or encoding is not None:
        return "application/octet-stream"
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") or guessed.endswith("javascript") else guessed


Files = Mapping[bytes, WebFile]
"""Files of a web UI by path."""
