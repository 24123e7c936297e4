"""Real certificates for tests: one authority, and what it has signed, made once in a process."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import trio
import trustme

from qrusty_trio.server.certificates import TlsFiles, load

NAMES = ("localhost", "127.0.0.1")


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@cache
def other_authority() -> trustme.CA:
    return trustme.CA()


@cache
def server_certificate() -> trustme.LeafCert:
    return authority().issue_cert(*NAMES)


@cache
def client_certificate() -> trustme.LeafCert:
    return authority().issue_cert("billing@test.example", common_name="billing")


def write_pair(directory: Path, certificate: trustme.LeafCert | None = None) -> TlsFiles:
    """Write a certificate and its key, the usual ones if none is given."""
    certificate = certificate or server_certificate()
    files = TlsFiles(directory / "server.pem", directory / "server.key")
    files.certificate.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    files.key.write_bytes(certificate.private_key_pem.bytes())
    return files


def write_authority(directory: Path) -> Path:
    path = directory / "ca.pem"
    path.write_bytes(authority().cert_pem.bytes())
    return path


def server_context(directory: Path, *, client_ca: bool = False) -> ssl.SSLContext:
    """As a server makes it."""
    files = write_pair(directory)
    ca = write_authority(directory) if client_ca else None
    return load(TlsFiles(files.certificate, files.key, ca))


def client_context(
    certificate: trustme.LeafCert | None = None, protocols: Sequence[str] = ("http/1.1",)
) -> ssl.SSLContext:
    """Trusts the authority and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    context.set_alpn_protocols(list(protocols))
    if certificate is not None:
        certificate.configure_cert(context)
    return context


def expired() -> trustme.LeafCert:
    return authority().issue_cert(*NAMES, not_before=_days(-30), not_after=_days(-1))


def not_yet_valid() -> trustme.LeafCert:
    return authority().issue_cert(*NAMES, not_before=_days(2), not_after=_days(30))


def _days(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


class TlsPeer:
    """A client that decides itself what goes into which record, and sees each end for itself."""

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext) -> None:
        self.stream = stream
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    async def shake_hands(self) -> None:
        """Raises ssl.SSLError, and EOFError if the server closes."""
        while True:
            try:
                self.tls.do_handshake()
                await self.flush()
                return
            except ssl.SSLWantReadError:
                await self.flush()
                await self.more()

    def put(self, data: bytes) -> None:
        """Encrypt a record. It leaves with the next `flush`."""
        self.tls.write(data)

    async def flush(self) -> None:
        if self.outgoing.pending:
            await self.stream.send_all(self.outgoing.read())

    async def more(self) -> None:
        data = await self.stream.receive_some(65536)
        if not data:
            raise EOFError
        self.incoming.write(data)

    async def read(self) -> bytes:
        """What arrives next; b"" for `close_notify`. Raises EOFError if the connection ends without that."""
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLZeroReturnError:
                return b""  # so it is told who has said goodbye before
            except ssl.SSLWantReadError:
                await self.more()

    async def read_all(self) -> bytes:
        """Everything up to `close_notify`."""
        data = b""
        while part := await self.read():
            data += part
        return data

    async def take_leave(self) -> None:
        """Send `close_notify`."""
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self.flush()


async def tls_peer(port: int, context: ssl.SSLContext | None = None) -> TlsPeer:
    """A connection whose handshake is complete. The caller closes its stream."""
    peer = TlsPeer(await trio.open_tcp_stream("127.0.0.1", port), context or client_context())
    try:
        await peer.shake_hands()
    except BaseException:
        await trio.aclose_forcefully(peer.stream)
        raise
    return peer
