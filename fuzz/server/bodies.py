"""What clients say to the server, in JSON: as the contract has it, and as it hasn't.

Rule: names of queues begin with `fuzz`, so that the control client's are left alone; locks are short, so that what a
vanished client held is back soon.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from fuzz.server.conversation import ID

QUEUES = ["fuzz", "fuzz text", "fuzz/släsh", "fuzz fifo", "fuzz dedup", "fuzz.ü", "fuzz\x00", "fuzz 6"]
CONSUMERS = ["worker", "worker 2", "ws-00000000-0000-4000-8000-000000000000", "ü", ""]
LARGE = [300, 1000, 5000, 70_000, 300_000]
HUGE = [1_000_000, 2_097_000, 2_200_000]

Json = dict[str, Any]


def queue(rng: Random) -> str:
    return rng.choice(QUEUES[:4] if rng.random() < 0.8 else QUEUES)


def payload(rng: Random) -> str:
    chance = rng.random()
    if chance < 0.6:
        return rng.choice(["a", "b", "c", "", "ü", "\u2028", "\x00", "😀"]) * rng.randrange(40)
    if chance < 0.9:
        return "x" * rng.choice(LARGE)
    return "x" * rng.choice(HUGE) if chance < 0.91 else "\\\"'\r\n\r\n" * rng.randrange(30)


def priority(rng: Random) -> Any:
    if rng.random() < 0.15:
        return rng.choice(["a", "b", "ü", "", "\x00", "z" * 1024, "z" * 1025])
    return rng.choice([0, 1, 2, 5, 2**53 + 1, 2**64 - 1])


def _publish(rng: Random) -> Json:
    body: Json = {"queue": queue(rng), "priority": priority(rng), "payload": payload(rng)}
    if rng.random() < 0.3:
        body["max_retries"] = rng.choice([0, 1, 2, 3, 2**32 - 1, None])
    return body


def _consumer(rng: Random) -> Json:
    return {"consumer_id": rng.choice(CONSUMERS)}


def _consume(rng: Random) -> Json:
    return {**_consumer(rng), "timeout_seconds": rng.choice([0, 1, 1, 2])}


def _ids(rng: Random) -> list[str]:
    return [ID.decode()] * rng.choice([0, 1, 1, 2, 5, 100])


def _batch(rng: Random) -> Json:
    return {**_consumer(rng), "message_ids": _ids(rng)}


def _create(rng: Random) -> Json:
    config: Json = {"ordering": rng.choice(["MaxFirst", "MinFirst", "Fifo"])}
    if rng.random() < 0.5:
        config["allow_duplicates"] = rng.choice([True, False])
    if rng.random() < 0.5:
        config["priority_kind"] = rng.choice(["Numeric", "Text"])
    return {"name": queue(rng), "config": config}


def _update(rng: Random) -> Json:
    config: Json = {}
    if rng.random() < 0.6:
        config["name"] = queue(rng)
    if rng.random() < 0.5:
        config["allow_duplicates"] = rng.choice([True, False])
    return {"name": queue(rng), "config": config}


HTTP: list[tuple[int, str, str, Callable[[Random], Json] | None]] = [
    (12, "POST", "/publish", _publish),
    (10, "POST", "/consume/{queue}", _consume),
    (4, "POST", "/ack/{queue}/{id}", _consumer),
    (4, "POST", "/nack/{queue}/{id}", _consumer),
    (2, "POST", "/ack-batch/{queue}", _batch),
    (2, "POST", "/nack-batch/{queue}", _batch),
    (2, "POST", "/create-queue", _create),
    (2, "POST", "/update-queue", _update),
    (1, "POST", "/purge-queue/{queue}", None),
    (1, "DELETE", "/delete-queue/{queue}", None),
    (1, "GET", "/queues", None),
    (1, "GET", "/queue-stats/{queue}", None),
    (1, "GET", "/stats", None),
    (1, "GET", "/queues/{queue}/metrics", None),
    (1, "GET", "/operation-timings?seconds=5", None),
    (1, "GET", "/health", None),
    (1, "GET", "/ui/", None),
    (1, "GET", "/nothing", None),
]
"""How often, method, path and body. `{id}` is filled in while playing."""
SWEEPING = [(1, "POST", "/purge-all", None), (1, "POST", "/delete-all", None)]
"""What hits the control client's queues, too."""


