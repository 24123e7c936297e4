"""Request bodies: what is taken, and what each wrong one is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.api import json_bodies, schema
from qrusty_trio.api.schema import MAX_WAITED_QUEUES, ConsumeTerms
from qrusty_trio.core.model import (
    MAX_BATCH_IDS,
    MAX_CONSUMER_BYTES,
    MAX_LOCK_SECONDS,
    MAX_QUEUE_NAME_BYTES,
    U32_MAX,
    U64_MAX,
    Kind,
    Ordering,
)
from qrusty_trio.errors import InvalidQueueName, LimitReached, MalformedJson, QrustyError, WrongShape

PUBLISH = {"queue": "q", "priority": 1, "payload": "p"}
NESTED = b"[" * 100_000 + b"]" * 100_000


def publish(**changes: Any) -> bytes:
    return json.dumps(PUBLISH | changes).encode()


def test_publish() -> None:
    assert schema.publish_body(publish()) == ("q", 1, "p", 3)
    assert schema.publish_body(publish(max_retries=0)) == ("q", 1, "p", 0)
    assert schema.publish_body(publish(max_retries=U32_MAX, priority=U64_MAX)) == ("q", U64_MAX, "p", U32_MAX)
    assert schema.publish_body(publish(priority="", payload="")) == ("q", "", "", 3)
    assert schema.publish_body(publish(priority=2**53 + 1))[1] == 2**53 + 1


# Verifies: API-0006
def test_null_is_absent_where_a_field_is_optional() -> None:
    assert schema.publish_body(publish(max_retries=None))[3] == 3
    assert schema.consume_body(b'{"consumer_id":"c","timeout_seconds":null}') == ConsumeTerms("c", 30)
    update = schema.update_queue_body(b'{"name":"q","config":{"name":null,"allow_duplicates":null}}')
    assert update.config == schema.QueueChanges()


# Verifies: SCH-0014
def test_lock_seconds() -> None:
    assert schema.consume_body(b'{"consumer_id":""}') == ConsumeTerms("", 30)
    assert schema.consume_body(b'{"consumer_id":"c","timeout_seconds":0}') == ConsumeTerms("c", 0)
    assert schema.consume_body(b'{"consumer_id":"c","timeout_seconds":%d}' % U64_MAX) == ConsumeTerms(
        "c", MAX_LOCK_SECONDS
    )


def test_create_and_update() -> None:
    plain = schema.create_queue_body(b'{"name":"q","config":{"ordering":"Fifo"}}')
    assert plain.config == schema.NewQueue(Ordering.FIFO, True, Kind.NUMERIC)
    create = schema.create_queue_body(
        b'{"name":"q","config":{"ordering":"MinFirst","allow_duplicates":false,"priority_kind":"Text"}}'
    )
    assert create == schema.CreateQueueBody("q", schema.NewQueue(Ordering.MIN_FIRST, False, Kind.TEXT))
    update = schema.update_queue_body(b'{"name":"a","config":{"name":"b","allow_duplicates":true,"ordering":7}}')
    assert update == schema.UpdateQueueBody("a", schema.QueueChanges("b", True))


# Verifies: API-0007
@pytest.mark.parametrize(
    "extra",
    [
        *('"x":1', '"x":{"queue":1,"consumer_id":2,"message_ids":3,"name":4}', '"x":[{"queue":"q"}]', '"x":"queue"'),
        *('"x":"\\"queue"', '"x":"\\u0071ueue"', '"queue ":1', '"Queue":1', '"\\u00fc":1', '"ü":"ü"', '"x":1,"x":2'),
        *('"x":1e999', '"x":%s' % ("9" * 5_000), '"x":-1.5e-7', '"x":null', '"x":[[[]]]', '"":""', '"\\\\u0071":0'),
    ],
)
def test_unknown_fields_are_ignored(extra: str) -> None:
    raw = extra.encode()
    assert schema.publish_body(b'{"queue":"q",%b,"priority":1,"payload":"p"}' % raw) == ("q", 1, "p", 3)
    consume = b'{"timeout_seconds":5,%b,"consumer_id":"c"}' % raw.replace(b"consumer_id", b"")
    assert schema.consume_body(consume) == ConsumeTerms("c", 5)
    assert schema.settle_body(b'{"consumer_id":"c",%b}' % raw) == "c"
    assert schema.settle_batch_body(b'{"consumer_id":"c","message_ids":["i"],%b}' % raw).message_ids == ["i"]
    assert schema.create_queue_body(b'{"name":"q",%b,"config":{"ordering":"Fifo",%b}}' % (raw, raw)).name == "q"
    assert schema.update_queue_body(b'{"name":"q","config":{},%b}' % raw).name == "q"


@pytest.mark.parametrize("payload", ['"queue"', '{"queue": "a", "priority": 1}', "\\", '\\"', "\\u0071ueue", "ü😀\0\n"])
def test_payloads_that_look_like_fields(payload: str) -> None:
    for ascii_only in (True, False):
        body = json.dumps(PUBLISH | {"payload": payload, "queue": payload}, ensure_ascii=ascii_only).encode()
        assert schema.publish_body(body) == (payload, 1, payload, 3)


MALFORMED = [
    b"{bad",
    b"{",
    b'{"queue":"q","priority":1,"payload":"p"',
    b'{"queue":"q","priority":1,"payload":"p"}}',
    b'{"queue":"q","priority":1,"payload":"p"} {}',
    b'{"queue":"q","priority":1,"payload":"p",}',
    b"{'queue':'q'}",
    b'{"queue":7,bad',
    b'{"queue":"q","priority":-1.5,"payload":"p"',
    b'{"queue":"q","priority":01,"payload":"p"}',
    b'{"queue":"q","priority":+1,"payload":"p"}',
    b'{"queue":"q","priority":NaN,"payload":"p"}',
    b'{"queue":"q","priority":Infinity,"payload":"p"}',
    b'{"queue":"q","priority":1,"payload":"\\ud800"}',
    b'{"queue":"q","priority":1,"payload":"\\udc00 and more text after it"}',
    b'{"queue":"q","priority":1,"payload":"\\ud800 and more text after it"}',
    b'{"queue":"q","priority":1,"payload":"\\ud800\\u0041 and more text after it"}',
    b'{"queue":"q","priority":1,"payload":"\xed\xa0\x80"}',
    b'{"queue":"q","priority":1,"payload":"\xff"}',
    b'{"queue":"q","priority":1,"payload":"a\nb"}',
    b'{"queue":"q","priority":1,"payload":"a\x00b"}',
    b'{"queue":"q","priority":1,"payload":"\\x"}',
    b'{"queue":"q","priority":1,"payload":"p","x":"\xff"}',
    b'{"queue":"q","priority":1,"payload":"p","\xff":1}',
    b'\xef\xbb\xbf{"queue":"q","priority":1,"payload":"p"}',
    '{"queue":"q","priority":1,"payload":"p"}'.encode("utf-16"),
    b'{"queue":"q","priority":1,"payload":"p","x":' + NESTED + b"}",
    b'{"queue":' + NESTED + b',"priority":1,"payload":"p"}',
    b'{"queue":7,"priority":1,"payload":"p","x":' + NESTED + b"}",
    b"[" * 100_000,
    NESTED,
    b'{"x":' * 50_000 + b"1" + b"}" * 50_000,
]


# Verifies: API-0003
@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_not_json(body: bytes) -> None:
    with pytest.raises(MalformedJson, match="the body is not JSON"):
        schema.publish_body(body)
    for function in (
        schema.consume_body,
        schema.settle_body,
        schema.settle_batch_body,
        schema.nack_body,
        schema.nack_batch_body,
    ):
        with pytest.raises((MalformedJson, WrongShape)):
            function(body)


EVERY_BODY: list[Callable[[bytes], Any]] = [
    *(schema.publish_body, schema.consume_body, schema.settle_body, schema.settle_batch_body),
    *(schema.create_queue_body, schema.update_queue_body),
]


# Verifies: API-0004
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the body is missing: it must be a JSON object"),
        (b" \r\n", "the body is blank: it must be a JSON object"),
        (b'\xef\xbb\xbf{"consumer_id":"c"}', "the body is not JSON: it begins with a byte order mark"),
        ("{}".encode("utf-16"), "the body is not JSON: it begins with a byte order mark"),
        (b'{"consumer_id":"c",}', "the body is not JSON: "),
        (b'{"consumer_id":"c"', "the body is not JSON: it ends too early"),
        (b'{"consumer_id":"\\ud800', "the body is not JSON: it ends too early"),
        (b'{"consumer_id":"\\\\ud800"', "the body is not JSON: it ends too early"),
        (b'{"consumer_id":"\\ud83d\\u', "the body is not JSON: it ends too early"),
        (b'{"consumer_id":"\\ud83d\\', "the body is not JSON: it ends too early"),
    ],
)
def test_what_is_wrong_with_a_body_is_said(body: bytes, sentence: str) -> None:
    for function in EVERY_BODY:
        with pytest.raises(MalformedJson) as refusal:
            function(body)
        assert str(refusal.value).startswith(sentence)


FRAMES = ['{"consumer_id":"?"}', '{"x":"?"}', '{"?":1}', '{"consumer_id":7,"name":["?"]}']


# Verifies: API-0003
@pytest.mark.parametrize("before", ["", "text", "\\\\", "\\\\ud800 ", "\\ud83d\\ude00", "ü"])
@pytest.mark.parametrize(
    ("half", "after"),
    [
        *((half, after) for half in ("\\ud800", "\\uDBFF") for after in ("", "x", "\\n", '\\"', "\\u0041", "\\ud800")),
        *((half, after) for half in ("\\udc00", "\\uDFFF") for after in ("", "\\udc00", "and more text after it")),
        ("\\uD83D", "and more text after it"),
    ],
)
def test_half_of_a_surrogate_pair_is_named_with_its_place(before: str, half: str, after: str) -> None:
    for frame in FRAMES:
        body = frame.replace("?", f"{before}{half}{after}").encode()
        place = len(frame.partition("?")[0].encode()) + len(before.encode())
        for function in EVERY_BODY:
            with pytest.raises(MalformedJson) as refusal:
                function(body)
            assert f"the escape {half} at byte {place} is half of a surrogate pair" in str(refusal.value)


U64_TEXT = f"'priority' must be an integer from 0 to {U64_MAX} or a string"
MISSHAPEN: list[tuple[Callable[[bytes], Any], str, str]] = [
    (schema.publish_body, "[]", "the body must be a JSON object"),
    (schema.publish_body, "null", "the body must be a JSON object"),
    (schema.publish_body, '"queue"', "the body must be a JSON object"),
    (schema.publish_body, "{}", "'queue' is missing: it must be a string"),
    (schema.publish_body, '{"priority":1,"payload":"p"}', "'queue' is missing: it must be a string"),
    (schema.publish_body, '{"queue":"q","priority":1}', "'payload' is missing: it must be a string"),
    (schema.publish_body, '{"queue":"q","payload":"p"}', U64_TEXT.replace("must", "is missing: it must")),
    (schema.publish_body, '{"queue":null,"priority":1,"payload":"p"}', "'queue' must be a string"),
    (schema.publish_body, '{"queue":"q","priority":1,"payload":7}', "'payload' must be a string"),
    (schema.publish_body, '{"queue":["q"],"priority":1,"payload":""}', "'queue' must be a string"),
    *(
        (schema.publish_body, '{"queue":"q","priority":?,"payload":"p"}'.replace("?", wrong), U64_TEXT)
        for wrong in (
            *("-1", "1.5", "1.0", "1e3", "1E0", "true", "false", "null", "[]", "{}", "1e999"),
            *(str(U64_MAX + 1), "9" * 400, "9" * 5_000, "-" + "9" * 400),
        )
    ),
    *(
        (
            schema.publish_body,
            '{"queue":"q","priority":1,"payload":"p","max_retries":?}'.replace("?", wrong),
            f"'max_retries' must be an integer from 0 to {U32_MAX}",
        )
        for wrong in ("-1", "1.5", "3.0", "3e0", "true", '"3"', "[]", str(U32_MAX + 1), str(U64_MAX + 1))
    ),
    (schema.consume_body, "{}", "'consumer_id' is missing: it must be a string"),
    (schema.consume_body, '{"consumer_id":7}', "'consumer_id' must be a string"),
    (schema.consume_body, '{"consumer_id":null}', "'consumer_id' must be a string"),
    *(
        (
            schema.consume_body,
            '{"consumer_id":"c","timeout_seconds":?}'.replace("?", wrong),
            f"'timeout_seconds' must be an integer from 0 to {U64_MAX}",
        )
        for wrong in ("-1", "0.5", "1e1", "true", '"30"', str(U64_MAX + 1))
    ),
    (schema.settle_body, '{"timeout_seconds":30}', "'consumer_id' is missing: it must be a string"),
    (schema.settle_body, '{"consumer_id":false}', "'consumer_id' must be a string"),
    (schema.settle_batch_body, '{"consumer_id":"c"}', "'message_ids' is missing: it must be a list of strings"),
    (schema.settle_batch_body, '{"message_ids":[]}', "'consumer_id' is missing: it must be a string"),
    *(
        (
            schema.settle_batch_body,
            '{"consumer_id":"c","message_ids":?}'.replace("?", wrong),
            "'message_ids' must be a list of strings",
        )
        for wrong in ('"i"', "null", "{}", "7", "[7]", '["i",null]', '[["i"]]')
    ),
    (schema.create_queue_body, '{"name":"q"}', "'config' is missing: it must be an object"),
    (schema.create_queue_body, '{"config":{"ordering":"Fifo"}}', "'name' is missing: it must be a string"),
    (schema.create_queue_body, '{"name":"q","config":null}', "'config' must be an object"),
    (schema.create_queue_body, '{"name":"q","config":[]}', "'config' must be an object"),
    *(
        (schema.create_queue_body, '{"name":"q","config":{?}}'.replace("?", wrong), sentence)
        for wrong, sentence in (
            ("", "'config.ordering' is missing: it must be one of MaxFirst, MinFirst, Fifo"),
            ('"ordering":"Sideways"', "'config.ordering' must be one of MaxFirst, MinFirst, Fifo"),
            ('"ordering":"maxfirst"', "'config.ordering' must be one of MaxFirst, MinFirst, Fifo"),
            ('"ordering":null', "'config.ordering' must be one of MaxFirst, MinFirst, Fifo"),
            ('"ordering":"Fifo","allow_duplicates":1', "'config.allow_duplicates' must be true or false"),
            ('"ordering":"Fifo","allow_duplicates":"true"', "'config.allow_duplicates' must be true or false"),
            ('"ordering":"Fifo","allow_duplicates":null', "'config.allow_duplicates' must be true or false"),
            ('"ordering":"Fifo","priority_kind":null', "'config.priority_kind' must be one of Numeric, Text"),
            ('"ordering":"Fifo","priority_kind":"Float"', "'config.priority_kind' must be one of Numeric, Text"),
        )
    ),
    (schema.update_queue_body, '{"name":"q"}', "'config' is missing: it must be an object"),
    (schema.update_queue_body, '{"name":7,"config":{}}', "'name' must be a string"),
    (schema.update_queue_body, '{"name":"q","config":{"name":7}}', "'config.name' must be a string"),
]


# Verifies: API-0004
@pytest.mark.parametrize(("function", "body", "sentence"), MISSHAPEN, ids=range(len(MISSHAPEN)))
def test_json_of_the_wrong_shape(function: Callable[[bytes], Any], body: str, sentence: str) -> None:
    with pytest.raises(WrongShape) as refusal:
        function(body.encode())
    assert str(refusal.value) == sentence
    # A syntax error behind the first wrong field makes it malformed.
    with pytest.raises(MalformedJson):
        function(body.encode() + b",")


REPEATED: list[tuple[Callable[[bytes], Any], str, str]] = [
    *(
        (schema.publish_body, '{?,"queue":"q","priority":1,"payload":"p"}'.replace("?", first), field)
        for first, field in (
            ('"queue":"q"', "queue"),
            ('"\\u0071ueue":"q"', "queue"),
            ('"pa\\u0079load":"q"', "payload"),
            ('"priority":2', "priority"),
            ('"max_retries":1,"max_retries":1', "max_retries"),
            ('"max_retries":1,"max\\u005Fretries":1', "max_retries"),
            ('"max_retries":null,"max_retries":1', "max_retries"),
            ('"x":"\\"","priority":"t"', "priority"),
        )
    ),
    (schema.consume_body, '{"consumer_id":"a","consumer_id":"b"}', "consumer_id"),
    (schema.consume_body, '{"consumer_id":"a","timeout_seconds":1,"timeout_seconds":1}', "timeout_seconds"),
    *(
        (schema.consume_body, '{"consumer_id":"a","timeout_seconds":1,"wait_seconds":1,?:2}'.replace("?", name), field)
        for name, field in (('"timeout_seconds"', "timeout_seconds"), ('"wait_seconds"', "wait_seconds"))
    ),
    (schema.settle_body, '{"consumer_id":"a","x":1,"consumer_id":"a"}', "consumer_id"),
    (schema.settle_batch_body, '{"consumer_id":"a","message_ids":["x"],"message_ids":[]}', "message_ids"),
    (schema.settle_batch_body, '{"consumer_id":"a","message_ids":[],"message_ids":["x"]}', "message_ids"),
    (schema.create_queue_body, '{"name":"a","name":"a","config":{"ordering":"Fifo"}}', "name"),
    (schema.create_queue_body, '{"name":"a","config":{"ordering":"Fifo","ordering":"Fifo"}}', "config.ordering"),
    (schema.update_queue_body, '{"name":"a","config":{},"config":{}}', "config"),
    (schema.update_queue_body, '{"name":"a","config":{"name":"b","n\\u0061me":"b"}}', "config.name"),
]


# Verifies: API-0005
@pytest.mark.parametrize(("function", "body", "field"), REPEATED, ids=range(len(REPEATED)))
def test_a_field_given_twice(function: Callable[[bytes], Any], body: str, field: str) -> None:
    with pytest.raises(WrongShape, match=f"^'{field}' must be given only once$"):
        function(body.encode())


@pytest.mark.parametrize("count", [0, 1, MAX_WAITED_QUEUES, MAX_WAITED_QUEUES + 1])
def test_how_many_queues_to_consume_from(count: int) -> None:
    queues = tuple(f"q{number}" for number in range(count))
    body = json.dumps({"consumer_id": "c", "queues": queues}).encode()
    if 1 <= count <= MAX_WAITED_QUEUES:
        assert schema.consume_from_body(body)[0] == queues
    else:
        with pytest.raises(WrongShape, match="'queues'"):
            schema.consume_from_body(body)


def test_each_queue_to_consume_from_has_a_name() -> None:
    longest = "ü" * (MAX_QUEUE_NAME_BYTES // 2)
    for name in ("", longest + "ü"):
        with pytest.raises(InvalidQueueName, match=r"^'queues\[1\]' must be 1 to "):
            schema.consume_from_body(json.dumps({"consumer_id": "c", "queues": ["q", name]}).encode())
    queues, _ = schema.consume_from_body(json.dumps({"consumer_id": "c", "queues": ["q", longest]}).encode())
    assert queues == ("q", longest)


def test_white_space_is_no_doubt_about_strings_with_escapes() -> None:
    body = b'{"queue":"q","priority":1,"payload":"\\"\\u0061"%b}' % (b" " * json_bodies.MAX_DOUBTFUL_BYTES)
    assert schema.publish_body(body) == ("q", 1, '"a', 3)


@pytest.mark.parametrize("doubt", ['"x":{"queue":1}', '"x":"\\u0071"', '"x":"\\u005f"'])
def test_what_has_to_be_parsed_in_full_is_bounded(doubt: str) -> None:
    long = "ü" * json_bodies.MAX_DOUBTFUL_BYTES
    for payload, extra, fits in ((long, "", True), ("p", long, False), ("p", "x" * 16_000, True)):
        body = b'{"queue":"q",%b,"y":"%b","priority":1,"payload":"%b"}' % (
            *(doubt.encode(), extra.encode(), payload.encode()),
        )
        if fits:
            assert schema.publish_body(body) == ("q", 1, payload, 3)
        else:
            with pytest.raises(WrongShape, match="besides its known strings"):
                schema.publish_body(body)
            assert schema.publish_body(body.replace(doubt.encode(), b'"x":1')) == ("q", 1, payload, 3)


def test_an_escape_that_no_name_has_makes_no_doubt() -> None:
    body = b'{"queue":"q","x":"\\u0001%b","priority":1,"payload":"p"}' % (b"x" * json_bodies.MAX_DOUBTFUL_BYTES)
    assert schema.publish_body(body) == ("q", 1, "p", 3)


def batch(ids: list[str], **more: Any) -> bytes:
    return json.dumps({"consumer_id": "c", "message_ids": ids} | more).encode()


# Verifies: API-0022
def test_ids_of_a_batch_are_bounded() -> None:
    for id in ("x" * 36, "", '"', "\\", "\\\\", '\\"', '"' * 100):
        assert schema.settle_batch_body(batch([id] * MAX_BATCH_IDS)).message_ids == [id] * MAX_BATCH_IDS
        for count in (1, json_bodies.SPARE_STRINGS, MAX_BATCH_IDS, 10 * MAX_BATCH_IDS):
            with pytest.raises(LimitReached, match=rf"^'message_ids' may hold at most {MAX_BATCH_IDS} ids$"):
                schema.settle_batch_body(batch([id] * (MAX_BATCH_IDS + count)))


# Verifies: API-0022
def test_far_too_many_ids_are_refused_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema._SETTLE_BATCH, "_decode", None)
    for id in ("x" * 36, "", "\\", "\\\\", '"'):
        with pytest.raises(LimitReached):
            schema.settle_batch_body(batch([id] * (2 * MAX_BATCH_IDS + 2 * json_bodies.SPARE_STRINGS + 1)))


# Verifies: API-0021
def test_consumer_ids_are_bounded() -> None:
    longest = "ü" * (MAX_CONSUMER_BYTES // 2)
    for consumer, fits in (("", True), (longest, True), (longest + "x", False), ("x" * 10_000, False)):
        body = json.dumps({"consumer_id": consumer, "message_ids": []}).encode()
        for function in (schema.consume_body, schema.settle_body, schema.settle_batch_body):
            if fits:
                function(body)
            else:
                with pytest.raises(LimitReached, match="'consumer_id'"):
                    function(body)


KEYS = ["queue", "priority", "payload", "max_retries", "x", "y"]
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.integers(0, 9),
    st.sampled_from(["", "queue", '"', "\\", "ü", "\\u0071", '"queue":']),
    st.just([]),
    st.just({"queue": 1}),
)


def _spell(key: str, escaped: int) -> str:
    """A key as it may stand in a body: `escaped` picks the character that is written as an escape."""
    if escaped < len(key):
        return f'"{key[:escaped]}\\u{ord(key[escaped]):04x}{key[escaped + 1 :]}"'
    return f'"{key}"'


# Verifies: API-0004
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 30), VALUES), max_size=7), st.booleans())
def test_publish_against_a_model(members: list[tuple[str, int, Any]], ascii_only: bool) -> None:
    """Whatever the order, spelling and number of the members: taken exactly when each known one is right and alone."""
    text = ",".join(
        f"{_spell(key, escaped)}:{json.dumps(value, ensure_ascii=ascii_only)}" for key, escaped, value in members
    )
    names = [key for key, _, _ in members]
    last = {key: value for key, _, value in members}
    known = KEYS[:4]
    fits = (
        all(names.count(name) <= 1 for name in known)
        and isinstance(last.get("queue"), str)
        and isinstance(last.get("payload"), str)
        and isinstance(last.get("priority"), int | str)
        and isinstance(last.get("max_retries", 0), int)
    )
    try:
        found = schema.publish_body(b"{%b}" % text.encode())
    except WrongShape:
        assert not fits, text
    else:
        assert fits, text
        assert found == (last["queue"], last["priority"], last["payload"], last.get("max_retries", 3))


@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode(errors="replace"))))
def test_any_bytes_are_a_refusal(body: bytes) -> None:
    functions = (schema.publish_body, schema.consume_body, schema.settle_batch_body, schema.create_queue_body)
    for function in functions:
        with pytest.raises(QrustyError) as refusal:
            function(body)
        assert refusal.value.status in (400, 422)
