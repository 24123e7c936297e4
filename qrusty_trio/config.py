"""Every setting of the server: its variable, default, check, unit and meaning, in one table.

Rule: the class body of `Settings` is that table. Nothing else in the server reads the environment, but for what systemd
says there (`server/notify.py`, `server/activation.py`). A value that is not allowed is never corrected: the server
refuses to start (exit status 78).

Requirements: SYS-0016
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Self, TypeVar, cast

from qrusty_trio.addresses import Address, UnixAddress, addresses
from qrusty_trio.checks import (
    AUTO,
    Check,
    decimal,
    derived,
    file,
    hosts,
    label,
    memory_limit,
    one_of,
    origins,
    path,
    proxies,
    switch,
    whole,
)
from qrusty_trio.core.pressure import Thresholds
from qrusty_trio.errors import StartupRefused
from qrusty_trio.logs import AccessFormat, LogFormat, LogLevel

T = TypeVar("T")

SHOWN_CHARS = 100
"""How many characters of an invalid value the error message shows."""
HOT_TIER_SIZE, MAX_HOT_TIER_SIZE = 1000, 100_000
CACHE_MB, WRITE_BUFFER_MB = 128, 16
"""Defaults that are adjusted to other settings (cache and write buffer in MiB)."""


class StorageMode(StrEnum):
    """Where messages are kept."""

    ROCKSDB = "rocksdb"
    MEMORY = "memory"


class UnknownQueue(StrEnum):
    """What becomes of a publish, consume or queue-stats for a name that no queue has.

    Requirements: API-0077
    """

    CREATE = "create"
    """A publish creates the queue; the others find it empty."""
    REFUSE = "refuse"
    """404 with the names that come near."""


class Fsync(StrEnum):
    """When a change is synced to disk. A response waits for the sync only with `always`.

    Requirements: PER-0004
    """

    ALWAYS = "always"
    EVERYSEC = "everysec"
    NEVER = "never"


class Colour(StrEnum):
    """How the web UI marks the environment."""

    GREY = "grey"
    RED = "red"
    ORANGE = "orange"
    GREEN = "green"
    BLUE = "blue"
    PURPLE = "purple"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    Requirements: API-0061
    """

    variable: str
    default: str
    check: Check[object]
    unit: str
    meaning: str

    def read(self, value: str) -> object:
        """Parse a value. Raises `StartupRefused`."""
        try:
            return self.check.parse(value)
        except ValueError:
            shown = repr(value[:SHOWN_CHARS]) + ("..." if len(value) > SHOWN_CHARS else "")
            raise StartupRefused(f"{self.variable}={shown} is not allowed: it takes {self.check.allowed}.") from None


