"""What was spent in each hour, day or week, and by which group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from exporttools import analysis
from exporttools.analysis.columns import Kind
from exporttools.plots.captions import count_text, label_text, new_axes, number_text, write_lines, write_no_data
from exporttools.plots.results import (
    collected,
    finite_numbers,
    fold,
    group_names,
    read_step_frame,
    require_key_names,
    require_positive,
    spent,
)
from exporttools.plots.step_data import OTHER_COLOR
from exporttools.plots.time_axis import dates, set_time_axis
from exporttools.text.words import amount_text, plural, share_text
from exporttools.times import DAY_US, duration_text, parse_length

if TYPE_CHECKING:
    import matplotlib.axes
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from exporttools.analysis.groups import Floats, Indices

_MAX_BARS = 200
_MAX_COLUMNS = 600
"""As many as a figure has pixels for beside a legend: thinner ones would fade."""

# From dark to light, so that neighbours in a stack differ in grey as well, and hatched by turns.
_LOOKS = (
    ("#332288", ""), ("#0072B2", ""), ("#D55E00", ""), ("#44AA99", ""), ("#E69F00", ""), ("#F0E442", ""),
    ("#882255", "///"), ("#009E73", "///"), ("#CC79A7", "///"), ("#56B4E9", "///"),
)  # fmt: skip
_OTHER_HATCH = "...."


def cost_over_time(
    data: Any,
    every: str = "1d",
    by: str | None = None,
    *,
    limit: int = 6,
    title: str | None = None,
    ax: Axes | None = None,
) -> matplotlib.axes.Axes:
    """Draw what was spent in each period of time, split by group.

    Parameters
    ----------
    data : ExportBundle, SnapshotTable of TraceStepSnapshot, or frame
        A frame is anything that Narwhals knows (pandas, Polars, pyarrow, DuckDB, Dask, PySpark) with ``timestamp`` (with
        a time zone), ``cost_cents`` (US cents), ``tokens`` and ``duration_ms``; and `by`.
    every : str
        The length of a period, such as ``"15min"``, ``"1h"``, ``"1d"``, ``"1w"``; in UTC.
    by : str, optional
        The column to split each period by, such as ``"agent_id"``; the group that spent most is at the bottom.
    limit : int
        The maximum number of groups; further ones are folded into "other".
    title : str, optional
        Defaults to a bundle's incident or run.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        In US cents per period over UTC; in tokens if nothing has a cost, and the plot says so.

    Raises
    ------
    ConfigError
        A column is missing or of another type, `every` is not a length, or `limit` not a positive integer, or there would
        be too many periods.
    InconsistentData
        The cost of a period is negative or infinite.

    Notes
    -----
    A step counts for the period in which it started. More than 200 periods are drawn without gaps and hatches; of more than
    600, each column stands for several and has the height of the most expensive of them, which the plot says. Steps with
    NULL as their time are not drawn: the plot says how many there are, and what they spent.

    Examples
    --------
    >>> import polars as pl, datetime as dt
    >>> days = [dt.datetime(2026, 10, day, 9, tzinfo=dt.UTC) for day in (5, 5, 7)]
    >>> steps = pl.DataFrame({"timestamp": days, "cost_cents": [1.0, 2.0, 4.0], "tokens": [5, 5, 9], "duration_ms": [1.0, 1.0, 1.0]})
    >>> cost_over_time(steps).get_ylabel()
    'US cents per 1 d'
    """
    require_positive(limit)
    require_key_names("by", [] if by is None else [by])
    source = read_step_frame(data)
    length_us = parse_length("every", every).total_seconds() * 1e6
    needed = {"period_start": Kind.TIME} | dict.fromkeys(("cost_cents", "tokens", "steps"), Kind.NUMBER)
    costs = analysis.cost_over_time(source.frame, every, by)
    table = collected(costs, "costs", needed | ({} if by is None else {by: Kind.KEY}))
    timed = pc.is_valid(table["period_start"])
    measure, amounts = spent(table)
    unit = measure.unit
    ax = new_axes(4.2) if ax is None else ax
    steps = finite_numbers(table, "steps")
    facts = [count_text(int(steps.sum()), source.total)]
    total = amount_text(float(amounts.sum()), unit)
    untimed = _untimed(np.flatnonzero(~timed.to_numpy()), steps, amounts, unit)
    table, amounts, steps = table.filter(timed), amounts[timed.to_numpy()], steps[timed.to_numpy()]
    if len(table):
        start_us, period = np.unique(table["period_start"].cast(pa.int64()).to_numpy(), return_inverse=True)
        used = np.bincount(period, steps) > 0
        set_time_axis([ax], dates(start_us[used]), dates(start_us[used]) + length_us / DAY_US)
        stacks, names, groups, folded = _stacks(table, by, amounts, period, limit)
        periods = -(-len(start_us) // _MAX_COLUMNS)
        starts, heights = _columns(dates(start_us), stacks, periods)
        looks = [_look(row, stacks, plain=len(starts) > _MAX_BARS, folded=folded) for row in range(len(stacks))]
        _draw(ax, starts, periods * length_us / DAY_US, heights, looks)
        # The line is cut where the plot ends, so that what is not drawn as it is comes first.
        facts += [
            f"total {total}",
            *untimed,
            f"{plural(len(start_us), 'period')} of {duration_text(length_us)}",
            *([f"each column is the highest of {periods:,} periods"] if periods > 1 else []),
            *measure.facts,
        ]
        if by is not None:
            facts.append(plural(groups, "group"))
            _legend(ax, by, stacks, names, unit, looks)
    else:
        ax.set_xlabel("time (UTC)")
        write_no_data(ax, "no step has a time" if untimed else "no steps")
        facts += untimed
    ax.set_ylabel(f"{unit} per {duration_text(length_us)}", fontsize="small")
    write_lines(ax, facts, title if title is not None else source.title, cut=source.total is not None)
    return ax


def _stacks(
    table: pa.Table, by: str | None, amounts: Floats, period: NDArray[Any], limit: int
) -> tuple[Floats, list[str], int, bool]:
    """Amounts of shape (groups drawn, periods), the greatest group first; their names; how many groups there are; whether
    the last one drawn stands for several.
    """
    if by is None:
        return np.asarray(np.bincount(period, amounts), np.float64)[None, :], [""], 1, False
    # Every period has every group, in the same order: the analysis fills them.
    groups = int(np.count_nonzero(period == 0))
    by_group = amounts.reshape(-1, groups).T
    names = group_names(table.slice(0, groups), [by])
    shown, folded = fold(by_group.sum(axis=1), limit)
    stacks, kept = by_group[shown], [names[row] for row in shown]
    if not len(folded):
        return stacks, kept, groups, False
    rest = by_group[folded].sum(axis=0)
    return np.vstack([stacks, rest]), [*kept, f"other ({len(folded):,})"], groups, True


def _untimed(rows: Indices, steps: Floats, amounts: Floats, unit: str) -> list[str]:
    """What the plot says of steps without a time."""
    count = int(steps[rows].sum())
    if not count:
        return []
    return [f"not drawn: {plural(count, 'step')} without a time, {amount_text(float(amounts[rows].sum()), unit)}"]


def _columns(starts: Floats, stacks: Floats, periods: int) -> tuple[Floats, Floats]:
    """The start and the heights of columns of so many periods each: the heights of their most expensive period."""
    if periods == 1:
        return starts, stacks
    first = np.arange(0, len(starts), periods)
    padded = np.pad(stacks, ((0, 0), (0, len(first) * periods - len(starts))))
    highest = first + padded.sum(axis=0).reshape(len(first), periods).argmax(axis=1)
    return starts[first], padded[:, highest]


def _draw(ax: Axes, starts: Floats, width: float, stacks: Floats, looks: list[dict[str, Any]]) -> None:
    lower = np.zeros(len(starts))
    for row, (amounts, look) in enumerate(zip(stacks, looks, strict=True)):
        upper = lower + amounts
        if len(starts) <= _MAX_BARS:
            some = amounts > 0
            ax.bar(starts[some], amounts[some], 0.9 * width, lower[some], align="edge", gid=f"stack {row}", **look)
        else:
            times = np.r_[starts, starts[-1] + width]
            ax.fill_between(times, np.r_[lower, 0.0], np.r_[upper, 0.0], step="post", gid=f"stack {row}", **look)
        lower = upper
    ax.set_ylim(0, (lower.max(initial=0.0) or 1.0) * 1.08)
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(number_text))
    ax.tick_params(axis="y", labelsize="small")
    ax.grid(axis="y", color="0.5", alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)


def _look(row: int, stacks: Floats, *, plain: bool, folded: bool) -> dict[str, Any]:
    """Colour and hatch of a stack: dark at the bottom, light at the top. Without an edge, which would hide what is small;
    and if `plain` without a hatch, which would hide what is narrow.
    """
    color, hatch = _LOOKS[1 if len(stacks) == 1 else row % len(_LOOKS)]
    if folded and row == len(stacks) - 1:
        color, hatch = OTHER_COLOR, _OTHER_HATCH
    return {"facecolor": color, "hatch": "" if plain else hatch, "edgecolor": "white", "linewidth": 0.0}


def _legend(ax: Axes, by: str, stacks: Floats, names: list[str], unit: str, looks: list[dict[str, Any]]) -> None:
    total = float(stacks.sum())
    handles = []
    for name, amounts, look in zip(names, stacks, looks, strict=True):
        spent_here = float(amounts.sum())
        share = f" · {share_text(spent_here / total)}" if total else ""
        label = f"{label_text(name, 28)}\n{amount_text(spent_here, unit)}{share}"
        handles.append(Patch(label=label, **look))
    legend = ax.legend(
        handles=handles[::-1], loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False,
        fontsize="small", title=label_text(by, 28), alignment="left", title_fontproperties={"weight": "bold"},
    )  # fmt: skip
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_usetex(False)
