"""The time axis."""

from __future__ import annotations

import datetime as dt

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from matplotlib.dates import date2num

from exporttools.plots import timeline
from exporttools.plots.time_axis import nice_step_us
from exporttools.records.snapshots import TraceStepSnapshot
from tests.plots.drawings import (
    FIVE,
    NOON,
    Plot,
    both,
    draw,
    facts,
    figure,
    rectangles,
    step,
    table,
    texts,
)


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


def test_round_steps_of_time() -> None:
    assert nice_step_us(1.0, 24) == 3_600_000_000
    assert nice_step_us(1e9, 8) == 5_000 * 365 * 86_400_000_000
