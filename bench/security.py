"""What tokens and TLS cost: an open server, one with tokens and one with TLS, measured in turns.

    python -m bench.security [--rounds 4] [--seconds 2]

Rule: all three run all the while, and the order changes with each round. Beside the rate stands the processor time that
the server took for a message. A certificate on the curve P-256 is made by openssl.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import secrets
import statistics
import subprocess
import tempfile
from pathlib import Path

import psutil

from bench.driver import build, load
from bench.servers import Running, exit_on_sigterm, ours
from bench.workloads import WS_WINDOW

WORKLOADS: tuple[tuple[str, str, str, int, int], ...] = (
    ("http", "publish", "never", 8, 100),
    ("http", "publish", "never", 32, 100),
    ("http", "cycle", "never", 8, 100),
    ("http", "cycle", "always", 32, 100),
    ("http", "publish", "never", 8, 16_000),
    ("ws", "publish", "never", 4, 100),
    ("ws", "cycle", "never", 4, 100),
)
"""Protocol, mode, fsync policy, connections, bytes of payload."""


def certificate(directory: Path) -> dict[str, str]:
    """Make one. Returns the settings that name its files."""
    pair = directory / "server.pem", directory / "server.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-out", str(pair[0]), "-keyout", str(pair[1])],
        check=True,
        capture_output=True,
    )
    return {"QRUSTY_TLS_CERT": str(pair[0]), "QRUSTY_TLS_KEY": str(pair[1])}


def token_file(directory: Path, token: str) -> dict[str, str]:
    """Write a file with one token that may do everything. Returns the setting that names it."""
    path = directory / "tokens.toml"
    digest = hashlib.sha256(token.encode()).hexdigest()
    path.write_text(f'[[token]]\nname = "bench"\nsha256 = "{digest}"\ngrants = ["admin:*"]\n')
    path.chmod(0o600)
    return {"QRUSTY_TOKENS_FILE": str(path)}


def measure(
    program: Path, running: Running, workload: tuple[str, str, str, int, int], seconds: float, token: str
) -> list[float]:
    """Messages a second, and the server's processor time for one in µs, warm-up included in both of its parts."""
    protocol, mode, _, connections, payload = workload
    process = psutil.Process(running.pid)
    before = sum(process.cpu_times()[:2])
    found = load(
        program,
        running.address,
        protocol,
        mode,
        connections=connections,
        payload=payload,
        seconds=seconds,
        warmup=0.3,
        window=WS_WINDOW,
        tls="QRUSTY_TLS_CERT" in running.extra,
        token=token if "QRUSTY_TOKENS_FILE" in running.extra else "",
    )
    if found["errors"]:
        raise RuntimeError(f"{found['errors']} errors: {found['error_kinds']}")
    took = sum(process.cpu_times()[:2]) - before
    return [found["rate"], took * 1e6 / (found["rate"] * found["run_seconds"])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    exit_on_sigterm()
    program = build()
    token = secrets.token_urlsafe(32)
    print("| workload | open, µs each | tokens, µs each | TLS, µs each | open, messages/s | tokens | TLS |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for workload in WORKLOADS:
        protocol, mode, policy, connections, payload = workload
        with tempfile.TemporaryDirectory(prefix="bench-security-") as name:
            place = Path(name)
            with (
                Running(ours(policy), place / "open") as plain,
                Running(ours(policy), place / "tokens", token_file(place, token)) as guarded,
                Running(ours(policy), place / "tls", certificate(place)) as secured,
            ):
                sides = (plain, guarded, secured)
                found: list[list[list[float]]] = [[], [], []]
                for _ in range(options.rounds):
                    for side in random.sample(range(len(sides)), len(sides)):
                        found[side].append(measure(program, sides[side], workload, options.seconds, token))
        rates, times = zip(
            *([statistics.median(each) for each in zip(*side, strict=True)] for side in found), strict=True
        )
        print(
            f"| {protocol} {mode}, fsync {policy}, {connections} connections, {payload:,} B "
            f"| {' | '.join(f'{each:.1f}' for each in times)} | {' | '.join(f'{each:,.0f}' for each in rates)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
