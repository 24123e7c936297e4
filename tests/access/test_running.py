"""Tokens of a running server: read anew, revoked, expired, guessed; and that nothing secret is told."""

from __future__ import annotations

import json
import logging
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from trio_websocket import ConnectionClosed

from qrusty_trio.access import failures
from qrusty_trio.access.tokens_file import digest, new_token
from qrusty_trio.addresses import Address
from qrusty_trio.config import StorageMode
from qrusty_trio.server import reloading
from qrusty_trio.server.tokens import OPEN_TO_ALL
from tests.access.guarded import TokenBook, client_to, guarded, websocket_to
from tests.access.test_served_matrix import PATHS
from tests.server.running import child_environment, child_process, child_server, client_of, running, settings_for

PUBLISH = b'{"queue":"q","priority":1,"payload":"p"}'


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at often."""
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.01)


# Verifies: API-0189
@pytest.mark.usefixtures("often")
@PATHS
async def test_tokens_are_read_anew_while_requests_come(book: TokenBook, fast_path: bool) -> None:
    book.add("stays", "publish:*")
    book.add("goes", "publish:*")
    statuses: dict[str, list[int]] = {"stays": [], "goes": []}
    async with guarded(book, fast_path=fast_path) as server:

        async def ask(name: str) -> None:
            headers = book.bearer(name)
            async with client_to(server) as client:
                while not statuses[name] or statuses[name][-1] == 200:
                    statuses[name].append((await client.request("POST", "/publish", PUBLISH, headers=headers)).status)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, "stays")
                async with trio.open_nursery() as until_revoked:
                    until_revoked.start_soon(ask, "goes")
                    while not statuses["goes"]:
                        await trio.lowlevel.checkpoint()
                    book.remove("goes")
                nursery.cancel_scope.cancel()
    assert statuses["goes"][-1] == 401
    assert set(statuses["goes"][:-1]) == {200}
    assert set(statuses["stays"]) == {200}


# Verifies: API-0189
async def test_sighup_reads_it_and_a_bad_file_changes_nothing(book: TokenBook) -> None:
    first = book.bearer("first") if book.add("first", "read:*") else []
    async with child_server(book.path.parent / "data", QRUSTY_TOKENS_FILE=str(book.path)) as server:
        async with client_of(server) as client:
            book.path.write_text("[[token]]\nname = 'a b'\n")
            server.send_signal(signal.SIGHUP)
            await server.logged("the tokens file stays as it was: QRUSTY_TOKENS_FILE=")
            await server.logged("token 1 (a b): 'a b' can't be a token's name")
            assert (await client.request("GET", "/queues", headers=first)).status == 200
            book.path.write_bytes(b"")
            server.send_signal(signal.SIGHUP)
            await server.logged("it has no token: leave one with grants = [] in it if all are to end")
            assert (await client.request("GET", "/queues", headers=first)).status == 200
            book.add("second", "read:*")
            server.send_signal(signal.SIGHUP)
            await server.logged("the tokens file was read anew (SIGHUP): 3 tokens")
            for name in ("first", "second"):
                assert (await client.request("GET", "/queues", headers=book.bearer(name))).status == 200
        assert not any(token in server.log for token in book.tokens.values())


# Verifies: API-0189
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "can't be read: No such file"),
        ("[[token]]\nname = 'x'\n", "is not allowed: token 1 (x): 'sha256' must be"),
        ("", "is not allowed: it has no token"),
    ],
)
async def test_a_start_with_a_bad_file_is_refused(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "tokens.toml"
    if text is not None:
        path.write_text(text)
    async with child_process(child_environment(tmp_path / "data", QRUSTY_TOKENS_FILE=str(path))) as server:
        assert await server.ended() == 78
        assert f"QRUSTY_TOKENS_FILE='{path}' {reason}" in server.log
        assert "Traceback" not in server.log


async def test_a_server_without_tokens_says_so_where_others_reach_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for host, said in (("127.0.0.1", False), ("0.0.0.0", True), ("::", True)):
        caplog.clear()
        settings = settings_for(tmp_path, storage_mode=StorageMode.MEMORY, bind_addr=(Address(host, 0),))
        async with running(settings):
            assert (OPEN_TO_ALL in caplog.messages) is said


# Verifies: API-0189, WS-0050
@pytest.mark.usefixtures("often")
@PATHS
async def test_a_websocket_ends_with_its_token(book: TokenBook, fast_path: bool) -> None:
    book.add("stays", "consume:*")
    book.add("goes", "consume:*")
    book.add("shrinks", "consume:*")
    book.add("expires", "consume:*", expires=datetime.now(UTC) + timedelta(seconds=3))
    async with guarded(book, fast_path=fast_path) as server:
        await server.engine.transact(lambda broker, now: broker.publish("q", 1, "p", 3, now), sync=True)
        codes: dict[str, int | None] = {}

        async def listen(name: str, task_status: trio.TaskStatus[None]) -> None:
            async with websocket_to(server, book.bearer(name)) as socket:
                await socket.send_message('{"type":"subscribe","queue":"q","credits":0}')
                assert json.loads(await socket.get_message())["type"] == "ok"
                task_status.started()
                try:
                    await socket.get_message()
                except ConnectionClosed as closed:
                    codes[name] = closed.reason.code if closed.reason is not None else None

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for name in list(book.tokens):
                    await nursery.start(listen, name)
                book.remove("goes")
                book.add("shrinks", "consume:other")
                while len(codes) < 3:  # noqa: ASYNC110  # all of them end
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
    assert codes == {"goes": 1008, "shrinks": 1008, "expires": 1008}


# Verifies: WS-0050
@PATHS
async def test_a_websocket_that_shows_its_token_in_the_first_frame(book: TokenBook, fast_path: bool) -> None:
    token = book.add("late", "publish:*")
    async with guarded(book, fast_path=fast_path) as server:
        async with websocket_to(server) as socket:
            await socket.send_message(json.dumps({"type": "auth", "token": token, "req_id": "1"}))
            await socket.send_message('{"type":"publish","queue":"q","payload":"p","req_id":"2"}')
            assert json.loads(await socket.get_message()) == {"type": "ok", "req_id": "1"}
            assert json.loads(await socket.get_message())["code"] == "queue_not_found"
            await socket.send_message('{"type":"auth","token":"x"}')
            assert json.loads(await socket.get_message())["code"] == "unknown_type"
        for frame in ('{"type":"auth","token":"x"}', '{"type":"publish","queue":"q","payload":"p"}', "{", "[]"):
            async with websocket_to(server) as socket:
                await socket.send_message(frame)
                assert json.loads(await socket.get_message())["code"] == "unauthenticated"
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.get_message()
                assert closed.value.reason is not None
                assert closed.value.reason.code == 1008


async def test_without_tokens_auth_is_no_frame_type(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, storage_mode=StorageMode.MEMORY)) as server, client_to(server) as client:
        async with websocket_to(server) as socket:
            await socket.send_message('{"type":"auth","token":"x"}')
            assert json.loads(await socket.get_message())["code"] == "unknown_type"
        for path in ("/login", "/logout"):
            response = await client.request("POST", path, b"{}")
            assert (response.status, response.json()["code"]) == (404, "not_found")
        headers = [("Authorization", "Bearer x"), ("Cookie", "qrusty_session=x")]
        assert (await client.request("POST", "/publish", PUBLISH, headers=headers)).status == 200


# Verifies: API-0190
@PATHS
async def test_guesses_are_slowed_and_others_are_not(
    book: TokenBook, fast_path: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.add("known", "read:*")
    async with guarded(book, fast_path=fast_path) as server, client_to(server) as client:
        access = server.access
        assert access is not None
        known, guess = book.bearer("known"), [("Authorization", f"Bearer {new_token()}")]
        assert (await client.request("GET", "/queues", headers=known)).status == 200
        for _ in range(failures.FREE_FAILURES + 1):
            assert (await client.request("GET", "/queues", headers=guess)).status == 401
        monkeypatch.setattr(failures, "FIRST_DELAY_SECONDS", 1000)
        monkeypatch.setattr(failures, "MAX_DELAY_SECONDS", 1000)
        monkeypatch.setattr(failures, "MAX_WAIT_SECONDS", 2000)
        answered: list[int] = []

        async def guess_on() -> None:
            async with client_to(server) as other:
                answered.append((await other.request("GET", "/queues", headers=guess)).status)

        async with trio.open_nursery() as nursery:
            for waiting in (1, 2):
                nursery.start_soon(guess_on)
                while access.failures.count < failures.FREE_FAILURES + 1 + waiting:  # noqa: ASYNC110  # a counter
                    await trio.sleep(0.001)
            # A token that was accepted before does not wait, and one guess too many is refused at once.
            assert (await client.request("GET", "/queues", headers=known)).status == 200
            response = await client.request("GET", "/queues", headers=guess)
            assert (response.status, response.json()["code"]) == (429, "too_many_failures")
            assert 2000 < int(response.headers["retry-after"]) <= 3000
            assert answered == []
            # Nor does a server that stops wait for those.
            server.stopping.set()
        assert answered == [401, 401]


# Verifies: API-0190
async def test_nothing_secret_is_told(book: TokenBook, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = book.add("ann", "admin:*", expires=datetime.now(UTC) + timedelta(days=1))
    wrong = new_token()
    secrets = [token, wrong, digest(token.encode()).hex(), digest(wrong.encode()).hex()]
    told: list[str] = []
    for fast_path in (True, False):
        async with guarded(book, fast_path=fast_path) as server, client_to(server) as client:
            for headers in (book.bearer("ann"), [("Authorization", f"Bearer {wrong}")], []):
                for method, target, body in (
                    ("GET", "/queues", None),
                    ("GET", "/metrics", None),
                    ("GET", "/server", None),
                    ("GET", "/openapi.json", None),
                    ("GET", "/nothing", None),
                    ("POST", "/publish", b"{"),
                    ("POST", "/publish", PUBLISH),
                    ("POST", "/login", json.dumps({"token": token}).encode()),
                ):
                    if headers and wrong in headers[0][1] and target not in ("/queues", "/metrics"):
                        continue
                    response = await client.request(method, target, body, headers=headers)
                    told.append(f"{response.headers} {response.body!r}")
                    if "set-cookie" in response.headers:
                        cookie = response.headers["set-cookie"].partition(";")[0].partition("=")[2]
                        secrets.append(cookie)
                        told[-1] = told[-1].replace(cookie, "")
            told.append((await client.request("GET", "/metrics", headers=book.bearer("ann"))).body.decode())
            assert "qrusty_tokens_refused_total 2.0" in told[-1]
    whole = "\n".join([*told, *caplog.messages, caplog.text])
    assert [secret for secret in secrets if secret in whole] == []