def _lock(rng: Random) -> Json:
    return {"lock_timeout_secs": rng.choice([1, 2, 30])} if rng.random() < 0.5 else {}


def _subscribe(rng: Random) -> Json:
    credits = {"credits": rng.choice([0, 1, 2, 16, 1000, 2**63])} if rng.random() < 0.6 else {}
    return {"queue": queue(rng), **credits, **_lock(rng)}


def _settle(rng: Random) -> Json:
    return {"queue": queue(rng), "id": ID.decode()}


def _settle_batch(rng: Random) -> Json:
    return {"queue": queue(rng), "ids": _ids(rng)}


WEBSOCKET: list[tuple[int, str, Callable[[Random], Json]]] = [
    (10, "publish", _publish),
    (6, "subscribe", _subscribe),
    (1, "unsubscribe", lambda rng: {"queue": queue(rng)}),
    (4, "ack", _settle),
    (4, "nack", _settle),
    (2, "batch-ack", _settle_batch),
    (2, "batch-nack", _settle_batch),
    (2, "credit", lambda rng: {"queue": queue(rng), "credits": rng.choice([1, 5, 2**53, 0, -1])}),
    (2, "renew", lambda rng: {**_settle(rng), **_lock(rng)}),
    (1, "subscribe-logs", lambda rng: {}),
    (1, "unsubscribe-logs", lambda rng: {}),
]


def websocket_request(rng: Random) -> Json:
    _, kind, make = rng.choices(WEBSOCKET, [row[0] for row in WEBSOCKET])[0]
    request: Json = {"type": kind, **make(rng)}
    if rng.random() < 0.3:
        request["req_id"] = rng.choice(["", "1", "r" * 1024, "r" * 1025, "ü"])
    if rng.random() < 0.1:
        request["no_reply"] = rng.choice([True, False])
    return request


ODD: list[Any] = [None, True, -1, 0, 2**32, 2**53, 2**64 - 1, 2**64, 10**400, 1.5, -0.0, 1e300, "", "a", [], {}, [[]]]
ODD += ["\x00", {"a": 1}, ["a", 1], "x" * 300, "x" * 20_000, list(range(200))]
BRIEF: list[Any] = [each for each in ODD if type(each) is not int or each <= 1 or each > 2**64 - 1]
"""Those of them that make no lock that outlasts the look at what is held."""


def text(rng: Random, value: Json, odd: float) -> bytes:
    """The JSON of a request; with the chance `odd` it is not as it should be."""
    if rng.random() >= odd:
        return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode()
    if rng.random() < 0.6:
        value = _odd_value(rng, dict(value))
        return json.dumps(value).encode()
    return _odd_text(rng, json.dumps(value, ensure_ascii=False).encode())


def _odd_value(rng: Random, value: Json) -> Any:
    chance = rng.random()
    if not value or chance < 0.05:
        return rng.choice(ODD)
    name = rng.choice(list(value))
    if isinstance(value[name], dict) and value[name] and chance < 0.5:
        value[name] = _odd_value(rng, dict(value[name]))
    elif chance < 0.65:
        value[name] = rng.choice(BRIEF if name == "timeout_seconds" else ODD)
    elif chance < 0.8:
        if name not in ("timeout_seconds",):  # Without it a lock lasts 30 seconds.
            del value[name]
    elif chance < 0.9:
        value[rng.choice(["extra", "", name.upper(), name + "\x00", "x" * 1000])] = rng.choice(ODD)
    else:
        value[name] = [value[name]]
    return value


def _odd_text(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    choices = [
        data[:at],
        data + data,
        b"\xef\xbb\xbf" + data,
        data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
        data[:at] + b"\xff\xfe" + data[at:],
        data.replace(b'":', b'": "\\ud800", "x":', 1),
        data.replace(b"{", b'{"queue": "fuzz", "type": "ack", ', 1),
        data.replace(b"e", b"\\u0065"),
        b"[" * rng.choice([10, 500, 5000, 100_000]),
        b'{"a":' * rng.choice([10, 1000, 20_000]) + b"1",
        b"",
        b"null",
        b"NaN",
        b'"' + b"\\" * rng.randrange(10),
        data.replace(b" ", b"\r\n\t "),
        data.decode().encode("utf-16"),
        b" " * 5000 + data,
    ]
    return rng.choice(choices)
