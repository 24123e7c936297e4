"""The examples of docs/reference/ are carried out: a real server responds to each with the same shape."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from qrusty_trio.api.description import frames
from qrusty_trio.api.description.model import GIVEN, ID, KEPT, Described
from qrusty_trio.api.description.schemas import responses_of
from qrusty_trio.api.description.table import DESCRIBED
from qrusty_trio.http.request_line import WEBSOCKET_PATH
from tests.server.running import child_server, client_of, running, settings_for, until_ready, websocket_of
from tests.wire.http_client import HttpClient, Response

PATIENCE = 10
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
OPEN = {"limits", "hot_tier_sizes", "operations"}
"""Objects whose names are data: an example has some of them."""


def same_shape(shown: Any, real: Any, where: str = "") -> None:
    """The same fields and the same kinds of values; lists may have more or fewer members of it."""
    if isinstance(shown, dict):
        assert isinstance(real, dict), where
        if where.rpartition(".")[2] in OPEN:
            assert set(shown) <= set(real), where
        else:
            assert list(shown) == list(real), where
        for name, value in shown.items():
            same_shape(value, real[name], f"{where}.{name}")
    elif isinstance(shown, list):
        assert isinstance(real, list), where
        assert bool(shown) == bool(real) or where.endswith((".points", ".recent")), where
        for member in real:
            same_shape(shown[0], member, f"{where}[]")
    elif isinstance(shown, str) and UUID.fullmatch(shown):
        assert UUID.fullmatch(real), where
    elif isinstance(shown, int | float) and not isinstance(shown, bool):
        assert isinstance(real, int | float), where
        assert not isinstance(real, bool), where
    elif where.endswith(("oldest_age_seconds", "oldest_age_exact", "memory_pressure", "publishes_refused", ".level")):
        pass  # as the machine has it
    elif where.endswith(("[].who", "[].peer", "audit.cursor")):
        assert type(real) is type(shown), where
    elif isinstance(shown, str) and re.match(r"\d{4}-\d\d-\d\dT", shown):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", real), where
    else:
        assert shown == real, where


async def carry_out(client: HttpClient, described: Described) -> Response:
    """What an example needs on a server without queues, and then the example."""
    example = described.example
    await client.request("POST", "/delete-all")
    id, kept = ID, KEPT
    for each in (await client.request("GET", "/trash")).json()["trash"]:
        await client.request("POST", f"/trash/{each['id']}/erase")
    for method, target, body in (*GIVEN[example.given], (described.operation.method, example.target, example.body)):
        text = json.dumps(body).replace(ID, id).encode() if body is not None else None
        answer = await client.request(method, target.replace(ID, id).replace(f"/trash/{KEPT}", f"/trash/{kept}"), text)
        assert answer.status == 200, (target, answer)
        if target == "/publish":
            id = answer.json()["id"]
        if "undo_seconds" in target:
            kept = answer.json()["undo"]["id"]
    return answer


# Verifies: API-0111
async def test_the_examples_of_http_are_real(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", audit_file=tmp_path / "audit")
    async with running(settings) as server, client_of(server) as client:
        await until_ready(server)
        for described in DESCRIBED:
            answer = await carry_out(client, described)
            shown = described.example.response
            if shown is None:
                assert (answer.body, described.response) == (b"", None)
                continue
            real = answer.json()
            if described.operation.name == "operation_timings":
                assert set(shown) <= set(real)
                real = {name: real[name] for name in shown}
            same_shape(shown, real, described.operation.name)
            has_its_type(real, described)


def has_its_type(value: Any, described: Described) -> None:
    """The value has one of the described types, and no field that this does not name."""
    faults = []
    for type_ in responses_of(described):
        try:
            known = msgspec.to_builtins(msgspec.convert(value, type_))
        except msgspec.ValidationError as fault:
            faults.append(fault)
        else:
            assert names_in(known) == names_in(value), described.operation.name
            return
    raise AssertionError((described.operation.name, faults))


def names_in(value: Any) -> Any:
    """A value without its leaves."""
    if isinstance(value, dict):
        return {name: names_in(each) for name, each in value.items()}
    return [names_in(each) for each in value] if isinstance(value, list | tuple) else None


@asynccontextmanager
async def asking(server: Any) -> AsyncIterator[Any]:
    async with websocket_of(server) as socket:

        async def ask(frame: frames.Frame) -> tuple[frames.Frame, list[frames.Frame]]:
            """The response to a frame, and what was pushed before it."""
            await socket.send_message(json.dumps(frame))
            pushed: list[frames.Frame] = []
            with trio.fail_after(PATIENCE):
                while True:
                    got = json.loads(await socket.get_message())
                    if got["type"] in ("ok", "error"):
                        return got, pushed
                    pushed.append(got)

        async def pushed() -> frames.Frame:
            with trio.fail_after(PATIENCE):
                return json.loads(await socket.get_message())  # type: ignore[no-any-return]  # an object

        ask.pushed = pushed  # type: ignore[attr-defined]  # both belong to the socket
        yield ask


# Verifies: API-0112
async def test_the_examples_of_the_websocket_are_real(tmp_path: Path) -> None:
    assert WEBSOCKET_PATH == b"/ws"
    async with running(settings_for(tmp_path)) as server, client_of(server) as client:
        await until_ready(server)
        for described in frames.FRAMES:
            await client.request("POST", "/delete-all")
            body = {"name": "jobs", "config": {"ordering": "MaxFirst"}}
            await client.request("POST", "/create-queue", json.dumps(body).encode())
            async with asking(server) as ask:
                id = ID
                for frame in (*described.given, described.example):
                    answer, pushed = await ask(json.loads(json.dumps(frame).replace(ID, id)))
                    assert answer["type"] == "ok", answer
                    id = answer.get("id", id)
                    if frame["type"] == "subscribe" and id != ID:
                        # The ack must not be sent before the message is there.
                        delivered = pushed or [await ask.pushed()]
                        assert delivered[0]["id"] == id
                same_shape(described.example_response, answer, described.type)
                # What an optional field of a response is, the example need not show.
                assert set(answer) - {"type", "req_id"} <= set(described.response)


# Verifies: API-0112
async def test_the_pushes_are_real(tmp_path: Path) -> None:
    # In a process of its own, so that its log has records.
    async with child_server(tmp_path) as server, client_of(server) as client:
        await client.request("POST", "/publish", b'{"queue": "jobs", "priority": 5, "payload": "hello"}')
        for each in frames.PUSHES:
            async with asking(server) as ask:
                terms: frames.Frame = {"type": "subscribe", "queue": "jobs", "lock_timeout_secs": 2}
                terms |= {"deliver-batch": {"batch": 10}, "deadline-soon": {"deadline_soon_secs": 1}}.get(each.type, {})
                _, pushed = await ask({"type": "subscribe-logs"} if each.type == "log" else terms)
                while not pushed or pushed[-1]["type"] != each.type:
                    pushed.append(await ask.pushed())
                real = pushed[-1]
                assert set(each.example) == set(real) == {"type", *each.fields}
                if each.type != "log":
                    same_shape(each.example, real, each.type)
                await client.request("POST", "/force-unlock/jobs", b'{"all": true}')
