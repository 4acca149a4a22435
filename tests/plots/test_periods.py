"""Costs in each period."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from exporttools import ExportBundleStore, plots
from tests.plots.drawings import NOON
from tests.plots.fleets import frame, said


def hourly(periods: int, groups: int) -> pa.Table:
    """A step of each group every other hour, and one expensive hour of all."""
    hours = {*range(0, periods, 2), periods // 2, periods - 1}
    changes = [
        {"timestamp": NOON + dt.timedelta(hours=hour), "agent_id": f"a{group}", "cost_cents": 50.0 if hour == periods // 2 else 1.0 + group}
        for hour in sorted(hours) for group in range(groups)
    ]  # fmt: skip
    return frame(*changes)


def stacks(ax: Axes) -> list[PolyCollection]:
    return [c for c in ax.collections if isinstance(c, PolyCollection) and str(c.get_gid()).startswith("stack")]


def drawn_top(ax: Axes) -> float:
    """The highest point of what is filled."""
    areas = [np.asarray(path.vertices)[:, 1].max() for stack in stacks(ax) for path in stack.get_paths()]
    return float(max([*areas, *(bar.get_y() + bar.get_height() for bar in ax.patches)]))  # type: ignore[attr-defined]


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("periods", [10, 200, 201, 1000, 20_000])
def test_nothing_is_erased_by_edges_or_hatches(periods: int, groups: int) -> None:
    ax = plots.cost_over_time(hourly(periods, groups), "1h", "agent_id" if groups > 1 else None, limit=8)
    artists = [*stacks(ax), *ax.patches]
    assert artists
    assert {float(np.max(artist.get_linewidth())) for artist in artists} == {0.0}  # type: ignore[attr-defined]
    hatched = any(artist.get_hatch() for artist in artists)  # type: ignore[attr-defined]
    assert hatched == (groups == 8 and periods <= 200)
    assert drawn_top(ax) == 50.0 * groups
    corners = max((len(path.vertices) for stack in stacks(ax) for path in stack.get_paths()), default=0)
    assert corners <= 4 * 601 + 3
    said_so = f"each column is the highest of {-(-periods // 600)} periods"
    assert (said_so in said(ax)) == (periods > 600)
    legend = ax.get_legend()
    looks = [] if legend is None else [(h.get_facecolor(), h.get_hatch()) for h in legend.legend_handles[::-1]]  # type: ignore[union-attr]
    assert len(set(looks)) == len(looks)


def test_the_highest_period_of_a_column_is_drawn_whole() -> None:
    costs = np.random.default_rng(7).integers(1, 100, (2, 1300)).astype(float)
    changes = [{"timestamp": NOON + dt.timedelta(hours=hour), "agent_id": agent, "cost_cents": costs[row, hour]}
               for hour in range(1300) for row, agent in enumerate("ab")]  # fmt: skip
    ax = plots.cost_over_time(frame(*changes), "1h", "agent_id")
    tops = np.asarray(stacks(ax)[1].get_paths()[0].vertices)[:, 1]
    sums = costs.sum(axis=0)
    assert set(sums.reshape(-1, 1)[:1299].reshape(433, 3).max(axis=1)) <= set(tops)
    assert "each column is the highest of 3 periods" in said(ax)


def test_steps_without_a_time_are_said() -> None:
    ax = plots.cost_over_time(
        frame({}, {"timestamp": None, "cost_cents": 4.0}, {"timestamp": None, "cost_cents": 1.0}), "1d"
    )
    text = said(ax)
    assert "3 steps · total 5.5 US cents · not drawn: 2 steps without a time, 5 US cents · 1 period of 1 d" in text
    assert drawn_top(ax) == 0.5
    none = said(plots.cost_over_time(frame({"timestamp": None}), "1d"))
    assert "no step has a time" in none
    assert "not drawn: 1 step without a time, 0.5 US cents" in none


def test_periods_add_up(store: ExportBundleStore) -> None:
    steps = store.scan_trace_steps().read_all()
    ax = plots.cost_over_time(steps, "1d", "agent_id", limit=3)
    text = said(ax)
    assert "total 15,630.89 US cents" in text
    assert "14 periods of 1 d" in text
    assert "other (4" in text
    assert "US cents per 1 d" in ax.get_ylabel()
    assert "UTC" in ax.get_xlabel()
