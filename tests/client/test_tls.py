"""The clients over TLS, against a real server that asks for certificates: on Trio, on asyncio, blocking, by command."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest

from qrusty_trio import client as q
from qrusty_trio.cli.exits import Exit
from qrusty_trio.client import blocking
from qrusty_trio.client.tls import Tls, explained
from tests.certificates import client_certificate, write_authority, write_pair
from tests.cli.shell import Shell
from tests.client.server_process import ServerProcess, on_both_loops, server_process
from tests.server.running import ROOT

PATIENCE = 60


class Files(NamedTuple):
    """What a client is given."""

    ca: str
    certificate: str
    key: str

    @property
    def given(self) -> dict[str, Any]:
        return {"ca_file": self.ca, "certificate_file": self.certificate, "key_file": self.key}


class Secured(NamedTuple):
    """A server that asks for certificates, and the files of a client that it serves."""

    server: ServerProcess
    files: Files

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server.port}"

    @property
    def websocket_url(self) -> str:
        return f"wss://localhost:{self.server.port}/ws"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    path = tmp_path_factory.mktemp("tls")
    own = write_pair(path)
    ca = str(write_authority(path))
    files = Files(ca, str(path / "client.pem"), str(path / "client.key"))
    Path(files.certificate).write_bytes(client_certificate().cert_chain_pems[0].bytes())
    Path(files.key).write_bytes(client_certificate().private_key_pem.bytes())
    variables = {
        "QRUSTY_TLS_CERT": str(own.certificate),
        "QRUSTY_TLS_KEY": str(own.key),
        "QRUSTY_TLS_CLIENT_CA": ca,
    }
    with server_process(path, **variables) as server:
        yield Secured(server, files)


# Verifies: API-0187
@on_both_loops
def test_every_client_on_an_event_loop(secured: Secured, backend: str) -> None:
    queue = f"loop-{backend}"
    handled = []

    async def main() -> None:
        with anyio.fail_after(PATIENCE):
            async with q.HttpClient(secured.url, **secured.files.given) as client:
                await client.publish(queue, "over https")
                await client.publish(queue, "l" * 900_000)
                assert queue in await client.queues()
            async with q.connect(secured.websocket_url, **secured.files.given) as socket:
                await socket.publish(queue, "over wss")
            stop = anyio.Event()

            async def handle(message: q.Message) -> None:
                handled.append(message.payload[:10])
                if len(handled) == 3:
                    stop.set()

            await q.worker(secured.websocket_url, queue, handle, stop=stop, **secured.files.given)

    anyio.run(main, backend=backend)
    assert sorted(handled) == ["l" * 10, "over https", "over wss"]


# Verifies: API-0187
def test_the_blocking_clients(secured: Secured) -> None:
    done = threading.Event()
    with blocking.HttpClient(secured.url, **secured.files.given) as client:
        client.publish("threads", "payload")
        handled = []

        def handle(message: q.Message) -> None:
            handled.append(message.payload)
            done.set()

        thread = threading.Thread(
            target=lambda: blocking.worker(secured.websocket_url, "threads", handle, stop=done, **secured.files.given)
        )
        thread.start()
        thread.join(PATIENCE)
        assert handled == ["payload"]
        assert client.consume("threads") is None


# Verifies: API-0187
@on_both_loops
def test_a_server_that_nobody_vouches_for(secured: Secured, backend: str) -> None:
    async def main() -> None:
        async with q.HttpClient(secured.url, patience_seconds=0) as client:
            with pytest.raises(q.NotSent, match=r"the server.s certificate is refused: .*certificate"):
                await client.queues()
        with pytest.raises(q.ConnectFailed, match="the server's certificate is refused"):
            async with q.connect(secured.websocket_url):
                pass
        wrong_name = secured.url.replace("localhost", "127.1")
        async with q.HttpClient(wrong_name, patience_seconds=0, **secured.files.given) as client:
            with pytest.raises(q.NotSent, match="certificate is refused: Hostname mismatch"):
                await client.queues()

    anyio.run(main, backend=backend)
    with (
        blocking.HttpClient(secured.url, patience_seconds=0) as client,
        pytest.raises(q.NotSent, match="the server's certificate is refused"),
    ):
        client.queues()


# Verifies: API-0187
@on_both_loops
def test_a_client_that_shows_nothing(secured: Secured, backend: str) -> None:
    async def main() -> None:
        async with q.HttpClient(secured.url, patience_seconds=0, ca_file=secured.files.ca) as client:
            with pytest.raises(q.ConnectionLost, match=r"certificate required|connection broke|ended"):
                await client.publish("q", "x")

    anyio.run(main, backend=backend)


# Verifies: API-0187
def test_files_that_are_none(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pem")
    (tmp_path / "text.pem").write_text("text")
    text = str(tmp_path / "text.pem")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"ca_file": missing}, "none.pem' can't be used: No such file"),
        ({"ca_file": text}, "the certificates in .*text.pem' can't be used: no certificate or crl found"),
        ({"certificate_file": missing}, "the certificate and key in .*none.pem' can't be used: No such file"),
        (
            {"certificate_file": text, "key_file": text},
            "text.pem' and .*text.pem' can't be used: it has no certificate and key in PEM form",
        ),
        ({"key_file": text}, "a key is no use without its certificate"),
    ]
    for files, sentence in cases:
        with pytest.raises(q.BadTlsFile, match=sentence):
            q.HttpClient("https://localhost", **files)
    assert Tls().context() is not Tls().context()
    assert explained(ValueError("odd")) == "odd"


# Verifies: API-0187, API-0121
def test_commands(secured: Secured, tmp_path: Path) -> None:
    files = secured.files
    given = {"QRUSTY_CA": files.ca, "QRUSTY_CLIENT_CERT": files.certificate, "QRUSTY_CLIENT_KEY": files.key}
    shell = Shell(secured.url, tmp_path)
    shell.ok("publish", "commands", "hello", **given)
    done = shell.ok("consume", "commands", "--raw", "--verbose", **given)
    assert done.out == "hello"
    assert f"curl --cacert {files.ca} --cert {files.certificate} --key {files.key}" in done.err
    refused = shell.run("queue", "list")
    assert refused.status == Exit.UNREACHABLE
    assert "QRUSTY_CA names the file" in refused.err
    wrong = shell.run("queue", "list", QRUSTY_CA=str(tmp_path / "none"))
    assert wrong.status == 2
    assert "can't be used: No such file or directory. QRUSTY_CA, QRUSTY_CLIENT_CERT" in wrong.err
    shell.ok("publish", "work", "to do", **given)
    command = [sys.executable, "-m", "qrusty_trio", "work", "work", "--", "cat"]
    environment = shell.environment(QRUSTY_URL=secured.url, **given)
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"to do"
        process.terminate()
        process.communicate(timeout=PATIENCE)


# Verifies: API-0187
@pytest.mark.parametrize("shows", [True, False], ids=["a certificate", "none"])
def test_the_health_check_of_the_image(secured: Secured, shows: bool) -> None:
    variables = {
        "BIND_ADDR": f"0.0.0.0:{secured.server.port}",
        "QRUSTY_TLS_CERT": str(Path(secured.files.ca).with_name("server.pem")),
        "QRUSTY_TLS_KEY": str(Path(secured.files.ca).with_name("server.key")),
        "QRUSTY_TLS_CLIENT_CA": secured.files.ca,
    }
    if shows:
        variables |= {"QRUSTY_CLIENT_CERT": secured.files.certificate, "QRUSTY_CLIENT_KEY": secured.files.key}
    done = subprocess.run(
        [sys.executable, str(ROOT / "docker/healthcheck.py")],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    # Without one of its own it shows the server's, which the same authority has signed here.
    assert (done.returncode, done.stderr) == (0, b"")
