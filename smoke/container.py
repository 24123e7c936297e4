"""The server under test as a container: by Docker or Podman, or by buildah and crun where there is no engine.

Rule: the container gets what the documentation promises to be enough: a root file system that can't be written, no
capabilities, a user other than root, and a directory for /data. It shares the network of this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from smoke.failures import NotStarted
from smoke.servers import Started, started

ENGINES = ("docker", "podman")
IN_THE_IMAGE = {"DATA_PATH": "/data"}
CRUN = "crun --cgroup-manager=disabled"
SCRIPT = f'mount -t tmpfs tmpfs /sys/fs/cgroup && exec {CRUN} run --bundle "$0" "$1"'
"""Run in a mount namespace of its own. crun refuses machines with both versions of control groups unless they are out
of sight, and none are needed."""
CLEAN_SECONDS = 60.0


@asynccontextmanager
async def started_container(
    image: str, variables: Mapping[str, str], port: int, data: Path, log: Path
) -> AsyncIterator[Started]:
    """Start an image with its messages in `data`, and wait until the server is ready. Raises NotStarted."""
    variables = {**variables, **IN_THE_IMAGE, "BIND_ADDR": f"127.0.0.1:{port}"}
    name = container_name(port)
    _make_place(data)
    for engine in ENGINES:
        if shutil.which(engine) and await _succeeds(engine, "info"):
            command = _engine_command(engine, name, image, variables, data)
            async with _cleaned([[engine, "rm", "--force", name]]), started(command, {}, port, log) as server:
                yield server
            return
    missing = [tool for tool in ("buildah", "crun", "unshare") if shutil.which(tool) is None]
    if missing:
        seen = f"neither engine runs, and there is no {missing[0]}"
        raise NotStarted("the container", "Docker or Podman at work, or buildah and crun", seen)
    async with (
        _bundle_of(name, image, variables, data) as bundle,
        started(["unshare", "--mount", "sh", "-c", SCRIPT, str(bundle), name], {}, port, log) as server,
    ):
        yield server


def container_name(port: int) -> str:
    """The name of the container that this process starts on `port`."""
    return f"qrusty-smoke-{os.getpid()}-{port}"


def _make_place(data: Path) -> None:
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(0o777)  # whoever the image runs as


@asynccontextmanager
async def _bundle_of(name: str, image: str, variables: Mapping[str, str], data: Path) -> AsyncIterator[Path]:
    """A bundle of the image that crun can run. Raises NotStarted when there is no such image."""
    try:
        await _output("buildah", "from", "--pull-never", "--name", name, image)
        async with _cleaned([[*CRUN.split(), "delete", "--force", name], ["buildah", "rm", name]]):
            root = await _output("buildah", "mount", name)
            config = json.loads(await _output("buildah", "inspect", name))["Docker"]["config"]
            bundle = data.with_name(f"{data.name}.bundle")
            bundle.mkdir()
            try:
                (bundle / "config.json").write_text(json.dumps(_configured(config, root, variables, data)))
                yield bundle
            finally:
                shutil.rmtree(bundle)
    except subprocess.CalledProcessError as error:
        seen = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise NotStarted("the container", f"an image {image}", "".join(seen) or str(error)) from None


def _configured(config: dict[str, Any], root: str, variables: Mapping[str, str], data: Path) -> dict[str, Any]:
    """The configuration of a container as crun takes it (OCI runtime specification)."""
    user, _, group = config["User"].partition(":")
    inherited = dict(entry.split("=", 1) for entry in config["Env"])
    return {
        "ociVersion": "1.0.2",
        "root": {"path": root, "readonly": True},
        "process": {
            "user": {"uid": int(user), "gid": int(group)},
            "args": [*config["Entrypoint"], *(config["Cmd"] or [])],
            "env": [f"{name}={value}" for name, value in {**inherited, **variables}.items()],
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/data", "type": "bind", "source": str(data), "options": ["bind", "rw"]},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]},
    }


def _engine_command(engine: str, name: str, image: str, variables: Mapping[str, str], data: Path) -> list[str]:
    settings = [part for variable, value in variables.items() for part in ("--env", f"{variable}={value}")]
    return [
        *(engine, "run", "--rm", "--name", name, "--network", "host", "--pull", "never", "--read-only"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--volume", f"{data}:/data"),
        *settings,
        image,
    ]


@asynccontextmanager
async def _cleaned(commands: Sequence[Sequence[str]]) -> AsyncIterator[None]:
    """Run commands at the end, whatever they say: what they remove may be gone."""
    try:
        yield
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEAN_SECONDS):
            for command in commands:
                await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)


async def _succeeds(*command: str) -> bool:
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    return done.returncode == 0


async def _output(*command: str) -> str:
    """Raises CalledProcessError."""
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    return str(done.stdout.decode().strip())
