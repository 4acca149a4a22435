"""Plots: what is drawn, read back from the artists and never from pixels."""

from __future__ import annotations

import copy
import datetime as dt
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import matplotlib as mpl
import matplotlib.pyplot as plt
import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.dates import date2num
from matplotlib.figure import Figure

from exporttools.errors import ConfigError, InconsistentData
from exporttools.plots import cumulative_cost, timeline
from exporttools.plots.captions import VIOLATION_COLOR
from exporttools.plots.step_data import MAX_LANES, OTHER_COLOR, PALETTE
from exporttools.plots.time_axis import nice_step_us
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.schema import TRACE_STEPS
from exporttools.records.snapshot_table import SnapshotTable
from exporttools.records.snapshots import IncidentSnapshot, RunSnapshot, TraceStepSnapshot, TraceSummarySnapshot
from exporttools.records.statuses import FAILED_STATUSES
from exporttools.times import duration_text

NOON = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)
HOSTILE = [r"$\frac{$", "two\nlines", "\x1b[31mred\x1b[0m", "x" * 300, "\U0001f9ff 中文 \u202eabc", r"$x^2$", ""]
REAL = Path(__file__).parents[3] / "shared" / "real" / "agents.sqlite"

Plot = Callable[..., Axes]
both = pytest.mark.parametrize("plot", [timeline, cumulative_cost])


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    before = copy.deepcopy(dict(mpl.rcParams))
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


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


# --- bars


def test_each_bar_stands_where_its_step_does() -> None:
    ax = timeline(FIVE)
    drawn = sorted(rectangles(ax, "steps", "failed steps"))
    assert len(drawn) == len(FIVE)
    for (left, right, top, bottom), one in zip(drawn, FIVE, strict=True):
        start = date2num(one.timestamp)
        end = date2num(one.timestamp + dt.timedelta(milliseconds=one.duration_ms))
        assert (left, right) == pytest.approx((start, end), abs=1e-10)  # days: 10 µs
        lane = lanes(ax).index(one.step_type)
        assert lane - 0.5 < top < bottom < lane + 0.5


def test_bars_have_the_colour_of_their_type_and_types_have_different_ones() -> None:
    ax = timeline(FIVE)
    color_of: dict[str, set[str]] = {}
    for gid in ("steps", "failed steps"):
        for collection in collections(ax, gid):
            for path, color in zip(collection.get_paths(), face_colors(collection), strict=True):
                lane = lanes(ax)[round(float(np.asarray(path.vertices)[:, 1].mean()))]
                color_of.setdefault(lane, set()).add(color)
    assert {lane: len(colors) for lane, colors in color_of.items()} == {"llm_call": 1, "tool_call": 1, "guardrail": 1}
    assert len(set.union(*color_of.values())) == 3
    assert set.union(*color_of.values()) <= set(PALETTE)


def test_lanes_are_in_order_of_first_appearance_from_the_top() -> None:
    ax = timeline(FIVE)
    assert lanes(ax) == ["llm_call", "tool_call", "guardrail"]
    assert ax.yaxis_inverted()


def test_steps_in_any_order_give_the_same_picture() -> None:
    shuffled = FIVE.to_arrow().take([3, 0, 4, 2, 1])
    assert everything_drawn(timeline(shuffled)) == everything_drawn(timeline(FIVE))


@pytest.mark.parametrize("status", sorted(FAILED_STATUSES))
def test_failed_steps_are_hatched_and_marked(status: str) -> None:
    ax = timeline(table(step(0, 0), step(1, 2, status=status)))
    (failed,) = collections(ax, "failed steps")
    assert failed.get_hatch()
    assert len(failed.get_paths()) == 1
    (left, right, *_) = rectangles(ax, "failed steps")[0]
    (mark_left, mark_right, _, mark_bottom) = rectangles(ax, "failed marks")[0]
    assert (mark_left, mark_right) == (left, right)
    assert mark_bottom < rectangles(ax, "failed steps")[0][2]
    assert all(not c.get_hatch() for c in collections(ax, "steps"))
    assert "1 failed (hatched, mark above)" in facts(ax)
    assert "1 of 2 failed" in texts(ax)


