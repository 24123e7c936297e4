"""The Quart-Trio app: every route, for connections that Hypercorn holds.

Rule: an API path is resolved by the operation table from the undecoded path, as in the fast lane; Quart's own routing,
which decodes first, is not used. Every error is JSON. A file is served only from inside the web UI's directory.
"""

from __future__ import annotations

import errno
import logging
import mimetypes
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import trio
from quart import Quart, Response, request, websocket
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, RequestTimeout

from qrusty_trio.api.call import Call, Reply
from qrusty_trio.api.operations import (
    MAX_BODY_BYTES,
    OPERATIONS,
    RETRY_AFTER_SECONDS,
    check_content_type,
    error_reply,
    resolve,
)
from qrusty_trio.api.routes import NOTHING_THERE
from qrusty_trio.errors import MethodNotAllowed, NotFound, QrustyError, Unavailable
from qrusty_trio.http.answers import body_too_large, cors_headers
from qrusty_trio.http.byte_budget import LARGE_BYTES
from qrusty_trio.http.context import HttpContext
from qrusty_trio.http.head import BODY_SECONDS, RequestTimedOut, split_target
from qrusty_trio.http.origins import Browser, check_host, check_origin, read_browser
from qrusty_trio.http.quart_websocket import WebsocketConnection, serve_quart_websocket
from qrusty_trio.http.root import DESCRIPTION, ROOT_PATH, UI_ADDRESS, is_browser
from qrusty_trio.http.share import Share

