"""Calls that wait for a message while their token ends: what they get, and who gets the message."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from qrusty_trio.access.access import Access
from qrusty_trio.access.grants import Grant, Granted, Principal
from qrusty_trio.access.tokens_file import read_tokens
from qrusty_trio.api.schema import MAX_WAIT_SECONDS
from qrusty_trio.server.supervisor import Server
from tests.access.guarded import Headers, TokenBook, client_to, guarded
from tests.access.test_login import OWN_PAGE, cookie_of
from tests.access.test_served_matrix import PATHS
from tests.server.engines import publish
from tests.wire.http_client import Connection, HttpClient, Response

PATIENCE = MAX_WAIT_SECONDS / 2
BOSS = Principal("boss", (Granted(Grant.ADMIN, "*"),))
ROUTES = pytest.mark.parametrize("route", ["/consume/q", "/consume-batch/q", "/consume"])


def body_of(route: str, seconds: float, consumer: str = "c") -> bytes:
    body: dict[str, Any] = {"consumer_id": consumer, "wait_seconds": seconds}
    if route == "/consume":
        body["queues"] = ["other", "q"]
    elif route.startswith("/consume-batch/"):
        body["max_messages"] = 10
    return json.dumps(body).encode()


class Waiting:
    """A request that waits in a task of its own, longer than the test does."""

    def __init__(self, server: Server, headers: Headers, route: str) -> None:
        self._server = server
        self._headers = headers
        self._route = route
        self._done = trio.Event()
        self.response: Response | None = None

    async def begin(self, nursery: trio.Nursery) -> None:
        before = len(self._server.engine.waiters)
        nursery.start_soon(self._run)
        with trio.fail_after(PATIENCE):
            while len(self._server.engine.waiters) == before:  # no event tells of it
                assert self.response is None, self.response
                await trio.sleep(0.001)

    async def _run(self) -> None:
        async with client_to(self._server) as client:
            self.response = await client.request(
                "POST", self._route, body_of(self._route, MAX_WAIT_SECONDS, "waits"), headers=self._headers
            )
        self._done.set()

    async def ended(self) -> Response:
        with trio.fail_after(PATIENCE):
            await self._done.wait()
        assert self.response is not None
        return self.response


def access_of(server: Server) -> Access:
    assert server.access is not None
    return server.access


async def revoke(server: Server, book: TokenBook) -> None:
    book.remove("goes")
    access_of(server).replace(read_tokens(book.path.read_bytes()))


async def take_a_grant(server: Server, book: TokenBook) -> None:
    book.add("goes", "consume:other")
    access_of(server).replace(read_tokens(book.path.read_bytes()))


async def let_expire(server: Server, book: TokenBook) -> None:
    access = access_of(server)
    principal = access.tokens.by_name["goes"]
    principal.expires_ms = server.engine.clock.now_ms() + 20
    while access.current(principal) is not None:  # noqa: ASYNC110  # time passes
        await trio.sleep(0.001)


End = Callable[[Server, TokenBook], Awaitable[None]]
ENDS = pytest.mark.parametrize(
    ("end", "status"), [(revoke, 401), (take_a_grant, 403), (let_expire, 401)], ids=["revoked", "shrunk", "expired"]
)


async def asked_anew(client: HttpClient, headers: Headers, route: str) -> Response:
    """The response to a new request."""
    return await client.request("POST", route, body_of(route, 0), headers=headers)


def same_refusal(one: Response, other: Response) -> bool:
    return (one.status, one.json()["code"], one.headers.get("www-authenticate")) == (
        other.status,
        other.json()["code"],
        other.headers.get("www-authenticate"),
    )


def put(server: Server, queue: str = "q") -> None:
    """Publish a message without a checkpoint."""
    call = publish("p", queue)
    call.principal = BOSS
    (reply,) = server.engine.run_to_end([call])
    assert reply.status == 200


def counts(server: Server, queue: str = "q") -> tuple[int, int]:
    found = server.engine.broker.catalog.by_name[queue]
    return found.available, found.locked


# Verifies: API-0189, DLV-0055
@PATHS
@ROUTES
@ENDS
async def test_its_message_goes_to_the_next_in_turn(
    book: TokenBook, fast_path: bool, route: str, end: End, status: int
) -> None:
    book.add("goes", "consume:*")
    book.add("stays", "consume:*")
    goes, stays = book.bearer("goes"), book.bearer("stays")
    async with (
        guarded(book, fast_path=fast_path) as server,
        client_to(server) as client,
        trio.open_nursery() as nursery,
    ):
        first, second = Waiting(server, goes, route), Waiting(server, stays, route)
        await first.begin(nursery)
        await second.begin(nursery)
        await end(server, book)
        # In the same step, before the call can learn of it.
        put(server)
        refused, taken = await first.ended(), await second.ended()
        assert refused.status == status
        assert same_refusal(refused, await asked_anew(client, goes, route))
        (message,) = taken.json()["messages"] if "messages" in taken.json() else [taken.json()]
        assert (taken.status, message["retry_count"]) == (200, 1)
        assert counts(server) == (0, 1)


# Verifies: API-0191, DLV-0055
@PATHS
@ROUTES
async def test_it_ends_with_its_session(book: TokenBook, fast_path: bool, route: str) -> None:
    token = book.add("ann", "consume:*")
    async with (
        guarded(book, fast_path=fast_path) as server,
        client_to(server) as client,
        trio.open_nursery() as nursery,
    ):
        ends, goes_on = await cookie_of(client, token), await cookie_of(client, token)
        first, second = Waiting(server, ends, route), Waiting(server, goes_on, route)
        await first.begin(nursery)
        await second.begin(nursery)
        assert (await client.request("POST", "/logout", b"", headers=[*OWN_PAGE, *ends])).status == 200
        # The call may not have learned of it.
        put(server)
        refused, taken = await first.ended(), await second.ended()
        assert (refused.status, taken.status) == (401, 200)
        assert same_refusal(refused, await asked_anew(client, ends, route))
        assert counts(server) == (0, 1)


# Verifies: API-0189
@PATHS
@ENDS
async def test_it_ends_without_a_message(book: TokenBook, fast_path: bool, end: End, status: int) -> None:
    book.add("goes", "consume:*")
    async with guarded(book, fast_path=fast_path) as server, trio.open_nursery() as nursery:
        waits = Waiting(server, book.bearer("goes"), "/consume/q")
        await waits.begin(nursery)
        await end(server, book)
        assert (await waits.ended()).status == status
        assert len(server.engine.waiters) == 0


# Verifies: API-0189, DLV-0057
@PATHS
@ROUTES
async def test_what_it_was_handed_out_already_goes_back_uncounted(book: TokenBook, fast_path: bool, route: str) -> None:
    book.add("goes", "consume:*")
    async with (
        guarded(book, fast_path=fast_path) as server,
        client_to(server) as client,
        trio.open_nursery() as nursery,
    ):
        waits = Waiting(server, book.bearer("goes"), route)
        await waits.begin(nursery)
        put(server)
        assert counts(server) == (0, 1)
        await revoke(server, book)
        assert (await waits.ended()).status == 401
        assert counts(server) == (1, 0)
        book.add("next", "consume:*")
        access_of(server).replace(read_tokens(book.path.read_bytes()))
        response = await asked_anew(client, book.bearer("next"), "/consume/q")
        assert response.json()["retry_count"] == 1


# Verifies: API-0189
@PATHS
async def test_what_stands_behind_it_on_its_connection_is_refused_too(book: TokenBook, fast_path: bool) -> None:
    book.add("goes", "consume:*", "publish:*")
    async with guarded(book, fast_path=fast_path) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            head = [b"Host: x", b"Content-Type: application/json"]
            head += [f"{name}: {value}".encode() for name, value in book.bearer("goes")]
            requests = b""
            for target, body in (
                (b"/consume/q", body_of("/consume/q", MAX_WAIT_SECONDS)),
                (b"/publish", b'{"queue":"q","priority":1,"payload":"p"}'),
            ):
                lines = [b"POST %b HTTP/1.1" % target, *head, b"Content-Length: %d" % len(body)]
                requests += b"\r\n".join([*lines, b"", body])
            # Both arrive together.
            await stream.send_all(requests)
            connection = Connection(stream)
            with trio.fail_after(PATIENCE):
                while not len(server.engine.waiters):  # noqa: ASYNC110  # no event tells of it
                    await trio.sleep(0.001)
                await revoke(server, book)
                assert [(await connection.receive()).status for _ in range(2)] == [401, 401]
        assert "q" not in server.engine.broker.catalog.by_name


# Verifies: API-0189
@PATHS
async def test_it_waits_on_with_a_token_that_stays(book: TokenBook, fast_path: bool) -> None:
    """Whatever else is new in the file, and with what the file says of it now."""
    book.add("stays", "consume:*")
    book.add("goes", "consume:*")
    async with guarded(book, fast_path=fast_path) as server, trio.open_nursery() as nursery:
        waits = Waiting(server, book.bearer("stays"), "/consume/q")
        await waits.begin(nursery)
        book.add("stays", "consume:q", messages=0.001)
        await revoke(server, book)
        headers = book.bearer("stays")
        async with client_to(server) as client:
            assert (await asked_anew(client, headers, "/consume/q")).status == 200
            put(server)
            assert (await waits.ended()).json()["retry_count"] == 1
            # It counted for the limit that is new.
            assert (await asked_anew(client, headers, "/consume/q")).status == 429
