"""Sessions of browsers, and the credentials of requests, by a clock of the test."""

from __future__ import annotations

import pytest

from qrusty_trio.access.access import MAX_ACCEPTED, MAX_KEPT, MAX_KEPT_BYTES, SESSION_OVER, Access, Credentials
from qrusty_trio.access.grants import Principal
from qrusty_trio.access.sessions import MAX_OF_A_TOKEN, SESSION_SECONDS, Sessions
from qrusty_trio.access.tokens_file import Tokens, digest, entry_of, new_token, read_tokens
from qrusty_trio.errors import Unauthenticated

TOKEN, OTHER = digest(b"token"), digest(b"other")
NOW = 1_700_000_000_000
PRINCIPALS = {key: Principal("name", (), key=key) for key in (TOKEN, OTHER)}


def token_of(sessions: Sessions, cookie: bytes, now: int) -> bytes | None:
    found = sessions.speaks_for(digest(cookie), PRINCIPALS, now)
    return None if found is None else found.key


# Verifies: API-0191
def test_a_session_ends_by_itself_and_at_the_logout() -> None:
    sessions = Sessions()
    cookie, second = (sessions.begin(TOKEN, NOW).encode() for _ in range(2))
    assert cookie != second
    assert token_of(sessions, cookie, NOW + 1000 * SESSION_SECONDS - 1) == TOKEN
    assert sessions.end(second)
    assert not sessions.end(second)
    assert token_of(sessions, second, NOW) is None
    assert not sessions.end_over(NOW + 1000 * SESSION_SECONDS - 1)
    assert token_of(sessions, cookie, NOW + 1000 * SESSION_SECONDS) is None
    assert sessions.end_over(NOW + 1000 * SESSION_SECONDS)
    assert len(sessions) == 0
    assert not sessions.end(cookie)
    assert token_of(sessions, b"x", NOW) is None


def test_each_session_ends_in_its_time_though_the_clock_is_set_back() -> None:
    sessions = Sessions()
    begun = [sessions.begin(TOKEN, NOW + late).encode() for late in (2000, 0, 1000)]
    for left, late in ((2, 0), (1, 1000), (0, 2000)):
        assert sessions.end_over(NOW + late + 1000 * SESSION_SECONDS)
        assert len([each for each in begun if token_of(sessions, each, NOW)]) == left


# Verifies: API-0191
def test_sessions_are_bounded_for_each_token() -> None:
    sessions = Sessions()
    others = sessions.begin(OTHER, NOW).encode()
    cookies = [sessions.begin(TOKEN, NOW).encode() for _ in range(3 * MAX_OF_A_TOKEN)]
    assert len(sessions) == MAX_OF_A_TOKEN + 1
    alive = [cookie for cookie in cookies if token_of(sessions, cookie, NOW)]
    assert alive == cookies[-MAX_OF_A_TOKEN:]
    assert token_of(sessions, others, NOW) == OTHER
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


# Verifies: API-0191
@pytest.mark.parametrize("end", ["logout", "time", "further logins", "token"])
def test_whoever_speaks_through_a_session_ends_with_it_and_others_are_told(end: str) -> None:
    book = Book()
    access, told = book.access, []
    access.on_change.append(lambda: told.append(1))
    one = access.tokens.by_name["one"]
    cookie = access.begin_session(one).encode()
    held = access.find(Credentials(session=cookie), "peer", 0.0).principal
    assert held is not None
    assert (held.name, held.key) == ("one", one.key)
    # The same one as long as nothing changes, and the new one afterwards.
    assert access.current(held) is held is access.find(Credentials(session=cookie), "peer", 0.0).principal
    access.replace(book.read())
    anew = access.current(held)
    assert anew is not held
    assert anew is access.require_current(held) is access.find(Credentials(session=cookie), "peer", 0.0).principal
    access.look()
    assert told == [1]
    if end == "logout":
        access.end_session(b"another")
        assert told == [1]
        access.end_session(cookie)
    elif end == "time":
        book.now += 1000 * SESSION_SECONDS
        # A request with the cookie just then takes the news from nobody.
        assert access.find(Credentials(session=cookie), "peer", 0.0).principal is None
        access.look()
    elif end == "further logins":
        for _ in range(MAX_OF_A_TOKEN):
            assert told == [1]
            access.begin_session(access.tokens.by_name["one"])
    else:
        book.tokens["one"] = new_token()
        access.replace(book.read())
    assert told == [1, 1]
    assert access.current(held) is None
    with pytest.raises(Unauthenticated, match=SESSION_OVER):
        access.require_current(held)
    access.look()
    assert told == [1, 1]


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


# Verifies: API-0190
@pytest.mark.parametrize("first", ["in a header", "in a frame"])
def test_nor_is_one_that_was_gone_for_a_moment_or_is_shown_in_another_way(first: str) -> None:
    book = Book()
    access, token = book.access, book.tokens["one"].encode()
    if first == "in a header":
        access.find(book.shown("one"), "peer", 0.0)
    else:
        access.try_token(token, "peer", 0.0)
    whole = book.read()
    del book.tokens["one"]
    access.replace(book.read())
    for _ in range(20):
        access.failures.failed("peer", 0.0)
    # As long as it is gone it is a guess like any other.
    assert access.try_token(token, "peer", 0.0).principal is None
    access.replace(whole)
    for shown in (access.try_token(token, "peer", 0.0), access.find(Credentials(b"Bearer  " + token), "peer", 0.0)):
        assert shown == (whole.by_name["one"], 0.0, None)
    assert access.find(book.shown("two"), "peer", 0.0).wait > 0


def test_what_is_known_of_tokens_that_were_accepted_is_bounded() -> None:
    book = Book()
    access, old = book.access, book.tokens["one"].encode()
    for _ in range(MAX_ACCEPTED + 1):
        book.tokens["one"] = new_token()
        access.replace(book.read())
        access.find(book.shown("one"), "peer", 0.0)
    access.find(book.shown("two"), "peer", 0.0)
    for _ in range(5):
        access.failures.failed("peer", 0.0)
    assert access.find(book.shown("one"), "peer", 0.0).wait == 0
    now = {**book.tokens, "one": old.decode()}
    book.tokens = now
    access.replace(book.read())
    assert access.find(book.shown("two"), "peer", 0.0).wait == 0
    assert access.find(book.shown("one"), "peer", 0.0).wait > 0


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
