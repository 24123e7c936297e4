"""Both paths answer requests in the same way."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import trio

from qrusty_trio import __version__
from qrusty_trio.api.operations import MAX_BODY_BYTES, OPERATIONS
from tests.http.web import HOST, JSON, PATHS, make_engine, request, running

pytestmark = pytest.mark.parametrize("fast_path", PATHS, ids=["fast", "quart"])

ALLOWED = "https://ops.example"


# Verifies: SYS-0019
async def test_a_message_lives_and_ends(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        created = await client.ask("POST", "/create-queue", {"name": "q", "config": {"ordering": "Fifo"}})
        assert (created.status, created.body) == (200, b"")
        assert "content-type" not in created.headers
        published = await client.ask("POST", "/publish", {"queue": "q", "priority": 1, "payload": "hello"})
        assert published.headers["content-type"] == "application/json"
        message_id = published.json()["id"]
        consumed = await client.ask("POST", "/consume/q", {"consumer_id": "w"})
        assert consumed.json() == {"id": message_id, "payload": "hello", "retry_count": 1}
        acked = await client.ask("POST", f"/ack/q/{message_id}", {"consumer_id": "w"})
        assert acked.status == 200
        again = await client.ask("POST", f"/ack/q/{message_id}", {"consumer_id": "w"})
        assert (again.status, again.json()["code"]) == (404, "message_not_locked")


# Verifies: API-0002
async def test_errors_are_json_and_say_what_is_wrong(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        for method, path, body, headers, status, code in [
            ("GET", "/nothing", None, b"", 404, "not_found"),
            ("GET", "/publish", None, b"", 405, "method_not_allowed"),
            ("PUT", "/queues", None, b"", 405, "method_not_allowed"),
            ("POST", "/publish", b"{", b"", 400, "malformed_json"),
            ("POST", "/publish", {"queue": "q"}, b"", 422, "wrong_shape"),
            ("GET", "/operation-timings?seconds=x", None, b"", 400, "bad_request"),
            ("POST", "/consume/" + "q" * 256, {"consumer_id": "w"}, b"", 400, "invalid_queue_name"),
        ]:
            response = await client.ask(method, path, body, headers)
            assert (response.status, response.json()["code"]) == (status, code), path
            assert response.json()["error"]
            assert response.headers["content-type"] == "application/json"
            if status == 405:
                assert response.headers["allow"] == ("POST" if path == "/publish" else "GET, HEAD")


# Verifies: API-0003
@pytest.mark.parametrize("content_type", [b"", b"text/plain", b"application/x-www-form-urlencoded", b"json"])
async def test_a_body_that_is_not_json_is_refused(fast_path: bool, content_type: bytes) -> None:
    async with running(fast_path) as web, web.client() as client:
        described = b"Content-Type: %b\r\n" % content_type if content_type else b""
        await client.send(b"POST /consume/q HTTP/1.1\r\n" + HOST + described + b"Content-Length: 2\r\n\r\n{}")
        response = await client.response()
        assert (response.status, response.json()["code"]) == (415, "wrong_content_type")
        assert (await client.ask("GET", "/health")).status == 200


NO_BODY = "the body is missing: it must be a JSON object"


@pytest.mark.parametrize(
    ("described", "status", "code", "sentence"),
    [
        (b"", 400, "malformed_json", NO_BODY),
        (b"Content-Length: 0\r\n", 400, "malformed_json", NO_BODY),
        (JSON, 400, "malformed_json", NO_BODY),
        (JSON + b"Content-Length: 0\r\n", 400, "malformed_json", NO_BODY),
        (b"Content-Type:\r\n", 400, "malformed_json", NO_BODY),
        (b"Content-Type: application/x+json\r\n", 400, "malformed_json", NO_BODY),
        (
            *(b"Content-Type: text/plain\r\n", 415, "wrong_content_type"),
            f"{NO_BODY}, and the Content-Type of the request must be application/json",
        ),
    ],
)
@pytest.mark.parametrize("path", ["/publish", "/consume/q", "/ack/q/i", "/nack-batch/q", "/create-queue"])
async def test_a_missing_body_is_called_that(
    fast_path: bool, described: bytes, status: int, code: str, sentence: str, path: str
) -> None:
    async with running(fast_path) as web, web.client() as client:
        for _ in range(2):
            await client.send(f"POST {path} HTTP/1.1\r\n".encode() + HOST + described + b"\r\n")
            response = await client.response()
            assert (response.status, response.json()) == (status, {"error": sentence, "code": code})


async def test_no_body_is_needed_where_none_is_taken(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        for method, path in [("POST", "/purge-queue/q"), ("DELETE", "/delete-queue/q"), ("POST", "/delete-all")]:
            await client.send(f"{method} {path} HTTP/1.1\r\n".encode() + HOST + b"\r\n")
            assert (await client.response()).status == 200


async def test_half_of_a_surrogate_pair_is_told(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        for body, place in [(b'{"consumer_id":"\\ud800"}', 16), (b'{"consumer_id":"w","x":"more \\udc00 text"}', 29)]:
            response = await client.ask("POST", "/consume/q", body)
            assert (response.status, response.json()["code"]) == (400, "malformed_json")
            assert f"at byte {place} is half of a surrogate pair" in response.json()["error"]


# Verifies: API-0006
@pytest.mark.parametrize("field", ["allow_duplicates", "priority_kind", "ordering"])
async def test_null_is_no_setting_of_a_new_queue(fast_path: bool, field: str) -> None:
    async with running(fast_path) as web, web.client() as client:
        config = {"ordering": "Fifo", field: None}
        response = await client.ask("POST", "/create-queue", {"name": "q", "config": config})
        assert (response.status, response.json()["code"]) == (422, "wrong_shape")
        assert f"'config.{field}' must be " in response.json()["error"]
        assert (await client.ask("GET", "/queues")).json() == []


# Verifies: API-0008
@pytest.mark.parametrize(
    "content_type", [b"application/json;charset=utf-8", b"Application/JSON", b"application/a+json"]
)
async def test_json_by_other_names(fast_path: bool, content_type: bytes) -> None:
    async with running(fast_path) as web, web.client() as client:
        body = b'{"consumer_id":"w"}'
        head = b"POST /consume/q HTTP/1.1\r\n" + HOST + b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n"
        await client.send(head % (content_type, len(body)) + body)
        assert (await client.response()).body == b"null"


# Verifies: API-0009
async def test_the_largest_body_and_one_byte_more(fast_path: bool) -> None:
    frame = len('{"queue":"q","priority":1,"payload":""}')
    body = json.dumps({"queue": "q", "priority": 1, "payload": "x" * (MAX_BODY_BYTES - frame)}, separators=(",", ":"))
    assert len(body) == MAX_BODY_BYTES
    async with running(fast_path) as web:
        assert (await web.ask("POST", "/publish", body.encode())).status == 200
        refused = await web.ask("POST", "/publish", body.encode() + b" ")
        assert (refused.status, refused.json()["code"]) == (413, "body_too_large")
        assert (refused.headers["connection"], "x-request-id" in refused.headers) == ("close", False)
        for path in ("/health", "/publish"):
            refused = await web.ask("POST", path, body.encode() + b" ", headers=b"X-Request-Id: r-1\r\n")
            assert (refused.status, refused.headers["x-request-id"]) == (413, "r-1")


# Verifies: API-0009
async def test_a_body_too_large_in_chunks(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        await client.send(b"POST /publish HTTP/1.1\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n")
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    while True:
                        await client.send(chunk)

            nursery.start_soon(send)
            response = await client.response()
            assert (response.status, response.json()["code"]) == (413, "body_too_large")
            assert response.headers["connection"] == "close"
            with pytest.raises((EOFError, trio.BrokenResourceError)):
                await client.response()


# Verifies: API-0011
async def test_names_are_decoded_once_and_after_splitting(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        for name, path in [
            ("a/b", "a%2Fb"),
            ("ü x", "%C3%BC%20x"),
            ("%2F", "%252F"),
            ("a\0b", "a%00b"),
            ("a+b", "a+b"),
        ]:
            await client.ask("POST", "/publish", {"queue": name, "priority": 1, "payload": name})
            response = await client.ask("POST", f"/consume/{path}", {"consumer_id": "w"})
            assert response.json()["payload"] == name


# Verifies: API-0012
@pytest.mark.parametrize("name", [".", "..", "a/b", "/", "a b", "ü", "+", "&=?#", "%2F", "metrics"])
async def test_a_name_that_no_path_can_hold_goes_into_the_query(fast_path: bool, name: str) -> None:
    async with running(fast_path) as web, web.client() as client:
        worker = {"consumer_id": "w"}
        for form in (f"queue={quote(name, safe='')}", f"queue={quote_plus(name)}"):
            ids = []
            for number in range(6):
                published = await client.ask("POST", "/publish", {"queue": name, "priority": 0, "payload": f"{number}"})
                ids.append(published.json()["id"])
            for id in ids[:5]:
                assert (await client.ask("POST", f"/consume?{form}", worker)).json()["id"] == id
            assert (await client.ask("POST", f"/ack?{form}&id={ids[0]}", worker)).status == 200
            assert (await client.ask("POST", f"/ack?id={ids[0]}&{form}", worker)).status == 404
            assert (await client.ask("POST", f"/nack?{form}&id={ids[1]}", worker)).status == 200
            acked = await client.ask("POST", f"/ack-batch?{form}", worker | {"message_ids": ids[2:3]})
            assert acked.json()["acked"] == ids[2:3]
            nacked = await client.ask("POST", f"/nack-batch?{form}", worker | {"message_ids": ids[3:4]})
            assert nacked.json()["unlocked"] == ids[3:4]
            stats = (await client.ask("GET", f"/queue-stats?{form}")).json()
            assert (stats["name"], stats["available"], stats["locked"]) == (name, 3, 1)
            assert (await client.ask("HEAD", f"/queue-stats?{form}")).status == 200
            assert (await client.ask("GET", f"/queues/metrics?{form}")).json()["queue"] == name
            purged = (await client.ask("POST", f"/purge-queue?{form}")).json()
            assert purged == {"queue": name, "purged_messages": 4}
            deleted = (await client.ask("DELETE", f"/delete-queue?{form}")).json()
            assert deleted == {"queue": name, "deleted_messages": 0}
        assert (await client.ask("GET", "/queues")).json() == []


# Verifies: API-0013
async def test_parameters_in_the_query_are_refused_in_words(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        for method, target, status, word in [
            ("POST", "/consume?queue=a&queue=b", 400, "'queue'"),
            ("POST", "/consume/a?queue=a", 400, "'queue'"),
            ("POST", "/ack/a/i?id=i", 400, "'id'"),
            ("POST", "/ack?queue=a", 400, "'id'"),
            ("POST", "/purge-queue?queue=", 400, "'queue'"),
            ("DELETE", "/delete-queue?queue=%FF", 400, "'queue'"),
            ("GET", "/queue-stats?queue=%z", 400, "'queue'"),
            ("GET", "/queues/metrics?queue=" + "q" * 256, 400, "queue name"),
            ("GET", "/queue-stats", 404, "/queue-stats?queue=..."),
            ("GET", "/consume?queue=a", 405, "POST"),
        ]:
            for _ in range(2):
                response = await client.ask(method, target, {"consumer_id": "w"} if method == "POST" else None)
                assert response.status == status, target
                assert word in response.json()["error"]
        assert (
            await client.ask("POST", "/publish?queue=a", {"queue": "b", "priority": 1, "payload": ""})
        ).status == 200
        assert (await client.ask("POST", "/consume/b?trace=1", {"consumer_id": "w"})).json()["payload"] == ""


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


# Verifies: API-0054
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_root_sends_a_browser_to_the_ui(fast_path: bool, method: str) -> None:
    async with running(fast_path, allowed_origins=[ALLOWED]) as web:
        for accept in (BROWSER, "text/html", "TEXT/HTML;q=0.5", "application/json;q=0.1, text/html", "text/html, */*"):
            for origin in ("", f"Origin: {ALLOWED}\r\n"):
                response = await web.ask(method, "/?x=y", headers=f"Accept: {accept}\r\n{origin}".encode())
                assert (response.status, response.headers["location"], response.body) == (302, "ui/", b"")
                assert response.headers["vary"] == ("Accept, Origin" if origin else "Accept")
                assert "content-type" not in response.headers
                # So the next connection can take the fast path.
                assert response.headers["connection"] == "close"


# Verifies: API-0054
async def test_the_root_tells_others_what_there_is(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        for accept in ("", "*/*", "application/json", "text/html;q=0", "text/html;q=x", "text/htmlx", "a" * 9_000):
            response = await client.ask("GET", "/", headers=f"Accept: {accept}\r\n".encode() if accept else b"")
            assert (response.status, response.headers["content-type"]) == (200, "application/json")
            assert response.headers["vary"] == "Accept"
            told = response.json()
            assert (told["name"], told["version"]) == ("Qrusty on Trio", __version__)
            assert told["routes"] == [f"{operation.method} {operation.path}" for operation in OPERATIONS]
        for address in told["links"].values():
            assert not address.startswith("/")
            assert (await client.ask("GET", f"/{address}")).status == (426 if address == "ws" else 200)
        head = await client.ask("HEAD", "/")
        assert (head.status, head.headers["content-length"], head.body) == (200, str(len(response.body)), b"")
        posted = await client.ask("POST", "/", {})
        assert (posted.status, posted.json()["code"]) == (404, "not_found")


async def test_every_status_has_its_phrase(fast_path: bool) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    h2c = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    expect = b"Expect: 100-continue\r\n"
    for method, path, headers, line in [
        ("GET", "/health", b"", b"200 OK"),
        ("GET", "/ui/", b"", b"200 OK"),
        ("GET", "/ui", b"", b"308 Permanent Redirect"),
        ("GET", "/", b"Accept: text/html\r\n", b"302 Found"),
        ("GET", "/nothing", b"", b"404 Not Found"),
        ("POST", "/health", b"", b"405 Method Not Allowed"),
        ("GET", "/ws", b"", b"426 Upgrade Required"),
        ("POST", "/publish", b"", b"400 Bad Request"),
        ("POST", "/publish", b"Content-Length: 9999999\r\n", b"413 "),
        ("GET", "/health", b"X: y\r\n" * 300, b"431 Request Header Fields Too Large"),
        ("POST", "/publish", JSON + expect + b"Content-Length: 2\r\n", b"100 Continue"),
        ("GET", "/health", h2c, b"101 Switching Protocols"),
        ("GET", "/ws", upgrade, b"101 Switching Protocols"),
        ("GET", "/nothing", upgrade, b"404 Not Found"),
    ]:
        async with running(fast_path) as web, web.client() as client:
            await client.send(f"{method} {path} HTTP/1.1\r\n".encode() + HOST + headers + b"\r\n")
            first = await client.stream.receive_some(4096)
            assert first.startswith(b"HTTP/1.1 " + line), (path, first[:100])


async def test_a_file_that_looks_like_an_answer_stays_as_it_is(fast_path: bool, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_bytes(b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 \r\n")
    async with running(fast_path, webui_dir=tmp_path) as web, web.client() as client:
        for _ in range(2):
            assert (await client.ask("GET", "/ui/")).body == (tmp_path / "index.html").read_bytes()


async def test_head_is_get_without_a_body(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        full = await client.ask("GET", "/health")
        head = await client.ask("HEAD", "/health")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(full.body))
        unknown = await client.ask("HEAD", "/nothing")
        assert unknown.status == 404
        assert (await client.ask("GET", "/health")).body == full.body


async def test_connections_end_when_the_client_asks(fast_path: bool) -> None:
    async with running(fast_path) as web:
        async with web.client() as client:
            for _ in range(3):
                assert (await client.ask("GET", "/health")).headers.get("connection") is None
            last = await client.ask("GET", "/health", headers=b"Connection: close\r\n")
            assert last.headers["connection"] == "close"
            assert await client.ended()
        async with web.client() as client:
            await client.send(b"GET /health HTTP/1.0\r\n\r\n")
            assert (await client.response()).headers["connection"] == "close"
            assert await client.ended()


# Verifies: API-0038
async def test_pipelined_requests_run_in_order(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        publishes = [request("POST", "/publish", {"queue": "q", "priority": 1, "payload": f"{n}"}) for n in range(150)]
        consumes = [request("POST", "/consume/q", {"consumer_id": "w"})] * 150
        await client.send(b"".join(publishes + consumes))
        for _ in range(150):
            assert (await client.response()).status == 200
        assert [(await client.response()).json()["payload"] for _ in range(150)] == [f"{n}" for n in range(150)]


# Verifies: API-0024
async def test_while_starting_reads_are_answered_and_changes_refused(fast_path: bool) -> None:
    async with running(fast_path) as web, web.client() as client:
        web.engine.services.gate.starting = True
        refused = await client.ask("POST", "/publish", {"queue": "q", "priority": 1, "payload": "p"})
        assert (refused.status, refused.headers["retry-after"]) == (503, "2")
        assert refused.json() == {
            "status": "starting",
            "message": "Qrusty is initialising. Retry shortly.",
            "retry_after_secs": 2,
        }
        assert (await client.ask("GET", "/health")).json()["status"] == "starting"
        assert (await client.ask("GET", "/ui/")).status == 200


# Verifies: API-0051
async def test_a_page_of_an_allowed_origin_may_read_answers(fast_path: bool) -> None:
    async with running(fast_path, allowed_origins=[ALLOWED]) as web, web.client() as client:
        for path, status in [("/health", 200), ("/nothing", 404), ("/publish", 405), ("/ui/", 200)]:
            response = await client.ask("GET", path, headers=f"Origin: {ALLOWED}\r\n".encode())
            assert response.status == status
            assert response.headers["access-control-allow-origin"] == ALLOWED
            assert response.headers["vary"] == "Origin"
        preflight = await client.ask(
            "OPTIONS",
            "/publish",
            headers=f"Origin: {ALLOWED}\r\nAccess-Control-Request-Method: POST\r\n".encode(),
        )
        assert preflight.status == 204
        assert preflight.headers["access-control-allow-origin"] == ALLOWED
        assert preflight.headers["access-control-allow-methods"] == "DELETE, GET, POST"
        assert preflight.headers["access-control-allow-headers"] == "Content-Type"


# Verifies: API-0051
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://ops.example.evil", "HTTPS://OPS.EXAMPLE"])
@pytest.mark.parametrize("allowed", [[], [ALLOWED]], ids=["none allowed", "another allowed"])
async def test_any_other_origin_gets_no_cors_header(fast_path: bool, origin: str, allowed: list[str]) -> None:
    async with running(fast_path, allowed_origins=allowed) as web, web.client() as client:
        headers = f"Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n".encode()
        for method, path, status in [("GET", "/health", 200), ("OPTIONS", "/publish", 403), ("GET", "/ui/", 200)]:
            response = await client.ask(method, path, headers=headers)
            assert response.status == status
            assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.contained
async def test_a_fault_inside_is_not_a_refusal(fast_path: bool) -> None:
    """The fast path closes the connection, and logs why; Quart answers 500 and logs it."""
    engine = make_engine()

    async def run(calls: object, pause: object) -> object:
        raise ZeroDivisionError

    def run_nowait(calls: object) -> object:
        raise ZeroDivisionError

    engine.run = run  # type: ignore[method-assign, assignment]  # the fault is the point
    engine.run_nowait = run_nowait  # type: ignore[method-assign, assignment]
    async with running(fast_path, engine=engine) as web, web.client() as client:
        if fast_path:
            await client.send(request("GET", "/health"))
            assert await client.ended()
        else:
            response = await client.ask("GET", "/health")
            assert (response.status, response.json()["code"]) == (500, "internal")
