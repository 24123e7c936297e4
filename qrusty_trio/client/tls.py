"""How a client recognizes its server over TLS, and what it shows of itself.

Requirements: API-0187
"""

from __future__ import annotations

import ssl
from os import PathLike

from qrusty_trio.client.errors import BadTlsFile

FilePath = str | PathLike[str]


class Tls:
    """The files of a client, read once.

    ca_file: certificates in PEM form, of which one has signed the server's; those of the system if not given.
    certificate_file: the client's own certificate, for a server that asks for one. key_file: its key, if that is not
    in the same file.
    """

    def __init__(
        self,
        ca_file: FilePath | None = None,
        certificate_file: FilePath | None = None,
        key_file: FilePath | None = None,
    ) -> None:
        """Raises BadTlsFile."""
        self._context: ssl.SSLContext | None = None
        if ca_file is not None or certificate_file is not None or key_file is not None:
            self._context = _context(ca_file, certificate_file, key_file)

    def context(self) -> ssl.SSLContext:
        """For one connection or many."""
        if self._context is None:
            self._context = ssl.create_default_context()
        return self._context


def _context(ca_file: FilePath | None, certificate_file: FilePath | None, key_file: FilePath | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise BadTlsFile(f"the certificates in '{ca_file}' can't be used: {explained(error)}") from error
    if certificate_file is not None:
        try:
            context.load_cert_chain(certificate_file, key_file, password="")
        except (OSError, ValueError) as error:
            files = f"'{certificate_file}'" if key_file is None else f"'{certificate_file}' and '{key_file}'"
            raise BadTlsFile(f"the certificate and key in {files} can't be used: {explained(error)}") from error
    elif key_file is not None:
        raise BadTlsFile("a key is no use without its certificate")
    return context


def explained(error: Exception) -> str:
    """What is wrong, without the names of OpenSSL's library and source file."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    if isinstance(error, ssl.SSLError):
        return "it has no certificate and key in PEM form" if "PEM" in str(error) else str(error)
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
