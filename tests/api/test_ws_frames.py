"""Frames that are nearly what they should be: JSON with a flaw, and fields that were given twice."""

from __future__ import annotations

import json

import pytest

from qrusty_trio.api.json_bodies import MAX_DOUBTFUL_BYTES, SPARE_STRINGS
from qrusty_trio.api.ws_frames import MAX_MENDED_CHARACTERS, BadFrame, Misshapen, Request, decode
from qrusty_trio.core.model import MAX_BATCH_IDS

HALVES = ["\\ud800", "\\uDBFF", "\\udc00", "\\uDfff", "\\ud800\\u0041", "\\udc00\\ud800", "\\ud83d\\ude00\\ud83d"]


def refused(text: str) -> Misshapen:
    request = decode(text)
    assert isinstance(request, Misshapen), request
    return request


# Verifies: WS-0007
@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(
    "frame",
    [
        '{"type":"publish","queue":"jobs","payload":"%s","req_id":"r"}',
        '{"req_id":"r","type":"publish","queue":"jobs","payload":"before %s"}',
        '{"type":"publish","queue":"%s and more","payload":"p","req_id":"r"}',
        '{"type":"batch-ack","queue":"jobs","ids":["x","%s"],"req_id":"r"}',
        '{"type":"publish","queue":"jobs","payload":5,"id":"%s","req_id":"r"}',
    ],
)
def test_half_of_a_surrogate_pair_is_an_error_answer(frame: str, half: str) -> None:
    found = refused(frame % half)
    assert found.req_id == "r"
    if ":5," not in frame:
        assert "surrogate" in found.problem


def test_an_answer_carries_no_request_id_that_can_not_be_sent() -> None:
    assert refused('{"type":"publish","req_id":"\\ud800"}').req_id is None
    emoji = refused('{"type":"publish","payload":"\\ud800","req_id":"\\ud83d\\ude00"}')
    assert emoji.req_id == "😀"
    assert refused('{"type":"publish","payload":"\\ud800","no_reply":true}').no_reply


def test_half_of_a_surrogate_pair_in_a_large_frame() -> None:
    payload = "x" * 2 * MAX_MENDED_CHARACTERS
    assert "surrogate" in refused(f'{{"type":"publish","queue":"jobs","payload":"{payload}\\udead"}}').problem


# Verifies: WS-0007
@pytest.mark.parametrize("frame", ['{"type":"publish","queue":"jobs","payload":"p","req_id":"r"}', '{"req_id":"r"}'])
def test_a_byte_order_mark_is_an_error_answer(frame: str) -> None:
    found = refused("\ufeff" + frame)
    assert "byte order mark" in found.problem
    assert found.req_id == "r"


@pytest.mark.parametrize("frame", ["5", "[]", '"x"', "null", '{"type":7}'])
def test_a_byte_order_mark_before_something_else(frame: str) -> None:
    assert refused("\ufeff" + frame)


# Verifies: WS-0007
def test_what_is_nested_too_deeply_is_an_error_answer() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    for begin in ('{"type":"publish","x":', '{"type":5,"x":', '\ufeff{"type":"publish","x":'):
        assert "deep" in refused(begin + deep + "}").problem
    too_many = ",".join(['"i"'] * (MAX_BATCH_IDS + 2 * SPARE_STRINGS))
    assert "deep" in refused('{"type":"batch-ack","ids":[' + too_many + '],"x":' + deep + "}").problem


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\ufeff",
        "\ufeff\ufeff{}",
        "\ufeff{",
        "{",
        '{"a":NaN}',
        '{"type":"publish","payload":"\\ud800',
        '{"type":"publish","payload":"\\ud800"',
        '{"type":"publish","payload":"\\ud800"}}',
        '{"type":"publish","payload":"\\ud800","id":"\\x"}',
        '{"type":"publish","payload":"\\ud80"}',
        '{"type":"publish","payload":"\\ud800\x01"}',
        '\ufeff{"type":"publish","payload":"\x01"}',
        "{'type':'\\ud800'}",
    ],
)
def test_what_is_no_json_in_other_ways_too(text: str) -> None:
    with pytest.raises(BadFrame):
        decode(text)


FIELDS = {
    "type": "publish",
    "req_id": "r",
    "no_reply": False,
    "queue": "jobs",
    "payload": 'a "quoted" text',
    "priority": 1,
    "max_retries": 2,
    "credits": 3,
    "lock_timeout_secs": 4,
    "deadline_soon_secs": 3,
    "id": "5",
    "ids": ["6", "7"],
    "error": "8",
    "traceparent": "9",
}
USUAL = {
    "publish": ["queue", "payload", "priority", "req_id"],
    "subscribe": ["queue", "credits", "lock_timeout_secs", "deadline_soon_secs"],
    "unsubscribe": ["queue"],
    "ack": ["queue", "id"],
    "nack": ["queue", "id", "no_reply", "error"],
    "batch-ack": ["queue", "ids"],
    "batch-nack": ["queue", "ids", "req_id", "traceparent"],
    "credit": ["queue", "credits"],
    "renew": ["queue", "id", "lock_timeout_secs"],
    "subscribe-logs": [],
    "unknown": ["queue"],
}


