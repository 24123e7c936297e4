"""A server in a process of its own that speaks TLS, asked by curl and openssl, and given another certificate."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trustme
from cryptography.x509 import load_pem_x509_certificate

from qrusty_trio.server.certificates import TlsFiles
from tests.certificates import (
    NAMES,
    authority,
    client_certificate,
    client_context,
    server_certificate,
    tls_peer,
    write_authority,
    write_pair,
)
from tests.http.web import request
from tests.server.running import Child, child_environment, child_process, child_server

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing")

PATIENCE = 60
PUBLISH = request("POST", "/publish", {"queue": "q", "priority": 1, "payload": "x"})


def variables(files: TlsFiles) -> dict[str, str]:
    return {"QRUSTY_TLS_CERT": str(files.certificate), "QRUSTY_TLS_KEY": str(files.key)}


@asynccontextmanager
async def tls_server(tmp_path: Path, **more: str) -> AsyncIterator[tuple[Child, TlsFiles]]:
    files = write_pair(tmp_path)
    async with child_server(tmp_path / "data", **variables(files), **more) as child:
        yield child, files


async def run(*command: str, given: bytes = b"") -> str:
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(command, stdin=given, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    return str(done.stdout.decode(errors="replace"))


async def serial_at(port: int) -> int:
    """The serial number of the certificate that is shown."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with trio.SSLStream(stream, client_context(), server_hostname="localhost", https_compatible=True) as secured:
        await secured.do_handshake()
        shown = secured.getpeercert()
    return int(shown["serialNumber"], 16)


def serial_of(certificate: trustme.LeafCert) -> int:
    return load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes()).serial_number


# Verifies: SYS-0040, API-0184, API-0180
@needs_curl
async def test_curl(tmp_path: Path) -> None:
    ca = str(write_authority(tmp_path))
    async with tls_server(tmp_path) as (child, _):
        address = f"https://localhost:{child.port}/health"
        to_it = ["--resolve", f"localhost:{child.port}:127.0.0.1"]
        for version, option in (("1.1", "--http1.1"), ("2", "--http2")):
            said = await run("curl", "-sS", "--cacert", ca, *to_it, option, "-w", "|%{http_version}", address)
            assert said == '{"status":"ok","memory_pressure":false}|' + version
        assert "certificate" in await run("curl", "-sS", *to_it, address)  # nobody it knows has signed it
        said = await run("curl", "-sS", "-w", "|%{http_code}", f"http://127.0.0.1:{child.port}/health")
        assert "tls_required" in said
        assert said.endswith("|400")


# Verifies: SYS-0040
@needs_openssl
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl(tmp_path: Path, version: str) -> None:
    ca = str(write_authority(tmp_path))
    async with tls_server(tmp_path) as (child, _):
        connect = ["openssl", "s_client", "-connect", f"127.0.0.1:{child.port}", "-CAfile", ca, "-verify_return_error"]
        asked = request("GET", "/health", headers=b"Connection: close\r\n")
        said = await run(*connect, version, "-quiet", "-ign_eof", given=asked)
        assert '"status":"ok"' in said
        said = await run(*connect, version, "-alpn", "h2")
        assert "Verify return code: 0 (ok)" in said
        assert "ALPN protocol: h2" in said
        if version == "-tls1_2":
            assert "Secure Renegotiation IS supported" in said  # that is RFC 5746, not that there is one


EFFECT = {b"K\n": b"KEYUPDATE", b"k\n": b"KEYUPDATE", b"R\n": b"RENEGOTIATING"}
"""What s_client does at a line, and says."""


