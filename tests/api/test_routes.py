"""From a request line to an operation: every route, what is refused, what is decoded."""

from __future__ import annotations

import re
from urllib.parse import quote, quote_from_bytes, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrusty_trio.access.needs import OPEN
from qrusty_trio.api.call import Operation, Reply
from qrusty_trio.api.operations import OPERATIONS, check_content_type, resolve
from qrusty_trio.api.routes import MAX_ENCODED_BYTES, MAX_QUERY_PARAMETERS, Router
from qrusty_trio.errors import BadRequest, InvalidQueueName, MethodNotAllowed, NotFound, QrustyError, WrongContentType

ID = "0b9a3b6e-6c0e-4a0e-9d5a-1d2c3b4a5f60"
TABLE = {operation.name: operation for operation in OPERATIONS}


ROUTES: list[tuple[str, str, str, tuple[str, ...]]] = [
    ("POST", "/create-queue", "create_queue", ()),
    ("POST", "/update-queue", "update_queue", ()),
    ("POST", "/publish", "publish", ()),
    ("POST", "/consume/q", "consume", ("q",)),
    ("POST", "/consume", "consume_from", ()),
    ("POST", f"/ack/q/{ID}", "ack", ("q", ID)),
    ("POST", f"/nack/q/{ID}", "nack", ("q", ID)),
    ("POST", "/ack-batch/q", "ack_batch", ("q",)),
    ("POST", "/nack-batch/q", "nack_batch", ("q",)),
    ("POST", "/publish-batch", "publish_batch", ()),
    ("POST", "/consume-batch/q", "consume_batch", ("q",)),
    ("POST", f"/renew/q/{ID}", "renew", ("q", ID)),
    ("POST", "/renew-batch/q", "renew_batch", ("q",)),
    ("POST", "/force-unlock/q", "force_unlock", ("q",)),
    ("GET", "/queues/q/locks", "locks", ("q",)),
    ("POST", "/purge-queue/q", "purge_queue", ("q",)),
    ("DELETE", "/delete-queue/q", "delete_queue", ("q",)),
    ("POST", "/purge-all", "purge_all", ()),
    ("GET", "/trash", "trash", ()),
    ("POST", "/trash/7/restore", "restore", ("7",)),
    ("POST", "/trash/7/erase", "erase", ("7",)),
    ("POST", "/delete-all", "delete_all", ()),
    ("GET", "/queues", "queues", ()),
    ("GET", "/queue-stats/q", "queue_stats", ("q",)),
    ("GET", "/stats", "stats", ()),
    ("GET", "/queues/q/metrics", "metrics", ("q",)),
    ("GET", "/operation-timings", "operation_timings", ()),
    ("GET", "/operation-histograms", "operation_histograms", ()),
    ("GET", "/health", "health", ()),
    ("GET", "/server", "server", ()),
    ("GET", "/queues/q/messages", "messages", ("q",)),
    ("GET", f"/queues/q/messages/{ID}", "message", ("q", ID)),
    ("GET", "/find", "find", ()),
    ("GET", "/queues/q/priorities", "priorities", ("q",)),
    ("GET", "/queue-list", "queue_list", ()),
    ("GET", "/audit", "audit", ()),
    ("GET", "/livez", "live", ()),
    ("GET", "/readyz", "ready", ()),
    ("GET", "/queues/q/dead-letters", "dead_letters", ("q",)),
    ("GET", f"/queues/q/dead-letters/{ID}", "dead_letter", ("q", ID)),
    ("POST", "/queues/q/dead-letters/requeue", "requeue_dead_letters", ("q",)),
    ("POST", "/queues/q/dead-letters/purge", "purge_dead_letters", ("q",)),
]


