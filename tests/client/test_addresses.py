"""URLs that a client takes, and those that it refuses without a word of their passwords."""

from __future__ import annotations

from typing import Any

import pytest

from qrusty_trio import client as q
from qrusty_trio.cli.failures import Failed
from qrusty_trio.cli.targets import checked
from qrusty_trio.client import blocking
from qrusty_trio.client.addresses import Address, address_of, websocket_address_of


@pytest.mark.parametrize(
    ("url", "address", "name"),
    [
        ("http://host", Address("host", 80, False, ""), "host"),
        ("https://Host.example.:8443/a%20b/", Address("host.example.", 8443, True, "/a%20b"), "host.example.:8443"),
        ("http://[::1]:6784/@x", Address("::1", 6784, False, "/@x"), "[::1]:6784"),
        (f"http://{'a' * 63}.b", Address("a" * 63 + ".b", 80, False, ""), "a" * 63 + ".b"),
    ],
)
def test_what_a_url_says(url: str, address: Address, name: str) -> None:
    assert address_of(url) == address
    assert websocket_address_of(url.replace("http", "ws", 1)) == address
    assert address.name == name


@pytest.mark.parametrize(
    ("url", "path"), [("unix:/run/q.sock", "/run/q.sock"), ("unix:///run/a b@c.sock", "/run/a b@c.sock")]
)
def test_the_path_of_a_socket(url: str, path: str) -> None:
    assert address_of(url) == Address("localhost", 80, False, "", path)
    assert websocket_address_of(url) == Address("localhost", 80, False, "/ws", path)
    assert (address_of(url).name, address_of(url).place) == ("localhost", f"unix:{path}")
    assert checked(url, "--url") == url


@pytest.mark.parametrize("url", ["unix:", "unix:q.sock", "unix://q.sock", "unix:/a\nb"])
def test_no_path_of_a_socket(url: str) -> None:
    for read in (address_of, websocket_address_of):
        with pytest.raises(q.InvalidUrl, match="not the absolute path of a socket"):
            read(url)


@pytest.mark.parametrize("client", [q.HttpClient, blocking.HttpClient])
@pytest.mark.parametrize(
    "url",
    [
        "ws://host/ws",
        "http://",
        "http://host/?a=b",
        "host:6784",
        "http://a..b",
        "http://.a",
        f"http://{'a' * 64}.b",
        "http://host/a b",
        "http://host/a\r\nX: y",
        "http://host/\x00",
        "http://host/ü",
        "http://host:99999",
        "http://[::1",
    ],
)
def test_no_http_url(client: type[Any], url: str) -> None:
    with pytest.raises(q.InvalidUrl, match="not an HTTP URL") as caught:
        client(url)
    assert isinstance(caught.value, ValueError)
    assert caught.value.code == "invalid_url"


@pytest.mark.parametrize("client", [q.HttpClient, blocking.HttpClient])
@pytest.mark.parametrize(
    "url", ["http://bob:secret@host", "http://bob:secret@[::1", "bob:secret@host", "ws://:secret@h"]
)
def test_a_user_in_a_url_is_refused_without_its_password(client: type[Any], url: str) -> None:
    with pytest.raises(q.InvalidUrl) as caught:
        client(url)
    assert "secret" not in str(caught.value)
    if url == "http://bob:secret@host":
        assert str(caught.value).startswith("a URL with a user or a password in it is refused")
    with pytest.raises(Failed) as failed:
        checked(url, "--url")
    assert "secret" not in str(failed.value)
    assert str(failed.value).startswith("--url: ")


async def test_websocket_urls() -> None:
    for url in (
        "http://bob:secret@host",
        "ws://bob:secret@a..b/ws",
        "ws://bob:secret@host/a b",
        "ws://bob:secret@host/ws",
    ):
        with pytest.raises(q.InvalidUrl) as caught:
            async with q.connect(url):
                pass
        assert "bob" not in str(caught.value)
    with pytest.raises(q.ConnectFailed, match=r"can't connect to ws://127\.0\.0\.1:1/ws") as failed:
        async with q.connect("ws://127.0.0.1:1/ws"):
            pass
    assert failed.value.code == "connect_failed"