def _row(variable: str, default: str, check: Check[T], unit: str, meaning: str, unset: T | None = None) -> T:
    """A field of `Settings` that is also a row of the table. The type checker sees the type of its value.

    `unset`: the field's default in place of the parsed one, for settings that are derived from others.
    """
    row = Setting(variable, default, cast(Check[object], check), unit, meaning)
    return field(default=check.parse(default) if unset is None else unset, metadata={"row": row})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a server. Raises `StartupRefused` when the values do not fit together.

    Requirements: SYS-0016
    """

    data_path: Path = _row("DATA_PATH", "/data", path(), "", "Directory of the store. It is created if missing.")
    bind_addr: tuple[Address | UnixAddress, ...] = _row(
        "BIND_ADDR", "0.0.0.0:6784", addresses(), "", "Where to listen, unless systemd passes sockets."
    )
    storage_mode: StorageMode = _row(
        "STORAGE_MODE",
        "rocksdb",
        one_of(StorageMode),
        "",
        "Where messages are kept. In memory they are lost when the server stops.",
    )
    max_connections: int = _row(
        "MAX_CONNECTIONS", "10000", whole(1, 1_000_000), "sockets", "Open connections, WebSockets included."
    )
    max_connections_per_address: int = _row(
        "QRUSTY_MAX_CONNECTIONS_PER_ADDRESS",
        "0",
        whole(0, 1_000_000),
        "sockets",
        "Open connections from one address, or from one /64 of IPv6. 0: no limit.",
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network | str, ...] = _row(
        "QRUSTY_TRUSTED_PROXIES",
        "",
        proxies(),
        "",
        "Who has to begin each connection with a PROXY header, which says for whom it is. unix: every Unix socket.",
    )
    webui_dir: Path = _row(
        "WEBUI_DIR",
        "/opt/qrusty/webui",
        path(),
        "",
        "Files of the web UI, read when the server starts. Without an index.html there, the installed ones are served.",
    )
    rocksdb_cache_mb: int = _row(
        "ROCKSDB_CACHE_MB",
        f"{CACHE_MB}",
        whole(1, 1_048_576),
        "MiB",
        "Blocks, indexes and memory tables of RocksDB together.",
        AUTO,
    )
    rocksdb_write_buffer_mb: int = _row(
        "ROCKSDB_WRITE_BUFFER_MB",
        "auto",
        derived(whole(1, 65_536)),
        "MiB",
        f"Memory tables of RocksDB, at most the cache. auto: {WRITE_BUFFER_MB}, or half the cache if that is less.",
    )
    rocksdb_max_open_files: int = _row(
        "ROCKSDB_MAX_OPEN_FILES", "128", whole(16, 1_000_000), "files", "Table files that RocksDB keeps open."
    )
    hot_tier_size: int = _row(
        "QRUSTY_HOT_TIER_SIZE",
        f"{HOT_TIER_SIZE}",
        whole(1, MAX_HOT_TIER_SIZE),
        "messages",
        "Messages at the head of each queue that are kept in memory.",
        AUTO,
    )
    refill_threshold: int = _row(
        "QRUSTY_REFILL_THRESHOLD",
        "auto",
        derived(whole(0, 99_999)),
        "messages",
        "With fewer left in memory, more are read. Less than the tier size. auto: a quarter of it.",
    )
    externalize_min_bytes: int = _row(
        "QRUSTY_EXTERNALIZE_MIN_BYTES",
        "4096",
        whole(256, 2_097_152),
        "bytes",
        "Payloads of this size or more go to segment files.",
    )
    payload_store: bool = _row(
        "QRUSTY_PAYLOAD_STORE",
        "enabled",
        switch(),
        "",
        "Whether new payloads go to segment files. Old ones are read either way.",
    )
    segment_max_mb: int = _row(
        "QRUSTY_SEGMENT_MAX_MB",
        "256",
        whole(1, 4096),
        "MiB",
        "A segment file that reaches this size is closed, and a new one is begun.",
    )
    compact_interval_secs: float = _row(
        "QRUSTY_COMPACT_INTERVAL_SECS",
        "300",
        decimal(1, 86_400),
        "seconds",
        "Time between two compactions of the segment files.",
    )
    memory_limit_mb: int | None = _row(
        "QRUSTY_MEMORY_LIMIT_MB",
        "auto",
        memory_limit(),
        "MiB",
        "Memory limit of the server. auto: the cgroup limit, or all RAM.",
    )
    memory_pressure_threshold: float = _row(
        "QRUSTY_MEMORY_PRESSURE_THRESHOLD",
        "0.80",
        decimal(0, 1),
        "share",
        "Memory in use at which caches shrink.",
        AUTO,
    )
    memory_pressure_exit_threshold: float = _row(
        "QRUSTY_MEMORY_PRESSURE_EXIT_THRESHOLD",
        "0.70",
        decimal(0, 1),
        "share",
        "Memory in use below which they grow back.",
        AUTO,
    )
    memory_critical_threshold: float = _row(
        "QRUSTY_MEMORY_CRITICAL_THRESHOLD",
        "0.90",
        decimal(0, 1),
        "share",
        "Memory in use at which publishes are refused.",
        AUTO,
    )
    max_locked_index: int = _row(
        "QRUSTY_MAX_LOCKED_INDEX",
        "500000",
        whole(1, 100_000_000),
        "messages",
        "Messages locked at a time. Beyond that, consumers wait.",
    )
    ws_ping_interval_secs: float = _row(
        "WS_PING_INTERVAL_SECS", "30", decimal(0.1, 86_400), "seconds", "Silence after which a WebSocket gets a ping."
    )
    ws_ping_timeout_secs: float = _row(
        "WS_PING_TIMEOUT_SECS",
        "10",
        decimal(0.1, 86_400),
        "seconds",
        "Time to answer a ping before the WebSocket is closed.",
    )
    fsync: Fsync = _row("QRUSTY_FSYNC", "always", one_of(Fsync), "", "When changes are synced to disk.")
    fsync_locks: bool = _row(
        "QRUSTY_FSYNC_LOCKS",
        "off",
        switch("on", "off"),
        "",
        "Whether a message leaves only after a sync of its lock, too. Only with QRUSTY_FSYNC=always.",
    )
    fast_path: bool = _row(
        "QRUSTY_FAST_LANE",
        "enabled",
        switch(),
        "",
        "Whether plain requests take the fast path, past Hypercorn. The responses are the same.",
    )
    log_level: LogLevel = _row("QRUSTY_LOG_LEVEL", "info", one_of(LogLevel), "", "Least severe level that is logged.")
    log_format: LogFormat = _row("QRUSTY_LOG_FORMAT", "console", one_of(LogFormat), "", "Format of the log on stderr.")
    access_log: AccessFormat = _row(
        "QRUSTY_ACCESS_LOG", "off", one_of(AccessFormat), "", "Whether each response is logged to stdout, and how."
    )
    audit_file: Path | None = _row(
        "QRUSTY_AUDIT_FILE", "", file(), "", "Where it is recorded who created, changed, purged or deleted what."
    )
    audit_max_mb: int = _row(
        "QRUSTY_AUDIT_MAX_MB",
        "16",
        whole(1, 4096),
        "MiB",
        "Size at which that file is put aside and a new one is begun. Eight old ones are kept.",
    )
    allowed_origins: frozenset[str] = _row(
        "QRUSTY_ALLOWED_ORIGINS",
        "",
        origins(),
        "",
        "Origins of browser pages that may use the server, besides its own.",
    )
    allowed_hosts: frozenset[str] = _row(
        "QRUSTY_ALLOWED_HOSTS",
        "",
        hosts(),
        "",
        "Names under which browsers may use the server, besides localhost, IP addresses and BIND_ADDR.",
    )
    tls_cert: Path | None = _row(
        "QRUSTY_TLS_CERT",
        "",
        file(),
        "",
        "The server's certificate in PEM form, and those between it and its root. With it, the server speaks TLS only.",
    )
    tls_key: Path | None = _row("QRUSTY_TLS_KEY", "", file(), "", "The private key of that certificate in PEM form.")
    tls_client_ca: Path | None = _row(
        "QRUSTY_TLS_CLIENT_CA",
        "",
        file(),
        "",
        "Certificates in PEM form. With it, every client must show a certificate that one of them has signed.",
    )
    tokens_file: Path | None = _row(
        "QRUSTY_TOKENS_FILE",
        "",
        file(),
        "",
        "Tokens and what each may do, as TOML, read anew when it changes. Without it, anyone may do everything.",
    )
    unknown_queue: UnknownQueue = _row(
        "QRUSTY_UNKNOWN_QUEUE",
        "create",
        one_of(UnknownQueue),
        "",
        "What becomes of a request for a queue that does not exist.",
    )
    read_only: bool = _row(
        "QRUSTY_READ_ONLY",
        "disabled",
        switch(),
        "",
        "Whether every change that a client asks for is refused.",
    )
    tracing: bool = _row(
        "QRUSTY_TRACING",
        "disabled",
        switch(),
        "",
        "Whether spans of what happens to messages are exported over OTLP/HTTP. It takes the extra otel.",
    )
    environment: str = _row(
        "QRUSTY_ENVIRONMENT", "", label(), "", "A name for this server, such as production, that the web UI shows."
    )
    environment_colour: Colour = _row(
        "QRUSTY_ENVIRONMENT_COLOUR", "grey", one_of(Colour), "", "The colour of that name."
    )

    def __post_init__(self) -> None:
        thresholds = Thresholds.around(
            warning=_given(self.memory_pressure_threshold),
            critical=_given(self.memory_critical_threshold),
            way_out=_given(self.memory_pressure_exit_threshold),
        )
        self._work_out("memory_pressure_threshold", thresholds.warning)
        self._work_out("memory_critical_threshold", thresholds.critical)
        self._work_out("memory_pressure_exit_threshold", thresholds.exit)
        low, tables = self.refill_threshold, self.rocksdb_write_buffer_mb
        self._work_out("hot_tier_size", HOT_TIER_SIZE if low < HOT_TIER_SIZE else min(4 * low, MAX_HOT_TIER_SIZE))
        self._work_out("refill_threshold", self.hot_tier_size // 4)
        self._work_out("rocksdb_cache_mb", CACHE_MB if tables <= CACHE_MB else 2 * tables)
        self._work_out("rocksdb_write_buffer_mb", max(1, min(WRITE_BUFFER_MB, self.rocksdb_cache_mb // 2)))
        if self.audit_file is not None and self.audit_file.absolute().is_relative_to(self.data_path.absolute()):
            raise StartupRefused(
                f"QRUSTY_AUDIT_FILE='{self.audit_file}' is not allowed: it takes a file outside of DATA_PATH, which is "
                f"{self.data_path}."
            )
        if self.refill_threshold >= self.hot_tier_size:
            raise StartupRefused(
                f"QRUSTY_REFILL_THRESHOLD='{self.refill_threshold}' is not allowed: it takes less than "
                f"QRUSTY_HOT_TIER_SIZE, which is {self.hot_tier_size}."
            )
        if self.rocksdb_write_buffer_mb > self.rocksdb_cache_mb:
            raise StartupRefused(
                f"ROCKSDB_WRITE_BUFFER_MB='{self.rocksdb_write_buffer_mb}' is not allowed: it takes at most "
                f"ROCKSDB_CACHE_MB, which is {self.rocksdb_cache_mb}."
            )

        if (self.tls_cert is None) != (self.tls_key is None):
            raise StartupRefused("QRUSTY_TLS_CERT and QRUSTY_TLS_KEY belong together: set both of them, or neither.")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise StartupRefused("QRUSTY_TLS_CLIENT_CA needs QRUSTY_TLS_CERT and QRUSTY_TLS_KEY.")

    def _work_out(self, name: str, value: float) -> None:
        """Set a setting to its derived value, unless it was configured.

        Requirements: API-0062
        """
        if getattr(self, name) == AUTO:
            object.__setattr__(self, name, value)

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds of memory pressure, as shares of the memory limit."""
        return Thresholds(
            warning=self.memory_pressure_threshold,
            critical=self.memory_critical_threshold,
            exit=self.memory_pressure_exit_threshold,
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings; missing variables get their defaults. Raises `StartupRefused` for the first bad value."""
        values = {
            name: row.read(environment[row.variable]) for name, row in TABLE.items() if row.variable in environment
        }
        return cls(**values)  # type: ignore[arg-type]  # each row's check returns the type of its field


def _given(value: float) -> float | None:
    return None if value == AUTO else value


TABLE: dict[str, Setting] = {entry.name: entry.metadata["row"] for entry in fields(Settings)}
"""Attribute of `Settings` -> its row."""


def webui_directory(configured: Path) -> Path | None:
    """The directory of the web UI: the configured one, else in the package, else in its checkout. None if not found."""
    package = Path(__file__).resolve().parent
    candidates = (configured, package / "webui", package.parent / "webui")
    return next((directory for directory in candidates if (directory / "index.html").is_file()), None)
