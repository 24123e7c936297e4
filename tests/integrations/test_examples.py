"""The programs of integrations/: those in three languages print the same; the workers ack, nack and stop in order."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.http.ws_server import PATIENCE, Running, running
from tests.server.running import ROOT

INTEGRATIONS = ROOT / "integrations"
LANGUAGES = {"sh": "bash", "py": sys.executable, "mjs": "node"}
REFUSED = ("queues", "locks", "duplicates")
"""Examples in which a request is refused."""
EXAMPLES = sorted({path.stem for path in (INTEGRATIONS / "examples").iterdir()})
WORKERS = ("python/sync_worker.py", "python/websocket_worker.py", "python/trio_worker.py", "javascript/worker.mjs")
TIMES = re.compile(
    r"\b\d{13}\b|\"(?:oldest_age\w*|drain_seconds|trend|\w+_rate_per_sec)\":[^,}\]]*|\"recent\":\[[\d,]*\]"
)
"""What depends on when it was asked for."""


def environment(server: Running) -> dict[str, str]:
    return {**os.environ, "QRUSTY_URL": f"http://127.0.0.1:{server.port}", "PYTHONUNBUFFERED": "1"}


async def output(server: Running, *command: str) -> str:
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(command, env=environment(server), capture_stdout=True)
    printed: str = done.stdout.decode()
    return printed


def without_ids_and_times(text: str) -> str:
    ids = dict.fromkeys(re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", text))
    for number, id in enumerate(ids):
        text = text.replace(id, f"<{number}>")
    return TIMES.sub("<time>", text)


@pytest.mark.parametrize("example", EXAMPLES)
async def test_an_example_prints_the_same_in_each_language(example: str) -> None:
    missing = [language for language in ("curl", "node") if shutil.which(language) is None]
    printed = {}
    async with running(True) as server:
        for suffix, language in LANGUAGES.items():
            if (language == "node" and "node" in missing) or (language == "bash" and "curl" in missing):
                continue
            file = str(INTEGRATIONS / "examples" / f"{example}.{suffix}")
            printed[suffix] = without_ids_and_times(await output(server, language, file))
            assert await server.http("GET", "/queues") == [], suffix
    assert ('  {"error":' in printed["py"]) == (example in REFUSED)
    assert len(set(printed.values())) == 1, printed
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}")


@pytest.mark.parametrize("worker", WORKERS)
async def test_a_worker_acks_and_nacks_and_stops(worker: str, tmp_path: Path) -> None:
    language = LANGUAGES[worker.rpartition(".")[2]]
    if shutil.which(language) is None:
        pytest.skip(f"needs {language}")
    command = [language, str(INTEGRATIONS / worker), "a/b"]
    async with running(True) as server:
        await output(server, sys.executable, str(INTEGRATIONS / "python" / "publish.py"), "a/b", "sweep the yard", "5")
        await server.publish("impossible", "a/b", max_retries=1)
        with (tmp_path / "output").open("wb") as written:
            process = await trio.lowlevel.open_process(
                command, env=environment(server), stdout=written, stderr=subprocess.STDOUT
            )
        try:
            await server.settle_down(0, 0, 1, queue="a/b")
            (letter,) = (await server.http("GET", "/queues/dead-letters?queue=a%2Fb"))["messages"]
            assert (letter["payload"], "this can't be done" in letter["error"]) == ("impossible", True)
            # It goes on after a failure, and ends when it is told.
            await server.publish("feed the cat", "a/b")
            await server.settle_down(0, 0, 1, queue="a/b")
            process.send_signal(signal.SIGINT)
            with trio.fail_after(PATIENCE):
                assert await process.wait() == 0
        finally:
            process.kill()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + PATIENCE):
                await process.wait()
    printed = (tmp_path / "output").read_text()
    assert [line for line in printed.splitlines() if line.startswith("done")] == [
        "done: sweep the yard",
        "done: feed the cat",
    ]
