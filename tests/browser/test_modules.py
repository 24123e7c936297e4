"""The page's modules that only compute, called in the browser: numbers without rounding, times, percentiles."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page


def call(page: Page, module: str, expression: str, *arguments: Any) -> Any:
    """The value of an expression over a module `m` and arguments `a`."""
    code = f"async (a) => {{ const m = await import('./src/{module}.js'); return {expression}; }}"
    return page.evaluate(code, list(arguments))


@pytest.mark.parametrize(
    "text",
    [
        "18446744073709551615",
        '{"a":9007199254740993,"b":[-9007199254740993,1.5,"12345678901234567890"]}',
        '"integer-00:12345678901234567890"',
        '{"escaped \\" 12345678901234567890":"\\\\"}',
        "[1e400,0.1234567890123456789]",
        "null",
    ],
)
def test_json_is_written_as_it_was_read(page: Page, text: str) -> None:
    again = call(page, "json", "m.encodeJson(m.parseJson(a[0]))", text)
    expected = text.replace("1e400", "null").replace("0.1234567890123456789", "0.12345678901234568")
    assert again == expected


def test_what_is_no_json_is_refused(page: Page) -> None:
    for text in ("{", "[12345678901234567890", '{"a":01}'):
        assert call(
            page, "json", "(() => { try { m.parseJson(a[0]); } catch (error) { return error.name; } })()", text
        ) == ("SyntaxError")
        assert call(page, "json", "m.prettyJson(a[0])", text) is None


def test_pretty_json_keeps_every_token(page: Page) -> None:
    text = '{"a":[],"b":{},"c":[1,{"d":"x,y:{}"}],"a":1.0e3}'
    pretty = call(page, "json", "m.prettyJson(a[0])", text)
    assert pretty.splitlines() == [
        "{",
        '  "a": [],',
        '  "b": {},',
        '  "c": [',
        "    1,",
        "    {",
        '      "d": "x,y:{}"',
        "    }",
        "  ],",
        '  "a": 1.0e3',
        "}",
    ]
    assert call(page, "json", "m.prettyJson(a[0])", "12") is None


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0 ms"), (999, "999 ms"), (61_000, "1 min 1 s"), (3_600_000, "1 h 0 min"), (90_000_000, "1 d 1 h")],
)
def test_durations(page: Page, ms: int, text: str) -> None:
    assert call(page, "format", "m.duration(a[0])", ms) == text


def test_sizes_rates_and_times(page: Page) -> None:
    assert call(page, "format", "[1023, 1024, 2097152].map(m.bytes)") == ["1023 B", "1.0 KiB", "2.0 MiB"]
    assert call(page, "format", "[0, 0.01, 3.14159, 1234.5].map(m.rate)") == ["0", "<0.1", "3.1", "1,235"]
    assert call(page, "format", "m.instant(0, 'utc')") == "1970-01-01 00:00:00.000 UTC"
    assert call(page, "format", "m.counted(1, 'message') + m.counted(2000, 'message')") == "1 message2,000 messages"


def test_percentiles_are_of_the_runs_in_the_window(page: Page) -> None:
    both = [[1 << 20, 100], [1 << 30, 100]]
    snapshots = [
        {"at": 0, "operations": {"ack": {"count": 100, "total_ns": 0, "buckets": [[1 << 30, 100]]}}},
        {
            "at": 60_000,
            "operations": {"ack": {"count": 200, "total_ns": 0, "buckets": both}},
        },
    ]
    runs = "m.runsOf('ack', a[1])"
    code = f"a[0].forEach(m.remember), [m.percentile({runs}, 0.5), m.percentile({runs}, 0.99)]"
    p50, p99 = call(page, "percentiles", f"({code})", snapshots, 60_000)
    assert 524 <= p50 <= p99 <= 1049
    assert call(page, "percentiles", "m.percentile(m.runsOf('none', 1000), 0.5)") is None
    (_, since_start) = call(page, "percentiles", f"({code})", snapshots, 600_000)
    assert since_start > 500_000
