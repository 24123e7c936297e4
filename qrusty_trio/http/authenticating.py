"""Finds out whom a request speaks for, for every transport alike.

Rule: a cookie counts only on a page of this server, since a browser sends it along whichever page asks. Without a
tokens file nothing here is called.

Requirements: API-0136, API-0191
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from qrusty_trio.access.access import Access, Credentials, Found
from qrusty_trio.api.authorizing import TOKEN_NEEDED
from qrusty_trio.errors import Unauthenticated
from qrusty_trio.http.header_block import HeaderBlock, read_session
from qrusty_trio.http.origins import Browser, is_own_page
from qrusty_trio.http.peers import Peer


def find_for_block(access: Access, block: HeaderBlock, peer: Peer) -> Found:
    """Whom a request with this header block speaks for. Raises TooManyFailures."""
    return _find(access, block.authorization, block.session, block.browser, peer)


def find_for_headers(access: Access, headers: Iterable[tuple[str, str]], browser: Browser | None, peer: Peer) -> Found:
    """The same for headers that a library has read."""
    given = [(name.lower(), value.encode("latin-1", "replace")) for name, value in headers]
    authorization = b", ".join([value for name, value in given if name == "authorization"])
    session = read_session([value for name, value in given if name == "cookie"])
    return _find(access, authorization, session, browser, peer)


def _find(access: Access, authorization: bytes, session: bytes, browser: Browser | None, peer: Peer) -> Found:
    if session and not is_own_page(browser):
        session = b""
    return access.find(Credentials(authorization, session, peer.certificate), peer.host, trio.current_time())


async def hold(seconds: float, stopping: trio.Event) -> None:
    """Let a request wait before it is answered, but not once the server stops."""
    if seconds:
        with trio.move_on_after(seconds):
            await stopping.wait()


def missing() -> Unauthenticated:
    """The refusal of a request that shows nothing."""
    return Unauthenticated(TOKEN_NEEDED)
