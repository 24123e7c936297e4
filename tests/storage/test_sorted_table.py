"""The sorted table against a dict, with pieces so small that they split and join; and what a step costs."""

from __future__ import annotations

import random
import sys

import pytest

from qrusty_trio.storage import sorted_table
from qrusty_trio.storage.base import Family
from qrusty_trio.storage.memory import MemoryStorage
from qrusty_trio.storage.sorted_table import PIECE, TIDY_BYTES, TIDY_ENTRIES, SortedTable

END = b"\xff" * 8
MANY = 20_000


def key_of(number: int) -> bytes:
    return number.to_bytes(4, "big")


def filled(count: int, value: bytes) -> SortedTable:
    table = SortedTable()
    for number in range(count):
        table.put(key_of(number), value)
    return table


def whole(table: SortedTable) -> None:
    """What the table relies on."""
    assert len(table._lasts) == len(table._keys) == len(table._values)
    for last, keys, values in zip(table._lasts, table._keys, table._values, strict=True):
        assert keys == sorted(set(keys))
        assert keys[-1] == last
        assert len(values) == len(keys) <= sorted_table.PIECE
    assert table._lasts == sorted(table._lasts)
    assert len(table) == sum(map(len, table._keys))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("span", [30, 1000])
def test_a_table_is_a_sorted_dict(monkeypatch: pytest.MonkeyPatch, seed: int, span: int) -> None:
    monkeypatch.setattr(sorted_table, "PIECE", 8 * (1 + seed % 3))
    dice = random.Random(seed)
    table, model = SortedTable(), dict[bytes, bytes]()
    for step in range(1500):
        one, other = key_of(dice.randrange(span)), key_of(dice.randrange(span + 1))
        kind = dice.choices(["put", "append", "delete", "first", "range", "near"], [8, 4, 5, 2, 0.3, 1])[0]
        if kind == "append" and model:
            one = key_of(int.from_bytes(max(model), "big") + 1)
        if kind == "first" and model:
            one = min(model)
        if kind == "near":
            other = key_of(int.from_bytes(one, "big") + dice.randrange(12))
        if kind in ("put", "append"):
            table.put(one, key_of(step))
            model[one] = key_of(step)
        elif kind in ("delete", "first"):
            table.delete(one)
            model.pop(one, None)
        else:
            table.delete_range(one, other)
            for gone in [key for key in model if one <= key < other]:
                del model[gone]
        if dice.random() < 0.1:
            table.tidy()
        assert table.get(one) == model.get(one)
        if step % 5 == 0:
            whole(table)
            assert list(table.items(b"", END)) == sorted(model.items())
            expected = sorted((key, value) for key, value in model.items() if one <= key < other)
            assert list(table.items(one, other)) == expected
    table.clear()
    assert list(table.items(b"", END)) == []


# Verifies: PER-0055
@pytest.mark.parametrize(("first", "last"), [(0, MANY), (3, MANY - 3), (PIECE + 1, MANY), (0, MANY // 2)])
def test_a_range_goes_at_once_and_its_memory_bit_by_bit(first: int, last: int) -> None:
    value = bytes(10)
    table = filled(MANY, value)
    held = sys.getrefcount(value)
    table.delete_range(key_of(first), key_of(last))
    whole(table)
    assert len(table) == MANY - (last - first)
    assert table.get(key_of(first)) is None
    assert table.get(key_of(last - 1)) is None
    assert [key for key, _ in table.items(b"", END)] == [key_of(n) for n in range(MANY) if not first <= n < last]
    assert sys.getrefcount(value) == held
    steps = 0
    while table.tidy():
        now = sys.getrefcount(value)
        assert held - now <= TIDY_ENTRIES
        held = now
        steps += 1
    assert steps >= (last - first) // TIDY_ENTRIES
    assert sys.getrefcount(value) == 2 + MANY - (last - first)
    assert not table.tidy()


def test_large_values_are_freed_one_by_one() -> None:
    value = bytes(TIDY_BYTES)
    table = filled(2 * PIECE, value)
    table.delete_range(b"", END)
    held = sys.getrefcount(value)
    while table.tidy():
        assert held - sys.getrefcount(value) <= 1
        held = sys.getrefcount(value)
    assert sys.getrefcount(value) == 2


def test_a_range_compares_few_keys() -> None:
    compared = 0

    class Key(bytes):
        def __lt__(self, other: bytes) -> bool:
            nonlocal compared
            compared += 1
            return super().__lt__(other)

    table = SortedTable()
    for number in range(MANY):
        table.put(Key(key_of(number)), b"")
    compared = 0
    table.delete_range(Key(key_of(5)), Key(key_of(MANY - 5)))
    assert len(table) == 10
    assert compared < 200


def test_a_store_in_memory_frees_with_each_write_and_when_told() -> None:
    storage = MemoryStorage()
    value = bytes(10)
    for family in (Family.MESSAGES, Family.LOCKS):
        batch = storage.batch()
        for number in range(MANY):
            batch.put(key_of(number), value, storage.families[family])
        storage.write(batch)
    batch = storage.batch()
    for family in (Family.MESSAGES, Family.LOCKS):
        batch.delete_range(b"", END, storage.families[family])
    storage.write(batch)
    held = sys.getrefcount(value)
    assert held >= 2 * (MANY - TIDY_ENTRIES)
    batch.put(b"a", b"b", storage.families[Family.META])
    for _ in range(10):
        storage.write(batch)
    assert sys.getrefcount(value) <= held - 2 * TIDY_ENTRIES
    while storage.tidy():
        pass
    assert sys.getrefcount(value) == 2
    assert not storage.tidy()
