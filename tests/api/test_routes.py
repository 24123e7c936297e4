"""From a request line to an operation: every route, what is refused, what is decoded, what is kept."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.api.operations import OPERATIONS, check_content_type, resolve
from qrusty_trio.api.routes import MAX_CACHED_PATHS, Router
from qrusty_trio.errors import BadRequest, InvalidQueueName, MethodNotAllowed, NotFound, QrustyError, WrongContentType

ID = "0b9a3b6e-6c0e-4a0e-9d5a-1d2c3b4a5f60"
TABLE = {operation.name: operation for operation in OPERATIONS}


@pytest.mark.parametrize(
    ("method", "path", "name", "params"),
    [
        ("POST", "/create-queue", "create_queue", ()),
        ("POST", "/update-queue", "update_queue", ()),
        ("POST", "/publish", "publish", ()),
        ("POST", "/consume/q", "consume", ("q",)),
        ("POST", f"/ack/q/{ID}", "ack", ("q", ID)),
        ("POST", f"/nack/q/{ID}", "nack", ("q", ID)),
        ("POST", "/ack-batch/q", "ack_batch", ("q",)),
        ("POST", "/nack-batch/q", "nack_batch", ("q",)),
        ("POST", "/purge-queue/q", "purge_queue", ("q",)),
        ("DELETE", "/delete-queue/q", "delete_queue", ("q",)),
        ("POST", "/purge-all", "purge_all", ()),
        ("POST", "/delete-all", "delete_all", ()),
        ("GET", "/queues", "queues", ()),
        ("GET", "/queue-stats/q", "queue_stats", ("q",)),
        ("GET", "/stats", "stats", ()),
        ("GET", "/queues/q/metrics", "metrics", ("q",)),
        ("GET", "/operation-timings", "operation_timings", ()),
        ("GET", "/health", "health", ()),
    ],
)
def test_every_route(method: str, path: str, name: str, params: tuple[str, ...]) -> None:
    for _ in range(3):  # the first time, then from what is kept
        assert resolve(method, path.encode()) == (TABLE[name], params)
    if method == "GET":
        assert resolve("HEAD", path.encode()) == (TABLE[name], params)
    for wrong in {"GET", "POST", "DELETE", "PUT", "OPTIONS", "get"} - {method}:
        with pytest.raises(MethodNotAllowed) as refusal:
            resolve(wrong, path.encode())
        assert refusal.value.allow == ("GET, HEAD" if method == "GET" else method)


def test_the_table_has_these_routes_only() -> None:
    assert len(OPERATIONS) == 18
    assert {operation.name for operation in OPERATIONS if not operation.mutating} == {
        *("queues", "queue_stats", "stats", "metrics", "operation_timings", "health")
    }


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "*", "//", "publish", "//publish", "/publish/", "/publish/x", "/Publish", "/%70ublish"),
        *("/consume", "/consume/", "/consume//", "/consume/a/b", "/ack/q", "/ack/q/", "/ack//id", "/ack/q/i/d"),
        *(f"/ack/{ID}", f"/ack/q/{ID}/", f"/ack//{ID}", f"/ack/q{ID}", f"/ack/q/x/{ID}"),
        *("/queues/q", "/queues//metrics", "/queues/q/metrics/x", "/no-such-path", "/ws", "/ui/", "/health;x"),
    ],
)
def test_unknown_paths(path: str) -> None:
    resolve("POST", f"/ack/q/{ID}".encode())
    for method in ("GET", "POST", "DELETE", "OPTIONS"):
        with pytest.raises(NotFound):
            resolve(method, path.encode())


@pytest.mark.parametrize(
    ("raw", "decoded"),
    [
        (b"a%20b", "a b"),
        (b"a+b", "a+b"),
        (b"%C3%BC", "ü"),
        (b"%c3%bc", "ü"),
        ("ü".encode(), "ü"),
        (b"a%2Fb", "a/b"),
        (b"%2F", "/"),
        (b"%2e%2E", ".."),
        (b"..", ".."),
        (b"%00", "\0"),
        (b"%F0%9F%98%80", "😀"),
        (b"100%25", "100%"),
        (b"%2525", "%25"),
        (b"a=b&c;d,e:f@g", "a=b&c;d,e:f@g"),
        (b"%3Fx%23y", "?x#y"),
    ],
)
def test_parameters_are_decoded_after_the_split(raw: bytes, decoded: str) -> None:
    for _ in range(2):
        assert resolve("POST", b"/consume/" + raw)[1] == (decoded,)
        assert resolve("POST", b"/ack/" + raw + b"/" + raw)[1] == (decoded, decoded)
        assert resolve("POST", b"/ack/" + raw + b"/" + ID.encode())[1] == (decoded, ID)
        assert resolve("GET", b"/queues/" + raw + b"/metrics")[1] == (decoded,)


@pytest.mark.parametrize("raw", [b"%", b"%2", b"%zz", b"a%2", b"%-1", b"%+1", b"% 1", b"%%41", b"%FF", b"\xff", b"%C3"])
def test_what_is_not_percent_encoded_utf8_is_a_bad_request(raw: bytes) -> None:
    padding = b"x" * (36 - len(raw))  # an id of this kind that is as long as one that is right
    resolve("POST", f"/ack/q/{ID}".encode())
    for path in (b"/consume/" + raw, b"/ack/" + raw + b"/i", b"/ack/q/" + raw, b"/ack/q/" + padding + raw):
        with pytest.raises(BadRequest):
            resolve("POST", path)


@pytest.mark.parametrize("prefix", ["/consume/{}", "/ack/{}/i", "/ack-batch/{}", "/purge-queue/{}"])
def test_longest_name(prefix: str) -> None:
    assert resolve("POST", prefix.format("x" * 255).encode())[1][0] == "x" * 255
    assert resolve("POST", prefix.format("%C3%BC" * 127).encode())[1][0] == "ü" * 127
    for name in ("x" * 256, "%C3%BC" * 128):
        with pytest.raises(InvalidQueueName):
            resolve("POST", prefix.format(name).encode())


def test_ids_of_any_length_are_no_error_here() -> None:
    for length in (1, 35, 36, 37, 5_000):
        for _ in range(2):
            assert resolve("POST", f"/ack/q/{'i' * length}".encode())[1] == ("q", "i" * length)


def test_what_is_kept_is_bounded() -> None:
    router = Router(OPERATIONS)
    for number in range(2 * MAX_CACHED_PATHS):
        for path in (f"/consume/q{number}", f"/ack/q{number}/{ID}", f"/ack/q/{number:036}"):
            operation, params = router.resolve("POST", path.encode())
            assert operation.path.startswith(path[:4])
            assert params[0] == path.split("/")[2]
            assert len(router._whole) + len(router._up_to_id) <= MAX_CACHED_PATHS
    assert not any(b"0000000000" in path for _, path in (*router._whole, *router._up_to_id))


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60), st.booleans())
def test_any_name_and_id_come_back(text: str, everything: bool) -> None:
    raw = (
        "".join(f"%{octet:02x}" for octet in text.encode()) if everything else quote_from_bytes(text.encode(), safe="")
    )
    for _ in range(2):
        assert resolve("POST", f"/nack/{raw}/{raw}".encode())[1] == (text, text)
        assert resolve("GET", f"/queue-stats/{raw}".encode())[1] == (text,)


@given(st.sampled_from(["GET", "POST", "HEAD", "DELETE", "x"]), st.binary(max_size=80), st.booleans())
def test_any_bytes_are_resolved_or_refused(method: str, raw_path: bytes, known: bool) -> None:
    raw_path = b"/ack/q/" + raw_path if known else raw_path
    try:
        operation, params = resolve(method, raw_path)
    except QrustyError as error:
        assert error.status in (400, 404, 405)  # noqa: PT017  # what is raised is what is tested
    else:
        assert len(params) == operation.path.count("{")
        assert all(params)


@pytest.mark.parametrize(
    "content_type",
    [
        *("application/json", "application/json; charset=utf-8", "Application/JSON", "application/json;charset=x"),
        *("application/vnd.api+json", "application/problem+json; a=b"),
    ],
)
def test_content_types_that_are_json(content_type: str) -> None:
    check_content_type(TABLE["publish"], content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/jsonx",
        "text/json",
        "application/x-www-form-urlencoded",
        "json",
        "text/a+json",
    ],
)
def test_content_types_that_are_not(content_type: str | None) -> None:
    with pytest.raises(WrongContentType):
        check_content_type(TABLE["publish"], content_type)
    check_content_type(TABLE["purge_all"], content_type)
    check_content_type(TABLE["health"], content_type)
