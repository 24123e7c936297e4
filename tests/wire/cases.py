"""The recorded contract: scenarios of requests and answers, and a runner for any server that speaks them.

Rule: statuses and successful bodies are binding to the last field, and so are the texts of errors that were recorded as
JSON. Of the other errors only the status is; their body is this server's: JSON with a sentence and a code. Fields that
this server adds are named in `ADDED`, and no others pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.wire.http_client import Response

Step = dict[str, Any]

SCENARIOS: dict[str, list[Step]] = json.loads(Path(__file__).with_name("http_cases.json").read_text(encoding="utf-8"))
"""Scenario -> steps: method, path, body, save (name -> field of the response), status, content_type, answer.

`{NAME}` in a path or body is a saved value. A body is null for none, `{"raw": text}` for bytes that are not the JSON of
an object, `{"raw": ["ct", type, text]}` for those with another content type. In answers `<uuid>`, `<num>` and
`<id:NAME>` stand for any UUID, any number, and the saved value.
"""

ADDED: dict[str, tuple[type, ...]] = {
    "oldest_age_seconds": (float, type(None)),
    "oldest_age_exact": (bool,),
    "dead_letters": (int,),
    "total_dead_letters": (int,),
}
"""Fields that the recorded server did not have, and their types. Clients of the contract ignore them."""
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
CODE = re.compile(r"[a-z]+(_[a-z]+)*")


class Client(Protocol):
    async def request(
        self, method: str, target: str, body: bytes | None = None, content_type: str | None = "application/json"
    ) -> Response: ...


async def run_scenario(client: Client, steps: Sequence[Step]) -> None:
    """Empty the server, then take the steps one after the other and check every response."""
    response = await client.request("POST", "/delete-all")
    assert response.status == 200, response
    saved: dict[str, str] = {}
    for number, step in enumerate(steps, 1):
        where = f"step {number}: {step['method']} {step['path']} {step['body']}"
        body, content_type = _request_body(step["body"], saved)
        response = await client.request(step["method"], _filled(step["path"], saved), body, content_type)
        assert response.status == step["status"], f"{where}: {response}"
        if response.status == 200:
            for name, field in step["save"].items():
                saved[name] = response.json()[field]
            _check_success(response, step, saved, where)
        else:
            _check_error(response, step, where)


def _request_body(body: Any, saved: dict[str, str]) -> tuple[bytes | None, str]:
    if body is None:
        return None, ""
    if "raw" not in body:
        return _filled(json.dumps(body), saved).encode(), "application/json"
    if isinstance(body["raw"], str):
        return body["raw"].encode(), "application/json"
    _, content_type, text = body["raw"]
    return text.encode(), content_type


def _filled(text: str, saved: dict[str, str]) -> str:
    for name, value in saved.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _check_success(response: Response, step: Step, saved: dict[str, str], where: str) -> None:
    assert response.headers.get("content-type", "") == step["content_type"], f"{where}: {response}"
    if step["content_type"]:
        match(response.json(), step["answer"], saved, where)
    else:
        assert response.body == b"", f"{where}: {response}"


def _check_error(response: Response, step: Step, where: str) -> None:
    assert response.headers["content-type"] == "application/json", f"{where}: {response}"
    error = response.json()
    assert error.keys() == {"error", "code"}, f"{where}: {response}"
    assert error["error"].strip(), f"{where}: {response}"
    assert CODE.fullmatch(error["code"]), f"{where}: {response}"
    if step["content_type"] == "application/json":
        assert error["error"] == step["answer"]["error"], f"{where}: {response}"


def match(found: Any, expected: Any, saved: dict[str, str], where: str) -> None:
    """Compare a response with what was recorded, type by type and key by key."""
    if expected == "<num>":
        assert isinstance(found, int | float), where
        assert not isinstance(found, bool), where
    elif expected == "<uuid>":
        assert isinstance(found, str), where
        assert UUID.fullmatch(found), f"{where}: {found}"
    elif isinstance(expected, str) and expected.startswith("<id:"):
        assert found == saved[expected[4:-1]], where
    elif isinstance(expected, dict):
        assert isinstance(found, dict), where
        added = found.keys() - expected.keys()
        assert all(type(found[key]) in ADDED.get(key, ()) for key in added), f"{where}: {added}"
        assert found.keys() >= expected.keys(), where
        for key, value in expected.items():
            if key == "hot_tier_sizes":
                # The recorded server lists a queue here that does not exist: it was consumed from earlier.
                assert all(type(size) is int for size in found[key].values()), f"{where}.{key}"
            else:
                match(found[key], value, saved, f"{where}.{key}")
    elif isinstance(expected, list) and expected and "t_epoch_s" in expected[0]:
        # One record for each second in which the operation ran: how many depends on the run.
        assert isinstance(found, list), where
        for record in found:
            match(record, expected[0], saved, where)
    elif isinstance(expected, list):
        assert isinstance(found, list), where
        assert len(found) == len(expected), where
        for index, pair in enumerate(zip(found, expected, strict=True)):
            match(*pair, saved, f"{where}[{index}]")
    else:
        assert type(found) is type(expected), where
        assert found == expected, where
