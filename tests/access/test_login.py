"""Browsers: a session from the login to its end, and that only a page of this server can use it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection

from qrusty_trio.server.supervisor import Server
from tests.access.guarded import Headers, TokenBook, client_to, guarded, websocket_to
from tests.access.test_served_matrix import PATHS
from tests.wire.http_client import HttpClient, Response

PUBLISH = b'{"queue":"team.jobs","priority":1,"payload":"p"}'
OWN_PAGE: Headers = [("Origin", "http://localhost"), ("Sec-Fetch-Site", "same-origin")]
FOREIGN_PAGES = [
    [("Origin", "http://evil.example"), ("Sec-Fetch-Site", "cross-site")],
    [("Origin", "http://localhost:8080"), ("Sec-Fetch-Site", "same-site")],
    [("Origin", "https://friend.example"), ("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "cross-site")],
]
FRIEND = frozenset({"https://friend.example"})


async def log_in(client: HttpClient, token: str, headers: Headers = OWN_PAGE) -> Response:
    return await client.request("POST", "/login", json.dumps({"token": token}).encode(), headers=headers)


async def cookie_of(client: HttpClient, token: str) -> Headers:
    response = await log_in(client, token)
    assert response.status == 200, response
    found = re.match(r"qrusty_session=([^;]+)", response.headers["set-cookie"])
    assert found is not None
    return [("Cookie", f"other=1; qrusty_session={found[1]}")]


# Verifies: API-0191
@PATHS
async def test_from_the_login_to_the_logout(book: TokenBook, fast_path: bool) -> None:
    token = book.add("ann", "publish:team.*", "read:team.*")
    async with guarded(book, fast_path=fast_path) as server, client_to(server) as client:
        response = await log_in(client, f" {token} ")
        assert response.json() == {"token": "ann", "grants": ["publish:team.*", "read:team.*"]}
        assert re.fullmatch(
            r"qrusty_session=[-_A-Za-z0-9]{43}; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200",
            response.headers["set-cookie"],
        )
        assert response.headers["cache-control"] == "no-store"
        cookie = await cookie_of(client, token)
        for headers in ([*OWN_PAGE, *cookie], cookie):
            assert (await client.request("POST", "/publish", PUBLISH, headers=headers)).status == 200
            assert (await client.request("GET", "/queues", headers=headers)).json() == ["team.jobs"]
            assert (await client.request("POST", "/delete-all", headers=headers)).status == 403
        response = await client.request("POST", "/logout", b"", headers=[*OWN_PAGE, *cookie])
        assert response.status == 200
        assert response.headers["set-cookie"].startswith("qrusty_session=; ")
        response = await client.request("GET", "/queues", headers=cookie)
        assert (response.status, response.json()["error"]) == (401, "The session is over: log in again")


# Verifies: API-0191
@PATHS
@pytest.mark.parametrize("page", FOREIGN_PAGES, ids=["other site", "other port", "allowed origin", "no origin"])
async def test_the_cookie_is_of_no_use_to_other_pages(book: TokenBook, fast_path: bool, page: Headers) -> None:
    token = book.add("ann", "admin:*")
    async with (
        guarded(book, fast_path=fast_path, allowed_origins=FRIEND) as server,
        client_to(server) as client,
    ):
        cookie = await cookie_of(client, token)
        for method, path, body in (("GET", "/queues", None), ("POST", "/publish", PUBLISH), ("GET", "/metrics", None)):
            response = await client.request(method, path, body, headers=[*page, *cookie])
            assert response.status in (401, 403), response
        assert (await log_in(client, token, page)).status == 403
        assert (await client.request("POST", "/logout", b"", headers=[*page, *cookie])).status == 403
        await check_refused(server, [*page, *cookie])
        # The session goes on, and an allowed page that has a token itself may use it.
        assert (await client.request("GET", "/queues", headers=cookie)).json() == []


async def check_refused(server: Server, headers: Headers) -> None:
    """A WebSocket of another page is refused, or nobody is known there."""
    try:
        async with websocket_to(server, headers) as socket:
            await socket.send_message('{"type":"publish","queue":"q","payload":"p"}')
            assert json.loads(await socket.get_message())["code"] == "unauthenticated"
    except* HandshakeError:
        pass  # Its origin is not allowed.


@PATHS
async def test_a_websocket_of_a_page_of_this_server(book: TokenBook, fast_path: bool) -> None:
    token = book.add("ann", "publish:*")
    async with guarded(book, fast_path=fast_path) as server, client_to(server) as client:
        cookie = await cookie_of(client, token)
        async with websocket_to(server, [("Origin", f"http://127.0.0.1:{server.port}"), *cookie]) as socket:
            await socket.send_message('{"type":"publish","queue":"q","payload":"p"}')
            assert json.loads(await socket.get_message())["code"] == "queue_not_found"


# Verifies: API-0191, WS-0050
@PATHS
async def test_a_websocket_ends_at_the_logout_and_others_of_the_token_go_on(book: TokenBook, fast_path: bool) -> None:
    token = book.add("ann", "publish:*")
    async with guarded(book, fast_path=fast_path) as server, client_to(server) as client:
        ends, goes_on = await cookie_of(client, token), await cookie_of(client, token)
        own = [("Origin", f"http://127.0.0.1:{server.port}")]
        async with (
            websocket_to(server, [*own, *ends]) as socket,
            websocket_to(server, [*own, *goes_on]) as other,
            websocket_to(server, book.bearer("ann")) as with_token,
        ):
            # All are served, and so looked at from now on.
            for each in (socket, other, with_token):
                await publish_to_nothing(each)
            assert (await client.request("POST", "/logout", b"", headers=[*OWN_PAGE, *ends])).status == 200
            with trio.fail_after(60), pytest.raises(ConnectionClosed) as closed:
                await socket.get_message()
            assert closed.value.reason is not None
            assert (closed.value.reason.code, closed.value.reason.reason) == (1008, "the session is over")
            for each in (other, with_token):
                await publish_to_nothing(each)


async def publish_to_nothing(socket: WebSocketConnection) -> None:
    await socket.send_message('{"type":"publish","queue":"q","payload":"p"}')
    assert json.loads(await socket.get_message())["code"] == "queue_not_found"


# Verifies: API-0191
@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{}", "application/json", 422, "wrong_shape"),
        (b'{"token":1}', "application/json", 422, "wrong_shape"),
        (b"{", "application/json", 400, "malformed_json"),
        (b"\xff", "application/json", 400, "malformed_json"),
        (b'{"token":"qrt_wrong"}', "application/json", 401, "unauthenticated"),
        (b'{"token":""}', "application/json", 401, "unauthenticated"),
        (b'{"token":"x"}', "text/plain", 415, "wrong_content_type"),
    ],
)
async def test_a_login_that_is_refused(book: TokenBook, body: bytes, content_type: str, status: int, code: str) -> None:
    async with guarded(book) as server, client_to(server) as client:
        response = await client.request("POST", "/login", body, content_type, headers=OWN_PAGE)
        assert (response.status, response.json()["code"]) == (status, code)
        assert "set-cookie" not in response.headers
        assert (await client.request("GET", "/login")).headers["allow"] == "POST"


async def test_a_token_that_has_expired_logs_nobody_in(book: TokenBook) -> None:
    token = book.add("ann", "admin:*", expires=datetime.now(UTC) - timedelta(seconds=5))
    async with guarded(book) as server, client_to(server) as client:
        assert (await log_in(client, token)).json() == {"error": "This token has expired", "code": "unauthenticated"}
        response = await client.request("GET", "/queues", headers=book.bearer("ann"))
        assert (response.status, response.json()["error"]) == (401, "The token 'ann' has expired")
        assert (await client.request("GET", "/metrics", headers=book.bearer("ann"))).status == 401


async def test_a_page_over_tls_gets_a_cookie_for_tls_alone(book: TokenBook) -> None:
    token = book.add("ann", "admin:*")
    async with guarded(book) as server, client_to(server) as client:
        response = await log_in(client, token, [("Origin", "https://localhost")])
        assert response.headers["set-cookie"].endswith("; Secure")