@pytest.mark.parametrize("status", ["ok", "Errors", "denied", ""])
def test_other_statuses_are_not_hatched(status: str) -> None:
    ax = timeline(table(step(0, 0, status=status)))
    assert collections(ax, "failed steps") == []
    assert "failed" not in texts(ax)


def test_a_step_without_duration_has_an_edge_that_can_be_seen() -> None:
    ax = timeline(table(step(0, 0, duration_ms=0.0), step(1, 9)))
    (bars,) = collections(ax, "steps")
    ((left, right, *_), _) = sorted(rectangles(ax, "steps"))
    assert left == right
    assert np.min(bars.get_linewidth()) >= 0.5
    assert np.max(bars.get_linewidth()) >= 1.0
    assert bars.get_edgecolor()[0] == pytest.approx(bars.get_facecolor()[0])


def test_failures_are_seen_among_thousands_of_steps() -> None:
    steps = many(20_000, failing=0.001)
    failed = [s.timestamp for s in steps if s.status == "error"]
    ax = timeline(steps)
    marks = rectangles(ax, "failed marks")
    assert len(failed) > 5
    for when in failed:
        assert any(left - 1e-9 <= date2num(when) <= right + 1e-9 for left, right, *_ in marks)
    assert all(np.min(c.get_linewidth()) >= 0.5 for c in collections(ax, "failed marks"))


def test_bars_that_overlap_in_time_do_not_overlap_in_the_picture() -> None:
    ax = timeline(table(step(0, 0, duration_ms=9000.0), step(1, 1, duration_ms=2000.0), step(2, 2), step(3, 20)))
    first, second, third, alone = sorted(rectangles(ax, "steps"))
    assert first[3] < second[2] < second[3] < third[2]
    # One that runs by itself has the lane's whole height.
    assert alone[3] - alone[2] > 2.5 * (first[3] - first[2])


def test_many_more_parallel_steps_than_rows_stay_in_their_lane() -> None:
    ax = timeline(table(*(step(i, i / 10, duration_ms=60_000.0) for i in range(40))))
    assert len(rectangles(ax, "steps")) == 40
    assert all(-0.5 < top < bottom < 0.5 for _, _, top, bottom in rectangles(ax, "steps"))


def test_thousands_of_steps_become_fewer_bars_that_cover_the_same_time() -> None:
    steps = many(20_000, types=1, failing=0.0)
    drawn = sorted(rectangles(timeline(steps), "steps"))
    assert 1 <= len(drawn) < 5_000
    assert drawn[0][0] == pytest.approx(date2num(steps[0].timestamp), abs=1e-10)
    starts = np.array([left for left, *_ in drawn])
    ends = np.array([right for _, right, *_ in drawn])
    times = np.asarray(date2num(steps.to_arrow()["timestamp"].to_numpy().astype("datetime64[us]")))
    at = np.searchsorted(starts, times + 1e-10, side="right") - 1
    assert (times <= ends[at] + 1e-9).all()


# --- folding


def test_beyond_a_dozen_the_rarest_types_are_folded() -> None:
    rare = [step(100 + i, 100 + i, step_type=f"rare {i}", cost_cents=0.0) for i in range(6)]
    common = [step(i, i, step_type=f"common {i % 11}") for i in range(99)]
    ax = timeline(table(*common, *rare))
    assert len(lanes(ax)) == MAX_LANES
    assert lanes(ax)[-1] == "other (6 types)"
    assert {f"common {i}" for i in range(11)} <= set(lanes(ax))
    others = [r for r in rectangles(ax, "steps") if r[2] > MAX_LANES - 1.5]
    assert len(others) == 6
    (bars,) = collections(ax, "steps")
    assert face_colors(bars).count(OTHER_COLOR) == 6


def test_a_dozen_types_are_all_named() -> None:
    ax = timeline(table(*(step(i, i, step_type=f"type {i % 12}") for i in range(24))))
    assert lanes(ax) == [f"type {i}" for i in range(12)]


@pytest.mark.parametrize("special", [{"cost_cents": 99.0}, {"status": "error"}, {"violation": True}])
def test_a_rare_type_keeps_its_lane_where_it_matters(special: dict[str, Any]) -> None:
    violation = 300 if special.pop("violation", False) else None
    common = [step(i, i, step_type=f"common {i % 15}") for i in range(300)]
    rare = step(300, 300, **({"step_type": "rare", "cost_cents": 0.0} | special))
    ax = timeline(table(*common, rare), violation_step_index=violation)
    assert "rare" in lanes(ax)
    assert lanes(ax)[-1] == "other (5 types)"