SHARE_KEY = "qrusty.share"
"""Where the ASGI scope holds what the request makes the server hold, a `share.Share`."""
REPLY_KEY = "qrusty.reply"
"""Where the ASGI scope holds the engine's reply, for whoever sees whether it could be sent."""
REFUSAL_KEY = "qrusty.refusal"
"""Where the ASGI state holds what says that a request can't be trusted: see `handover.GuardedStream.refusal_of`."""
WEBSOCKET_PATH = b"/ws"
_OWN_PATHS = frozenset({ROOT_PATH, WEBSOCKET_PATH, b"/ui", b"/favicon.ico"})
_OWN_PREFIXES = (b"/ui/", b"/assets/")
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""No descriptor, no memory: that says nothing about a file."""
PREFLIGHT_METHODS = ", ".join(sorted({operation.method for operation in OPERATIONS}))
PREFLIGHT_HEADERS = "Content-Type"
PREFLIGHT_SECONDS = 600
"""How long a browser may remember the answer to a preflight."""

logger = logging.getLogger(__name__)


class _Last(Exception):
    """The request is refused and nothing after it can be trusted: the connection ends with its answer."""

    def __init__(self, refusal: QrustyError) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class UpgradeRequired(QrustyError):
    """/ws was asked for without an upgrade (status 426)."""

    status = 426
    code = "upgrade_required"


def app_serves(path: bytes) -> bool:
    """Whether an undecoded path is one that only the app serves: the root, the WebSocket and the web UI."""
    return path.startswith(_OWN_PREFIXES) or path in _OWN_PATHS


class _App(QuartTrio):
    asgi_websocket_class = WebsocketConnection

    def create_url_adapter(self, request_websocket: object) -> None:
        """No routing by Quart: it would decode paths before they are split, and fail on hosts it finds strange."""

    async def dispatch_websocket(self, websocket_context: object = None) -> None:
        """Nothing is left to do: `serve_websocket` has served it to its end."""


def make_app(context: HttpContext) -> Quart:
    """The app. It needs no ASGI lifespan."""
    app = _App("qrusty_trio", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["BODY_TIMEOUT"] = BODY_SECONDS
    app.config["RESPONSE_TIMEOUT"] = None  # A slow reader is the stream's business.
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False

    # What these return is the answer, so nothing is dispatched.
    @app.before_request
    async def serve() -> Response:
        return await _serve(context)

    @app.before_websocket
    async def serve_websocket() -> Response | None:
        path, _ = split_target(websocket.scope["raw_path"])
        if path != WEBSOCKET_PATH:
            return _response(error_reply(NotFound(NOTHING_THERE)))
        return await serve_quart_websocket(context.websocket)

    @app.errorhandler(HTTPException)
    async def refuse(error: HTTPException) -> Response:
        # Nothing is known to come here but what goes wrong inside Quart, which has logged it.
        unexpected = QrustyError("The server failed to answer; its log says why")
        return _response(error_reply(unexpected))

    return cast(Quart, app)


async def _serve(context: HttpContext) -> Response:
    """Answer the current request."""
    browser = read_browser(request.headers.items())
    cors = cors_headers(browser.origin if browser is not None else None, context.allowed_origins)
    path, _ = split_target(request.scope["raw_path"])
    try:
        _check_trusted(path)
        if request.method == "OPTIONS" and browser is not None and "Access-Control-Request-Method" in request.headers:
            # It is told what the request that it is for would be told.
            check_host(browser, context.allowed_hosts)
            check_origin(browser, context.allowed_origins)
            if cors:
                return _preflight(cors)
        if app_serves(path):
            check_host(browser, context.allowed_hosts)
            return await _serve_file(context.webui_dir, path, cors)
        reply = await _run(context, path, browser)
        return _response(reply, cors)
    except MethodNotAllowed as error:
        return _response(error_reply(error), {"allow": error.allow, **cors})
    except UpgradeRequired as error:
        return _response(error_reply(error), {"Upgrade": "websocket", "Connection": "Upgrade", **cors})
    except QrustyError as error:
        return _response(error_reply(error), cors)
    except _Last as last:
        return _response(error_reply(last.refusal), {"Connection": "close", **cors})


def _check_trusted(path: bytes | None) -> None:
    """Raise what the stream under Hypercorn found wrong with the bytes of this request."""
    state = cast(dict[str, Any], request.scope.get("state") or {})
    refusal_of = state.get(REFUSAL_KEY)
    if refusal_of is not None and (refusal := refusal_of(path)) is not None:
        raise _Last(refusal)


async def _run(context: HttpContext, path: bytes, browser: Browser | None) -> Reply:
    # The body is read even when it is of no use, so that the connection can go on.
    try:
        body = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    except RequestEntityTooLarge:
        raise _Last(body_too_large()) from None
    except RequestTimeout:
        raise _Last(RequestTimedOut("The request did not arrive in time")) from None
    _check_trusted(None)
    check_host(browser, context.allowed_hosts)
    query = request.scope["query_string"].decode("latin-1")
    operation, params = resolve(request.method, path, query)
    if operation.mutating:
        check_origin(browser, context.allowed_origins)
    check_content_type(operation, request.headers.get("Content-Type"), not body)
    scope = cast(dict[str, Any], request.scope)
    share: Share = scope[SHARE_KEY]
    share.check()
    if operation.large:
        await share.unsent.reserve(LARGE_BYTES)
    (reply,) = await context.engine.run([Call(operation, params, body, query)])
    scope[REPLY_KEY] = reply
    share.unsent.set(len(reply.body))
    return reply


def _response(reply: Reply, headers: dict[str, str] | None = None) -> Response:
    response = Response(reply.body, reply.status, content_type="application/json")
    if not reply.body:
        del response.headers["Content-Type"]
    if reply.status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    response.headers.update(headers or {})
    return response


def _preflight(cors: dict[str, str]) -> Response:
    response = Response(b"", 204, headers=cors)
    del response.headers["Content-Type"]
    response.headers["Access-Control-Allow-Methods"] = PREFLIGHT_METHODS
    response.headers["Access-Control-Allow-Headers"] = PREFLIGHT_HEADERS
    response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
    return response


async def _serve_file(directory: Path, path: bytes, cors: dict[str, str]) -> Response:
    """A file of the web UI, or what leads there."""
    if request.method not in {"GET", "HEAD"}:
        if path == ROOT_PATH:
            raise NotFound(NOTHING_THERE)  # as the recorded server says
        refusal = MethodNotAllowed("this path takes GET or HEAD")
        refusal.allow = "GET, HEAD"
        raise refusal
    if path == WEBSOCKET_PATH:
        raise UpgradeRequired("/ws takes a WebSocket upgrade")
    if path == ROOT_PATH:
        return _serve_root(cors)
    if path == b"/ui":
        return _redirect(308, UI_ADDRESS, cors)
    in_ui = path.startswith(b"/ui/")
    relative = unquote(path.decode("ascii").removeprefix("/ui/").removeprefix("/"))
    found = await trio.to_thread.run_sync(_read_inside, directory, relative or "index.html")
    if found is None and in_ui:
        # The UI's own pages: it reads the address by itself.
        relative = "index.html"
        found = await trio.to_thread.run_sync(_read_inside, directory, relative)
    if found is None:
        raise NotFound(NOTHING_THERE)
    response = Response(found, 200, headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache", **cors})
    response.headers["Content-Type"] = _content_type(relative or "index.html")
    return response


def _redirect(status: int, address: str, cors: dict[str, str]) -> Response:
    response = Response(b"", status, headers={"Location": address, **cors})
    del response.headers["Content-Type"]
    return response


def _serve_root(cors: dict[str, str]) -> Response:
    if is_browser(request.headers.get("Accept")):
        response = _redirect(302, UI_ADDRESS, cors)
    else:
        response = _response(Reply(200, DESCRIPTION), cors)
    response.headers["Vary"] = ", ".join(["Accept", *([cors["vary"]] if cors else [])])
    return response


def _read_inside(directory: Path, relative: str) -> bytes | None:
    """The bytes of a file inside `directory`, links resolved; None when there is none. Raises Unavailable."""
    try:
        root = directory.resolve(strict=True)
        file = (root / relative).resolve(strict=True)
        if not file.is_relative_to(root) or not file.is_file():
            return None
        return file.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno in _PASSING:
            raise Unavailable(f"This file can't be read just now: {error.strerror}") from error
        # Not there, not readable, a NUL in the name, links that go round.
        return None


def _content_type(name: str) -> str:
    guessed, encoding = mimetypes.guess_type(name)
    if guessed is None or encoding is not None:
        return "application/octet-stream"
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") or guessed.endswith("javascript") else guessed
