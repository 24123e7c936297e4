"""Change the code in one place, run its tests, and tell which changes nobody noticed.

Rule: mutants live in temporary copies of the tree, never in the tree itself. One is killed when a test fails or does
not come to its end. All tests run once, so that it is known which of them run which line; those of its line judge a
mutant, in a forked session (`sessions`). One that is in no function is judged by those of its module, in a process of
their own. Last comes the simulation. What changes nothing that could be seen is listed in equivalent.toml with the
reason, and does not count.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

from mutants.operators import Mutant, mutants_of
from mutants.sessions import ROOT, Hits, Session, find_hits

HITS = ROOT / "build" / "mutants-hits.json"
EQUIVALENT = Path(__file__).parent / "equivalent.toml"
LEAST_KILLED = 97
"""Per cent of those that are not equivalent."""
PROCESSES = 2
"""Test runs at the same time."""
SIMULATION_SECONDS = 60
"""What the simulation takes, on a busy machine."""
PATIENCE = 5
"""A mutant whose tests take this many times what they take without it, and PATIENCE_SECONDS more, hangs."""
PATIENCE_SECONDS = 60
MUTATED = (
    "qrusty_trio/core/*.py",
    "qrusty_trio/server/engine.py",
    "qrusty_trio/server/bursts.py",
    "qrusty_trio/server/committer.py",
    "qrusty_trio/server/window.py",
    "qrusty_trio/server/recovery.py",
    "qrusty_trio/server/sessions.py",
    "qrusty_trio/storage/payloads.py",
    "qrusty_trio/http/**/*.py",
    "qrusty_trio/api/*.py",
)
SIMULATED = ("qrusty_trio/core/*", "qrusty_trio/server/*", "qrusty_trio/api/ws_*")
"""What the simulation meets, which is asked last."""
SIMULATION = ["-m", "tests.simulation", "--seeds", "0", "30", "--stop-after", "1"]
PYTEST = [
    "-m",
    "pytest",
    *["-q", "-x", "--no-header", "--tb=no", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--timeout", "60"],
]


class Tree:
    """A copy of the repository to be mutated."""

    def __init__(self, place: Path) -> None:
        self.place = place
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in listed.stdout.decode().split("\0"):
            if name and (ROOT / name).is_file():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, place / name)
        self.environment = os.environ | {
            "PYTHONPATH": str(place),
            "PYTHONDONTWRITEBYTECODE": "1",
            # Enough to meet every rule of the model; a survivor may be held by more of them.
            "QRUSTY_MODEL_RUNS": "40",
            "QRUSTY_CANCEL_STRIDE": "7",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def passes(self, command: list[str], seconds: float | None = None) -> bool:
        """Whether a command ends well, and in time."""
        argv = ["nice", "-n", "5", sys.executable, *command]
        with tempfile.TemporaryDirectory(dir=self.place.parent, ignore_cleanup_errors=True) as scratch:
            self._process = process = subprocess.Popen(
                argv,
                cwd=self.place,
                env=self.environment | {"TMPDIR": scratch},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                if self._stopped:
                    return False
                return process.wait(seconds) == 0
            except subprocess.TimeoutExpired:
                return False
            finally:
                # Servers that its tests had started, too.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def stop(self) -> None:
        """End what runs; nothing begins any more."""
        self._stopped = True
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def survives(self, mutant: Mutant, command: list[str], seconds: float) -> bool:
        """`seconds`: what the command takes without it."""
        file = self.place / mutant.path
        file.write_text(mutant.after, encoding="utf-8")
        try:
            return self.passes(command, seconds * PATIENCE + PATIENCE_SECONDS)
        finally:
            file.write_text(mutant.before, encoding="utf-8")


def equivalent() -> set[tuple[str, str, str, str]]:
    """(path, function, line that was, line that becomes) of what is known to change nothing."""
    rows = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["mutant"]
    assert all(row["why"] for row in rows)
    return {(row["path"], row["within"], row["was"], row["becomes"]) for row in rows}


def chosen(only: list[str], sample: int, seed: int) -> list[Mutant]:
    """`only`: paths (or patterns) below the root, or path:line."""
    files = sorted({file.relative_to(ROOT) for pattern in MUTATED for file in ROOT.glob(pattern)})
    found = [mutant for file in files for mutant in mutants_of(ROOT, file)]
    if only:
        found = [
            each for each in found if any(fnmatch(str(each.path), o) or f"{each.path}:{each.line}" == o for o in only)
        ]
    if sample:
        random.Random(seed).shuffle(found)
    return list(islice((each for each in found if each.is_one()), sample or None))


def main() -> int:
    parser = argparse.ArgumentParser(prog="mutants.run", description=__doc__)
    parser.add_argument("only", nargs="*", help="paths, patterns of paths, or path:line; else all that is mutated")
    parser.add_argument("--sample", type=int, default=100, help="how many of them; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=PROCESSES, help="test runs at the same time")
    parser.add_argument("--near", action="store_true", help="leave out the simulation")
    parser.add_argument("--list", action="store_true", help="name them and run nothing")
    given = parser.parse_args()
    mutants = chosen(given.only, given.sample, given.seed)
    if given.list:
        for each in mutants:
            print(f"{each.path}:{each.line}: {each.within}: {each.kind}: {each.was}  ->  {each.becomes}")
        return 0
    known = equivalent()
    counted = [each for each in mutants if (str(each.path), each.within, each.was, each.becomes) not in known]
    print(
        f"{len(counted)} mutants, {len(mutants) - len(counted)} more are known to change nothing; seed {given.seed}",
        flush=True,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    survivors = run(counted, given.processes, given.near)
    rate = 100 * (1 - len(survivors) / max(1, len(counted)))
    print(f"{len(counted) - len(survivors)} of {len(counted)} killed: {rate:.1f} %")
    return int(rate < LEAST_KILLED)


def run(mutants: list[Mutant], processes: int, near: bool) -> list[Mutant]:
    """Prints survivors as they are found, and returns them."""
    survivors: list[Mutant] = []
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True))
        trees = [Tree(Path(place, str(index))) for index in range(processes)]
        hits = find_hits([tree.place for tree in trees], trees[0].environment, HITS)
        print(f"{len(hits.tests)} tests take {sum(seconds for _, seconds in hits.tests):.0f} s", flush=True)
        for name in sorted(hits.failed):
            print(f"fails without any change, and judges nothing: {name}", flush=True)
        free: SimpleQueue[tuple[Tree, Session]] = SimpleQueue()
        for tree in trees:
            free.put((tree, stack.enter_context(Session(tree.place, tree.environment))))

        def judge(mutant: Mutant) -> bool:
            tree, session = free.get()
            try:
                return survives(mutant, tree, session, hits, near)
            finally:
                free.put((tree, session))

        with ThreadPoolExecutor(processes) as pool:
            try:
                for done, (mutant, survived) in enumerate(zip(mutants, pool.map(judge, mutants), strict=True), 1):
                    if survived:
                        survivors.append(mutant)
                        print(f"\nsurvived: {mutant.path}:{mutant.line} ({mutant.kind})\n{mutant.diff()}\n", flush=True)
                    if done % 10 == 0:
                        print(f"{done} of {len(mutants)}, {len(survivors)} survived", flush=True)
            except BaseException:
                # A second Ctrl-C would leave what this one has to put away.
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_IGN)
                for tree in trees:
                    tree.stop()
                stack.close()
                raise
    return survivors


def survives(mutant: Mutant, tree: Tree, session: Session, hits: Hits, near: bool) -> bool:
    """Whether no test notices it; with `near`, none of its line or module."""
    tests, seconds = hits.near(mutant)
    verdict = session.judge(mutant, tests, seconds) if tests else "unknown"
    if verdict == "killed":
        return False
    if verdict == "unknown":
        tests, seconds = hits.of_module(mutant)
        if tests and not tree.survives(mutant, [*PYTEST, *tests], seconds):
            return False
    if near or not any(fnmatch(str(mutant.path), pattern) for pattern in SIMULATED):
        return True
    return tree.survives(mutant, SIMULATION, SIMULATION_SECONDS)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
