"""The cost so far over time, split by the step types that spent it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from exporttools.plots.captions import (
    label_text,
    mark_violation,
    new_axes,
    number_text,
    write_empty,
    write_heading,
    write_nothing_spent,
)
from exporttools.plots.step_data import OTHER_COLOR, read_steps
from exporttools.plots.time_axis import set_time_axis
from exporttools.text.words import amount_text, share_text

if TYPE_CHECKING:
    import matplotlib.axes
    from matplotlib.axes import Axes

    from exporttools.analysis.groups import Floats, Indices
    from exporttools.plots.step_data import StepData
    from exporttools.plots.time_axis import PausedTime

_MAX_BANDS = 7
_MAX_POINTS = 2000


def cumulative_cost(data: Any, *, title: str | None = None, ax: Axes | None = None) -> matplotlib.axes.Axes:
    """Draw the cost so far over time: a step line over a band for each step type that spent it.

    Parameters
    ----------
    data : ExportBundle, SnapshotTable of TraceStepSnapshot, or frame
        As for :func:`timeline`.
    title : str, optional
        Defaults to a bundle's incident or run.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        In US cents over UTC; in tokens if no step has a cost, and the plot says so.

    Raises
    ------
    ConfigError
        A column is missing or of another type, or times are naive.
    InconsistentData
        A column has a value that it must not have, such as NULL or a negative duration.

    Notes
    -----
    A step's cost counts from its start. The types that spent most have a band of their own, the greatest at the bottom;
    the rest are folded into "other".

    Examples
    --------
    >>> from exporttools import SnapshotTable, TraceStepSnapshot
    >>> cumulative_cost(SnapshotTable.empty(TraceStepSnapshot)).get_ylabel()
    'US cents so far'
    """
    steps = read_steps(data, None)
    measure, amounts = steps.spent
    ax = new_axes(4.2) if ax is None else ax
    if not len(steps):
        return write_empty(ax, steps, title, f"{measure.unit} so far")
    time = set_time_axis([ax], steps.start, steps.end)
    if amounts.any():
        _draw_bands(ax, steps, time)
    else:
        write_nothing_spent(ax)
    ax.set_ylabel(f"{measure.unit} so far")
    write_heading(ax, steps, title)
    mark_violation([ax], steps)
    return ax


def _draw_bands(ax: Axes, steps: StepData, time: PausedTime) -> None:
    measure, amounts = steps.spent
    band, names, colors = _bands(steps, amounts)
    rows = _rows_to_draw(steps)
    times = np.r_[steps.start[0], steps.start[rows], time.line_end]
    upper = np.zeros(len(times))
    spent: list[float] = []
    for number, color in enumerate(colors):
        so_far = np.cumsum(np.where(band == number, amounts, 0.0))[rows]
        lower, upper = upper, upper + np.r_[0.0, so_far, so_far[-1]]
        spent.append(float(so_far[-1]))
        area = ax.fill_between(times, lower, upper, step="post", color=color, linewidth=0, gid="band")
        area.set_in_layout(False)
    (line,) = ax.step(times, upper, where="post", linewidth=1.4, gid="total", zorder=3)
    line.set_color(ax.xaxis.label.get_color())
    total = float(amounts.sum())
    ax.set_ylim(0, total * 1.08)
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(number_text))
    ax.tick_params(axis="y", labelsize="small")
    handles = [
        Patch(color=color, label=f"{name}\n{amount_text(amount, measure.unit)} · {share_text(amount / total)}")
        for name, color, amount in zip(names, colors, spent, strict=True)
    ]
    legend = ax.legend(
        handles=handles[::-1], loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False,
        fontsize="small", title=f"total {amount_text(total, measure.unit)}", alignment="left",
        title_fontproperties={"weight": "bold"},
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_usetex(False)


def _bands(steps: StepData, amounts: Floats) -> tuple[Indices, list[str], list[str]]:
    """The band of each step; and the bands' names and colours, which are those of the timeline's lanes."""
    count = len(steps.types)
    by_type = np.bincount(steps.lane, amounts, minlength=count)
    named = count - bool(steps.folded)
    order = [lane for lane in np.argsort(-by_type[:named], kind="stable").tolist() if by_type[lane] > 0]
    spenders = len(order)
    kept = order if spenders <= _MAX_BANDS else order[: _MAX_BANDS - 1]
    folded = spenders - len(kept) + (steps.folded if by_type[named:].any() else 0)
    band_of = np.full(count, len(kept), np.intp)
    band_of[kept] = np.arange(len(kept))
    names = [label_text(steps.types[lane], 28) for lane in kept]
    colors = [steps.colors[lane] for lane in kept]
    if folded:
        names.append(f"other ({folded} types)")
        colors.append(OTHER_COLOR)
    return band_of[steps.lane], names, colors


def _rows_to_draw(steps: StepData) -> Indices:
    """The rows after which the line has a point: the last of each instant or sliver of time."""
    instant = steps.start_us
    if len(instant) > _MAX_POINTS:
        instant = (instant - instant[0]) // max(1, int(np.ptp(instant)) // _MAX_POINTS)
    return np.flatnonzero(np.r_[np.diff(instant) > 0, True])
