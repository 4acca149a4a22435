"""Anomalies, drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from exporttools import ExportBundleStore, analysis, plots
from exporttools.errors import ConfigError
from tests.plots.fleets import said


def points(ax: Axes, gid: str) -> Any:
    """Where dots of a kind are, on the x axis."""
    found = [collection.get_offsets() for collection in ax.collections if collection.get_gid() == gid]
    return np.concatenate([np.asarray(offsets)[:, 0] for offsets in found]) if found else np.zeros(0)


def marks(ax: Axes) -> list[float]:
    return [float(line.get_xdata()[0]) for line in ax.lines if line.get_gid() == "median"]  # type: ignore[index,arg-type]


def assert_all_within_the_axis(ax: Axes) -> None:
    left, right = ax.get_xlim()
    for values in (points(ax, "ordinary"), points(ax, "unusual"), marks(ax)):
        assert all(left < value < right for value in values)
    for band in ax.patches:
        box = band.get_bbox()  # type: ignore[attr-defined]
        assert left <= box.x0 < box.x1 <= right


def steps_of(values: Any, **columns: Any) -> pl.DataFrame:
    count = len(values)
    keys = {"agent_id": ["a"] * count, "step_type": ["x"] * count, "run_id": [f"run-{i}" for i in range(count)]}
    return pl.DataFrame(keys | {"duration_ms": values} | columns)


def drawn(steps: Any, usual: Any = None, **options: Any) -> Axes:
    return plots.anomalies(
        steps, analysis.baseline(steps if usual is None else usual, measures=["duration_ms"]), **options
    )


def test_anomalies_are_marked_and_the_worst_named(store: ExportBundleStore) -> None:
    steps = store.scan_trace_steps().read_all()
    usual = analysis.baseline(steps)
    ax = plots.anomalies(steps, usual, limit=4)
    found = analysis.anomalies(steps, usual)["measure"].to_pylist()
    assert ax.get_yticklabels()[0].get_text() == "ops-responder · tool_call · fetch_logs"
    assert len(points(ax, "unusual")) == found.count("duration_ms") == 4
    assert next(text.get_text() for text in ax.texts if text.get_gid() == "run") == "run-0000-269"
    assert ax.get_xscale() == "log"
    assert "15,233 steps · 4 unusual (marked), expect at most 15 false alarms" in said(ax)
    assert_all_within_the_axis(ax)
    with pytest.raises(ConfigError, match="measure is 'weight'; the baseline has cost_cents, tokens, duration_ms"):
        plots.anomalies(steps, usual, measure="weight")


@pytest.mark.parametrize("measure", ["cost_cents", "tokens", "duration_ms"])
def test_every_row_of_a_fleet_is_represented_within_the_axis(store: ExportBundleStore, measure: str) -> None:
    steps = store.scan_trace_steps().read_all()
    ax = plots.anomalies(steps, analysis.baseline(steps), measure=measure, limit=100)
    values = np.nan_to_num(steps[measure].to_numpy())
    lanes = [len(offsets) for offsets in (c.get_offsets() for c in ax.collections if c.get_gid() == "ordinary")]
    thinned = pl.from_arrow(steps).filter(pl.col(measure) > 0).group_by("agent_id", "step_type", "name").len()  # type: ignore[union-attr]
    kept = sum(-(-count // -(-count // 1500)) for count in thinned["len"].to_list())
    unusual = len(points(ax, "unusual"))
    assert kept - 3 <= sum(lanes) + unusual <= kept + 3
    assert max(lanes) <= 1500
    assert f"{(values == 0).sum():,} values of 0 not drawn" in said(ax) or not (values == 0).any()
    assert_all_within_the_axis(ax)


def test_equal_values_all_have_their_dot() -> None:
    steps = steps_of([100.0] * 30 + [110.0] * 30 + [0.0] * 5 + [50_000.0])
    ax = drawn(steps)
    assert sorted(points(ax, "ordinary")) == [100.0] * 30 + [110.0] * 30
    assert points(ax, "unusual").tolist() == [50_000.0]
    assert "5 values of 0 not drawn" in said(ax)
    assert_all_within_the_axis(ax)


def test_of_many_equal_to_an_unusual_one_none_is_lost() -> None:
    usual = steps_of([100.0 + i % 5 for i in range(60)])
    ax = drawn(steps_of([9000.0] * 3 + [100.0]), usual)
    assert (len(points(ax, "unusual")), points(ax, "ordinary").tolist()) == (3, [100.0])


def test_of_a_full_lane_one_in_some_is_drawn_and_that_is_said() -> None:
    values = np.random.default_rng(1).lognormal(5, 0.4, 4001)
    ax = drawn(steps_of(values))
    assert len(points(ax, "ordinary")) == 1334
    assert points(ax, "ordinary").max() == values.max()
    assert "of lanes with over 1,500 dots, 1 in 3 drawn" in said(ax)


def test_a_heavy_tail_does_not_stretch_the_axis() -> None:
    """It did to 1e17 ms, where a band ended."""
    values = np.random.default_rng(2).pareto(0.3, 60) + 1
    ax = drawn(steps_of(values))
    assert ax.get_xlim()[1] < 100 * values.max()
    assert_all_within_the_axis(ax)


def test_a_median_of_another_time_is_within_the_axis() -> None:
    ax = drawn(steps_of([900_000.0, 950_000.0]), steps_of([10.0 + i % 3 for i in range(50)]))
    assert marks(ax) == [11.0]
    assert_all_within_the_axis(ax)


def test_what_is_not_judged_says_so_and_has_no_band() -> None:
    ax = drawn(steps_of([100.0, 200.0, 300.0]))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a · x, not judged"]
    assert len(ax.patches) == 0
    assert len(points(ax, "ordinary")) == 3


def test_an_unusual_mean_step_is_beyond_the_band() -> None:
    """700 tokens a step are 35,000 in the run: more than the least difference of 1,000."""

    def profiles(tokens: list[float]) -> pa.Table:
        same = {"steps": 50, "cost_cents": 1.0, "duration_ms": 1.0, "cost_cents_per_1000_tokens": 1.0}
        rows = [{"run_id": f"r{i}", "agent_id": "a", "step_type": "x", "tokens": each} for i, each in enumerate(tokens)]
        return pa.Table.from_pylist([row | same for row in rows])

    usual = profiles([300.0 + i % 9 for i in range(60)])
    ax = plots.anomalies(profiles([310.0, 1000.0]), analysis.baseline(usual), measure="tokens")
    (band,) = ax.patches
    assert isinstance(band, Rectangle)
    assert points(ax, "unusual").tolist() == [1000.0]
    assert 310 < band.get_x() + band.get_width() < 1000


def test_the_totals_of_runs_are_drawn(store: ExportBundleStore) -> None:
    totals = analysis.run_totals(store.scan_trace_steps().read_all())
    ax = plots.anomalies(totals, analysis.baseline(totals), measure="cost_cents")
    assert "297 rows · 1 unusual (marked), expect at most 0.3 false alarms" in said(ax)
    assert [text.get_text() for text in ax.texts if text.get_gid() == "run"] == ["run-0000-040"]
    assert_all_within_the_axis(ax)
