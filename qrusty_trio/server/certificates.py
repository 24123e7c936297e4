"""The server's certificate and key, and whose certificates clients need: files that are read, checked and read anew.

Rule: what is wrong with a file is said in a sentence that names its setting. At a start that is a refusal. Later the
context that is in use stays. A context is made whole or not at all, so a handshake never sees half of a change.

Requirements: API-0182, API-0183, API-0184
"""

from __future__ import annotations

import logging
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from qrusty_trio.config import Settings
from qrusty_trio.errors import StartupRefused
from qrusty_trio.server.x509 import Validity, validity_of

CERT, KEY, CLIENT_CA = "QRUSTY_TLS_CERT", "QRUSTY_TLS_KEY", "QRUSTY_TLS_CLIENT_CA"
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: those with forward secrecy that HTTP/2 allows (RFC 9113, 9.2.2). TLS 1.3 has no others."""
PROTOCOLS = ["h2", "http/1.1"]
"""In the order in which they are chosen: a client that offers both expects HTTP/2, which the fallback serves."""
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(r"-----BEGIN ([A-Z]+ )?PRIVATE KEY-----")
_ENCRYPTED = re.compile(r"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED", re.MULTILINE)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the files are."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.certificate, self.key) if self.client_ca is None else (self.certificate, self.key, self.client_ca)


class Certificates:
    """What the next handshake uses.

    Requirements: API-0182
    """

    def __init__(self, files: TlsFiles) -> None:
        """Read the files. Blocks. Raises StartupRefused."""
        self.files = files
        self._context = load(files)

    def context(self) -> ssl.SSLContext:
        return self._context

    def read_again(self) -> None:
        """Use the files as they are now. Blocks, and may run in a thread. Raises StartupRefused; nothing is changed."""
        self._context = load(self.files)


def certificates_of(settings: Settings) -> Certificates | None:
    """None if none are configured. Blocks. Raises StartupRefused."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificates(TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca))


def load(files: TlsFiles) -> ssl.SSLContext:
    """A context of these files. Raises StartupRefused. A certificate that is not valid now is only warned of."""
    certificate = _text(CERT, files.certificate)
    key = _text(KEY, files.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(PROTOCOLS)
    # Requests say themselves where they end, and many clients close without a farewell.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_IGNORE_UNEXPECTED_EOF
    _check_validity(CERT, files.certificate, _certificates(CERT, files.certificate, certificate)[0])
    if _ENCRYPTED.search(key) is not None:
        raise _wrong(KEY, files.key, "is encrypted, and nobody is there to be asked for its passphrase. Decrypt it")
    if _KEY.search(key) is None:
        raise _wrong(KEY, files.key, "has no private key in PEM form")
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
    except (OSError, ValueError) as error:
        raise _wrong(KEY, files.key, _key_fault(error, files.certificate)) from error
    if files.client_ca is not None:
        text = _text(CLIENT_CA, files.client_ca)
        _certificates(CLIENT_CA, files.client_ca, text)
        context.load_verify_locations(cadata=text)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _text(variable: str, path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError as error:
        raise _wrong(variable, path, f"can't be read: {error.strerror}") from error


def _certificates(variable: str, path: Path, text: str) -> list[str]:
    """The certificates of a file, as PEM. Raises StartupRefused if there is none, or a broken one."""
    found = _CERTIFICATE.findall(text)
    if not found:
        raise _wrong(variable, path, "has no certificate in PEM form")
    for each in found:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=each)
        except (ssl.SSLError, ValueError) as error:
            raise _wrong(variable, path, "has a broken certificate") from error
    return [str(each) for each in found]


def _check_validity(variable: str, path: Path, pem: str) -> None:
    try:
        validity: Validity = validity_of(ssl.PEM_cert_to_DER_cert(pem))
    except ValueError:
        return  # OpenSSL has accepted it. Only the warning is left out.
    now = datetime.now(UTC)
    if now >= validity.until:
        log.warning("%s: the certificate in '%s' has expired on %s", variable, path, f"{validity.until:%Y-%m-%d}")
    elif now < validity.since:
        log.warning("%s: the certificate in '%s' is not valid before %s", variable, path, f"{validity.since:%Y-%m-%d}")


def _key_fault(error: Exception, certificate: Path) -> str:
    reason = getattr(error, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return f"is not the key of the certificate in '{certificate}'"
    if reason in ("EE_KEY_TOO_SMALL", "CA_MD_TOO_WEAK", "CA_KEY_TOO_SMALL"):
        return f"or the certificate in '{certificate}' is too weak: {str(reason).replace('_', ' ').lower()}"
    return "has a broken private key"


def _wrong(variable: str, path: Path, what: str) -> StartupRefused:
    return StartupRefused(f"{variable}='{path}' {what}.")
