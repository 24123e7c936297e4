"""The flow for Node-RED, in a real Node-RED: its buttons publish, it works on the messages, and acks or nacks them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.http.ws_server import PATIENCE, Running, running
from tests.server.running import ROOT
from tests.smoke.test_smoke_test import free_port
from tests.wire.http_client import open_client

PLACE = ROOT / "integrations" / "node-red"
NODE_RED = PLACE / "node_modules" / "node-red" / "red.js"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not NODE_RED.is_file(), reason="needs Node-RED, which `make test-node-red` installs"
)
SETTINGS = """module.exports = {
  uiHost: "127.0.0.1",
  flowFile: "flow.json",
  editorTheme: { tours: false },
  telemetry: { enabled: false },
  logging: { console: { level: "info" } },
}
"""


@asynccontextmanager
async def node_red(place: Path, server: str) -> AsyncIterator[int]:
    """Node-RED with the flow, and the address of the server in its environment. Yields its port."""
    shutil.copy(PLACE / "flow.json", place)
    (place / "settings.js").write_text(SETTINGS)
    port = free_port()
    command = ["node", str(NODE_RED), "--userDir", str(place), "--port", str(port)]
    environment = {**os.environ, "QRUSTY_URL": server}
    with (place / "log").open("wb") as log:
        process = await trio.lowlevel.open_process(
            command, env=environment, cwd=place, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        await until(lambda: "Started flows" in (place / "log").read_text())
        yield port
    finally:
        process.terminate()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + PATIENCE):
            await process.wait()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110  # what another process does
            await trio.sleep(0.02)


async def click(port: int, button: str) -> None:
    """What the editor does when somebody clicks the button of an inject node."""
    async with open_client(f"http://127.0.0.1:{port}") as client:
        answer = await client.request("POST", f"/inject/{button}", b"{}")
    assert answer.status == 200, answer


async def acked(server: Running, count: int) -> None:
    """Wait until so many messages were acked, and none is left."""
    line = f'qrusty_queue_acked_total{{queue="node-red"}} {count}.0\n'
    with trio.fail_after(PATIENCE):
        async with open_client(f"http://127.0.0.1:{server.port}") as client:
            metrics = ""
            while line not in metrics:
                metrics = (await client.request("GET", "/metrics?queue=node-red")).body.decode()
                await trio.sleep(0.05)


async def test_the_flow_works(tmp_path: Path) -> None:
    async with running(True) as server, node_red(tmp_path, f"http://127.0.0.1:{server.port}") as port:
        await click(port, "publish-possible")
        await acked(server, 1)
        await click(port, "publish-impossible")
        await server.settle_down(0, 0, 1, queue="node-red")
        (letter,) = (await server.http("GET", "/queues/node-red/dead-letters"))["messages"]
        assert letter["payload"] == "impossible"
        assert letter["deliveries"] == 2
        assert "this can't be done" in letter["error"]
        assert letter["consumer"] == "node-red"
        # It goes on after a failure.
        await click(port, "publish-possible")
        await acked(server, 2)


def test_the_flow_names_no_server_and_holds_no_secret() -> None:
    flow = json.loads((PLACE / "flow.json").read_text(encoding="utf-8"))
    assert {node["url"] for node in flow if node["type"] == "http request"} == {""}
    assert not any(node.get("credentials") for node in flow)
