"""What there is room for in a byte budget."""

from __future__ import annotations

from qrusty_trio.http.byte_budget import LARGE_BYTES, LIMIT_BYTES, LIMIT_SHARE, Budget, limit_for


# Verifies: API-0040
def test_what_there_is_room_for() -> None:
    assert limit_for(LIMIT_BYTES * LIMIT_SHARE + LIMIT_SHARE) == LIMIT_BYTES
    assert limit_for(LIMIT_BYTES * LIMIT_SHARE - 1) == LIMIT_BYTES - 1
    budget = Budget(2 * LARGE_BYTES)
    for held, short, tight in [
        (0, False, False),
        (LARGE_BYTES, False, False),
        (LARGE_BYTES + 1, False, True),
        (2 * LARGE_BYTES - 1, False, True),
        (2 * LARGE_BYTES, True, True),
    ]:
        budget.held = held
        assert (budget.short, budget.tight) == (short, tight)
        room = budget.limit - held
        assert budget.fits(room)
        assert budget.fits(room + 1) is (held == 0)
    assert not budget.take_now(1)
    budget.change(-1)
    assert budget.take_now(1)
    assert budget.held == budget.limit
    assert not Budget(LARGE_BYTES - 1).tight, "a piece larger than the whole fits when nothing else is held"
