"""The fuzzer itself: a seed gives the same conversation always, and what it finds is told and played again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from fuzz.server import generator
from fuzz.server.conversation import DRAIN, MORE, RESET, SEND, UNTIL, Conversation, Player, masked_frame, read_literal
from fuzz.server.findings import Finding, What
from fuzz.server.hunt import LOOK_SECONDS, Hunt, Lateness
from fuzz.server.target import Traceback, target
from fuzz.server.tls import WRONG, forwarder
from tests.http.ws_raw import TEXT, frame

GROUP = """\
  + Exception Group Traceback (most recent call last):
  |   File "/home/a/qrusty_trio/cli.py", line 40, in main
  |     trio.run(serve)
  | ExceptionGroup: Exceptions from Trio nursery (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "/x/lib/python3.12/site-packages/h2/events.py", line 3, in receive
    |     raise h2.exceptions.ProtocolError("x")
    | h2.exceptions.ProtocolError: x
    |
    | During handling of the above exception, another exception occurred:
    |
    | Traceback (most recent call last):
    |   File "/x/lib/python3.12/site-packages/trio/_core/_run.py", line 9, in raise_cancel
    | trio.Cancelled: cancelled due to nursery
    +------------------------------------
"""


@given(st.integers(0, 2**32 - 1))
def test_a_seed_is_a_conversation_and_so_is_its_literal(seed: int) -> None:
    one = generator.conversation(seed)
    assert one == generator.conversation(seed)
    assert one == read_literal(one.literal())
    assert one.fast == generator.is_fast(seed % generator.PHASES)


def test_every_kind_of_conversation_comes_up() -> None:
    made = {generator.conversation(seed).kind for seed in range(400)}
    assert made == {kind for _, kind, _ in generator.KINDS}


def test_a_frame_of_a_client_is_masked() -> None:
    assert masked_frame(TEXT, b"hello") == frame(TEXT, b"hello")


def test_the_signature_of_a_group_is_the_error_in_it_that_is_no_cancellation() -> None:
    traceback = Traceback(GROUP)
    assert traceback.signature == "h2.exceptions.ProtocolError in h2/events.py receive"
    assert traceback.contained
    own = Traceback('  File "/home/a/qrusty_trio/core/queue.py", line 1, in put\n    x\nKeyError: 1')
    assert own.signature == "KeyError in qrusty_trio/core/queue.py put"
    assert not own.contained


# Verifies: SYS-0009
async def test_a_conversation_reaches_the_server_and_its_answer_is_kept() -> None:
    async with target(fast=True) as server:
        steps = ((SEND, b"GET /health HTTP/1.1\r\n"), (SEND, b"Host: a\r\n\r\n"), (DRAIN, 0.5))
        player = Player(Conversation(0, True, "test", steps))
        await player.play(server.port)
        assert player.received.startswith(b"HTTP/1.1 200 ")
        assert await server.child.stop() == 0


async def test_a_client_may_wait_for_more_before_it_goes_on() -> None:
    async with target(fast=True) as server:
        first, second = ((SEND, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path) for path in (b"/health", b"/nothing"))
        player = Player(Conversation(0, True, "test", (first, (MORE, 9.0), second, (MORE, 9.0), (RESET, 0.0))))
        await player.play(server.port)
        assert player.received.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 404 " in player.received


# Verifies: API-0181
@pytest.mark.parametrize("wrong", ["", *WRONG])
async def test_a_conversation_over_tls(wrong: str) -> None:
    steps = ((SEND, b"GET /health HTTP/1.1\r\n"), (SEND, b"Host: a\r\n\r\n"), (UNTIL, b"}"))
    async with target(fast=True, tls=True) as server:
        async with forwarder(server.port, hostile=True, wrongs=(wrong,)) as port:
            player = Player(Conversation(0, True, "test", steps))
            await player.play(port)
        if not wrong:
            assert player.received.startswith(b"HTTP/1.1 200 ")
        elif wrong == "plain":
            assert b"tls_required" in player.received
        player = Player(Conversation(0, True, "test", steps))
        await player.play(server.control_port)
        assert player.received.startswith(b"HTTP/1.1 200 ")
        assert not server.tracebacks()
        assert await server.child.stop() == 0


async def test_a_server_that_ends_is_a_finding_with_its_conversation(tmp_path: Path) -> None:
    said: list[str] = []
    hunt = Hunt(0, tmp_path, said.append)
    steps = ((SEND, b"GET /health HTTP/1.1\r\n\r\n"),)
    one = Conversation(5, True, "test", steps)
    async with target(fast=True) as server, trio.open_nursery() as nursery:
        nursery.start_soon(server.child.kill)
        await server.child.process.wait()
        nursery.start_soon(hunt.look_at, server, one)
    assert [finding.what for finding in hunt.findings.values()] == [What.DEATH]
    assert hunt.faults == 1
    assert read_literal((tmp_path / "fuzz-finding-5.py").read_text()) == one
    assert "make fuzz SEED=5" in said[0]


def test_what_is_contained_is_told_and_is_no_fault(tmp_path: Path) -> None:
    hunt = Hunt(0, tmp_path, lambda text: None)
    finding = Finding(What.TRACEBACK, "x", "y", contained=True)
    hunt.findings[finding.key] = finding
    assert hunt.faults == 0


async def test_the_clients_loop_tells_how_late_it_was() -> None:
    lateness = Lateness()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lateness.measure)
        await trio.sleep(2 * LOOK_SECONDS)
        time.sleep(4 * LOOK_SECONDS)  # noqa: ASYNC251  # this is what makes it late
        await trio.sleep(2 * LOOK_SECONDS)
        nursery.cancel_scope.cancel()
    assert lateness.recent() >= 2 * LOOK_SECONDS