# Verifies: API-0001
@pytest.mark.parametrize(("method", "path", "name", "params"), ROUTES)
def test_every_route(method: str, path: str, name: str, params: tuple[str, ...]) -> None:
    assert resolve(method, path.encode()) == (TABLE[name], params)
    if method == "GET":
        assert resolve("HEAD", path.encode()) == (TABLE[name], params)
    for wrong in {"GET", "POST", "DELETE", "PUT", "OPTIONS", "get"} - {method}:
        with pytest.raises(MethodNotAllowed) as refusal:
            resolve(wrong, path.encode())
        assert refusal.value.allow == ("GET, HEAD" if method == "GET" else method)


# Verifies: API-0001
def test_the_table_has_these_routes_only() -> None:
    assert {name for _, _, name, _ in ROUTES} == set(TABLE)
    assert len(ROUTES) == len(OPERATIONS)
    for operation in OPERATIONS:
        assert operation.mutating is (operation.method != "GET")


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "*", "//", "publish", "//publish", "/publish/", "/publish/x", "/Publish", "/%70ublish"),
        *("/consume/", "/consume//", "/consume/a/b", "/ack/q", "/ack/q/", "/ack//id", "/ack/q/i/d"),
        *(f"/ack/{ID}", f"/ack/q/{ID}/", f"/ack//{ID}", f"/ack/q{ID}", f"/ack/q/x/{ID}"),
        *("/queues/q", "/queues//metrics", "/queues/q/metrics/x", "/no-such-path", "/ws", "/ui/", "/health;x"),
    ],
)
def test_unknown_paths(path: str) -> None:
    resolve("POST", f"/ack/q/{ID}".encode())
    for method in ("GET", "POST", "DELETE", "OPTIONS"):
        with pytest.raises(NotFound):
            resolve(method, path.encode())


# Verifies: API-0011
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


# Verifies: API-0013
@pytest.mark.parametrize(
    "raw", [b"%", b"%2", b"%zz", b"a%2", b"%-1", b"%+1", b"% 1", b"%1g", b"%g1", b"%%41", b"%FF", b"\xff", b"%C3"]
)
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


WITH_PARAMETERS = [operation for operation in OPERATIONS if "{queue}" in operation.path]


def by_query(operation: Operation, **values: str) -> tuple[bytes, str]:
    """The path and query of the second form of a route."""
    parts = [part for part in operation.path.split("/") if not part.startswith("{")]
    names = re.findall(r"{(\w+)}", operation.path)
    return "/".join(parts).encode(), "&".join(f"{name}={values[name]}" for name in names)


# Verifies: API-0012
@pytest.mark.parametrize("operation", WITH_PARAMETERS, ids=lambda operation: operation.name)
def test_every_route_takes_its_parameters_from_the_query(operation: Operation) -> None:
    methods = {operation.method, "HEAD"} if operation.method == "GET" else {operation.method}
    for raw, name in [
        *(("q", "q"), (".", "."), ("..", ".."), ("a/b", "a/b"), ("a%2Fb", "a/b"), ("%2E%2e", "..")),
        *(("a+b%2B", "a b+"), ("%C3%BC", "ü"), ("a%26b%3Dc", "a&b=c"), ("a=b", "a=b"), ("%00", "\0"), ("%25", "%")),
    ]:
        path, query = by_query(operation, queue=raw, id="i%2F")
        params = (name, "i/")[: operation.path.count("{")]
        for asked in (query, f"x=1&{query}&y", f"&{query}&", query.replace("queue", "%71ueue")):
            for method in methods:
                assert resolve(method, path, asked) == (operation, params)
    path, query = by_query(operation, queue="q", id="i")
    assert resolve(operation.method, path, "&".join(reversed(query.split("&"))))[1] == ("q", "i")[: len(params)]
    for method in {"GET", "POST", "DELETE", "PUT"} - methods:
        with pytest.raises(MethodNotAllowed) as refusal:
            resolve(method, path, query)
        assert refusal.value.allow == ("GET, HEAD" if operation.method == "GET" else operation.method)