# --- the violation


@both
@pytest.mark.parametrize("index", [0, 2, 4])
def test_the_violation_is_marked_at_its_step_and_named(plot: Plot, index: int) -> None:
    ax = plot(bundle(FIVE, index))
    when = date2num(FIVE[index].timestamp)
    for panel in (a for a in figure(ax).axes if a.get_ylabel() == "" or "so far (line)" not in a.get_ylabel()):
        (line,) = [x for x in panel.lines if x.get_gid() == "violation"]
        assert np.asarray(line.get_xdata()).tolist() == pytest.approx([when, when])
        assert to_hex(line.get_color()).upper() == VIOLATION_COLOR
    (label,) = [t for t in ax.texts if t.get_gid() == "violation"]
    assert label.get_text() == f"violation: step {index} · {FIVE[index].step_type} · {FIVE[index].status}"
    assert label.get_position()[0] == pytest.approx(when)
    # The label turns away from the nearer edge, so it stays in the picture.
    assert label.get_horizontalalignment() == ("left" if index < 2 else "right")


def test_the_violating_bar_is_outlined() -> None:
    ax = timeline(bundle(FIVE, 1))
    (outline,) = rectangles(ax, "violating step")
    assert outline in rectangles(ax, "failed steps")


def test_an_argument_names_the_violation_of_a_frame_or_instead_of_the_bundles() -> None:
    assert "violation: step 3 · guardrail · ok" in texts(timeline(FIVE, violation_step_index=3))
    assert "violation: step 3 · guardrail · ok" in texts(timeline(bundle(FIVE, 1), violation_step_index=3))
    assert "violation: step 3 · guardrail · ok" in texts(timeline(FIVE, violation_step_index=np.int64(3)))  # type: ignore[arg-type]


def test_a_violation_that_is_not_among_the_steps_is_said() -> None:
    ax = timeline(FIVE, violation_step_index=20_000)
    assert "violation: step 20,000, not among these steps" in texts(ax)
    assert not [x for x in ax.lines if x.get_gid() == "violation"]


def test_a_violation_known_only_by_its_time_is_marked_there() -> None:
    when = NOON + dt.timedelta(seconds=3)
    ax = timeline(bundle(FIVE, violation_timestamp=when))
    (line,) = [x for x in ax.lines if x.get_gid() == "violation"]
    assert line.get_xdata()[0] == pytest.approx(date2num(when))  # type: ignore[index]
    assert "violation (its step is not recorded)" in texts(ax)
    away = timeline(bundle(FIVE, violation_timestamp=NOON + dt.timedelta(days=3)))
    assert "violation: not in the time of these steps" in texts(away)


def test_no_violation_no_mark() -> None:
    ax = timeline(bundle(FIVE))
    assert "violation" not in texts(ax)
    assert [x.get_gid() for x in figure(ax).axes[1].lines] == []
    assert [x.get_gid() for x in ax.lines] == []


def test_a_violation_that_is_no_integer_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        timeline(FIVE, violation_step_index="7")  # type: ignore[arg-type]
    assert str(caught.value) == "violation_step_index is '7'; expected an integer or None"


# --- cost


def test_spending_and_its_running_sum_are_those_of_the_data() -> None:
    ax, below, so_far = figure(timeline(FIVE)).axes
    heights = [bottom - top for _, _, top, bottom in rectangles(below, "spending")]
    assert sum(heights) == pytest.approx(2.0)
    for left, right, *_ in rectangles(below, "spending"):
        assert any(left - 1e-10 <= date2num(s.timestamp) < right and s.cost_cents for s in FIVE)
    (line,) = [x for x in so_far.lines if x.get_gid() == "spent so far"]
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([0.0, 0.5, 0.5, 1.75, 1.75, 2.0, 2.0])
    assert line.get_drawstyle() == "steps-post"
    assert below.get_ylabel() == "US cents\nper 100 ms"
    assert so_far.get_ylabel() == "US cents\nso far (line)"
    assert below.get_xlabel() == "time (UTC)"
    assert "2 US cents" in facts(ax)


