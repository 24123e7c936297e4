"""Carries out a page: each block runs against a real server on a free port, and prints what the page says.

Rule: what a page says is done as a reader would do it, from top to bottom, in an empty directory. Only the address of
the server is put in place of the documented one, and `ID` stands for the last id that came.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.docs import blocks
from tests.docs.blocks import Block, blocks_of
from tests.server.running import LISTENING, ROOT, child_environment
from tests.smoke.test_smoke_test import free_port

PATIENCE = 60.0
"""Seconds after which a test gives up waiting. Nothing is measured against it."""
ADDRESS = "127.0.0.1:6784"
OTHER_PORTS = (6785, 8443)
"""Where pages let something else listen."""
COMMANDS = {"bash": ("bash", "-euo", "pipefail"), "python": (sys.executable, "-u"), "js": ("node",)}
SUFFIX = {"bash": "sh", "python": "py", "js": "mjs"}
ENDS = {"kill -9 %1": signal.SIGKILL, "kill %1": signal.SIGTERM}
CONTROL = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[78])")


class Server:
    """A server of its own process, which pages may kill and start again."""

    def __init__(self, data: Path, log: Path) -> None:
        self._data = data
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self, **settings: str) -> None:
        """Start it where it was, and wait until it is ready. No effect while it runs."""
        if self._process is not None:
            return
        environment = child_environment(self._data, BIND_ADDR=f"127.0.0.1:{self.port}", **settings)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "qrusty_trio"], env=environment, stderr=log, cwd=ROOT
            )
        _wait(lambda: "ready after" in self._log.read_text(), self._log)
        found = LISTENING.search(self._log.read_text())
        assert found is not None
        self.port = int(found[1])

    def end(self, number: signal.Signals) -> None:
        """Send it a signal, and wait for its end. No effect when it does not run."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(PATIENCE)
            self._process = None

    def clear(self) -> None:
        """Delete all queues. What a page protects, it has to set free."""
        url = f"http://127.0.0.1:{self.port}"
        urllib.request.urlopen(urllib.request.Request(f"{url}/delete-all", method="POST"), timeout=PATIENCE).close()
        with urllib.request.urlopen(f"{url}/queues", timeout=PATIENCE) as response:
            assert json.load(response) == []


class Background:
    """A program in another terminal."""

    def __init__(self, command: list[str], place: Path, environment: dict[str, str]) -> None:
        self._output = place / f"output-{len(os.listdir(place))}"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=place, env=environment, stdin=subprocess.PIPE, stdout=output, start_new_session=True
            )

    def type(self, text: str) -> None:
        assert self._process.stdin is not None
        for line in text.splitlines():
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def wait_for(self, expected: str) -> str:
        """Wait until this was printed. Returns all that was printed."""
        _wait(lambda: pattern(expected).search(bare(self._output.read_text())) is not None, self._output)
        return self._output.read_text()

    def end(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise


class Reader:
    """Does what one page says."""

    def __init__(self, server: Server, place: Path) -> None:
        self._server = server
        self._place = place
        self._id = "ID"
        self._background: list[Background | None] = []
        """None stands for JavaScript that is left out."""
        self._printed: str | None = None
        self._ports = {documented: free_port() for documented in OTHER_PORTS}
        for name in ("integrations", ".venv"):
            (place / name).symlink_to(ROOT / name)

    def carry_out(self, page: Path) -> bool:
        """Run each block. Returns whether all was run: JavaScript is left out where there is no Node."""
        whole = True
        section = 0
        try:
            for block in blocks_of(page):
                if block.section != section:
                    section = block.section
                    self._end_programs()
                if block.not_run:
                    continue
                if block.language == "js" and shutil.which("node") is None:
                    whole = False
                    self._printed = None
                    if block.title == blocks.ANOTHER:
                        self._background.append(None)
                    continue
                try:
                    self._run(block)
                except (AssertionError, subprocess.TimeoutExpired) as error:
                    raise AssertionError(f"{page.relative_to(ROOT)}:{block.line}: {error}") from None
        finally:
            self._end_programs()
        return whole

    def _end_programs(self) -> None:
        while self._background:
            program = self._background.pop()
            if program is not None:
                program.end()

    def _run(self, block: Block) -> None:
        text = self._here(block.text)
        if block.is_output:
            if self._printed is not None:
                assert pattern(text).fullmatch(bare(self._printed)), f"printed was:\n{self._printed}"
            self._printed = None
        elif block.title == blocks.SERVER:
            self._serve(text)
        elif block.title in (blocks.PRINTS, blocks.TYPED):
            program = self._background[-1]
            if program is not None and block.title == blocks.TYPED:
                program.type(text)
            elif program is not None:
                self._note_ids(program.wait_for(text))
        elif block.title == blocks.ANOTHER:
            self._background.append(Background(self._command(block, text), self._place, self._environment()))
        elif block.title:
            (self._place / block.title).write_text(text)
        else:
            self._printed = self._finish(self._command(block, text))
            self._note_ids(self._printed)

    def _serve(self, text: str) -> None:
        *settings, command = text.replace("make run", "make-run").split(maxsplit=text.count("="))
        if command.strip() == "make-run":
            self._server.start(**dict(each.split("=", 1) for each in settings))
        else:
            self._server.end(ENDS[command.strip()])

    def _command(self, block: Block, text: str) -> list[str]:
        """The command that runs a block. Programs are files outside the reader's directory."""
        file = self._place.parent / f"{self._place.name}-{block.line}.{SUFFIX[block.language]}"
        file.write_text(text)
        return [*COMMANDS[block.language], str(file)]

    def _finish(self, command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=self._place, env=self._environment(), capture_output=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        return done.stdout.decode()

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        url = f"http://127.0.0.1:{self._server.port}"
        own = {"PATH": path, "PYTHONUNBUFFERED": "1", "QRUSTY_URL": url, "XDG_CONFIG_HOME": str(self._place)}
        return {**os.environ, **own}

    def _here(self, text: str) -> str:
        for documented, port in self._ports.items():
            text = text.replace(f"127.0.0.1:{documented}", f"127.0.0.1:{port}")
        here = f"127.0.0.1:{self._server.port}"
        text = text.replace(ADDRESS, here).replace('"127.0.0.1", 6784', f'"127.0.0.1", {self._server.port}')
        return re.sub(r"\bID\b", self._id, text)

    def _note_ids(self, printed: str) -> None:
        for id in re.findall(r'"id": ?"([0-9a-f-]{36})"', printed):
            self._id = id


def bare(text: str) -> str:
    """Without white space, and without what moves a cursor."""
    return re.sub(r"\s", "", CONTROL.sub("", text))


def pattern(expected: str) -> re.Pattern[str]:
    """What matches an output of a page: `...` stands for anything, and white space for none."""
    return re.compile(re.escape(bare(expected)).replace(re.escape("..."), ".*"), re.DOTALL)


def _wait(condition: object, output: Path) -> None:
    assert callable(condition)
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"this never came; printed was:\n{output.read_text()}"
        time.sleep(0.01)