# Verifies: API-0013
@pytest.mark.parametrize("operation", WITH_PARAMETERS, ids=lambda operation: operation.name)
def test_parameters_in_the_query_that_are_refused(operation: Operation) -> None:
    path, query = by_query(operation, queue="q", id="i")
    whole = operation.path.replace("{queue}", "q").replace("{id}", "i").encode()
    for name in re.findall(r"{(\w+)}", operation.path):
        for wrong, sentence in [
            (f"{query}&{name}=q", f"'{name}' must be given once in the query"),
            (f"{query}&{name}", f"'{name}' must be given once in the query"),
            (query.replace(f"{name}=", f"{name}=%"), f"'%' in '{name}' in the query must be followed by two hex"),
            (query.replace(f"{name}=", f"{name}=%FF"), f"'{name}' in the query must be percent-encoded UTF-8"),
            (query.replace(f"{name}=", f"{name}=%ED%A0%80"), f"'{name}' in the query must be percent-encoded UTF-8"),
            (query.replace(f"{name}=", f"{name}=\u00fc"), f"'{name}' in the query must be percent-encoded UTF-8"),
            (re.sub(rf"{name}=\w", f"{name}=", query), f"'{name}' must not be empty"),
            (re.sub(rf"{name}=\w", name, query), f"'{name}' must not be empty"),
        ]:
            with pytest.raises(BadRequest, match=f"^{re.escape(sentence)}"):
                resolve(operation.method, path, wrong)
        for both in (f"{name}=q", f"x=1&{name}=", query):
            with pytest.raises(BadRequest, match=r"must be given once: it is in the path and in the query$"):
                resolve(operation.method, whole, both)
    for nothing in ("", "x=1", "Queue=q", "queues=q&ids=i", "=q", "&&"):
        if operation.name == "consume":
            assert resolve("POST", path, nothing)[0].name == "consume_from"
            continue
        for method in ("GET", "POST", "DELETE"):
            with pytest.raises(NotFound, match=re.escape(f"{path.decode()}?queue=...")):
                resolve(method, path, nothing)
    assert resolve(operation.method, whole, "x=1&y") == resolve(operation.method, whole)


def test_both_parameters_of_an_ack_are_needed() -> None:
    for half, missing in (("queue=q", "id"), ("id=i", "queue")):
        with pytest.raises(BadRequest, match=f"^'{missing}' is missing in the query$"):
            resolve("POST", b"/ack", half)
    with pytest.raises(NotFound):
        resolve("POST", b"/ack/q", "id=i")


def test_names_in_the_query_are_as_long_as_others() -> None:
    assert resolve("POST", b"/consume", "queue=" + "%C3%BC" * 127)[1] == ("ü" * 127,)
    for name in ("x" * 256, "%C3%BC" * 128):
        with pytest.raises(InvalidQueueName):
            resolve("POST", b"/consume", f"queue={name}")


def test_routes_without_parameters_take_any_query() -> None:
    for query in ("queue=a&queue=b", "queue=%FF", "&" * 5_000):
        assert resolve("POST", b"/publish", query) == (TABLE["publish"], ())


