"""Settings: every variable, what it takes, what it refuses and with which sentence; the command's exit statuses."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from dataclasses import fields
from ipaddress import ip_network
from pathlib import Path

import pytest

from qrusty_trio import __version__, config
from qrusty_trio.addresses import Address, UnixAddress
from qrusty_trio.config import (
    TABLE,
    Colour,
    Fsync,
    Settings,
    StorageMode,
    UnknownQueue,
    webui_directory,
)
from qrusty_trio.core.pressure import Thresholds
from qrusty_trio.errors import StartupRefused
from qrusty_trio.unknown_settings import unknown_variables

DEFAULTS = {
    "DATA_PATH": "/data",
    "BIND_ADDR": "0.0.0.0:6784",
    "STORAGE_MODE": "rocksdb",
    "MAX_CONNECTIONS": "10000",
    "QRUSTY_MAX_CONNECTIONS_PER_ADDRESS": "0",
    "QRUSTY_TRUSTED_PROXIES": "",
    "WEBUI_DIR": "/opt/qrusty/webui",
    "ROCKSDB_CACHE_MB": "128",
    "ROCKSDB_WRITE_BUFFER_MB": "auto",
    "ROCKSDB_MAX_OPEN_FILES": "128",
    "QRUSTY_HOT_TIER_SIZE": "1000",
    "QRUSTY_REFILL_THRESHOLD": "auto",
    "QRUSTY_EXTERNALIZE_MIN_BYTES": "4096",
    "QRUSTY_PAYLOAD_STORE": "enabled",
    "QRUSTY_SEGMENT_MAX_MB": "256",
    "QRUSTY_COMPACT_INTERVAL_SECS": "300",
    "QRUSTY_MEMORY_LIMIT_MB": "auto",
    "QRUSTY_MEMORY_PRESSURE_THRESHOLD": "0.80",
    "QRUSTY_MEMORY_PRESSURE_EXIT_THRESHOLD": "0.70",
    "QRUSTY_MEMORY_CRITICAL_THRESHOLD": "0.90",
    "QRUSTY_MAX_LOCKED_INDEX": "500000",
    "WS_PING_INTERVAL_SECS": "30",
    "WS_PING_TIMEOUT_SECS": "10",
    "QRUSTY_FSYNC": "always",
    "QRUSTY_FSYNC_LOCKS": "off",
    "QRUSTY_LOG_LEVEL": "info",
    "QRUSTY_LOG_FORMAT": "console",
    "QRUSTY_ACCESS_LOG": "off",
    "QRUSTY_AUDIT_FILE": "",
    "QRUSTY_AUDIT_MAX_MB": "16",
    "QRUSTY_ALLOWED_ORIGINS": "",
    "QRUSTY_ALLOWED_HOSTS": "",
    "QRUSTY_TLS_CERT": "",
    "QRUSTY_TLS_KEY": "",
    "QRUSTY_TLS_CLIENT_CA": "",
    "QRUSTY_TOKENS_FILE": "",
    "QRUSTY_UNKNOWN_QUEUE": "create",
    "QRUSTY_READ_ONLY": "disabled",
    "QRUSTY_TRACING": "disabled",
    "QRUSTY_ENVIRONMENT": "",
    "QRUSTY_ENVIRONMENT_COLOUR": "grey",
    "QRUSTY_FAST_LANE": "enabled",
}
"""What existing deployments of the recorded server, and our own documents, rely on."""


def read(**environment: str) -> Settings:
    return Settings.from_environment(environment)


def refusal(**environment: str) -> str:
    with pytest.raises(StartupRefused) as raised:
        read(**environment)
    return str(raised.value)


def test_names_and_defaults_are_those_that_deployments_rely_on() -> None:
    assert {row.variable: row.default for row in TABLE.values()} == DEFAULTS


def test_every_field_has_its_row() -> None:
    assert list(TABLE) == [field.name for field in fields(Settings)]


def test_no_variable_gives_the_defaults() -> None:
    assert read() == Settings() == read(**DEFAULTS)


def test_other_variables_are_left_alone() -> None:
    assert read(PATH="/bin", QRUSTY_NO_SUCH="1", bind_addr="nonsense") == Settings()


ACCEPTED: list[tuple[str, str, str, object]] = [
    ("DATA_PATH", "./data", "data_path", Path("data")),
    ("BIND_ADDR", "127.0.0.1:0", "bind_addr", (Address("127.0.0.1", 0),)),
    ("BIND_ADDR", "[::1]:6784", "bind_addr", (Address("::1", 6784),)),
    ("BIND_ADDR", "[::]:65535", "bind_addr", (Address("::", 65535),)),
    ("BIND_ADDR", "localhost:80", "bind_addr", (Address("localhost", 80),)),
    ("BIND_ADDR", "unix:/run/q ä.sock", "bind_addr", (UnixAddress("/run/q ä.sock"),)),
    ("BIND_ADDR", f"unix:/{'a' * 106}", "bind_addr", (UnixAddress(f"/{'a' * 106}"),)),
    (
        "BIND_ADDR",
        "127.0.0.1:6784, [::1]:6784,unix:/q",
        "bind_addr",
        (Address("127.0.0.1", 6784), Address("::1", 6784), UnixAddress("/q")),
    ),
    ("STORAGE_MODE", "memory", "storage_mode", StorageMode.MEMORY),
    ("MAX_CONNECTIONS", "1", "max_connections", 1),
    ("MAX_CONNECTIONS", "1000000", "max_connections", 1_000_000),
    ("QRUSTY_MAX_CONNECTIONS_PER_ADDRESS", "20", "max_connections_per_address", 20),
    (
        "QRUSTY_TRUSTED_PROXIES",
        "10.0.0.0/8, 2001:db8::1,unix",
        "trusted_proxies",
        (ip_network("10.0.0.0/8"), ip_network("2001:db8::1"), "unix"),
    ),
    ("WEBUI_DIR", "/srv/ui", "webui_dir", Path("/srv/ui")),
    ("ROCKSDB_CACHE_MB", "16", "rocksdb_cache_mb", 16),
    ("ROCKSDB_WRITE_BUFFER_MB", "128", "rocksdb_write_buffer_mb", 128),
    ("ROCKSDB_MAX_OPEN_FILES", "16", "rocksdb_max_open_files", 16),
    ("QRUSTY_HOT_TIER_SIZE", "1", "hot_tier_size", 1),
    ("QRUSTY_HOT_TIER_SIZE", "100000", "hot_tier_size", 100_000),
    ("QRUSTY_REFILL_THRESHOLD", "0", "refill_threshold", 0),
    ("QRUSTY_REFILL_THRESHOLD", "999", "refill_threshold", 999),
    ("QRUSTY_EXTERNALIZE_MIN_BYTES", "256", "externalize_min_bytes", 256),
    ("QRUSTY_EXTERNALIZE_MIN_BYTES", "2097152", "externalize_min_bytes", 2_097_152),
    ("QRUSTY_PAYLOAD_STORE", "disabled", "payload_store", False),
    ("QRUSTY_SEGMENT_MAX_MB", "1", "segment_max_mb", 1),
    ("QRUSTY_SEGMENT_MAX_MB", "4096", "segment_max_mb", 4096),
    ("QRUSTY_COMPACT_INTERVAL_SECS", "1.5", "compact_interval_secs", 1.5),
    ("QRUSTY_MEMORY_LIMIT_MB", "512", "memory_limit_mb", 512),
    ("QRUSTY_MEMORY_LIMIT_MB", "auto", "memory_limit_mb", None),
    ("QRUSTY_MEMORY_PRESSURE_THRESHOLD", "0.85", "memory_pressure_threshold", 0.85),
    ("QRUSTY_MEMORY_PRESSURE_EXIT_THRESHOLD", "0.5", "memory_pressure_exit_threshold", 0.5),
    ("QRUSTY_MEMORY_CRITICAL_THRESHOLD", "1", "memory_critical_threshold", 1.0),
    ("QRUSTY_MAX_LOCKED_INDEX", "1", "max_locked_index", 1),
    ("WS_PING_INTERVAL_SECS", "0.1", "ws_ping_interval_secs", 0.1),
    ("WS_PING_TIMEOUT_SECS", "86400", "ws_ping_timeout_secs", 86_400.0),
    ("QRUSTY_FSYNC", "everysec", "fsync", Fsync.EVERYSEC),
    ("QRUSTY_FSYNC_LOCKS", "on", "fsync_locks", True),
    ("QRUSTY_FAST_LANE", "disabled", "fast_path", False),
    ("QRUSTY_LOG_LEVEL", "debug", "log_level", "debug"),
    ("QRUSTY_LOG_FORMAT", "json", "log_format", "json"),
    ("QRUSTY_ACCESS_LOG", "json", "access_log", "json"),
    ("QRUSTY_AUDIT_FILE", "/var/log/audit.jsonl", "audit_file", Path("/var/log/audit.jsonl")),
    ("QRUSTY_AUDIT_MAX_MB", "1", "audit_max_mb", 1),
    ("QRUSTY_ALLOWED_ORIGINS", " ", "allowed_origins", frozenset()),
    (
        "QRUSTY_ALLOWED_ORIGINS",
        "https://Ops.example, http://localhost:3000",
        "allowed_origins",
        frozenset({"https://ops.example", "http://localhost:3000"}),
    ),
    (
        "QRUSTY_ALLOWED_HOSTS",
        "Ops.example, queue.internal.",
        "allowed_hosts",
        frozenset({"ops.example", "queue.internal"}),
    ),
    ("QRUSTY_TLS_CERT", "tls/cert.pem", "tls_cert", Path("tls/cert.pem")),
    ("QRUSTY_TLS_KEY", "tls/key.pem", "tls_key", Path("tls/key.pem")),
    ("QRUSTY_TLS_CLIENT_CA", "tls/ca.pem", "tls_client_ca", Path("tls/ca.pem")),
    ("QRUSTY_TOKENS_FILE", "/etc/qrusty/tokens.toml", "tokens_file", Path("/etc/qrusty/tokens.toml")),
    ("QRUSTY_UNKNOWN_QUEUE", "refuse", "unknown_queue", UnknownQueue.REFUSE),
    ("QRUSTY_READ_ONLY", "enabled", "read_only", True),
    ("QRUSTY_TRACING", "enabled", "tracing", True),
    ("QRUSTY_ENVIRONMENT", "prüfung 2", "environment", "prüfung 2"),
    ("QRUSTY_ENVIRONMENT_COLOUR", "red", "environment_colour", Colour.RED),
]


# Verifies: SYS-0016
@pytest.mark.parametrize(("variable", "given", "attribute", "expected"), ACCEPTED)
def test_accepted(variable: str, given: str, attribute: str, expected: object) -> None:
    needed = {"QRUSTY_TLS_CERT": "c", "QRUSTY_TLS_KEY": "k"} if variable.startswith("QRUSTY_TLS") else {}
    value = getattr(read(**{**needed, variable: given}), attribute)
    assert value == expected
    assert type(value) is type(expected) or isinstance(value, str)


def test_every_variable_is_tried_with_something_else_than_its_default() -> None:
    assert {row[0] for row in ACCEPTED if row[1] != DEFAULTS[row[0]]} == set(DEFAULTS)


REFUSED: list[tuple[str, str]] = [
    *((variable, "") for variable in DEFAULTS if DEFAULTS[variable]),
    ("DATA_PATH", "  "),
    ("DATA_PATH", "/data/\udcff"),
    ("BIND_ADDR", "6784"),
    ("BIND_ADDR", ":6784"),
    ("BIND_ADDR", "localhost"),
    ("BIND_ADDR", "localhost:65536"),
    ("BIND_ADDR", "localhost:-1"),
    ("BIND_ADDR", "localhost:http"),
    ("BIND_ADDR", "::1:6784"),
    ("BIND_ADDR", "[localhost]:6784"),
    ("BIND_ADDR", "[127.0.0.1]:6784"),
    ("BIND_ADDR", "a b:6784"),
    ("BIND_ADDR", "a:6784,"),
    ("BIND_ADDR", ",".join(f"a:{port}" for port in range(17))),
    ("BIND_ADDR", "unix:"),
    ("BIND_ADDR", "unix:q.sock"),
    ("BIND_ADDR", "unix:@abstract"),
    ("BIND_ADDR", "unix:/run/"),
    ("BIND_ADDR", "unix:/run/a\nb"),
    ("BIND_ADDR", "unix:/run/\udcff"),
    ("BIND_ADDR", f"unix:/{'ä' * 54}"),
    ("QRUSTY_MAX_CONNECTIONS_PER_ADDRESS", "-1"),
    ("QRUSTY_TRUSTED_PROXIES", "10.0.0.1/8"),
    ("QRUSTY_TRUSTED_PROXIES", "10.0.0.1,"),
    ("QRUSTY_TRUSTED_PROXIES", "proxy.example"),
    ("QRUSTY_AUDIT_FILE", " "),
    ("QRUSTY_AUDIT_FILE", "/\udcff"),
    ("QRUSTY_AUDIT_MAX_MB", "0"),
    ("STORAGE_MODE", "Memory"),
    ("STORAGE_MODE", "redis"),
    ("MAX_CONNECTIONS", "0"),
    ("MAX_CONNECTIONS", "-1"),
    ("MAX_CONNECTIONS", "+1"),
    ("MAX_CONNECTIONS", "1e3"),
    ("MAX_CONNECTIONS", "1_000"),
    ("MAX_CONNECTIONS", "10 "),
    ("MAX_CONNECTIONS", "1000001"),
    ("MAX_CONNECTIONS", "9" * 100),
    ("MAX_CONNECTIONS", "१०"),
    ("ROCKSDB_CACHE_MB", "0"),
    ("ROCKSDB_WRITE_BUFFER_MB", "0"),
    ("ROCKSDB_MAX_OPEN_FILES", "-1"),
    ("QRUSTY_HOT_TIER_SIZE", "0"),
    ("QRUSTY_HOT_TIER_SIZE", "100001"),
    ("QRUSTY_REFILL_THRESHOLD", "-1"),
    ("QRUSTY_EXTERNALIZE_MIN_BYTES", "255"),
    ("QRUSTY_EXTERNALIZE_MIN_BYTES", "2097153"),
    ("QRUSTY_PAYLOAD_STORE", "on"),
    ("QRUSTY_SEGMENT_MAX_MB", "0"),
    ("QRUSTY_SEGMENT_MAX_MB", "4097"),
    ("QRUSTY_COMPACT_INTERVAL_SECS", "0"),
    ("QRUSTY_MEMORY_LIMIT_MB", "31"),
    ("QRUSTY_MEMORY_LIMIT_MB", "none"),
    ("QRUSTY_MEMORY_PRESSURE_THRESHOLD", "80"),
    ("QRUSTY_MEMORY_PRESSURE_THRESHOLD", "nan"),
    ("QRUSTY_MEMORY_PRESSURE_EXIT_THRESHOLD", "-0.1"),
    ("QRUSTY_MEMORY_CRITICAL_THRESHOLD", "1.01"),
    ("QRUSTY_MEMORY_CRITICAL_THRESHOLD", "inf"),
    ("QRUSTY_MAX_LOCKED_INDEX", "0"),
    ("WS_PING_INTERVAL_SECS", "0"),
    ("WS_PING_TIMEOUT_SECS", "0.05"),
    ("QRUSTY_FSYNC", "sometimes"),
    ("QRUSTY_FSYNC_LOCKS", "enabled"),
    ("QRUSTY_FAST_LANE", "yes"),
    ("QRUSTY_LOG_LEVEL", "WARNING"),
    ("QRUSTY_LOG_FORMAT", "text"),
    ("QRUSTY_ALLOWED_ORIGINS", "*"),
    ("QRUSTY_ALLOWED_ORIGINS", "ops.example"),
    ("QRUSTY_ALLOWED_ORIGINS", "https://ops.example/"),
    ("QRUSTY_ALLOWED_ORIGINS", "https://ops.example,"),
    ("QRUSTY_ALLOWED_HOSTS", "*"),
    ("QRUSTY_ALLOWED_HOSTS", "ops.example:6784"),
    ("QRUSTY_ALLOWED_HOSTS", "https://ops.example"),
    ("QRUSTY_ALLOWED_HOSTS", "ops.example,"),
    ("QRUSTY_TLS_CERT", "  "),
    ("QRUSTY_TLS_KEY", "a\0b"),
    ("QRUSTY_TLS_CLIENT_CA", "\udcff"),
    ("QRUSTY_TOKENS_FILE", " "),
    ("QRUSTY_UNKNOWN_QUEUE", "Refuse"),
    ("QRUSTY_READ_ONLY", "on"),
    ("QRUSTY_TRACING", "1"),
    ("QRUSTY_ENVIRONMENT", "a\nb"),
    ("QRUSTY_ENVIRONMENT", " a"),
    ("QRUSTY_ENVIRONMENT", "a" * 33),
    ("QRUSTY_ENVIRONMENT_COLOUR", "pink"),
]


# Verifies: API-0061
@pytest.mark.parametrize(("variable", "given"), REFUSED)
def test_refused_with_variable_value_and_what_is_allowed(variable: str, given: str) -> None:
    row = next(row for row in TABLE.values() if row.variable == variable)
    assert refusal(**{variable: given}) == f"{variable}={given!r} is not allowed: it takes {row.check.allowed}."


# Verifies: API-0061
def test_a_path_of_a_socket_that_is_too_long_is_refused_with_the_limit() -> None:
    assert "at most 107 bytes" in refusal(BIND_ADDR=f"unix:/{'a' * 107}")


def test_a_refusal_shows_the_beginning_of_a_long_value() -> None:
    assert refusal(MAX_CONNECTIONS="9" * 5000).startswith(f"MAX_CONNECTIONS='{'9' * 100}'... is not allowed")


# Verifies: API-0061
def test_every_variable_is_tried_with_something_wrong() -> None:
    assert {variable for variable, _ in REFUSED} >= set(DEFAULTS)


# Verifies: API-0062
@pytest.mark.parametrize(
    "environment",
    [
        {"QRUSTY_MEMORY_PRESSURE_THRESHOLD": "0.95", "QRUSTY_MEMORY_CRITICAL_THRESHOLD": "0.90"},
        {"QRUSTY_MEMORY_PRESSURE_THRESHOLD": "0.60", "QRUSTY_MEMORY_PRESSURE_EXIT_THRESHOLD": "0.60"},
        {"QRUSTY_MEMORY_CRITICAL_THRESHOLD": "0.50", "QRUSTY_MEMORY_PRESSURE_EXIT_THRESHOLD": "0.60"},
        {"QRUSTY_MEMORY_PRESSURE_EXIT_THRESHOLD": "0"},
        {"QRUSTY_MEMORY_PRESSURE_EXIT_THRESHOLD": "1"},
        {"QRUSTY_MEMORY_CRITICAL_THRESHOLD": "0"},
    ],
)
def test_thresholds_must_rise(environment: dict[str, str]) -> None:
    sentence = refusal(**environment)
    for variable, value in environment.items():
        assert f"{variable}={float(value):g}" in sentence


# Verifies: API-0062
@pytest.mark.parametrize(
    ("environment", "names"),
    [
        (
            {"QRUSTY_HOT_TIER_SIZE": "250", "QRUSTY_REFILL_THRESHOLD": "250"},
            ("QRUSTY_REFILL_THRESHOLD='250'", "QRUSTY_HOT_TIER_SIZE, which is 250"),
        ),
        (
            {"QRUSTY_AUDIT_FILE": "/srv/q/audit", "DATA_PATH": "/srv/q"},
            ("QRUSTY_AUDIT_FILE='/srv/q/audit'", "DATA_PATH, which is /srv/q"),
        ),
        (
            {"ROCKSDB_CACHE_MB": "15", "ROCKSDB_WRITE_BUFFER_MB": "16"},
            ("ROCKSDB_WRITE_BUFFER_MB='16'", "ROCKSDB_CACHE_MB, which is 15"),
        ),
    ],
)
def test_values_must_fit_together(environment: dict[str, str], names: tuple[str, ...]) -> None:
    sentence = refusal(**environment)
    assert all(name in sentence for name in names)


@pytest.mark.parametrize(
    ("size", "threshold"), [(1, 0), (3, 0), (4, 1), (10, 2), (1000, 250), (100_000, 25_000)], ids=str
)
def test_the_refill_threshold_follows_the_tier_size(size: int, threshold: int) -> None:
    assert read(QRUSTY_HOT_TIER_SIZE=f"{size}").refill_threshold == threshold
    assert read(QRUSTY_HOT_TIER_SIZE=f"{size}", QRUSTY_REFILL_THRESHOLD="0").refill_threshold == 0


@pytest.mark.parametrize(("cache", "memory_tables"), [(1, 1), (2, 1), (8, 4), (31, 15), (32, 16), (4096, 16)], ids=str)
def test_the_memory_tables_follow_the_cache(cache: int, memory_tables: int) -> None:
    assert read(ROCKSDB_CACHE_MB=f"{cache}").rocksdb_write_buffer_mb == memory_tables
    assert read(ROCKSDB_CACHE_MB=f"{cache}", ROCKSDB_WRITE_BUFFER_MB="1").rocksdb_write_buffer_mb == 1


SHARES = [f"{percent / 100:.2f}" for percent in range(1, 100)]
THRESHOLDS = (
    "QRUSTY_MEMORY_PRESSURE_EXIT_THRESHOLD",
    "QRUSTY_MEMORY_PRESSURE_THRESHOLD",
    "QRUSTY_MEMORY_CRITICAL_THRESHOLD",
)


@pytest.mark.parametrize("given", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)], ids=str)
def test_thresholds_that_are_not_set_give_way(given: tuple[int, ...]) -> None:
    for shares in itertools.combinations(SHARES, len(given)):
        settings = read(**{THRESHOLDS[place]: share for place, share in zip(given, shares, strict=True)})
        found = settings.thresholds
        for place, share in zip(given, shares, strict=True):
            assert (found.exit, found.warning, found.critical)[place] == float(share)
    assert read(QRUSTY_MEMORY_CRITICAL_THRESHOLD="1").thresholds == Thresholds(critical=1.0)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0.70, 0.80, 0.90)),
        ({"QRUSTY_MEMORY_CRITICAL_THRESHOLD": "0.85"}, (0.70, 0.80, 0.85)),
        ({"QRUSTY_MEMORY_CRITICAL_THRESHOLD": "0.72"}, (0.56, 0.64, 0.72)),
        ({"QRUSTY_MEMORY_PRESSURE_THRESHOLD": "0.60"}, (0.525, 0.60, 0.90)),
        ({"QRUSTY_MEMORY_PRESSURE_THRESHOLD": "0.94"}, (0.70, 0.94, 0.97)),
        ({"QRUSTY_MEMORY_PRESSURE_EXIT_THRESHOLD": "0.84"}, (0.84, 0.87, 0.90)),
    ],
)
def test_which_way_they_give_way(environment: dict[str, str], expected: tuple[float, ...]) -> None:
    found = read(**environment).thresholds
    assert (found.exit, found.warning, found.critical) == pytest.approx(expected)


@pytest.mark.parametrize(("threshold", "size"), [(0, 1000), (999, 1000), (1000, 4000), (99_999, 100_000)], ids=str)
def test_the_tier_size_gives_way_to_the_refill_threshold(threshold: int, size: int) -> None:
    assert read(QRUSTY_REFILL_THRESHOLD=f"{threshold}").hot_tier_size == size


@pytest.mark.parametrize(("memory_tables", "cache"), [(1, 128), (128, 128), (129, 258), (65_536, 131_072)], ids=str)
def test_the_cache_gives_way_to_the_memory_tables(memory_tables: int, cache: int) -> None:
    assert read(ROCKSDB_WRITE_BUFFER_MB=f"{memory_tables}").rocksdb_cache_mb == cache


# Verifies: API-0062
def test_no_number_alone_is_refused_for_a_default_of_another_setting() -> None:
    for row in TABLE.values():
        bounds = re.search(r"number from (\S+) to (\S+)", row.check.allowed)
        for bound in bounds.groups() if bounds is not None else ():
            share = row.unit == "share"
            given = {"0": "0.001", "1": "0.999"}[bound] if share else bound
            assert read(**{row.variable: given}) != Settings() or given == row.default


def test_addresses_are_written_as_they_are_read() -> None:
    assert [str(Address("::1", 1)), str(Address("localhost", 2))] == ["[::1]:1", "localhost:2"]


# Verifies: API-0063
def test_a_slip_of_the_pen_is_told() -> None:
    environment = {
        "QRUSTY_FSINC": "never",
        "ROCKSDB_CACHE": "1",
        "WS_PING_INTERVALL_SECS": "1",
        "QRUSTY_X": "",
        "QRUSTY_URL": "http://127.0.0.1:6784",
        "HOME": "/",
    }
    assert unknown_variables(environment | DEFAULTS) == [
        "QRUSTY_FSINC is no setting of this server; is QRUSTY_FSYNC meant?",
        "QRUSTY_X is no setting of this server",
        "ROCKSDB_CACHE is no setting of this server; is ROCKSDB_CACHE_MB meant?",
        "WS_PING_INTERVALL_SECS is no setting of this server; is WS_PING_INTERVAL_SECS meant?",
    ]


# Verifies: API-0063
@pytest.mark.parametrize("service", ["QRUSTY", "QRUSTY_TRIO", "QRUSTY_2", "ROCKSDB_BACKUP", "WS_PING_PONG"])
def test_what_kubernetes_sets_is_no_slip(service: str) -> None:
    names = [
        *("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "SERVICE_PORT_WS_ALT", "PORT"),
        *(
            f"PORT_6784_{protocol}{part}"
            for protocol in ("TCP", "UDP", "SCTP")
            for part in ("", "_PROTO", "_PORT", "_ADDR")
        ),
    ]
    assert unknown_variables({f"{service}_{name}": "tcp://10.0.0.1:6784" for name in names}) == []
    slips = ["PORTS", "PORT_X_TCP", "PORT_6784", "SERVICE", "HOST", "PORT_6784_TCP_HOST", "SERVICEPORT"]
    assert len(unknown_variables({f"{service}_{name}": "1" for name in slips})) == len(slips)


def test_the_web_ui_configured_comes_before_the_one_that_is_built_in(tmp_path: Path) -> None:
    built_in = webui_directory(tmp_path)
    assert built_in is not None
    assert (built_in / "index.html").is_file()
    (tmp_path / "index.html").write_text("<!doctype html>")
    assert webui_directory(tmp_path) == tmp_path


def test_no_web_ui_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "__file__", str(tmp_path / "package" / "config.py"))
    assert webui_directory(tmp_path / "nowhere") is None


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "COVERAGE_PROCESS_CONFIG") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "qrusty_trio", *arguments],
        env=kept | environment,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# Verifies: API-0060
def test_a_bad_value_ends_the_command_with_78_and_one_line() -> None:
    ended = run(QRUSTY_FSYNC="some\ntimes")
    assert ended.returncode == 78
    assert ended.stdout == ""
    assert ended.stderr == ("QRUSTY_FSYNC='some\\ntimes' is not allowed: it takes always, everysec or never.\n")


def test_version_and_help() -> None:
    assert run("--version").stdout == f"qrusty-trio {__version__}\n"
    told = run("serve", "--help").stdout
    for row in TABLE.values():
        assert f"{row.variable}={row.default}\n" in told
        assert row.meaning in told


def test_other_arguments_are_refused() -> None:
    ended = run("serve", "now")
    assert ended.returncode == 2
    assert ended.stderr == "error: Got unexpected extra argument(s) (now). See `qrusty-trio serve --help`\n"
