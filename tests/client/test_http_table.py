"""The client's tables against the server's: an operation, a field or a refusal that the client does not know fails."""

from __future__ import annotations

import inspect

import pytest

from qrusty_trio import client as q
from qrusty_trio import errors
from qrusty_trio.api import call
from qrusty_trio.api.operations import OPERATIONS
from qrusty_trio.client.errors import request_error
from qrusty_trio.client.operations import TABLE, Operation, Response, outcome, request_for

REFUSED = {("consume", "queues")}
"""Fields that the server knows only to say that they are wrong there."""


def test_both_have_the_same_operations() -> None:
    assert TABLE.keys() == {each.name for each in OPERATIONS}


@pytest.mark.parametrize("theirs", OPERATIONS, ids=lambda each: each.name)
def test_the_client_has_every_operation(theirs: call.Operation) -> None:
    ours = TABLE[theirs.name]
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    fields = theirs.request.__struct_fields__ if theirs.request is not None else ()
    assert {field for field in fields if (theirs.name, field) not in REFUSED} == set(ours.fields)
    method = getattr(q.HttpClient, theirs.name)
    assert inspect.iscoroutinefunction(method)
    assert method.__doc__


def test_what_is_repeated_changes_nothing_or_the_same() -> None:
    mutating = {each.name for each in OPERATIONS if each.mutating}
    assert {each.name for each in TABLE.values() if each.repeatable} & mutating == {"renew", "renew_batch"}
    assert all(each.repeatable for each in TABLE.values() if each.method == "GET")


def refusals(kind: type[errors.QrustyError] = errors.QrustyError) -> set[type[errors.QrustyError]]:
    return {kind}.union(*(refusals(each) for each in kind.__subclasses__()))


@pytest.mark.parametrize(
    "theirs",
    sorted((each for each in refusals() if each.__module__ == errors.__name__), key=str),
    ids=str,
)
def test_the_client_has_an_exception_for_every_refusal(theirs: type[errors.QrustyError]) -> None:
    plain = {"internal", "method_not_allowed", "startup_refused", "tls_required", "too_many_failures"}
    error = request_error(theirs.code, "no", theirs.status)
    assert (type(error) is q.RequestError) == (theirs.code in plain)
    assert (error.code, error.status, str(error)) == (theirs.code, theirs.status, f"no ({theirs.code})")


@pytest.mark.parametrize(
    ("name", "params", "fields", "target"),
    [
        ("ack", {"queue": "jobs", "id": "7"}, {"consumer_id": "me"}, "/p/ack/jobs/7"),
        ("ack", {"queue": "ü ?&#", "id": "7"}, {"consumer_id": "me"}, "/p/ack/%C3%BC%20%3F%26%23/7"),
        ("ack", {"queue": "a/b", "id": "7"}, {"consumer_id": "me"}, "/p/ack?queue=a%2Fb&id=7"),
        ("purge_queue", {"queue": ".."}, {}, "/p/purge-queue?queue=.."),
        ("metrics", {"queue": "."}, {}, "/p/queues/metrics?queue=."),
        ("locks", {"queue": "."}, {"limit": 5, "cursor": None}, "/p/queues/locks?queue=.&limit=5"),
        ("locks", {"queue": "jobs"}, {"consumer": "a&b"}, "/p/queues/jobs/locks?consumer=a%26b"),
        ("stats", {}, {}, "/p/stats"),
    ],
)
def test_targets(name: str, params: dict[str, str], fields: dict[str, object], target: str) -> None:
    assert request_for(TABLE[name], params, fields, "/p").target == target


def test_a_field_that_is_not_given_is_left_out() -> None:
    operation = Operation("ack", "POST", "/ack", ("a", "b", "c"))
    assert (
        request_for(operation, {}, {"a": 2**64 - 1, "b": None, "c": "ü"}).body
        == '{"a":18446744073709551615,"c":"ü"}'.encode()
    )


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (200, b"", None, None),
        (404, b'{"error":"no","code":"queue_not_found"}', q.QueueNotFound, "queue_not_found"),
        (418, b'{"error":"no","code":"teapot"}', q.RequestError, "teapot"),
        (503, b'{"status":"starting","message":"wait","retry_after_secs":2}', q.Starting, "starting"),
        (503, b'{"status":"at_fault","message":"no disk"}', q.Unavailable, "http_503"),
        (502, b"<html>", q.Unavailable, "http_502"),
        (500, b'{"error": 3}', q.RequestError, "http_500"),
        (302, b"", q.RequestError, "http_302"),
        (404, b"\xff", q.RequestError, "http_404"),
    ],
)
def test_what_a_response_means(status: int, body: bytes, kind: type[q.RequestError] | None, code: str | None) -> None:
    error = outcome(Response(status, body))
    if kind is None:
        assert error is None
    else:
        assert type(error) is kind
        assert (error.code, error.status) == (code, status)
        assert error.message
