"""Steps to test with, hostile text, and a parser of the HTML that shows them."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pyarrow as pa

from exporttools import SnapshotTable, TraceStepSnapshot
from exporttools.records.schema import TRACE_STEPS
from tests.databases import step

HOSTILE = "<script>alert('x')</script>\" onload=\"y\n\x1b[31mred\x1b]0;t\x07 \u202e $\\frac{$ "


def a_step(index: int = 0, **changes: Any) -> TraceStepSnapshot:
    row = step(index, **changes)
    return TraceStepSnapshot(**{name: row[name] for name in TRACE_STEPS.names})


def steps_of(*records: TraceStepSnapshot) -> SnapshotTable[TraceStepSnapshot]:
    return SnapshotTable.from_records(TraceStepSnapshot, records)


def with_extra(table: SnapshotTable[Any], total: int | None = None, **columns: pa.Array) -> SnapshotTable[Any]:
    arrow = table.to_arrow()
    for name, values in columns.items():
        arrow = arrow.append_column(name, values)
    return SnapshotTable(table.snapshot_type, arrow, total=total)


class Tags(HTMLParser):
    """The tags and attributes of a piece of HTML; fails where they do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "br":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