def test_spending_is_stacked_by_type_in_the_lanes_colours() -> None:
    same = [step(i, 0, step_type=f"type {i}", cost_cents=float(i + 1)) for i in range(3)]
    ax = timeline(table(*same, step(9, 100)))
    below = figure(ax).axes[1]
    stack = sorted(rectangles(below, "spending"), key=lambda r: (r[0], r[2]))[:3]
    assert [top for *_, top, _ in stack] == pytest.approx([0.0, 1.0, 3.0])
    assert [bottom for *_, bottom in stack] == pytest.approx([1.0, 3.0, 6.0])
    (bars,) = collections(below, "spending")
    assert len(set(face_colors(bars)[:3])) == 3
    assert set(face_colors(bars)) <= set(face_colors(collections(ax, "steps")[0]))


def test_tokens_are_drawn_where_no_step_has_a_cost_and_the_plot_says_so() -> None:
    free = table(step(0, 0, cost_cents=0.0, tokens=700), step(1, 3, cost_cents=0.0, tokens=1300))
    ax = timeline(free)
    _, below, so_far = figure(ax).axes
    assert below.get_ylabel().startswith("tokens\nper ")
    assert so_far.get_ylabel() == "tokens\nso far (line)"
    assert "2,000 tokens · no step has a cost, so tokens are shown" in facts(ax)
    total = cumulative_cost(free)
    assert total.get_ylabel() == "tokens so far"
    assert "total 2,000 tokens" in texts(total)
    assert "no step has a cost, so tokens are shown" in facts(total)


@both
def test_neither_cost_nor_tokens(plot: Plot) -> None:
    ax = plot(table(step(0, 0, cost_cents=0.0, tokens=0)))
    assert "no step has a cost or tokens" in texts(*figure(ax).axes)
    draw(ax)


def test_cumulative_cost_is_a_step_line_over_bands_by_type() -> None:
    ax = cumulative_cost(FIVE)
    (line,) = [x for x in ax.lines if x.get_gid() == "total"]
    assert line.get_drawstyle() == "steps-post"
    starts = [date2num(s.timestamp) for s in FIVE]
    assert np.asarray(line.get_xdata()).tolist() == pytest.approx([starts[0], *starts, starts[-1] + 0.5 / 86_400])
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([0.0, 0.5, 0.5, 1.75, 1.75, 2.0, 2.0])
    bands = [c for c in ax.collections if c.get_gid() == "band"]
    tops = [max(np.asarray(p.vertices)[:, 1].max() for p in band.get_paths()) for band in bands]
    assert tops == pytest.approx([1.75, 2.0])
    legend = ax.get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "total 2 US cents"
    named = [t.get_text() for t in legend.get_texts()]
    assert named == ["tool_call\n0.25 US cents · 12%", "llm_call\n1.75 US cents · 88%"]
    assert ax.get_ylabel() == "US cents so far"
    assert ax.get_xlabel() == "time (UTC)"


def test_cumulative_cost_folds_all_but_the_dearest_types() -> None:
    ax = cumulative_cost(table(*(step(i, i, step_type=f"type {i}", cost_cents=float(i + 1)) for i in range(17))))
    legend = ax.get_legend()
    assert legend is not None
    names = [t.get_text().split("\n")[0] for t in legend.get_texts()]
    assert names == ["other (11 types)", *(f"type {i}" for i in range(11, 17))]
    amounts = [float(t.get_text().split("\n")[1].split()[0]) for t in legend.get_texts()]
    assert sum(amounts) == pytest.approx(153.0)
    assert legend.get_title().get_text() == "total 153.00 US cents"


def test_the_same_type_has_the_same_colour_in_both_plots() -> None:
    ax, total = timeline(bundle(FIVE, 3)), cumulative_cost(FIVE)
    lane = lanes(ax).index("llm_call")
    (bars,) = collections(ax, "steps")
    in_lane = {c for p, c in zip(bars.get_paths(), face_colors(bars), strict=True)
               if round(float(np.asarray(p.vertices)[:, 1].mean())) == lane}  # fmt: skip
    bands = [c for c in total.collections if c.get_gid() == "band"]
    assert in_lane == set(face_colors(bands[0]))


def test_the_line_of_many_steps_is_thinned_and_keeps_its_total() -> None:
    steps = many(20_000)
    (line,) = [x for x in cumulative_cost(steps).lines if x.get_gid() == "total"]
    values = np.asarray(line.get_ydata())
    assert len(values) <= 2_100
    assert values[-1] == pytest.approx(steps.sums["cost_cents"])
    assert (np.diff(values) >= 0).all()


