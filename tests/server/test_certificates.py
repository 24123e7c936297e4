"""The files of TLS: what is wrong with one is said at a start, and names it. Later, the old ones stay."""

from __future__ import annotations

import logging
import re
import ssl
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from qrusty_trio.config import Settings
from qrusty_trio.errors import StartupRefused
from qrusty_trio.server.certificates import Certificates, TlsFiles, certificates_of, load
from qrusty_trio.server.x509 import Validity, validity_of
from tests.certificates import (
    authority,
    expired,
    not_yet_valid,
    other_authority,
    server_certificate,
    write_authority,
    write_pair,
)


def der_of(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


# Verifies: SYS-0040
def test_what_is_made_of_good_files(tmp_path: Path) -> None:
    context = load(write_pair(tmp_path))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE
    assert all("GCM" in each["name"] or "CHACHA20" in each["name"] for each in context.get_ciphers())


# Verifies: SYS-0040
def test_a_key_and_a_certificate_in_one_file(tmp_path: Path) -> None:
    files = write_pair(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes(files.key.read_bytes() + files.certificate.read_bytes())
    load(TlsFiles(both, both))


# Verifies: API-0183
@pytest.mark.parametrize("which", ["certificate", "key", "client_ca"])
def test_a_file_that_is_missing(tmp_path: Path, which: str) -> None:
    files = replace(write_pair(tmp_path), client_ca=write_authority(tmp_path))
    path: Path = getattr(files, which)
    path.unlink()
    variable = {"certificate": "QRUSTY_TLS_CERT", "key": "QRUSTY_TLS_KEY", "client_ca": "QRUSTY_TLS_CLIENT_CA"}[which]
    with pytest.raises(StartupRefused, match=re.escape(f"{variable}='{path}' can't be read: No such file")):
        load(files)


# Verifies: API-0183
def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(StartupRefused, match=r"QRUSTY_TLS_CERT=.* can't be read: Is a directory"):
        load(TlsFiles(tmp_path, tmp_path))


BROKEN = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


# Verifies: API-0183
@pytest.mark.parametrize(
    ("which", "content", "sentence"),
    [
        ("certificate", b"nothing", "QRUSTY_TLS_CERT=.* has no certificate in PEM form"),
        ("certificate", BROKEN, "QRUSTY_TLS_CERT=.* has a broken certificate"),
        ("key", b"", "QRUSTY_TLS_KEY=.* has no private key in PEM form"),
        (
            "key",
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "QRUSTY_TLS_KEY=.* has a broken private key",
        ),
        ("client_ca", b"\xff\x00", "QRUSTY_TLS_CLIENT_CA=.* has no certificate in PEM form"),
        ("client_ca", BROKEN, "QRUSTY_TLS_CLIENT_CA=.* has a broken certificate"),
    ],
    ids=["certificate", "broken-certificate", "key", "broken-key", "ca", "broken-ca"],
)
def test_a_file_of_something_else(tmp_path: Path, which: str, content: bytes, sentence: str) -> None:
    files = replace(write_pair(tmp_path), client_ca=write_authority(tmp_path))
    getattr(files, which).write_bytes(content)
    with pytest.raises(StartupRefused, match=sentence):
        load(files)


# Verifies: API-0183
def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    files = write_pair(tmp_path)
    files.key.write_bytes(authority().issue_cert("localhost").private_key_pem.bytes())
    with pytest.raises(StartupRefused, match=r"QRUSTY_TLS_KEY=.*server\.key' is not the key of the certificate in"):
        load(files)


# Verifies: API-0183
def test_a_key_with_a_passphrase(tmp_path: Path) -> None:
    files = write_pair(tmp_path)
    key = load_pem_private_key(files.key.read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    files.key.write_bytes(locked)
    with pytest.raises(StartupRefused, match="is encrypted, and nobody is there to be asked"):
        load(files)


# Verifies: API-0183
def test_a_certificate_that_is_not_valid_now_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(write_pair(tmp_path, expired()))
    load(write_pair(tmp_path, not_yet_valid()))
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [re.sub(r"'.*'|\d{4}-\d\d-\d\d", "*", line) for line in lines] == [
        "QRUSTY_TLS_CERT: the certificate in * has expired on *",
        "QRUSTY_TLS_CERT: the certificate in * is not valid before *",
    ]


# Verifies: API-0183
@pytest.mark.parametrize(
    "settings",
    [{"tls_cert": "a"}, {"tls_key": "a"}, {"tls_client_ca": "a"}],
    ids=["certificate", "key", "ca"],
)
def test_settings_that_do_not_belong_together(settings: dict[str, str]) -> None:
    with pytest.raises(StartupRefused, match="QRUSTY_TLS_CERT"):
        Settings(**{name: Path(value) for name, value in settings.items()})  # type: ignore[arg-type]  # all are paths


# Verifies: API-0182
def test_bad_files_change_nothing(tmp_path: Path) -> None:
    files = write_pair(tmp_path)
    certificates = certificates_of(Settings(tls_cert=files.certificate, tls_key=files.key))
    assert isinstance(certificates, Certificates)
    before = certificates.context()
    files.key.write_bytes(b"half")
    with pytest.raises(StartupRefused):
        certificates.read_again()
    assert certificates.context() is before
    write_pair(tmp_path)
    certificates.read_again()
    assert certificates.context() is not before


def test_none_are_configured() -> None:
    assert certificates_of(Settings()) is None


def test_until_when_a_certificate_is_valid() -> None:
    until = datetime(2055, 3, 4, 5, 6, 7, tzinfo=UTC)
    since = datetime(2020, 1, 2, tzinfo=UTC)
    # From 2050 on, the time has another form (RFC 5280, 4.1.2.5).
    later = authority().issue_cert("localhost", not_before=since, not_after=until)
    assert validity_of(der_of(later.cert_chain_pems[0].bytes())) == Validity(since, until)


def test_what_is_no_certificate() -> None:
    der = der_of(server_certificate().cert_chain_pems[0].bytes())
    validity_of(der)
    for length in range(0, 200, 3):
        with pytest.raises(ValueError):  # noqa: PT011  # the text does not matter
            validity_of(der[:length])
    for at in range(200):
        changed = bytearray(der)
        changed[at] ^= 0x55
        with suppress(ValueError):
            validity_of(bytes(changed))
    assert other_authority() is not authority()
