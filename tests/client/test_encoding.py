"""What can't be sent is refused before it is sent, and what can't be read is a ProtocolError."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from qrusty_trio import client as q
from qrusty_trio.client import blocking
from qrusty_trio.client.results import MAX_MS
from tests.client import scripted as websockets
from tests.client import scripted_http
from tests.client.test_blocking import scripted as sockets

BINARY: list[Any] = [b"p", bytearray(b"p"), memoryview(b"p")]
UNSENDABLE: list[Any] = [*BINARY, "\ud800", object(), {b"k": 1}, {"k": [b"p"]}]
Ask = Callable[[Any, Any], Any]

ASKS: dict[str, Ask] = {
    "payload": lambda client, value: client.publish("jobs", value),
    "priority": lambda client, value: client.publish("jobs", "p", value),
    "queue": lambda client, value: client.publish(value, "p"),
    "of a batch": lambda client, value: client.publish_batch("jobs", [q.NewMessage(payload="p"), {"payload": value}]),
    "of a message": lambda client, value: client.publish_batch("jobs", [q.NewMessage(payload=value)]),
}
HTTP_ASKS: dict[str, Ask] = {
    **ASKS,
    "in the path": lambda client, value: client.ack(value, "id"),
    "in the query": lambda client, value: client.dead_letters("jobs", text=value),
    "in a list": lambda client, value: client.ack_batch("jobs", ["id", value]),
    "in a filter": lambda client, value: client.purge_dead_letters("jobs", filter={"text": value}),
    "a configuration": lambda client, value: client.create_queue("jobs", dead_letter_max=value),
}
ANSWERS: dict[str, tuple[bytes, Callable[[Any], Any]]] = {
    "no UTF-8": (b'{"id":"\xff"}', lambda client: client.publish("jobs", "p")),
    "nested": (b"[" * 5_000 + b"]" * 5_000, lambda client: client.queues()),
    "{}": (b"{}", lambda client: client.publish("jobs", "p")),
    "{} of a consume": (b"{}", lambda client: client.consume("jobs")),
    "{} of a batch": (b"{}", lambda client: client.publish_batch("jobs", [])),
    "{} of a list": (b"{}", lambda client: client.queues()),
    "a list": (b"[]", lambda client: client.stats()),
    "no time": (b'{"lock_until":%d}' % (MAX_MS + 1), lambda client: client.renew("jobs", "id")),
    "no creation": (
        b'{"id":"x","payload":"p","retry_count":1,"created_at":%d}' % (MAX_MS + 1),
        lambda client: client.consume("jobs"),
    ),
}


def named(value: object) -> str:
    """A name that is the same in every process: no address."""
    return repr(value).partition(" at 0x")[0]


@pytest.mark.parametrize("value", UNSENDABLE, ids=named)
@pytest.mark.parametrize("ask", HTTP_ASKS.values(), ids=HTTP_ASKS)
async def test_what_can_not_be_sent_over_http(ask: Ask, value: Any) -> None:
    """Nothing listens: it would be NotSent if it were tried."""
    if ask is HTTP_ASKS["in the query"] and not isinstance(value, bytes | bytearray | memoryview | str):
        return  # A query has the text of everything else.
    async with q.HttpClient("http://127.0.0.1:1", patience_seconds=0) as client:
        with pytest.raises(q.InvalidRequest):
            await ask(client, value)
    with blocking.HttpClient("http://127.0.0.1:1", patience_seconds=0) as blocked, pytest.raises(q.InvalidRequest):
        ask(blocked, value)


@pytest.mark.parametrize("value", UNSENDABLE, ids=named)
@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
async def test_what_can_not_be_sent_over_a_websocket(monkeypatch: pytest.MonkeyPatch, ask: Ask, value: Any) -> None:
    async def script(peer: websockets.Peer) -> None:
        await peer.ok(await peer.expect("publish"), id="x")

    async with websockets.scripted(monkeypatch, script), q.connect(websockets.URL) as client:
        with pytest.raises(q.InvalidRequest):
            await ask(client, value)
        assert await client.publish("jobs", "the first that arrives") == "x"


@pytest.mark.parametrize("value", BINARY)
async def test_the_error_names_the_field_and_its_type(value: Any) -> None:
    async with q.HttpClient("http://127.0.0.1:1") as client:
        with pytest.raises(q.InvalidRequest, match=f"'payload' must be text, not {type(value).__name__}") as caught:
            await client.publish_batch("jobs", [q.NewMessage(payload=value)])
    assert (caught.value.code, caught.value.status) == ("invalid_request", None)


@pytest.mark.parametrize(("body", "ask"), ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_that_means_nothing(
    monkeypatch: pytest.MonkeyPatch, body: bytes, ask: Callable[[Any], Any]
) -> None:
    response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)

    async def script(peer: scripted_http.Peer) -> None:
        await peer.read()
        await peer.send(response)

    def with_a_socket(peer: Any) -> None:
        peer.recv(65536)
        peer.sendall(response)

    def blocked() -> None:
        with sockets([with_a_socket]) as (url, _), blocking.HttpClient(url) as client, pytest.raises(q.ProtocolError):
            ask(client)

    async with scripted_http.scripted(monkeypatch, script), q.HttpClient(scripted_http.URL) as client:
        with pytest.raises(q.ProtocolError):
            await ask(client)
    await trio.to_thread.run_sync(blocked)


@pytest.mark.parametrize("body", [b'{"code":"\xff"}', b'{"x":' * 5_000 + b"1" + b"}" * 5_000, b'{"code":[]}', b"{}"])
async def test_a_refusal_that_means_nothing(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    async def script(peer: scripted_http.Peer) -> None:
        await peer.read()
        await peer.send(b"HTTP/1.1 400 No\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))

    async with scripted_http.scripted(monkeypatch, script), q.HttpClient(scripted_http.URL) as client:
        with pytest.raises(q.RequestError) as caught:
            await client.publish("jobs", "p")
        assert (caught.value.code, caught.value.status) == ("http_400", 400)


async def one(client: q.Client) -> None:
    await client.publish("jobs", "p")


async def batch(client: q.Client) -> None:
    await client.publish_batch("jobs", [q.NewMessage(payload="p")])


@pytest.mark.parametrize("ask", [one, batch])
async def test_an_answer_over_a_websocket_that_means_nothing(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[q.Client], Awaitable[None]]
) -> None:
    async def empty(peer: websockets.Peer) -> None:
        await peer.ok(await peer.read())
        await peer.serve()

    async with websockets.scripted(monkeypatch, empty), q.connect(websockets.URL) as client:
        with pytest.raises(q.ProtocolError):
            await ask(client)