# Verifies: API-0014
def test_what_is_decoded_is_bounded() -> None:
    longest = "%41" * (MAX_ENCODED_BYTES // 3)
    assert resolve("POST", f"/ack/q/{longest}".encode())[1] == ("q", "A" * len(longest[::3]))
    assert resolve("POST", b"/ack", f"queue=q&id={longest}")[1] == ("q", "A" * len(longest[::3]))
    for path, query in ((f"/ack/q/{longest}AA".encode(), ""), (b"/ack", f"queue=q&id={longest}AA")):
        with pytest.raises(BadRequest, match="percent-encoded"):
            resolve("POST", path, query)
    most = "queue=q" + "&x" * (MAX_QUERY_PARAMETERS - 1)
    assert resolve("POST", b"/consume", most)[1] == ("q",)
    for path, query in ((b"/consume", f"{most}&"), (b"/consume/q", "&" * MAX_QUERY_PARAMETERS)):
        with pytest.raises(BadRequest, match="at most 100 parameters"):
            resolve("POST", path, query)


@given(st.text(max_size=40), st.text(max_size=40), st.sampled_from(["/ack", "/consume", "/queues/metrics", "/ack/q/i"]))
def test_any_query_is_resolved_or_refused(name: str, value: str, path: str) -> None:
    for query in (f"queue=q&{name}={value}", f"queue={value}", value):
        for method in ("GET", "POST"):
            try:
                operation, params = resolve(method, path.encode(), query)
            except QrustyError as error:
                assert error.status in (400, 404, 405)  # noqa: PT017  # what is raised is what is tested
            else:
                assert len(params) == operation.path.count("{")
                assert all(params)


# Verifies: API-0012
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_any_name_and_id_come_back_from_the_query(text: str) -> None:
    for raw in (quote(text, safe=""), quote_plus(text)):
        assert resolve("POST", b"/nack", f"id={raw}&queue={raw}")[1] == (text, text)


def test_ids_of_any_length_are_no_error_here() -> None:
    for length in (1, 35, 36, 37, 5_000):
        for _ in range(2):
            assert resolve("POST", f"/ack/q/{'i' * length}".encode())[1] == ("q", "i" * length)


# Verifies: API-0011
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


# Verifies: API-0008
@pytest.mark.parametrize(
    "content_type",
    [
        *("application/json", "application/json; charset=utf-8", "Application/JSON", "application/json;charset=x"),
        *("application/vnd.api+json", "application/problem+json; a=b"),
    ],
)
def test_content_types_that_are_json(content_type: str) -> None:
    check_content_type(TABLE["publish"], content_type)


# Verifies: API-0008
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


def test_templates_that_share_a_beginning() -> None:
    """The more specific one is found, and in the second form the parameters tell which one is meant."""

    def operation(name: str, method: str, path: str) -> Operation:
        return Operation(name, method, path, OPEN, False, lambda services, call, now: Reply())

    rows = [
        operation("one", "GET", "/queues/{queue}/dead/{id}"),
        operation("all", "GET", "/queues/{queue}/dead"),
        operation("requeue", "POST", "/queues/{queue}/dead/requeue"),
        operation("take", "POST", "/take/{queue}"),
        operation("take_any", "POST", "/take"),
    ]
    for order in (rows, rows[::-1]):
        find = Router(order).resolve
        found = {
            ("GET", "/queues/q/dead", ""): ("all", ("q",)),
            ("GET", "/queues/q/dead/x", ""): ("one", ("q", "x")),
            ("POST", "/queues/q/dead/requeue", ""): ("requeue", ("q",)),
            ("GET", "/queues/dead", "queue=q"): ("all", ("q",)),
            ("GET", "/queues/dead", "id=x&queue=q"): ("one", ("q", "x")),
            ("POST", "/queues/dead/requeue", "queue=q"): ("requeue", ("q",)),
            ("POST", "/take/q", ""): ("take", ("q",)),
            ("POST", "/take", ""): ("take_any", ()),
            ("POST", "/take", "queue=q"): ("take", ("q",)),
        }
        for _ in range(2):
            for (method, path, query), (name, params) in found.items():
                resolved = find(method, path.encode(), query)
                assert (resolved[0].name, resolved[1]) == (name, params)
        with pytest.raises(BadRequest, match="'queue' is missing in the query"):
            find("GET", b"/queues/dead", "id=x")
        with pytest.raises(NotFound, match="what is meant may be"):
            find("GET", b"/queues/dead")
        with pytest.raises(MethodNotAllowed):
            find("GET", b"/queues/q/dead/requeue")


# Verifies: API-0014
@pytest.mark.parametrize("name", ["restore", "erase"])
def test_the_id_of_what_is_kept_aside_may_be_in_the_query(name: str) -> None:
    assert resolve("POST", f"/trash/{name}".encode(), "id=7&to=q") == (TABLE[name], ("7",))
    with pytest.raises(NotFound, match=rf"/trash/{name}\?id=\.\.\."):
        resolve("POST", f"/trash/{name}".encode())
