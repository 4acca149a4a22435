"""The timeline."""

from __future__ import annotations

import datetime as dt
import sqlite3
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.dates import date2num
from matplotlib.figure import Figure

from exporttools.plots import timeline
from exporttools.plots.step_data import MAX_LANES, PALETTE
from exporttools.records.snapshots import TraceStepSnapshot
from tests.plots.drawings import (
    FIVE,
    NOON,
    bundle,
    collections,
    draw,
    everything_drawn,
    face_colors,
    facts,
    figure,
    lanes,
    many,
    rectangles,
    step,
    table,
    texts,
)

REAL = Path(__file__).parents[3] / "shared" / "real" / "agents.sqlite"


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


@pytest.mark.parametrize("status", ["error", "ERROR", "STATUS_CODE_ERROR", "rate-limited", "cancelled"])
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


@pytest.mark.parametrize("status", ["ok", "errors", "blocked", ""])
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


def test_the_violating_bar_is_outlined() -> None:
    ax = timeline(bundle(FIVE, 1))
    (outline,) = rectangles(ax, "violating step")
    assert outline in rectangles(ax, "failed steps")


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


def test_a_user_can_add_datetimes_to_the_plot() -> None:
    ax = timeline(FIVE)
    limits = ax.get_xlim()
    line = ax.axvline(NOON + dt.timedelta(seconds=2))  # type: ignore[arg-type]
    draw(ax)
    assert ax.get_xlim() == limits
    assert ax.convert_xunits(line.get_xdata()[0]) == pytest.approx(date2num(NOON) + 2 / 86_400)  # type: ignore[index]


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