# Verifies: SYS-0040
@needs_openssl
@pytest.mark.parametrize("command", EFFECT, ids=["new-keys-for-both", "new-keys", "renegotiation"])
async def test_new_keys_and_no_renegotiation(tmp_path: Path, command: bytes) -> None:
    version = "-tls1_2" if command == b"R\n" else "-tls1_3"
    asked = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    async with tls_server(tmp_path) as (child, _):
        process = await trio.lowlevel.open_process(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{child.port}", version],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        said = b""
        with trio.fail_after(PATIENCE):
            async with process.stdin, process.stdout:
                # It takes a command only if that comes alone.
                waits_for = [(b"Verify return code", command), (EFFECT[command], asked)]
                async for data in process.stdout:
                    said += data
                    if waits_for and waits_for[0][0] in said:
                        with suppress(trio.BrokenResourceError):
                            await process.stdin.send_all(waits_for.pop(0)[1])
            await process.wait()
        assert (b'"status":"ok"' in said) == (command != b"R\n"), said[-2000:]
        assert "Traceback" not in child.log
        assert await serial_at(child.port)


# Verifies: API-0182
async def test_a_new_certificate_and_a_bad_one(tmp_path: Path) -> None:
    new = authority().issue_cert(*NAMES)
    async with tls_server(tmp_path) as (child, files):
        old = await tls_peer(child.port)
        async with old.stream:
            assert await serial_at(child.port) == serial_of(server_certificate())
            write_pair(tmp_path, new)
            child.send_signal(signal.SIGHUP)
            await child.logged("the certificate was read anew (SIGHUP)")
            assert await serial_at(child.port) == serial_of(new)
            files.key.write_bytes(server_certificate().private_key_pem.bytes())
            child.send_signal(signal.SIGHUP)
            await child.logged("the certificate stays as it was: QRUSTY_TLS_KEY=")
            assert "is not the key of the certificate" in child.log
            assert await serial_at(child.port) == serial_of(new)
            old.put(PUBLISH)
            await old.flush()
            assert b"200 OK" in await old.read()


# Verifies: API-0182
async def test_new_certificates_under_load(tmp_path: Path) -> None:
    """No request fails, on old connections and on new ones."""
    done = trio.Event()
    answered = 0

    async def work(port: int, reconnects: bool) -> None:
        nonlocal answered
        peer = await tls_peer(port)
        while not done.is_set():
            if reconnects:
                await trio.aclose_forcefully(peer.stream)
                peer = await tls_peer(port)
            peer.put(PUBLISH)
            await peer.flush()
            answer = b""
            while not answer.endswith(b"}"):
                answer += await peer.read()
            assert answer.startswith(b"HTTP/1.1 200")
            answered += 1
        await trio.aclose_forcefully(peer.stream)

    async with tls_server(tmp_path) as (child, _):
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(work, child.port, number % 2 == 0)
                for count in range(1, 11):
                    write_pair(tmp_path, authority().issue_cert(*NAMES))
                    child.send_signal(signal.SIGHUP)
                    while child.log.count("the certificate was read anew") < count:  # noqa: ASYNC110  # another process
                        await trio.sleep(0.005)
                    before = answered
                    while answered < before + 20:  # noqa: ASYNC110  # it is counted
                        await trio.sleep(0.005)
                done.set()
        assert "Traceback" not in child.log
        assert await child.stop() == 0


# Verifies: API-0183
async def test_a_bad_file_refuses_the_start(tmp_path: Path) -> None:
    files = write_pair(tmp_path)
    files.key.write_bytes(authority().issue_cert("localhost").private_key_pem.bytes())
    async with child_process(child_environment(tmp_path / "data", **variables(files))) as child:
        assert await child.ended() == 78
    assert child.log.splitlines()[-1] == (
        f"QRUSTY_TLS_KEY='{files.key}' is not the key of the certificate in '{files.certificate}'."
    )
    assert not (tmp_path / "data").exists()


# Verifies: API-0186
@needs_curl
async def test_curl_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    ca = str(write_authority(tmp_path))
    shown = tmp_path / "client.pem"
    shown.write_bytes(client_certificate().private_key_and_cert_chain_pem.bytes())
    async with tls_server(tmp_path, QRUSTY_TLS_CLIENT_CA=ca) as (child, _):
        address = f"https://127.0.0.1:{child.port}/health"
        assert '"ok"' in await run("curl", "-sS", "--cacert", ca, "--cert", str(shown), address)
        assert "alert" in await run("curl", "-sS", "--cacert", ca, address)
