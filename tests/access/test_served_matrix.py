"""Each operation and each frame with each grant, on one's own and on a foreign queue, over sockets and on both paths.

Rule: requests are made from the table of operations, and frames from the table of frames. So what is new is here, too.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from qrusty_trio.access.grants import Grant
from qrusty_trio.access.needs import Named
from qrusty_trio.api.description.frames import FRAMES
from qrusty_trio.api.operations import OPERATIONS
from qrusty_trio.api.ws_requests import _FUNCTIONS
from qrusty_trio.server.supervisor import Server
from tests.access.asking import FOREIGN, OWN, allowed, request_of
from tests.access.guarded import TokenBook, client_to, guarded, websocket_to
from tests.wire.http_client import HttpClient

PATHS = pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "fallback"])
PATTERNS = {"own": "team.*", "all": "*"}


def name_of(grant: Grant, everywhere: bool) -> str:
    return f"{grant}-{'all' if everywhere else 'own'}"


def fill(book: TokenBook) -> None:
    for grant in Grant:
        for reach, pattern in PATTERNS.items():
            book.add(f"{grant}-{reach}", f"{grant}:{pattern}")


async def prepare(book: TokenBook, client: HttpClient) -> None:
    for queue in (OWN, FOREIGN):
        body = json.dumps({"queue": queue, "priority": 1, "payload": "p"}).encode()
        response = await client.request("POST", "/publish", body, headers=book.bearer("admin-all"))
        assert response.status == 200, response


# Verifies: API-0137
@PATHS
async def test_each_operation_with_each_grant(book: TokenBook, fast_path: bool) -> None:
    fill(book)
    async with guarded(book, fast_path=fast_path) as server, client_to(server) as client:
        for operation in OPERATIONS:
            for grant in Grant:
                for everywhere in (False, True):
                    for queue in (OWN, FOREIGN):
                        await prepare(book, client)
                        target, body = request_of(operation, queue)
                        headers = book.bearer(name_of(grant, everywhere))
                        response = await client.request(
                            operation.method, target, body if operation.request else None, headers=headers
                        )
                        case = operation.name, grant, everywhere, queue, response
                        if allowed(operation, grant, everywhere, queue == OWN):
                            assert response.status not in (401, 403), case
                        else:
                            assert (response.status, response.json()["code"]) == (403, "forbidden"), case


# Verifies: API-0136
@PATHS
async def test_each_operation_without_a_token_that_counts(book: TokenBook, fast_path: bool) -> None:
    book.add("someone", "admin:*")
    async with guarded(book, fast_path=fast_path) as server, client_to(server) as client:
        for operation in OPERATIONS:
            target, body = request_of(operation, OWN)
            response = await client.request(operation.method, target, body if operation.request else None)
            if operation.needs.token:
                assert (response.status, response.json()["code"]) == (401, "unauthenticated"), operation.name
                assert response.headers["www-authenticate"] == "Bearer"
            else:
                assert response.status == 200


# Verifies: API-0136
@PATHS
@pytest.mark.parametrize("shown", ["Bearer qrt_wrong", "Bearer", "Basic abc", "bearer  ", "Bearer a, Bearer b"])
async def test_what_does_not_count(book: TokenBook, fast_path: bool, shown: str) -> None:
    book.add("someone", "admin:*")
    async with guarded(book, fast_path=fast_path) as server, client_to(server) as client:
        for target in ("/queues", "/metrics", "/consume/q"):
            method, body = ("POST", b'{"consumer_id":"c"}') if "consume" in target else ("GET", None)
            response = await client.request(method, target, body, headers=[("Authorization", shown)])
            assert (response.status, response.json()["code"]) == (401, "unauthenticated")
        # Whatever is shown, this is open.
        assert (await client.request("GET", "/health", headers=[("Authorization", shown)])).status == 200
        shown = book.bearer("someone")[0][1].replace("Bearer", "bEARER")
        assert (await client.request("GET", "/queues", headers=[("Authorization", shown)])).status == 200


# Verifies: API-0136
@PATHS
async def test_metrics_need_the_grant_to_read_everything_and_documents_need_nothing(
    book: TokenBook, fast_path: bool
) -> None:
    book.add("monitor", "read:*")
    book.add("team", "read:team.*")
    async with guarded(book, fast_path=fast_path) as server, client_to(server) as client:
        for headers, status in ((book.bearer("monitor"), 200), (book.bearer("team"), 403), ([], 401)):
            assert (await client.request("GET", "/metrics", headers=headers)).status == status
        for path in ("/", "/openapi.json", "/asyncapi.json", "/ui/", "/livez", "/readyz", "/health"):
            assert (await client.request("GET", path)).status == 200, path
        assert (await client.request("GET", "/server")).status == 401
        told = (await client.request("GET", "/server", headers=book.bearer("team"))).json()["token"]
        assert told == {"name": "team", "grants": ["read:team.*"]}


async def told(server: Server, book: TokenBook, name: str, frame: dict[str, Any]) -> dict[str, Any]:
    async with websocket_to(server, book.bearer(name)) as socket:
        if frame["type"] == "credit":
            await socket.send_message(json.dumps({"type": "subscribe", "queue": frame["queue"], "credits": 0}))
            await socket.get_message()
        await socket.send_message(json.dumps(frame))
        while True:
            answer: dict[str, Any] = json.loads(await socket.get_message())
            if answer["type"] in ("ok", "error"):
                return answer


# Verifies: API-0137
@PATHS
async def test_each_frame_with_each_grant(book: TokenBook, fast_path: bool) -> None:
    fill(book)
    async with guarded(book, fast_path=fast_path) as server, client_to(server) as client:
        await prepare(book, client)
        examples = {each.type: each.example for each in FRAMES}
        for kind, (_, needs) in _FUNCTIONS.items():
            example = examples[kind]
            for grant in Grant:
                for everywhere in (False, True):
                    for queue in (OWN, FOREIGN):
                        frame = {key: value for key, value in example.items() if key not in ("no_reply", "req_id")}
                        if "queue" in frame:
                            frame["queue"] = queue
                        answer = await told(server, book, name_of(grant, everywhere), frame)
                        fits = needs.grant is None or grant in (needs.grant, Grant.ADMIN)
                        reaches = needs.grant is None or everywhere or (queue == OWN and needs.named is not Named.EVERY)
                        case = kind, grant, everywhere, queue, answer
                        assert (answer.get("code") == "forbidden") is not (fits and reaches), case
