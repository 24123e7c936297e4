"""The worker of docs/workers.md, as it stands there, against a server."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import trio

from tests.server.running import client_of, running, settings_for

TEXT = (Path(__file__).parent.parent / "docs" / "workers.md").read_text(encoding="utf-8")


def example() -> str:
    """The indented lines of the section."""
    section = TEXT.split("## A worker in ten lines\n")[1].split("\nIt is run by the tests.")[0]
    return textwrap.dedent(section)


async def test_the_worker_of_the_documentation(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as server, client_of(server) as client:
        worker = await trio.lowlevel.open_process(
            [sys.executable, "-c", example(), f"127.0.0.1:{server.port}"], stdout=subprocess.PIPE
        )
        try:
            assert worker.stdout is not None
            with trio.fail_after(30):
                for payload in ("first", "second"):
                    body = f'{{"queue":"jobs","priority":1,"payload":"{payload}"}}'.encode()
                    assert (await client.request("POST", "/publish", body)).status == 200
                    assert (await worker.stdout.receive_some()).decode() == f"{payload}\n"
                while (await client.request("GET", "/queue-stats/jobs")).json()["total"]:  # noqa: ASYNC110  # asked over a socket
                    await trio.sleep(0.01)
        finally:
            worker.kill()
            await worker.wait()
            if worker.stdout is not None:
                await worker.stdout.aclose()
