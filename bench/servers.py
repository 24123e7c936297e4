"""Starts and stops the servers that are measured, each in a directory of its own and on a free port of the loopback.

Rule: whatever was started is stopped, also when the measurement fails; the machine's own services are left alone.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import psutil

from bench.driver import RESULTS, ROOT

READY_SECONDS = 120
STOP_SECONDS = 60
PEERS_DIR = Path(os.environ.get("QRUSTY_PEERS_DIR", RESULTS / "peers"))
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Server:
    """A server that can be started. `fsync` says in words when its answers are on the disk."""

    key: str
    label: str
    fsync: str
    protocol: str
    command: Callable[[Path, int], list[str]]
    environment: Callable[[Path, int], dict[str, str]]
    program: str | None
    """What must be there to start it: a path or a name on PATH; None when it is always there."""
    ready: Callable[[int], bool] | None = None
    """Whether it serves on this port; None: it does once it takes a connection, or over HTTP says so."""
    stop: signal.Signals = signal.SIGTERM
    """What ends it in order."""

    @property
    def ours(self) -> bool:
        return self.key.startswith("ours")

    @property
    def speaks_http(self) -> bool:
        return self.protocol == "http"

    def missing(self) -> str | None:
        """Why it can't be started, or None."""
        if self.program is None or shutil.which(self.program) or Path(self.program).exists():
            return None
        return f"{self.label}: no {self.program.removeprefix(str(PEERS_DIR) + '/')} here"


class Running:
    """One server process; a context manager that waits until it serves, and stops it at the end."""

    def __init__(self, server: Server, directory: Path, extra: Mapping[str, str] | None = None) -> None:
        self.server = server
        self.directory = directory
        self.port = free_port()
        self.extra = dict(extra or {})
        """Environment variables besides the server's own; read at the next start."""
        self._process: subprocess.Popen[bytes] | None = None
        self._environment: dict[str, str] = {}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.server.label} is not running")
        return self._process.pid

    def start(self) -> float:
        """Start it and wait until it serves; gives the seconds that took, the interpreter's start included."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._environment = {**os.environ, **self.server.environment(self.directory, self.port), **self.extra}
        begun = time.perf_counter()
        with (self.directory / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                self.server.command(self.directory, self.port),
                cwd=ROOT if self.server.ours else self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return time.perf_counter() - begun

    def stop(self) -> None:
        """End it in order, or by force when it takes too long. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(self.server.stop)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if port := self._environment.get("ERL_EPMD_PORT"):
            # The name server that the Erlang machine started lives on, in a session of its own.
            subprocess.run(["epmd", "-port", port, "-kill"], stdout=subprocess.DEVNULL, check=False)

    def kill(self) -> None:
        """kill -9, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def resident_bytes(self) -> int:
        """Resident memory of the process and its children."""
        whole = psutil.Process(self.pid)
        total: int = whole.memory_info().rss
        return total + sum(child.memory_info().rss for child in whole.children(recursive=True))

    def cpu_seconds(self) -> float:
        """Processor time of the process and its descendants so far, those that have ended included.

        A process has the time of a child that ended from when it has waited for it. So what is read while one of them
        starts or ends may count it twice or not at all, and is read again.
        """
        whole = psutil.Process(self.pid)
        while True:
            before = [whole, *whole.children(recursive=True)]
            try:
                total = sum(sum(process.cpu_times()[:4]) for process in before)
            except psutil.NoSuchProcess:
                continue
            if before == [whole, *whole.children(recursive=True)]:
                return float(total)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self._serves():
            if self._process is not None and self._process.poll() is not None:
                raise RuntimeError(f"{self.server.label} ended: {self._last_words()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.server.label} was not ready in {READY_SECONDS} s: {self._last_words()}")
            time.sleep(0.005)

    def _serves(self) -> bool:
        if self.server.ready is not None:
            return self.server.ready(self.port)
        try:
            if not self.server.speaks_http:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            connection = self._connection()
            connection.request("GET", "/health")
            answer: dict[str, object] = json.loads(connection.getresponse().read())
            connection.close()
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            return False
        return answer.get("status") == "ok"

    def _connection(self) -> http.client.HTTPConnection:
        if "QRUSTY_TLS_CERT" not in self.extra:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5, context=context)

    def _last_words(self) -> str:
        return (self.directory / "output.log").read_text(errors="replace")[-2000:]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def exit_on_sigterm() -> None:
    """Make SIGTERM end the program by an exception, so that what runs is stopped on the way out."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        sys.exit("ended by SIGTERM")

    signal.signal(signal.SIGTERM, leave)


