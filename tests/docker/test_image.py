"""The container image: built from the real Dockerfile, started as the documentation says, put to the smoke test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from qrusty_trio import __version__
from smoke.container import CRUN, container_name, started_container
from smoke.servers import Started
from tests.server.running import ROOT
from tests.smoke.test_smoke_test import free_port, smoke_test
from tests.wire.http_client import open_client

MISSING = [tool for tool in ("buildah", "crun", "unshare", "debootstrap") if shutil.which(tool) is None]
IMAGE = "localhost/qrusty-trio-test"
HEALTHCHECK = ROOT / "docker" / "healthcheck.py"
BUILD_SECONDS = 1200.0
"""Seconds for a build, the base included, on a machine that is busy with other things."""

needs_buildah = pytest.mark.skipif(
    bool(MISSING) or os.geteuid() != 0,
    reason=f"an image is built and started by root, with buildah, crun and debootstrap (missing: {MISSING})",
)
pytestmark = pytest.mark.timeout(BUILD_SECONDS)


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """The image, built by the script that `make image` runs. Its base stays for the next time."""
    built = subprocess.run([ROOT / "docker" / "image.sh", IMAGE], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    yield IMAGE
    subprocess.run(["buildah", "rmi", IMAGE], capture_output=True, check=True)


@pytest.fixture(scope="module")
def config(image: str) -> dict[str, Any]:
    shown = subprocess.run(["buildah", "inspect", "--type", "image", image], capture_output=True, check=True)
    found: dict[str, Any] = json.loads(shown.stdout)["Docker"]["config"]
    return found


@needs_buildah
def test_what_the_image_says(config: dict[str, Any]) -> None:
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["qrusty-trio"], "no shell that would keep signals to itself"
    assert config["Volumes"] == {"/data": {}}
    assert config["ExposedPorts"] == {"6784/tcp": {}}
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "python", "/opt/qrusty-trio/healthcheck.py"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["version"] == __version__
    assert labels["licenses"] == "MIT"
    assert labels["title"] == "Qrusty on Trio"
    assert labels["created"].endswith("Z")


@needs_buildah
async def test_the_smoke_test_passes(image: str, tmp_path: Path) -> None:
    async with smoke_test(tmp_path, "--duration", "5", "--port", str(free_port()), "--image", image) as run:
        assert await run.status() == 0, run.err


async def inside(port: int, *command: str) -> tuple[int, str]:
    """Run a command in the container; exit status and output."""
    done = await trio.run_process(
        [*CRUN.split(), "exec", container_name(port), *command],
        check=False,
        capture_stdout=True,
        capture_stderr=True,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, (done.stdout + done.stderr).decode()


async def request(server: Started, method: str, path: str, body: bytes | None = None) -> Any:
    async with open_client(server.url) as client:
        response = await client.request(method, path, body)
    assert response.status == 200, response
    return response.json()


@needs_buildah
async def test_another_container_with_the_same_volume(image: str, tmp_path: Path) -> None:
    port, data, log = free_port(), tmp_path / "data", tmp_path / "log"
    async with started_container(image, {}, port, data, log) as server:
        assert await inside(port, "python", "/opt/qrusty-trio/healthcheck.py") == (0, "")
        status, said = await inside(
            port, "sh", "-c", "grep ^Uid /proc/1/status; cat /proc/1/cmdline; touch /x /opt/x /tmp/x"
        )
        assert status != 0
        assert said.startswith("Uid:\t10001\t10001\t10001\t10001\n/opt/qrusty-trio/bin/python\0"), "the server"
        assert said.count("Read-only file system") == 3
        assert (await inside(port, "python", "-m", "pip", "--version"))[0] != 0, "nothing that installs"
        body = b'{"queue":"kept","priority":1,"payload":"before"}'
        published = await request(server, "POST", "/publish", body)
        assert b"<html" in await page(server)
        assert await server.stop() == 0
    assert "SIGTERM: stopping" in text_of(log)
    async with started_container(image, {}, port, data, log) as server:
        got = await request(server, "POST", "/consume/kept", b'{"consumer_id":"c"}')
        assert (got["id"], got["payload"]) == (published["id"], "before")
        assert await server.stop() == 0


async def page(server: Started) -> bytes:
    async with open_client(server.url) as client:
        response = await client.request("GET", "/ui/")
    assert response.status == 200
    return response.body


def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")


async def checked(address: str) -> tuple[int, str]:
    done = await trio.run_process(
        [sys.executable, HEALTHCHECK],
        env={**os.environ, "BIND_ADDR": address},
        check=False,
        capture_stdout=True,
        capture_stderr=True,
    )
    return done.returncode, (done.stdout + done.stderr).decode()


async def test_the_health_check_where_nobody_listens() -> None:
    address = f"127.0.0.1:{free_port()}"
    status, said = await checked(address)
    assert status == 1
    assert said.startswith(f"no answer from {address}: ")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (b'HTTP/1.1 503 Busy\r\nContent-Length: 21\r\n\r\n{"status":"starting"}', "/readyz says starting\n"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "no answer from "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "no answer from "),
        (b"SSH-2.0\r\n", "no answer from "),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"ok"}', ""),
    ],
)
@pytest.mark.parametrize("over_unix", [False, True], ids=["tcp", "unix"])
async def test_the_health_check_with_an_answer(tmp_path: Path, response: bytes, sentence: str, over_unix: bool) -> None:
    async def reply(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(response)

    unix = trio.socket.socket(trio.socket.AF_UNIX)
    await unix.bind(str(tmp_path / "q.sock"))
    unix.listen()
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, reply, 0, host="127.0.0.1"))
        await nursery.start(trio.serve_listeners, reply, [trio.SocketListener(unix)])
        address = f"unix:{tmp_path / 'q.sock'}" if over_unix else f"127.0.0.1:{listener.socket.getsockname()[1]}"
        status, said = await checked(f"{address}, 127.0.0.1:1")
        nursery.cancel_scope.cancel()
    assert (status == 0) == (sentence == "")
    assert said.startswith(sentence)


def test_compose_runs_what_is_documented() -> None:
    path = ROOT / "docker" / "compose.yml"
    (service,) = yaml.safe_load(text_of(path))["services"].values()
    build = service["build"]
    assert (path.parent / build["context"] / build["dockerfile"]).resolve() == ROOT / "docker" / "Dockerfile"
    assert service["ports"] == ["127.0.0.1:6784:6784"], "this machine only: there is no login"
    assert service["volumes"] == ["data:/data"]
    assert service["read_only"] is True
    assert service["stop_grace_period"] == "90s"