# --- truncation, emptiness, titles


@both
def test_a_cut_is_said_in_bold(plot: Plot) -> None:
    cut = SnapshotTable(TraceStepSnapshot, FIVE.to_arrow(), total=32_843)
    for data in (cut, cut.to_pandas()):
        ax = plot(data)
        assert facts(ax).startswith("first 5 of 32,843 steps · ")
        assert next(t for t in ax.texts if t.get_gid() == "facts").get_fontweight() == "bold"
    whole = plot(FIVE)
    assert facts(whole).startswith("5 steps · ")
    assert next(t for t in whole.texts if t.get_gid() == "facts").get_fontweight() == "normal"


@both
def test_no_steps_is_a_labelled_plot(plot: Plot) -> None:
    for data in (SnapshotTable.empty(TraceStepSnapshot), FIVE.to_pandas().iloc[:0], ExportBundle()):
        ax = plot(data)
        assert "no steps" in [t.get_text() for t in ax.texts if t.get_gid() != "facts"]
        assert ax.get_xlabel() == "time (UTC)"
        assert ax.get_ylabel() in ("step type", "US cents so far")
        draw(ax)


@both
def test_titles(plot: Plot) -> None:
    assert plot(bundle(FIVE)).get_title(loc="left") == "Incident inc-1: budget_exceeded, high severity"
    assert plot(bundle(FIVE), title="Mine").get_title(loc="left") == "Mine"
    assert plot(ExportBundle(run=RunSnapshot("r1", "acme"))).get_title(loc="left") == "Run r1"
    trace = TraceSummarySnapshot("t1", "r1", "acme")
    assert plot(ExportBundle(trace=trace)).get_title(loc="left") == "Trace t1"
    assert plot(FIVE).get_title(loc="left") == ""


# --- where it is drawn


@both
def test_given_an_axes_both_panels_take_its_place(plot: Plot) -> None:
    fig, (left, right) = plt.subplots(1, 2, figsize=(14, 5))
    right.plot([1, 2], [3, 4])
    place, other = left.get_position(), right.get_position().bounds
    current, open_figures = plt.gca(), plt.get_fignums()
    assert plot(FIVE, ax=left) is left
    assert plt.gca() is current
    assert plt.get_fignums() == open_figures
    assert right.get_position().bounds == other
    assert len(right.lines) == 1
    for panel in fig.axes:
        if panel is not right:
            box = panel.get_position()
            assert place.x0 - 1e-9 <= box.x0 <= box.x1 <= place.x1 + 1e-9
            assert place.y0 - 1e-9 <= box.y0 <= box.y1 <= place.y1 + 1e-9
    fig.canvas.draw()


def test_an_axes_of_fixed_place_and_one_in_a_subfigure() -> None:
    fig = Figure(figsize=(8, 5))
    ax = fig.add_axes((0.2, 0.2, 0.5, 0.6))
    assert timeline(FIVE, ax=ax) is ax
    upper, lower, _ = fig.axes
    assert (lower.get_position().y0, upper.get_position().y1) == pytest.approx((0.2, 0.8))
    assert lower.get_position().y1 < upper.get_position().y0
    outer = Figure(layout="constrained")
    part = outer.subfigures(1, 2, squeeze=False)[0, 1].add_subplot()
    assert timeline(FIVE, ax=part) is part
    outer.canvas.draw()
    assert len(plt.get_fignums()) == 0


def test_the_panels_share_their_time_axis() -> None:
    ax = timeline(FIVE)
    _, below, _ = figure(ax).axes
    assert below.get_shared_x_axes().joined(ax, below)
    ax.set_xlim(*ax.get_xlim()[::-1][::-1])
    assert below.get_xlim() == ax.get_xlim()


@both
def test_a_new_figure_is_pyplots_so_that_notebooks_show_it(plot: Plot) -> None:
    ax = plot(FIVE)
    assert figure(ax) is plt.gcf()
    width, height = figure(ax).get_size_inches()
    assert width == 10
    assert 3.5 <= height <= 6