def ours(policy: str) -> Server:
    """This project's server; `policy` is a value of QRUSTY_FSYNC."""
    words = {
        "always": "before each answer, in groups",
        "everysec": "once a second",
        "never": "never",
    }
    return Server(
        key=f"ours-{policy}",
        label=f"qrusty_trio ({policy})",
        fsync=words[policy],
        protocol="http",
        command=lambda _directory, _port: [sys.executable, "-m", "qrusty_trio"],
        environment=lambda directory, port: {
            "DATA_PATH": str(directory / "data"),
            "BIND_ADDR": f"127.0.0.1:{port}",
            "STORAGE_MODE": "rocksdb",
            "QRUSTY_FAST_LANE": "enabled",
            "QRUSTY_FSYNC": policy,
        },
        program=None,
    )


def qrusty(version: str) -> Server:
    """The Rust server of a version, from `bench/peers.sh`. It has no setting for fsync: its log is never synced."""
    program = str(PEERS_DIR / f"qrusty-{version}" / "bin" / "qrusty")
    return Server(
        key=f"qrusty-{version}",
        label=f"qrusty {version}",
        fsync="never",
        protocol="http",
        command=lambda _directory, _port: [program],
        environment=lambda directory, port: {
            "DATA_PATH": str(directory / "data"),
            "BIND_ADDR": f"127.0.0.1:{port}",
            "STORAGE_MODE": "rocksdb",
        },
        program=program,
    )


def _beanstalkd(key: str, label: str, fsync: str, flag: str) -> Server:
    def command(directory: Path, port: int) -> list[str]:
        log = directory / "binlog"
        log.mkdir(exist_ok=True)
        return ["beanstalkd", "-l", "127.0.0.1", "-p", str(port), "-b", str(log), flag]

    return Server(key, label, fsync, "beanstalkd", command, lambda _directory, _port: {}, "beanstalkd")


def _redis_command(directory: Path, port: int) -> list[str]:
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory), "--save", ""]
    return [*command, "--appendonly", "yes", "--appendfsync", "always"]


def _rabbitmq_environment(directory: Path, port: int) -> dict[str, str]:
    (directory / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\n")
    (directory / "enabled_plugins").write_text("[].\n")
    return {
        "HOME": str(directory),
        "RABBITMQ_BASE": str(directory),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_NODENAME": "bench@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_PID_FILE": str(directory / "pid"),
        "RABBITMQ_FEATURE_FLAGS_FILE": str(directory / "feature_flags"),
        "ERL_EPMD_PORT": str(free_port()),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }


OURS_ALWAYS = ours("always")
OURS_NEVER = ours("never")
QRUSTY_NEW = qrusty("0.26.0")
QRUSTY_OLD = qrusty("0.19.19")
BEANSTALKD_SYNC = _beanstalkd("beanstalkd-f0", "beanstalkd -f0", "at each change", "-f0")
BEANSTALKD = _beanstalkd("beanstalkd-F", "beanstalkd -F", "never", "-F")
REDIS = Server(
    key="redis",
    label="Redis",
    fsync="before each answer, in groups",
    protocol="redis",
    command=_redis_command,
    environment=lambda _directory, _port: {},
    program="redis-server",
)
RABBITMQ_SERVER = Server(
    key="rabbitmq",
    label="RabbitMQ",
    fsync="before each confirm, in groups; acks later",
    protocol="amqp",
    command=lambda _directory, _port: [str(RABBITMQ)],
    environment=_rabbitmq_environment,
    program=str(RABBITMQ),
)
