"""Frames of steps to sum and draw, and what is drawn of them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import matplotlib as mpl
import pyarrow as pa
from matplotlib.axes import Axes

from tests.plots.drawings import NOON

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("tenant_id", "run_id", "trace_id", "agent_id")),
        ("step_index", pa.int64()), ("timestamp", pa.timestamp("us", "UTC")), ("step_type", pa.string()),
        ("tokens", pa.int64()), ("cost_cents", pa.float64()), ("duration_ms", pa.float64()), ("status", pa.string()),
    ]
)  # fmt: skip


def frame(*changes: dict[str, Any]) -> pa.Table:
    usual = {
        "tenant_id": "acme", "run_id": "r1", "trace_id": "t1", "agent_id": "a", "step_type": "llm_call", "tokens": 10,
        "cost_cents": 0.5, "duration_ms": 100.0, "status": "ok",
    }  # fmt: skip
    rows = [{"step_index": i, "timestamp": NOON + dt.timedelta(seconds=i)} | usual | c for i, c in enumerate(changes)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def said(ax: Axes) -> str:
    """All text of the figure that the Axes is in."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.canvas.draw()
    texts = [text.get_text() for panel in figure.axes for text in panel.findobj(mpl.text.Text)]
    return "\n".join(texts)


def bars(ax: Axes, gid: str | None = None) -> list[float]:
    return [round(bar.get_width(), 6) for bar in ax.patches if gid is None or bar.get_gid() == gid]  # type: ignore[attr-defined]
