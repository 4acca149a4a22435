"""The timeline: a lane for each step type, a bar for each step, and below it what the run spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba_array
from matplotlib.ticker import FuncFormatter, MaxNLocator

from exporttools.plots.captions import (
    VIOLATION_COLOR,
    label_text,
    mark_violation,
    new_axes,
    number_text,
    write_empty,
    write_heading,
    write_nothing_spent,
)
from exporttools.plots.step_data import read_steps
from exporttools.plots.time_axis import dates, nice_step_us, set_time_axis
from exporttools.text.words import plural
from exporttools.times import DAY_US, duration_text

if TYPE_CHECKING:
    import matplotlib.axes
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from exporttools.analysis.groups import Floats, Indices
    from exporttools.plots.step_data import StepData
    from exporttools.plots.time_axis import PausedTime

_MAX_ROWS = 5
_BINS = 80
_EXACT_STEPS = 3000
_SLIVERS = 2000
_MAX_HATCHED = 200

_HATCH = "//////"
_EDGE_POINTS = 0.6

# A lane is one unit high and grows downwards from its number - 0.5: marks of failed steps on top, then the bars.
_MARKS = (-0.42, -0.24)
_BARS = (-0.20, 0.40)


def timeline(
    data: Any,
    *,
    violation_step_index: int | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> matplotlib.axes.Axes:
    """Draw what happened when, and what it cost.

    Each step is a bar from its start over its duration, in the lane and colour of its step type; bars of one type that
    overlap in time are stacked within the lane. Failed steps are hatched and have a mark above them.
    The violation is marked and labelled. The panel below shows the cost of the steps that started in each stretch of
    time, by step type, and the cost so far as a line; tokens if no step has a cost.

    Parameters
    ----------
    data : ExportBundle, SnapshotTable of TraceStepSnapshot, or frame
        A frame is anything that Narwhals knows (pandas, Polars, pyarrow, DuckDB, ...) with the columns
        ``step_index``, ``timestamp`` (with a time zone), ``step_type``, ``tokens``, ``cost_cents`` (US cents),
        ``duration_ms`` (ms) and ``status``, all without NULLs; other columns are ignored.
    violation_step_index : int, optional
        The step at which it went wrong; defaults to a bundle's own.
    title : str, optional
        Defaults to a bundle's incident or run.
    ax : matplotlib.axes.Axes, optional
        Where to draw: both panels take its place, and the rest of its figure is not touched. By default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The panel with the bars; `ax`, if it was given.

    Raises
    ------
    ConfigError
        A column is missing or of another type, or times are naive.
    InconsistentData
        A column has a value that it must not have, such as NULL or a negative duration.

    Notes
    -----
    At most a dozen step types have a lane of their own: those with the greatest share of the steps, of the cost or of
    the failed steps, and that of the violation; the rest are folded into "other". A pause that would leave no room for the
    steps is shortened, in grey, and says how long it was. Beyond 3,000 steps, neighbouring bars that are narrower than
    a pixel are drawn as one, and only the widest of the failed ones are hatched.

    Examples
    --------
    >>> from exporttools import SnapshotTable, TraceStepSnapshot
    >>> ax = timeline(SnapshotTable.empty(TraceStepSnapshot))
    >>> ax.texts[-1].get_text()
    'no steps'
    """
    steps = read_steps(data, violation_step_index)
    lanes = len(steps.types)
    ax = new_axes(min(5.6, 3.2 + 0.21 * max(lanes, 3))) if ax is None else ax
    if not len(steps):
        return write_empty(ax, steps, title, "step type")
    figure = ax.get_figure()
    assert figure is not None
    current = figure.gca()
    below = _split(ax, lanes)
    time = set_time_axis([ax, below], steps.start, steps.end)
    _draw_lanes(ax, steps, time)
    _draw_spending(below, steps, time)
    write_heading(ax, steps, title, failed="hatched, mark above")
    mark_violation([ax, below], steps)
    # New panels became the current Axes, where the user's next pyplot call would draw.
    figure.sca(current)
    return ax


def _split(ax: Axes, lanes: int) -> Axes:
    """Shrink `ax` to the upper part of its place, and return a new Axes in the lower part."""
    figure = ax.get_figure()
    assert figure is not None
    ratios = (0.2 * lanes + 0.6, 1.15)
    place = ax.get_subplotspec()
    if place is not None:
        parts = place.subgridspec(2, 1, height_ratios=ratios, hspace=0.05)
        ax.set_subplotspec(parts[0])
        return figure.add_subplot(parts[1], sharex=ax)
    box = ax.get_position()
    gap = 0.05 * box.height
    low = (box.height - gap) * ratios[1] / sum(ratios)
    ax.set_position((box.x0, box.y0 + low + gap, box.width, box.height - low - gap))
    return figure.add_axes((box.x0, box.y0, box.width, low), sharex=ax)


class _Bars(NamedTuple):
    """Bars to draw. ``row`` of ``rows`` is the place within the lane."""

    start: Floats
    end: Floats
    lane: Indices
    row: Indices
    rows: Indices

    def taken(self, chosen: Any) -> _Bars:
        return _Bars(*(values[chosen] for values in self))

    def rectangles(self) -> Floats:
        height = (_BARS[1] - _BARS[0]) / self.rows
        top = self.lane + _BARS[0] + self.row * height
        # Rows stay a little apart.
        return _rectangles(self.start, self.end, top, top + height * np.where(self.rows > 1, 0.85, 1.0))


def _draw_lanes(ax: Axes, steps: StepData, time: PausedTime) -> None:
    count = len(steps.types)
    bars = _bars(steps)
    colors = to_rgba_array(steps.colors)
    ink = ax.xaxis.label.get_color()  # black, unless the user's style is dark
    # An edge of fixed width keeps a bar that is narrower than a pixel visible at any size and zoom; it can be wider
    # if there are few steps.
    narrow_points = 2.0 if len(steps) <= 300 else 1.4 if len(steps) <= 1500 else 0.8
    for failed in (False, True):
        drawn = _merged(bars.taken(steps.failed == failed), time.shown_days, exact=len(steps) <= _EXACT_STEPS)
        if not len(drawn.start):
            continue
        widths = drawn.end - drawn.start
        points = np.where(widths < time.shown_days / 400, narrow_points, _EDGE_POINTS)
        if not failed:
            _add(ax, drawn.rectangles(), colors[drawn.lane], colors[drawn.lane], points, gid="steps")
            continue
        # A hatch is expensive to draw, and invisible in narrow bars.
        widest = np.zeros(len(widths), np.bool_)
        widest[np.argsort(-widths, kind="stable")[:_MAX_HATCHED]] = True
        for chosen, hatch in ((~widest, None), (widest, _HATCH)):
            part = drawn.taken(chosen)
            _add(ax, part.rectangles(), colors[part.lane], ink, points[chosen], gid="failed steps", hatch=hatch)
        marked = drawn.lane + np.where(widths < time.shown_days / 100, _MARKS[1], _MARKS[0] + 0.06)
        marks = _rectangles(drawn.start, drawn.end, drawn.lane + _MARKS[0], marked)
        _add(ax, marks, ink, ink, points, gid="failed marks")
    if steps.violation is not None and steps.violation.row is not None:
        violating = bars.taken(slice(steps.violation.row, steps.violation.row + 1))
        _add(ax, violating.rectangles(), "none", VIOLATION_COLOR, 2.0, gid="violating step", zorder=5)
    _label_lanes(ax, steps)
    between = np.arange(1, count) - 0.5
    ax.hlines(between, 0, 1, transform=ax.get_yaxis_transform(), color="0.5", alpha=0.25, linewidth=0.6, gid="between")
    ax.set_ylim(count - 0.5, -0.5)


def _label_lanes(ax: Axes, steps: StepData) -> None:
    count = len(steps.types)
    names = [label_text(name, 28) for name in steps.types]
    if steps.folded:
        names[-1] = f"other ({steps.folded:,} types)"
    ax.set_yticks(range(count), names, fontsize="small", usetex=False)
    ax.tick_params(axis="y", length=0)
    in_lane = np.bincount(steps.lane, minlength=count).tolist()
    failed_in_lane = np.bincount(steps.lane[steps.failed], minlength=count).tolist()
    for lane, (of, failed) in enumerate(zip(in_lane, failed_in_lane, strict=True)):
        text = f"{failed:,} of {of:,} failed" if failed else plural(of, "step")
        ax.text(
            1.008, lane, text, transform=ax.get_yaxis_transform(), va="center", fontsize="x-small",
            usetex=False, gid="lane count",
        )  # fmt: skip


def _rectangles(left: Floats, right: Floats, top: NDArray[Any], bottom: NDArray[Any]) -> Floats:
    corners = np.empty((len(left), 4, 2))
    corners[:, :2, 0], corners[:, 2:, 0] = left[:, None], right[:, None]
    corners[:, 0, 1] = corners[:, 3, 1] = top
    corners[:, 1, 1] = corners[:, 2, 1] = bottom
    return corners


def _add(ax: Axes, corners: Any, face: Any, edge: Any, points: Any, *, zorder: float = 2, **kwargs: Any) -> None:
    """Add one collection of rectangles, unless it is empty."""
    if not len(corners):
        return
    bars = PolyCollection(
        corners, facecolors=face, edgecolors=edge, linewidths=points, joinstyle="miter", zorder=zorder, **kwargs
    )
    # Layout engines would measure every bar several times, though none extends beyond its panel.
    bars.set_in_layout(False)
    ax.add_collection(bars, autolim=False)


def _bars(steps: StepData) -> _Bars:
    """A bar for each step. Bars of one lane that overlap in time get rows of their own, and share the lane's height.

    Overlaps too small to see get no rows. If more than a few steps of a type run at once, bars share rows.
    """
    row = np.zeros(len(steps), np.intp)
    rows = np.ones(len(steps), np.intp)
    unseen = (steps.end.max() - steps.start[0]) / 1500
    for lane in range(len(steps.types)):
        members = np.flatnonzero(steps.lane == lane)
        start, end = steps.start[members], steps.end[members]
        overlaps = start[1:] < np.maximum.accumulate(end)[:-1] - unseen
        if not overlaps.any():
            continue
        free = [-np.inf] * _MAX_ROWS
        placed = np.zeros(len(members), np.intp)
        for i, (s, e) in enumerate(zip(start.tolist(), end.tolist(), strict=True)):
            place = 0
            while place < _MAX_ROWS and free[place] - unseen > s:
                place += 1
            if place == _MAX_ROWS:
                place = free.index(min(free))
            free[place] = max(free[place], e)
            placed[i] = place
        # Only bars that overlap with the next share the lane's height.
        first = np.flatnonzero(np.r_[True, ~overlaps])
        row[members] = placed
        rows[members] = np.repeat(np.maximum.reduceat(placed, first) + 1, np.diff(np.r_[first, len(members)]))
    return _Bars(steps.start, steps.end, steps.lane, row, rows)


def _merged(bars: _Bars, shown_days: float, *, exact: bool) -> _Bars:
    """Join neighbours in a row that are too narrow to distinguish into one bar: it looks the same and is drawn faster."""
    if exact or not len(bars.start):
        return bars
    bars = bars.taken(np.lexsort((bars.start, bars.row, bars.rows, bars.lane)))
    sliver = shown_days / _SLIVERS
    wide = bars.end - bars.start > 2 * sliver
    apart = wide[1:] | wide[:-1] | (bars.start[1:] - bars.end[:-1] > sliver)
    for values in (bars.lane, bars.row, bars.rows):
        apart |= np.diff(values) != 0
    first = np.flatnonzero(np.r_[True, apart])
    return bars.taken(first)._replace(end=np.maximum.reduceat(bars.end, first))


def _draw_spending(ax: Axes, steps: StepData, time: PausedTime) -> None:
    """Draw what the steps that started in each stretch of time spent, by type, and the sum so far as a line."""
    measure, amounts = steps.spent
    ax.tick_params(axis="y", labelsize="small")
    if not amounts.any():
        write_nothing_spent(ax)
        return
    width_us = nice_step_us(time.shown_days, _BINS)
    count = len(steps.types)
    # One key for each pair of stretch and lane, so that one pass sums both.
    keys, inverse = np.unique(steps.start_us // width_us * count + steps.lane, return_inverse=True)
    sums = np.bincount(inverse, amounts)
    stretch, lane = keys // count, keys % count
    stacked = np.cumsum(sums)
    first = np.flatnonzero(np.r_[True, np.diff(stretch) > 0])
    before = np.repeat((stacked - sums)[first], np.diff(np.r_[first, len(stretch)]))
    left = dates(stretch * width_us)
    bars = _rectangles(left, left + width_us / DAY_US, stacked - sums - before, stacked - before)
    spent = sums > 0
    colors = to_rgba_array(steps.colors)[lane[spent]]
    _add(ax, bars[spent], colors, colors, _EDGE_POINTS, gid="spending")
    ax.set_ylim(0, (stacked - before).max() * 1.1)
    ax.set_ylabel(f"{measure.unit}\nper {duration_text(width_us)}", fontsize="small")

    so_far = ax.twinx()
    last = np.r_[np.diff(steps.start_us) > 0, True]
    total = np.cumsum(amounts)
    times = np.r_[steps.start[0], steps.start[last], time.line_end]
    (line,) = so_far.step(times, np.r_[0.0, total[last], total[-1]], where="post", linewidth=1.3, gid="spent so far")
    line.set_color(ax.xaxis.label.get_color())
    so_far.set_ylim(0, total[-1] * 1.1)
    so_far.set_ylabel(f"{measure.unit}\nso far (line)", fontsize="small")
    so_far.tick_params(axis="y", labelsize="small")
    for panel in (ax, so_far):
        panel.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        panel.yaxis.set_major_formatter(FuncFormatter(number_text))
