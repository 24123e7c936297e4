"""`POST /login` and `POST /logout`: a browser shows a token once, and gets the cookie of a session for it.

Rule: only a page of this server may log in or out, so no other page can put its own session into a user's browser. The
cookie is out of reach of scripts, and is not sent along from other sites.

Requirements: API-0191
"""

from __future__ import annotations

import msgspec
import trio
from quart import Response

from qrusty_trio.access.access import Access
from qrusty_trio.access.sessions import COOKIE, SESSION_SECONDS
from qrusty_trio.api.operations import is_json
from qrusty_trio.errors import MalformedJson, Unauthenticated, WrongContentType, WrongShape
from qrusty_trio.http.authenticating import hold
from qrusty_trio.http.origins import Browser, check_origin
from qrusty_trio.http.peers import Peer

_ATTRIBUTES = "Path=/; HttpOnly; SameSite=Strict"


class _Login(msgspec.Struct):
    token: str


_decode = msgspec.json.Decoder(_Login).decode


async def log_in(
    access: Access,
    body: bytes,
    content_type: str | None,
    browser: Browser | None,
    peer: Peer,
    https: bool,
    stopping: trio.Event,
) -> Response:
    """The response to a login. Raises QrustyError. `https`: whether the request came over TLS."""
    check_origin(browser, ())
    if not is_json(content_type):
        raise WrongContentType("the Content-Type of the request must be application/json")
    try:
        token = _decode(body).token
    except msgspec.ValidationError as error:
        raise WrongShape("'token' must be a string") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedJson("the body must be JSON with a 'token'") from error
    found = access.try_token(token.strip().encode(errors="replace"), peer.host, trio.current_time())
    await hold(found.wait, stopping)
    principal = access.current(found.principal) if found.principal is not None else None
    if principal is None:
        raise found.refusal or Unauthenticated("This token has expired")
    # A proxy may terminate TLS: then the page knows more than we do.
    secure = https or (browser is not None and (browser.origin or "").startswith("https:"))
    told = {"token": principal.name, "grants": [str(each) for each in principal.grants]}
    cookie = access.begin_session(principal)
    return _response(msgspec.json.encode(told), cookie, SESSION_SECONDS, secure)


def log_out(access: Access, session: bytes, browser: Browser | None) -> Response:
    """The response to a logout. Raises OriginNotAllowed."""
    check_origin(browser, ())
    access.end_session(session)
    return _response(b"", "", 0, secure=False)


def _response(body: bytes, cookie: str, seconds: int, secure: bool) -> Response:
    response = Response(body, 200, content_type="application/json")
    if not body:
        del response.headers["Content-Type"]
    response.headers["Set-Cookie"] = f"{COOKIE}={cookie}; {_ATTRIBUTES}; Max-Age={seconds}{'; Secure' * secure}"
    response.headers["Cache-Control"] = "no-store"
    return response