def test_a_user_can_add_datetimes_to_the_plot() -> None:
    ax = timeline(FIVE)
    limits = ax.get_xlim()
    line = ax.axvline(NOON + dt.timedelta(seconds=2))  # type: ignore[arg-type]
    draw(ax)
    assert ax.get_xlim() == limits
    assert ax.convert_xunits(line.get_xdata()[0]) == pytest.approx(date2num(NOON) + 2 / 86_400)  # type: ignore[index]


# --- what may be given


FRAMES: dict[str, Callable[[SnapshotTable[Any]], Any]] = {
    "table": lambda s: s,
    "arrow": lambda s: s.to_arrow(),
    "pandas": lambda s: s.to_pandas(),
    "pandas object": lambda s: s.to_pandas().astype({"step_type": object, "status": "category"}),
    "pandas nanoseconds": lambda s: s.to_pandas().astype({"timestamp": "datetime64[ns, Europe/Zurich]"}),
    "polars": lambda s: pl.DataFrame(s.to_arrow()),
    "polars lazy": lambda s: pl.LazyFrame(s.to_arrow()),
    "narwhals": lambda s: nw.from_native(s.to_pandas()),
    "record batch": lambda s: s.to_arrow().to_batches()[0],
    "reader": lambda s: s.to_arrow().to_reader(),
    "narrow types": lambda s: pl.DataFrame(s.to_arrow()).cast({"step_index": pl.Int32, "cost_cents": pl.Float32}),
    "further columns": lambda s: s.to_pandas().assign(model="m", parent_step_index=0),
    "without the hash": lambda s: s.to_arrow().drop_columns("content_hash"),
    "bundle": lambda s: bundle(s),
}


@both
@pytest.mark.parametrize("kind", FRAMES)
def test_every_kind_of_frame_gives_the_same_picture(plot: Plot, kind: str) -> None:
    title = {"title": "the same"}
    assert everything_drawn(plot(FRAMES[kind](FIVE), **title)) == everything_drawn(plot(FIVE, **title))


@both
def test_a_duckdb_relation_gives_the_same_picture(plot: Plot) -> None:
    arrow = FIVE.to_arrow()
    with duckdb.connect() as connection:
        relation = connection.from_arrow(arrow)
        assert everything_drawn(plot(relation)) == everything_drawn(plot(FIVE))


@both
def test_inputs_are_unchanged(plot: Plot) -> None:
    frame = FIVE.to_pandas().iloc[::-1]
    before = frame.copy(deep=True)
    arrow = FIVE.to_arrow()
    plot(frame)
    plot(arrow)
    pd.testing.assert_frame_equal(frame, before)
    assert arrow.equals(table(*FIVE).to_arrow())


@both
def test_a_missing_column_is_named_with_those_there_are(plot: Plot) -> None:
    frame = FIVE.to_pandas().drop(columns=["duration_ms", "status"])
    with pytest.raises(ConfigError) as caught:
        plot(frame)
    assert str(caught.value) == (
        "steps: no column duration_ms, status; found step_index, timestamp, step_type, tokens, cost_cents, content_hash"
    )


@both
def test_what_is_no_frame_is_refused(plot: Plot) -> None:
    with pytest.raises(ConfigError) as caught:
        plot([1, 2, 3])
    assert str(caught.value) == (
        "cannot read steps from list; accepted are an ExportBundle, a SnapshotTable of steps and a frame that Narwhals "
        "knows (pandas, Polars, pyarrow, DuckDB, ...)"
    )
    with pytest.raises(ConfigError, match="takes TraceStepSnapshots; found 1 run"):
        plot(SnapshotTable.from_records(RunSnapshot, [RunSnapshot("r1", "acme")]))


def test_naive_times_and_wrong_types_are_refused() -> None:
    frame = FIVE.to_pandas()
    with pytest.raises(ConfigError) as caught:
        timeline(frame.assign(timestamp=frame["timestamp"].dt.tz_localize(None)))
    assert str(caught.value) == "steps: column 'timestamp' has naive times; give them a time zone, such as UTC"
    with pytest.raises(ConfigError, match=r"steps: column 'cost_cents' is of type .*string; expected double"):
        timeline(frame.assign(cost_cents="much"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, None])
