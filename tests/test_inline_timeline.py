"""The small timeline in a bundle's repr: well-formed, bounded, escaped, and true."""

from __future__ import annotations

import datetime as dt
from typing import Any
from xml.etree import ElementTree as ET

import pyarrow as pa
import pytest

from exporttools import SnapshotTable, TraceStepSnapshot
from exporttools.inline_timeline import timeline_svg

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


def test_lanes_bars_failures_and_the_violation() -> None:
    svg = drawn(steps({}, {"step_type": "tool_call", "status": "error"}, {}, {}), 1)
    assert texts(svg) == ["llm_call", "tool_call", "2026-10-05 12:00:00 UTC", "1 of 4 steps failed (ticks)", "12:00:04"]
    bars = [(float(bar.attrib["x"]), float(bar.attrib["width"]), bar.attrib["height"]) for bar in svg.findall("rect")]
    assert bars == [(130.0, 160.0, "9"), (450.0, 320.0, "9"), (290.0, 160.0, "9"), (290.0, 3.2, "3")]
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
    for bar in drawn(table, 0).findall("rect"):
        assert 130 <= float(bar.attrib["x"]) <= 770
        assert float(bar.attrib["x"]) + float(bar.attrib["width"]) <= 771.5


def test_it_is_small_whatever_there_is_to_draw() -> None:
    table = steps(
        *(
            {"step_type": f"type {i % 40}", "status": "error" if i % 3 else "ok", "duration_ms": 10.0}
            for i in range(4000)
        )
    )
    svg = timeline_svg(table)
    assert len(svg) < 120_000
    assert texts(ET.fromstring(svg))[5] == "other (35)"
