"""The Quart-Trio app: every route, for connections that Hypercorn serves.

Rule: the operation table resolves an API path before it is decoded, as on the fast path. Quart's own routing decodes a
path before it splits it, so that `%2F` in a queue's name would be a separator, and refuses hosts that are allowed here.
So it is not used: one function answers before Quart would dispatch. Every error is JSON. A file is served only from
inside the web UI's directory.

Requirements: SYS-0019
"""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from time import perf_counter
from typing import Any, cast
from urllib.parse import unquote

import trio
from quart import Quart, Response, request, websocket
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, RequestTimeout

from qrusty_trio.access.grants import Grant, Principal
from qrusty_trio.api.call import Call, Reply
from qrusty_trio.api.identity import Identity, read_identity
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
from qrusty_trio.http import peers
from qrusty_trio.http.access_log import AccessLog
from qrusty_trio.http.authenticating import find_for_headers, hold, missing
from qrusty_trio.http.byte_budget import LARGE_BYTES
from qrusty_trio.http.context import HttpContext
from qrusty_trio.http.fallback.documents import DOCUMENTS
from qrusty_trio.http.fallback.login import log_in, log_out
from qrusty_trio.http.fallback.root import DESCRIPTION, UI_ADDRESS, is_browser
from qrusty_trio.http.fallback.share import Share
from qrusty_trio.http.fallback.websocket import AsgiWebsocketConnection, serve_quart_websocket
from qrusty_trio.http.header_block import BODY_SECONDS, RequestTimedOut, accepts_gzip, read_session
from qrusty_trio.http.origins import Browser, check_host, check_origin, read_browser
from qrusty_trio.http.pauses import EventPause
from qrusty_trio.http.request_line import (
    DOCS_PATH,
    LOGOUT_PATH,
    METRICS_PATH,
    NOT_KNOWN,
    ROOT_PATH,
    SESSION_PATHS,
    WEBSOCKET_PATH,
    app_serves,
    split_target,
)
from qrusty_trio.http.request_log import UNKNOWN
from qrusty_trio.http.responses import body_too_large, cors_headers
from qrusty_trio.http.webui import WebFile, file_response, web_file

SHARE_KEY = "qrusty.share"
"""Key in the ASGI scope: the request's `share.Share` of the byte budgets."""
PAUSE_KEY = "qrusty.pause"
"""Key in the ASGI scope: how the request waits for a message."""
REPLY_KEY = "qrusty.reply"
"""Key in the ASGI scope: the engine's reply, for the caller that learns whether it could be sent."""
CALL_KEY = "qrusty.call"
"""Key in the ASGI scope: the request as the engine got it, for the access log."""
UNREAD_KEY = "qrusty.unread"
"""Key in the ASGI scope, if the request could not be read: for the access log."""
REFUSAL_KEY = "qrusty.refusal"
"""Key in the ASGI state: the function that tells why a request was refused; see `RequestFilter.refusal_of`."""
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Out of descriptors or memory: transient, so it says nothing about the file."""
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The text format of Prometheus."""
PREFLIGHT_METHODS = ", ".join(sorted({operation.method for operation in OPERATIONS}))
PREFLIGHT_HEADERS = "Content-Type"
ID_HEADER = "X-Request-Id"
PREFLIGHT_SECONDS = 600
"""How long a browser may cache the response to a preflight."""

logger = logging.getLogger(__name__)


class _Last(Exception):
    """The request is refused and nothing after it can be trusted: close the connection after the response."""

    def __init__(self, refusal: QrustyError) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class UpgradeRequired(QrustyError):
    """/ws was requested without an upgrade (status 426)."""

    status = 426
    code = "upgrade_required"


class _App(QuartTrio):
    asgi_websocket_class = AsgiWebsocketConnection

    def create_url_adapter(self, request_websocket: object) -> None:
        """Disable Quart's routing: it decodes paths before splitting them, and fails on unusual hosts."""

    async def dispatch_websocket(self, websocket_context: object = None) -> None:
        """Do nothing: `serve_websocket` has already served the connection to its end."""