def test_values_that_their_column_forbids_are_refused(bad: float | None) -> None:
    frame = pl.DataFrame(FIVE.to_arrow()).with_columns(duration_ms=pl.lit(bad, pl.Float64))
    with pytest.raises(InconsistentData, match="duration_ms"):
        timeline(frame)
    assert plt.get_fignums() == []


# --- hostile text


@both
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_drawn_inert(plot: Plot, text: str) -> None:
    steps = table(step(0, 0, step_type=text, status=text), step(1, 2, step_type="llm_call"))
    whole = ExportBundle(
        IncidentSnapshot(text or "x", "acme", "r", text, None, None, text, NOON),
        None, TraceSummarySnapshot("t", "r", "acme", 0), steps,
    )  # fmt: skip
    for ax in (plot(whole), plot(steps, title=text)):
        draw(ax)  # a formula that does not parse raises here, a letter that no font has warns
        for written in texts(*figure(ax).axes).replace(r"\$", "").split("\n"):
            assert "$" not in written
            assert written.isprintable()


@both
def test_long_text_is_cut_to_the_room_there_is(plot: Plot) -> None:
    _, axes = plt.subplots(1, 3, figsize=(12, 5))
    ax = plot(table(step(0, 0, step_type="w" * 300)), title="W" * 300, ax=axes[0])
    title = ax.get_title(loc="left")
    assert title.endswith("…")
    room = ax.get_window_extent().width
    drawn = next(t for t in (ax._left_title, ax.title) if t.get_text())  # type: ignore[attr-defined]
    assert drawn.get_window_extent().width <= room * 1.05
    assert all(len(name) <= 28 for name in lanes(ax))


def test_labels_of_a_timeline_do_not_overlap() -> None:
    for index in (0, 60, 119):
        ax = timeline(bundle(many(120, types=17), index))
        draw(ax)
        above = [t for t in ax.texts if t.get_gid() in ("facts", "violation")]
        title = ax._left_title  # type: ignore[attr-defined]
        boxes = [t.get_window_extent() for t in [title, *above, *ax.get_yticklabels()]]
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[i + 1 :])
            assert box.x0 >= 0
            assert box.x1 <= figure(ax).bbox.x1


# --- time


def ticks(ax: Axes) -> list[str]:
    bottom = figure(ax).axes[1]
    draw(ax)
    low, high = sorted(bottom.get_xlim())
    shown = zip(bottom.get_xticks(), bottom.get_xticklabels(), strict=True)
    return [label.get_text() for place, label in shown if low <= place <= high]


def test_ticks_from_microseconds_to_years() -> None:
    def run_of(seconds: float) -> list[str]:
        return ticks(timeline(table(*(step(i, seconds * i / 9, duration_ms=0.0) for i in range(10)))))

    assert run_of(5) == ["12:00:00\n2026-10-05", "12:00:01", "12:00:02", "12:00:03", "12:00:04", "12:00:05"]
    assert run_of(0.002)[:2] == ["12:00:00.000000\n2026-10-05", "12:00:00.000500"]
    assert run_of(3600)[:3] == ["12:00\n2026-10-05", "12:10", "12:20"]
    evening = ["12:00\n2026-10-05", "14:00", "16:00", "18:00", "20:00", "22:00"]
    assert run_of(14 * 3600) == [*evening, "00:00\n2026-10-06", "02:00"]
    assert run_of(6 * 86_400)[:2] == ["2026-10-06", "2026-10-07"]
    for seconds in (1e-5, 1, 60, 1e4, 1e6, 1e8):
        assert 2 <= len(run_of(seconds)) <= 9


def test_times_are_utc_whatever_zone_the_frame_has() -> None:
    assert mpl.rcParams["timezone"] == "UTC"
    frame = FIVE.to_pandas()
    frame["timestamp"] = frame["timestamp"].dt.tz_convert("Asia/Kolkata")
    assert ticks(timeline(frame))[0].startswith("12:00:00\n2026-10-05")


def test_a_pause_of_days_is_cut_short_and_said() -> None:
    pause = 3 * 86_400
    ax = timeline(table(*(step(i, 2 * i + (pause if i >= 10 else 0)) for i in range(20))))
    draw(ax)
    assert "no steps for 3 d" in texts(ax)
    ends = [date2num(NOON + dt.timedelta(seconds=seconds)) for seconds in (19, pause + 20)]
    before, after = (ax.transData.transform((end, 0.0))[0] for end in ends)
    assert 0.02 < (after - before) / ax.get_window_extent().width < 0.2
    labels = ticks(ax)
    assert any(label.endswith("2026-10-05") for label in labels)
    assert any(label.endswith("2026-10-08") for label in labels)
    # The bars keep their data's times; only the axis is bent.
    assert max(right for _, right, *_ in rectangles(ax, "steps")) == pytest.approx(date2num(NOON) + 3 + 39 / 86_400)


