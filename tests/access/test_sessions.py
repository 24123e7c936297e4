"""Sessions of browsers, and the credentials of requests, by a clock of the test."""

from __future__ import annotations

import pytest

from qrusty_trio.access.access import MAX_KEPT, MAX_KEPT_BYTES, Access, Credentials
from qrusty_trio.access.sessions import MAX_OF_A_TOKEN, SESSION_SECONDS, Sessions
from qrusty_trio.access.tokens_file import Tokens, digest, entry_of, new_token, read_tokens
from qrusty_trio.errors import Unauthenticated

TOKEN, OTHER = digest(b"token"), digest(b"other")
NOW = 1_700_000_000_000


# Verifies: API-0191
def test_a_session_ends_by_itself_and_at_the_logout() -> None:
    sessions = Sessions()
    cookie, second = (sessions.begin(TOKEN, NOW).encode() for _ in range(2))
    assert cookie != second
    assert sessions.token_of(cookie, NOW + 1000 * SESSION_SECONDS - 1) == TOKEN
    sessions.end(second)
    assert sessions.token_of(second, NOW) is None
    assert sessions.token_of(cookie, NOW + 1000 * SESSION_SECONDS) is None
    assert len(sessions) == 0
    sessions.end(cookie)
    assert sessions.token_of(b"x", NOW) is None


# Verifies: API-0191
def test_sessions_are_bounded_for_each_token() -> None:
    sessions = Sessions()
    others = sessions.begin(OTHER, NOW).encode()
    cookies = [sessions.begin(TOKEN, NOW).encode() for _ in range(3 * MAX_OF_A_TOKEN)]
    assert len(sessions) == MAX_OF_A_TOKEN + 1
    alive = [cookie for cookie in cookies if sessions.token_of(cookie, NOW)]
    assert alive == cookies[-MAX_OF_A_TOKEN:]
    assert sessions.token_of(others, NOW) == OTHER
    sessions.keep({OTHER: None})
    assert len(sessions) == 1


class Book:
    """An `Access` and its file."""

    def __init__(self) -> None:
        self.now = NOW
        self.tokens = {name: new_token() for name in ("one", "two")}
        self.access = Access(self.read(), lambda: self.now)

    def read(self) -> Tokens:
        text = "".join(entry_of(name, token, []) for name, token in self.tokens.items())
        return read_tokens(text.encode())

    def shown(self, name: str) -> Credentials:
        return Credentials(f"Bearer {self.tokens[name]}".encode())


# Verifies: API-0136
def test_a_token_is_found_and_kept() -> None:
    book = Book()
    access = book.access
    one = access.find(book.shown("one"), "peer", 0.0).principal
    assert one is access.tokens.by_name["one"]
    assert access.known == {book.shown("one").authorization: one}
    assert access.find(Credentials(), "peer", 0.0) == (None, 0.0, None)
    assert access.find(Credentials(certificate="two"), "peer", 0.0).principal is access.tokens.by_name["two"]
    assert access.find(Credentials(certificate="three"), "peer", 0.0).principal is None
    assert access.failures.count == 0


# Verifies: API-0136
def test_a_value_with_much_around_its_token_is_not_kept() -> None:
    book = Book()
    value = b"Bearer " + b" " * MAX_KEPT_BYTES + book.tokens["one"].encode()
    for _ in range(2):
        found = book.access.find(Credentials(value), "peer", 0.0)
        assert found.principal is book.access.tokens.by_name["one"]
    assert book.access.known == {}


# Verifies: API-0189
def test_tokens_that_are_replaced() -> None:
    book = Book()
    access, changes = book.access, []
    access.on_change.append(lambda: changes.append(1))
    one, two = (access.find(book.shown(name), "peer", 0.0).principal for name in ("one", "two"))
    assert one is not None
    assert two is not None
    cookie = access.begin_session(one).encode()
    shown = book.shown("one")
    book.tokens["one"] = new_token()
    access.replace(book.read())
    assert changes == [1]
    assert access.known == {book.shown("two").authorization: access.tokens.by_name["two"]}
    assert access.current(one) is None
    assert access.current(two) is access.tokens.by_name["two"] is not two
    found = access.find(shown, "peer", 0.0)
    assert found.principal is None
    assert isinstance(found.refusal, Unauthenticated)
    assert access.failures.count == 1
    assert isinstance(access.find(Credentials(session=cookie), "peer", 0.0).refusal, Unauthenticated)


def test_what_is_kept_of_header_values_is_bounded() -> None:
    book = Book()
    for number in range(2 * MAX_KEPT + 10):
        value = b"Bearer" + b" " * (number + 1) + book.tokens["one"].encode()
        assert book.access.find(Credentials(value), "peer", 0.0).principal is not None
        assert len(book.access.known) <= MAX_KEPT
    assert book.access.failures.count == 0


# Verifies: API-0190
@pytest.mark.parametrize("known", [True, False])
def test_a_token_that_was_accepted_before_is_not_held_up(known: bool) -> None:
    book = Book()
    if known:
        book.access.find(book.shown("one"), "peer", 0.0)
    for _ in range(20):
        book.access.failures.failed("peer", 0.0)
    assert (book.access.find(book.shown("one"), "peer", 0.0).wait > 0) is not known
    assert book.access.find(book.shown("one"), "elsewhere", 0.0).wait == 0


def test_a_token_that_expires_is_noticed_once() -> None:
    book = Book()
    book.access.tokens.by_name["one"].expires_ms = NOW + 1000
    told: list[int] = []
    book.access.on_change.append(lambda: told.append(book.now))
    book.access.look()
    assert told == []
    book.now += 1000
    book.access.look()
    book.access.look()
    assert told == [NOW + 1000]
    assert book.access.current(book.access.tokens.by_name["one"]) is None