def make_app(context: HttpContext) -> Quart:
    """The app. It needs no ASGI lifespan."""
    app = _App("qrusty_trio", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["BODY_TIMEOUT"] = BODY_SECONDS
    app.config["RESPONSE_TIMEOUT"] = None  # The stream handles slow readers.
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False

    # A return value here is the response, so Quart dispatches nothing.
    @app.before_request
    async def serve() -> Response:
        identity = _identity()
        begun = perf_counter()
        response = _identified(await _serve(context, identity), identity)
        if context.access is not None:
            await _note_access(context.access, response, identity, begun)
        return response

    @app.before_websocket
    async def serve_websocket() -> Response | None:
        path, _ = split_target(websocket.scope["raw_path"])
        if path != WEBSOCKET_PATH:
            return _response(error_reply(NotFound(NOTHING_THERE)))
        return await serve_quart_websocket(context.websocket)

    @app.errorhandler(HTTPException)
    async def refuse(error: HTTPException) -> Response:
        # Only a failure inside Quart is known to arrive here, and Quart has logged it.
        return _refused(context, _identity(), QrustyError("The server failed to answer; its log says why"))

    return cast(Quart, app)


async def _note_access(access: AccessLog, response: Response, identity: Identity | None, begun: float) -> None:
    """Write a line about the current request in the access log."""
    scope = cast(dict[str, Any], request.scope)
    call: Call | None = scope.pop(CALL_KEY, None)
    if call is not None:
        access.served(peers.current(), call, scope[REPLY_KEY], begun, request.method == "HEAD")
        return
    path, _ = split_target(scope["raw_path"])
    # The filter puts a path of its own in place of what can't be read.
    asked = NOT_KNOWN if UNREAD_KEY in scope else (request.method, path.decode("ascii", "backslashreplace"))
    octets = len(await response.data)
    access.note(peers.current(), *asked, response.status_code, octets, begun, identity)


def _identity() -> Identity | None:
    """Who the current request is."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in request.scope["headers"]:
        values.setdefault(name, []).append(value)
    return read_identity(values.get(b"x-request-id"), values.get(b"traceparent"))


def _refused(
    context: HttpContext, identity: Identity | None, error: QrustyError, headers: dict[str, str] | None = None
) -> Response:
    reply = error_reply(error)
    return _identified(_response(reply, headers), context.requests.note(UNKNOWN, identity, reply))


def _identified(response: Response, identity: Identity | None) -> Response:
    if identity is not None and identity.request_id:
        response.headers[ID_HEADER] = identity.request_id.decode("ascii")
    return response


async def _serve(context: HttpContext, identity: Identity | None) -> Response:
    """Respond to the current request."""
    browser = read_browser(request.headers.items())
    cors = cors_headers(browser.origin if browser is not None else None, context.allowed_origins)
    path, _ = split_target(request.scope["raw_path"])
    try:
        _check_trusted(path)
        if request.method == "OPTIONS" and browser is not None and "Access-Control-Request-Method" in request.headers:
            # A preflight is refused whenever the request it asks about would be.
            check_host(browser, context.allowed_hosts)
            check_origin(browser, context.allowed_origins)
            if cors:
                return _preflight(cors, context.tokens is not None)
        if app_serves(path):
            check_host(browser, context.allowed_hosts)
            if path in SESSION_PATHS:
                return await _serve_login(context, path, browser)
            if path == METRICS_PATH and context.tokens is not None:
                await _check_metrics(context, browser)
            return await _serve_own(context, path, cors)
        call, reply = await _run(context, path, browser, identity)
        noted = context.requests.note(call.operation.name, call.identity, reply)
        return _identified(_response(reply, cors), noted)
    except MethodNotAllowed as error:
        return _refused(context, identity, error, {"allow": error.allow, **cors})
    except UpgradeRequired as error:
        return _refused(context, identity, error, {"Upgrade": "websocket", "Connection": "Upgrade", **cors})
    except QrustyError as error:
        return _refused(context, identity, error, cors)
    except _Last as last:
        return _refused(context, identity, last.refusal, {"Connection": "close", **cors})


def _check_trusted(path: bytes | None) -> None:
    """Raise the fault that the stream under Hypercorn found in the bytes of this request."""
    state = cast(dict[str, Any], request.scope.get("state") or {})
    refusal_of = state.get(REFUSAL_KEY)
    if refusal_of is not None and (refusal := refusal_of(path)) is not None:
        if path is not None:
            cast(dict[str, Any], request.scope)[UNREAD_KEY] = True
        raise _Last(refusal)


async def _run(
    context: HttpContext, path: bytes, browser: Browser | None, identity: Identity | None
) -> tuple[Call, Reply]:
    # Read the body even when it is not needed, so that the connection can be reused.
    body = await _body()
    check_host(browser, context.allowed_hosts)
    query = request.scope["query_string"].decode("latin-1")
    operation, params = resolve(request.method, path, query)
    principal = await _principal(context, browser) if operation.needs.token else None
    if operation.mutating:
        check_origin(browser, context.allowed_origins)
    check_content_type(operation, request.headers.get("Content-Type"), not body)
    scope = cast(dict[str, Any], request.scope)
    share: Share = scope[SHARE_KEY]
    share.check()
    if operation.large:
        await share.unsent.reserve(LARGE_BYTES)
    pause: EventPause = scope[PAUSE_KEY]
    call = Call(operation, params, body, query, None, identity, principal)
    begun = perf_counter()
    (reply,) = await context.engine.run([call], pause)
    if not pause.waited:
        context.requests.took(call, perf_counter() - begun)
    scope[REPLY_KEY] = reply
    if context.access is not None:
        scope[CALL_KEY] = call
    share.unsent.set(len(reply.body))
    return call, reply


async def _principal(context: HttpContext, browser: Browser | None) -> Principal | None:
    """Whom the current request speaks for. Raises Unauthenticated and TooManyFailures; None without tokens."""
    access = context.tokens
    if access is None:
        return None
    found = find_for_headers(access, request.headers.items(), browser, peers.current())
    await hold(found.wait, context.stopping)
    if found.principal is None:
        raise found.refusal or missing()
    # It may have been held while the tokens were read anew.
    return access.require_current(found.principal) if found.wait else found.principal


async def _check_metrics(context: HttpContext, browser: Browser | None) -> None:
    """Metrics name queues, so they need the grant to read on all of them. Raises QrustyError."""
    principal = await _principal(context, browser)
    assert principal is not None
    assert context.tokens is not None
    context.tokens.require_current(principal).require_everywhere(Grant.READ)


async def _serve_login(context: HttpContext, path: bytes, browser: Browser | None) -> Response:
    body = await _body()
    access = context.tokens
    if access is None:
        raise NotFound(NOTHING_THERE)
    if request.method != "POST":
        refusal = MethodNotAllowed("this path takes POST")
        refusal.allow = "POST"
        raise refusal
    if path == LOGOUT_PATH:
        cookies = [value.encode("latin-1", "replace") for value in request.headers.getlist("Cookie")]
        return log_out(access, read_session(cookies), browser)
    content_type, https = request.headers.get("Content-Type"), request.scheme == "https"
    return await log_in(access, body, content_type, browser, peers.current(), https, context.stopping)


async def _body() -> bytes:
    """The body of the current request. Raises _Last."""
    try:
        body: bytes = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    except RequestEntityTooLarge:
        raise _Last(body_too_large()) from None
    except RequestTimeout:
        raise _Last(RequestTimedOut("The request did not arrive in time")) from None
    _check_trusted(None)
    return body


def _response(reply: Reply, headers: dict[str, str] | None = None) -> Response:
    response = Response(reply.body, reply.status, content_type="application/json")
    if not reply.body:
        del response.headers["Content-Type"]
    if reply.status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    elif reply.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if reply.retry_after:
        response.headers["Retry-After"] = str(reply.retry_after)
    response.headers.update(headers)
    return response


def _preflight(cors: dict[str, str], tokens: bool) -> Response:
    response = Response(b"", 204, headers=cors)
    del response.headers["Content-Type"]
    response.headers["Access-Control-Allow-Methods"] = PREFLIGHT_METHODS
    response.headers["Access-Control-Allow-Headers"] = PREFLIGHT_HEADERS + (", Authorization" if tokens else "")
    response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
    return response


async def _serve_own(context: HttpContext, path: bytes, cors: dict[str, str]) -> Response:
    """What only the app serves: metrics, documents, a file of the web UI, or a redirect to it."""
    if request.method not in {"GET", "HEAD"}:
        if path == ROOT_PATH:
            raise NotFound(NOTHING_THERE)  # as in the recorded contract
        refusal = MethodNotAllowed("this path takes GET or HEAD")
        refusal.allow = "GET, HEAD"
        raise refusal
    if path == WEBSOCKET_PATH:
        raise UpgradeRequired("/ws takes a WebSocket upgrade")
    if path == METRICS_PATH:
        body = await context.metrics(context, request.scope["query_string"].decode("latin-1"))
        return Response(body, 200, headers={"Cache-Control": "no-store", **cors}, content_type=METRICS_TYPE)
    if path == ROOT_PATH:
        return _serve_root(cors)
    if path == b"/ui":
        return _redirect(308, UI_ADDRESS, cors)
    if path == DOCS_PATH + b"/":
        return _redirect(308, "../docs", cors)
    kept = context.files.get(path) or DOCUMENTS.get(path)
    if kept is not None:
        return _file_response(kept, cors)
    in_ui = path.startswith(b"/ui/")
    relative = unquote(path.decode("ascii").removeprefix("/ui/").removeprefix("/"))
    if path == DOCS_PATH:
        relative = "docs.html"
    found = await trio.to_thread.run_sync(_read_inside, context.webui_dir, relative)
    if found is None and in_ui:
        # Addresses of the UI's own pages: its router reads them in the browser.
        relative = "index.html"
        found = await trio.to_thread.run_sync(_read_inside, context.webui_dir, relative)
    if found is None:
        raise NotFound(NOTHING_THERE)
    return _file_response(web_file(relative, found, pack=False), cors)


def _file_response(file: WebFile, cors: dict[str, str]) -> Response:
    takes_gzip = accepts_gzip(",".join(request.headers.getlist("Accept-Encoding")))
    content = file_response(file, ", ".join(request.headers.getlist("If-None-Match")), takes_gzip)
    response = Response(content.body if content.status == 200 else b"", content.status, headers=content.headers)
    for name, value in cors.items():
        response.headers.add(name, value)
    if content.status == 304:
        del response.headers["Content-Type"]
        del response.headers["Content-Length"]  # It would be that of the empty body.
    return response


def _redirect(status: int, address: str, cors: dict[str, str]) -> Response:
    # The browser's next connection is one of the fast path, which answers for the page sooner.
    response = Response(b"", status, headers={"Location": address, **_closing(), **cors})
    del response.headers["Content-Type"]
    return response


def _closing() -> dict[str, str]:
    """Headers that end the connection with this response, in the versions of HTTP that have such."""
    return {"Connection": "close"} if request.http_version.startswith("1") else {}


def _serve_root(cors: dict[str, str]) -> Response:
    if is_browser(request.headers.get("Accept")):
        response = _redirect(302, UI_ADDRESS, cors)
    else:
        response = _response(Reply(200, DESCRIPTION), cors)
    response.headers["Vary"] = ", ".join(["Accept", *([cors["vary"]] if cors else [])])
    return response


def _read_inside(directory: Path, relative: str) -> bytes | None:
    """The bytes of a file inside `directory`, with links resolved. None if there is no such file.

    Raises Unavailable when descriptors or memory run out.

    Requirements: API-0052
    """
    try:
        root = directory.resolve(strict=True)
        file = (root / relative).resolve(strict=True)
        if not file.is_relative_to(root) or not file.is_file():
            return None
        return file.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno in _PASSING:
            raise Unavailable(f"This file can't be read just now: {error.strerror}") from error
        # Missing, unreadable, a NUL in the name, or a loop of links.
        return None