def members(kind: str) -> list[tuple[str, object]]:
    return [("type", kind), *((name, FIELDS[name]) for name in USUAL[kind])]


def text_of(pairs: list[tuple[str, object]]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"


# Verifies: WS-0007
@pytest.mark.parametrize("kind", USUAL)
def test_a_field_given_twice_is_refused(kind: str) -> None:
    usual = members(kind)
    assert isinstance(decode(text_of(usual)), Request)
    for name, value in (FIELDS | {"type": kind}).items():
        given = name in dict(usual)
        twice = [*usual, (name, value)] if given else [*usual, (name, value), (name, value)]
        found = refused(text_of(twice))
        assert f"'{name}' must be given only once" in found.problem
        assert found.req_id == ("r" if name == "req_id" else dict(usual).get("req_id"))
        assert refused(text_of([(name, None), *twice]))
        # The name in escapes is the same name.
        again = json.dumps(name).replace(name[0], f"\\u00{ord(name[0]):02x}", 1)
        escaped = f"{text_of(twice[:-1])[:-1]},{again}:{json.dumps(value)}}}"
        assert f"'{name}'" in refused(escaped).problem


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "publish", "queue": "jobs", "payload": '{"type":"x","type":"y","queue":"\\"queue\\""}'},
        {"type": "publish", "queue": '"type"', "payload": '"queue":"queue","queue"'},
        {"type": "publish", "queue": "jobs", "payload": "p", "priority": '"priority"', "max_retries": None},
        {"type": "nack", "queue": "jobs", "id": "1", "error": '"error":"error"'},
        {"type": "ack", "queue": "jobs", "id": "type", "colour": "type", "more": {"type": "x", "queue": ["queue"]}},
        {"type": "batch-ack", "queue": "ids", "ids": ["ids", '"ids"', "type"]},
        {"type": "credit", "queue": "credits", "credits": 1, "id": None},
        {"type": "subscribe", "queue": "jobs", "x": "x", "list": [{"x": 1}, {"x": 2}]},
    ],
)
def test_what_only_looks_like_a_field_given_twice(frame: dict[str, object]) -> None:
    request = decode(json.dumps(frame))
    assert isinstance(request, Request)
    assert (request.queue, request.payload) == (frame["queue"], frame.get("payload"))


@pytest.mark.parametrize("ends", range(9))
def test_backslashes_at_the_ends_of_texts_hide_no_field_given_twice(ends: int) -> None:
    """An escaped backslash before a quotation mark looks like an escaped one, as often as marks are too many."""
    ids = [f"{number}\\" for number in range(ends)]
    once = f'{{"type":"batch-ack","ids":{json.dumps(ids)},"queue":"jobs"'
    assert isinstance(decode(once + "}"), Request)
    for twice in (',"queue":"jobs"', ',"no_reply":true,"no_reply":true', ',"credits":1,"credits":2'):
        assert refused(once + twice + "}")


# Verifies: WS-0008
@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 5000])
@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        ('{"type":"publish","priority":%s,"req_id":"r"}', "'priority' must be an unsigned integer or a string"),
        ('{"req_id":"r","type":"publish","max_retries":[{"a":%s}]}', "'max_retries' must be an unsigned integer"),
        ('{"type":"batch-ack","ids":["a",%s],"req_id":"r"}', "'ids' must be a list of strings"),
        ('{"other":%s,"type":7,"req_id":"r"}', "'type' must be a string"),
    ],
)
def test_a_number_past_all_floats_is_named_by_its_field(frame: str, problem: str, number: str) -> None:
    assert refused(frame % number) == Misshapen(problem, "r")


# Verifies: WS-0008
def test_a_number_past_all_floats_in_something_else() -> None:
    assert refused("[1e400]").problem == "a frame must be a JSON object"
    assert refused('{"req_id":1e400,"no_reply":true}') == Misshapen("'req_id' must be a string", None, True)
    assert refused('{"credits":1e400,"req_id":"' + "r" * 5000 + '"}').req_id is None
    for broken in ('{"priority":1e400', '{"priority":1e400,}'):
        with pytest.raises(BadFrame):
            decode(broken)


# Verifies: WS-0007
def test_what_is_refused_is_called_a_frame() -> None:
    doubtful = '{"type":"ack","\\u0071":[' + ",".join("1" * (MAX_DOUBTFUL_BYTES // 2)) + "]}"
    assert refused(doubtful).problem == (
        "a frame that repeats or escapes the name of a field may have "
        f"at most {MAX_DOUBTFUL_BYTES} bytes besides its known strings"
    )
