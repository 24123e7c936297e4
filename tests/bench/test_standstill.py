"""Whether a pause of the machine is noticed: a process that watches is stopped for a while, as a virtual machine is."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil

from bench.standstill import STANDSTILL_SECONDS, Watch

MEASURING = """
import os, signal
from bench.standstill import undisturbed
calls = []
def measured():
    calls.append(1)
    if len(calls) == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
        {after}
    return {{"rate": len(calls)}}
print(undisturbed(measured))
"""


def paused_once(program: str) -> str:
    """What the program says last. It stops itself, and goes on after longer than a standstill."""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        while watched.status() != psutil.STATUS_STOPPED:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(STANDSTILL_SECONDS + 0.2)
        process.send_signal(signal.SIGCONT)
        told, _ = process.communicate()
    assert process.returncode == 0
    return told.splitlines()[-1]


def test_a_round_with_a_pause_in_it_is_measured_anew() -> None:
    assert paused_once(MEASURING.format(after="pass")) == "({'rate': 2}, 1)"


def test_a_round_that_a_pause_made_fail_is_measured_anew() -> None:
    assert paused_once(MEASURING.format(after="raise RuntimeError('i/o timeout')")) == "({'rate': 2}, 1)"


def test_its_thread_ends_with_it() -> None:
    with Watch() as watch:
        assert watch._thread.is_alive()
    assert not watch._thread.is_alive()