@pytest.mark.parametrize("gap", [0.0, 60.0, 900.0])
def test_short_pauses_leave_the_axis_straight(gap: float) -> None:
    ax = timeline(table(*(step(i, 2 * i + (gap if i >= 10 else 0)) for i in range(20))))
    assert ax.get_xscale() == "linear"
    assert "no steps for" not in texts(ax)


@both
@pytest.mark.parametrize(
    "steps",
    [
        [step(0, 0, duration_ms=0.0)],
        [step(i, 0, duration_ms=0.0) for i in range(30)],
        [step(0, 0, duration_ms=1e300), step(1, 5)],
        [step(i, 86_400.0 * (i // 10), duration_ms=0.0) for i in range(20)],
        [step(i, 0, tokens=2**62, cost_cents=1e-12) for i in range(9)],
        [TraceStepSnapshot(0, dt.datetime(1, 1, 1, tzinfo=dt.UTC), "a", 1, 1.0, 1.0, "ok"), step(1, 0)],
        [TraceStepSnapshot(0, dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, dt.UTC), "a", 1, 1.0, 1e9, "ok")],
    ],
    ids=["one instant", "all at one instant", "endless", "two instants", "great and small", "year 1", "year 9999"],
)
def test_extreme_steps_are_drawn(plot: Plot, steps: list[TraceStepSnapshot]) -> None:
    ax = plot(table(*steps))
    draw(ax)
    assert facts(ax).startswith(f"{len(steps):,} step")
    low, high = ax.get_xlim()
    assert low < date2num(steps[0].timestamp) < high


def test_durations_and_steps_of_time_in_words() -> None:
    assert [duration_text(us) for us in (0, 3, 1_500, 59_990_000, 59_999_999, 61_000_000, 3_599_999_999)] == [
        "0 s", "3 µs", "1.5 ms", "60 s", "60 s", "1 min 1 s", "60 min",
    ]  # fmt: skip
    assert [duration_text(h * 3_600e6) for h in (1, 1.5, 24, 75)] == ["1 h", "1 h 30 min", "1 d", "3 d 3 h"]
    assert nice_step_us(1.0, 24) == 3_600_000_000
    assert nice_step_us(1e9, 8) == 5_000 * 365 * 86_400_000_000


# --- scale and real runs


def test_32_843_steps_draw_in_time(tmp_path: Path) -> None:
    """One second is the target, measured by the benchmark; here only what no busy machine excuses."""
    steps = many(32_843)
    timeline(FIVE)
    started = time.perf_counter()
    figure(timeline(steps)).savefig(tmp_path / "timeline.png", dpi=100)
    assert time.perf_counter() - started < 5


@pytest.mark.real
@pytest.mark.skipif(not REAL.exists(), reason="the real agents' traces are not beside the repository")
def test_real_incidents() -> None:
    connection = sqlite3.connect(f"file:{REAL}?mode=ro", uri=True)
    found = connection.execute(
        "select t.trace_id, t.violation_step_index from incidents i join traces t on t.run_id = i.source_run_id"
    ).fetchall()
    assert len(found) == 3
    for trace_id, violation in found:
        rows = connection.execute(
            "select timestamp, step_index, step_type, tokens, cost_cents, duration_ms, status "
            "from trace_steps where trace_id = ?",
            (trace_id,),
        ).fetchall()
        times = [dt.datetime.fromisoformat(row[0]).replace(tzinfo=dt.UTC) for row in rows]
        steps = table(*(TraceStepSnapshot(row[1], when, *row[2:]) for row, when in zip(rows, times, strict=True)))
        ax = timeline(steps, violation_step_index=violation)
        draw(ax)
        assert len(rectangles(ax, "steps", "failed steps")) == len(rows)
        assert f"violation: step {violation} · observation:run · error" in texts(ax)
        assert len(lanes(ax)) <= MAX_LANES
    connection.close()
