"""PostgreSQL as a queue: a cluster of its own for each measurement. The table and its statements are in the driver.

Rule: fsync, synchronous_commit and full_page_writes stay on. What differs from the server as it comes is what a queue
needs: enough connections, and a look every second for tables to vacuum.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from bench.servers import Server

USER = "postgres"
"""Debian's account for it. The server refuses to run as root."""
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum_naptime": "1s",
    "max_connections": "200",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
}


def binaries() -> Path:
    """The newest version that Debian's packages have installed, or where PATH leads."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name.split(".")[0]))
    if found:
        return found[-1]
    return Path(shutil.which("initdb") or "/usr/lib/postgresql/bin/initdb").parent


def command(directory: Path, port: int) -> list[str]:
    """Makes the cluster first. Started by root, the way to `directory` must be open to other accounts."""
    data = directory / "data"
    if not (data / "PG_VERSION").exists():
        _make_cluster(data)
    settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
    return [*_as_user(), str(binaries() / "postgres"), "-D", str(data), "-p", str(port), *settings]


def _make_cluster(data: Path) -> None:
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(data, USER, USER)
    made = subprocess.run(
        [*_as_user(), str(binaries() / "initdb"), "-D", str(data), "--auth=trust", f"--username={USER}"]
        + ["--locale=C", "--encoding=UTF8"],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise RuntimeError(f"initdb: {made.stderr.strip()}")


def _as_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    account = pwd.getpwnam(USER)
    return ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]


def ready(port: int) -> bool:
    """It takes connections before it answers them, so a socket that opens says nothing."""
    asked = [str(binaries() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port), "-U", USER]
    return subprocess.run(asked, check=False).returncode == 0


POSTGRESQL = Server(
    key="postgresql",
    label="PostgreSQL",
    fsync="before each answer, in groups",
    protocol="postgres",
    command=command,
    environment=lambda _directory, _port: {},
    program=str(binaries() / "postgres"),
    ready=ready,
    stop=signal.SIGINT,
)
