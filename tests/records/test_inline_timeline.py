"""The small timeline in a bundle's repr: well-formed, bounded, escaped, and true."""

from __future__ import annotations

import datetime as dt
import re
from itertools import chain
from typing import Any
from xml.etree import ElementTree as ET

import pyarrow as pa
import pytest

from exporttools import SnapshotTable, TraceStepSnapshot
from exporttools.records.inline_timeline import timeline_svg

NOON = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)


def steps(*changes: dict[str, Any]) -> pa.Table:
    usual = {"tokens": 1, "cost_cents": 0.0, "duration_ms": 1000.0, "status": "ok", "step_type": "llm_call"}
    records = [
        TraceStepSnapshot(**({"step_index": i, "timestamp": NOON + dt.timedelta(seconds=i)} | usual | change))
        for i, change in enumerate(changes)
    ]
    return SnapshotTable.from_records(TraceStepSnapshot, records).to_arrow()


def drawn(table: pa.Table, at: int | None = None) -> ET.Element:
    return ET.fromstring(timeline_svg(table, at))


def texts(svg: ET.Element) -> list[str]:
    return [text.text or "" for text in svg.findall("text")]


def bars(svg: ET.Element) -> list[list[tuple[float, float, int]]]:
    """Left, width and height of the bars of each path."""
    found = [re.findall(r"M([0-9.]+) [0-9]+h([0-9.]+)v([0-9]+)H", path.attrib["d"]) for path in svg.findall("path")]
    return [[(float(x), float(width), int(height)) for x, width, height in path] for path in found]


def test_lanes_bars_failures_and_the_violation() -> None:
    svg = drawn(steps({}, {"step_type": "tool_call", "status": "error"}, {}, {}), 1)
    assert texts(svg) == [
        "llm_call",
        "tool_call",
        "2026-10-05 12:00:00.000 UTC",
        "1 of 4 steps failed (ticks)",
        "12:00:04.000",
    ]
    assert bars(svg) == [[(130.0, 160.0, 9), (450.0, 320.0, 9)], [(290.0, 160.0, 9)], [(290.0, 3.2, 3)]]
    (line,) = svg.findall("line")
    assert float(line.attrib["x1"]) == 290.0
    assert line[0].text == "violation: step 1"
    assert drawn(steps({}), 7).findall("line") == []


@pytest.mark.parametrize(
    "table",
    [
        steps({"duration_ms": 0.0}),
        steps(*({"timestamp": NOON, "duration_ms": 0.0} for _ in range(3))),
        steps({}, {"timestamp": NOON.replace(year=9999)}),
        steps({"timestamp": NOON.replace(year=1)}, {"duration_ms": 1e300}),
        steps(*({"step_type": "<script>&'\"]]></svg>\x1b[31m\u202e" * 1000} for _ in range(2))),
    ],
)
def test_odd_steps_are_drawn_within_the_picture(table: pa.Table) -> None:
    for x, width, _ in chain(*bars(drawn(table, 0))):
        assert 130 <= x <= x + width <= 771.5


def test_it_is_small_whatever_there_is_to_draw() -> None:
    pauses = [
        {
            "step_type": f"type {i % 7}",
            "status": "error",
            "duration_ms": 1.0,
            "timestamp": NOON + dt.timedelta(seconds=2 * (i // 7)),
        }
        for i in range(1400)
    ]
    svg = timeline_svg(steps(*pauses))
    assert len(svg) < 60_000
    assert len(ET.fromstring(svg)) < 30
    assert texts(ET.fromstring(svg))[5] == "other (2)"
