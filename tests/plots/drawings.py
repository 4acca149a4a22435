"""Steps to draw, and what is drawn, read back from the artists and never from pixels."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from exporttools.plots import cumulative_cost, timeline
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.schema import TRACE_STEPS
from exporttools.records.snapshot_table import SnapshotTable
from exporttools.records.snapshots import IncidentSnapshot, RunSnapshot, TraceStepSnapshot, TraceSummarySnapshot

NOON = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)


HOSTILE = [r"$\frac{$", "two\nlines", "\x1b[31mred\x1b[0m", "x" * 300, "\U0001f9ff 中文 \u202eabc", r"$x^2$", ""]


Plot = Callable[..., Axes]


both = pytest.mark.parametrize("plot", [timeline, cumulative_cost])


def step(index: int, seconds: float, **changes: Any) -> TraceStepSnapshot:
    values: dict[str, Any] = {"step_type": "llm_call", "tokens": 10, "cost_cents": 0.5, "duration_ms": 1000.0}
    return TraceStepSnapshot(index, NOON + dt.timedelta(seconds=seconds), **(values | {"status": "ok"} | changes))


def table(*steps: TraceStepSnapshot) -> SnapshotTable[TraceStepSnapshot]:
    return SnapshotTable.from_records(TraceStepSnapshot, steps)


FIVE = table(
    step(0, 0.0),
    step(1, 1.5, step_type="tool_call", cost_cents=0.0, duration_ms=2000.0, status="timeout"),
    step(2, 4.0, cost_cents=1.25),
    step(3, 5.0, step_type="guardrail", cost_cents=0.0, duration_ms=0.0),
    step(4, 6.0, step_type="tool_call", cost_cents=0.25, duration_ms=500.0),
)


def bundle(steps: SnapshotTable[TraceStepSnapshot], violation: int | None = None, **trace: Any) -> ExportBundle:
    return ExportBundle(
        IncidentSnapshot("inc-1", "acme", "r1", "high", None, None, "budget_exceeded", NOON),
        RunSnapshot("r1", "acme"),
        TraceSummarySnapshot("t1", "r1", "acme", violation, **trace),
        steps,
    )


def many(count: int, types: int = 5, *, failing: float = 0.03) -> SnapshotTable[TraceStepSnapshot]:
    random = np.random.default_rng(count)
    durations = random.lognormal(6, 1, count)
    starts = NOON.timestamp() * 1e6 + np.r_[0, np.cumsum(durations * 1000)[:-1]]
    columns: dict[str, Any] = {
        "step_index": np.arange(count),
        "timestamp": pa.array(starts.astype(np.int64)).cast(pa.timestamp("us", "UTC")),
        "step_type": [f"type {i}" for i in random.integers(0, types, count)],
        "tokens": random.integers(0, 900, count),
        "cost_cents": random.random(count),
        "duration_ms": durations,
        "status": np.where(random.random(count) < failing, "error", "ok"),
        "content_hash": pa.nulls(count, pa.string()),
    }
    return SnapshotTable(TraceStepSnapshot, pa.table(columns, schema=TRACE_STEPS.arrow_schema()))


def figure(ax: Axes) -> Figure:
    found = ax.get_figure(root=True)
    assert found is not None
    return found


def draw(ax: Axes) -> None:
    figure(ax).canvas.draw()


def collections(ax: Axes, gid: str) -> list[PolyCollection]:
    return [c for c in ax.collections if isinstance(c, PolyCollection) and c.get_gid() == gid]


def rectangles(ax: Axes, *gids: str) -> list[tuple[float, float, float, float]]:
    """Left, right, top and bottom of all rectangles with one of the gids."""
    paths = [path for gid in gids for collection in collections(ax, gid) for path in collection.get_paths()]
    extents = [path.vertices for path in paths]
    return [(v[:, 0].min(), v[:, 0].max(), v[:, 1].min(), v[:, 1].max()) for v in map(np.asarray, extents)]


def texts(*axes: Axes) -> str:
    """Everything written, one text a line."""
    found = []
    for ax in axes:
        found += [t.get_text() for t in ax.texts]
        found += [ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()]
        found += [t.get_text() for t in ax.get_yticklabels()]
        legend = ax.get_legend()
        if legend is not None:
            found += [legend.get_title().get_text(), *(t.get_text() for t in legend.get_texts())]
    return "\n".join(found)


def face_colors(collection: Any) -> list[str]:
    return [to_hex(tuple(face)).upper() for face in np.asarray(collection.get_facecolor())]


def facts(ax: Axes) -> str:
    return next(t.get_text() for t in ax.texts if t.get_gid() == "facts")


def lanes(ax: Axes) -> list[str]:
    return [t.get_text() for t in ax.get_yticklabels()]


def everything_drawn(ax: Axes) -> list[Any]:
    """What a picture is made of, to compare two."""
    parts: list[Any] = []
    for panel in figure(ax).axes:
        parts += [texts(panel), panel.get_xlim(), panel.get_ylim()]
        parts += [np.asarray(line.get_xydata()).tolist() for line in panel.lines]
        for collection in panel.collections:
            parts += [np.asarray(path.vertices).tolist() for path in collection.get_paths()]
            parts += [np.asarray(collection.get_facecolor()).tolist(), collection.get_hatch()]
    return parts
