"""Where the money went: a bar for each kind of step, agent, tenant or model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
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
from exporttools.plots.step_data import OTHER_COLOR, PALETTE
from exporttools.text.words import amount_text, plural, share_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import matplotlib.axes
    from matplotlib.axes import Axes

    from exporttools.plots.measures import Measure


_HATCH = "////"


def cost_breakdown(
    data: Any,
    by: str | Sequence[str] = "step_type",
    *,
    limit: int = 12,
    title: str | None = None,
    ax: Axes | None = None,
) -> matplotlib.axes.Axes:
    """Draw what each group of steps cost, the most expensive at the top, with its share of the whole.

    Parameters
    ----------
    data : ExportBundle, SnapshotTable of TraceStepSnapshot, or frame
        A frame is anything that Narwhals knows (pandas, Polars, pyarrow, DuckDB, Dask, PySpark) with `by`,
        ``cost_cents`` (US cents), ``tokens`` and ``duration_ms``; optionally ``run_id``, to count runs.
    by : str or sequence of str
        What to group by, such as ``"agent_id"``, ``"model"`` or ``["agent_id", "step_type"]``. NULL is a group.
    limit : int
        The maximum number of bars; further groups are folded into "other".
    title : str, optional
        Defaults to a bundle's incident or run.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        In US cents; in tokens if nothing has a cost, and the plot says so.

    Raises
    ------
    ConfigError
        A column is missing or of another type, or `limit` is not a positive integer.
    InconsistentData
        The cost of a group is negative or infinite.

    Examples
    --------
    >>> import polars as pl
    >>> steps = pl.DataFrame({"agent_id": ["a", "b"], "cost_cents": [1.0, 3.0], "tokens": [9, 9], "duration_ms": [5.0, 5.0]})
    >>> ax = cost_breakdown(steps, by="agent_id")
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['b', 'a']
    """
    require_positive(limit)
    keys = [by] if isinstance(by, str) else list(by)
    require_key_names("by", keys)
    source = read_step_frame(data)
    needed = dict.fromkeys(("cost_cents", "tokens", "steps"), Kind.NUMBER)
    costs = analysis.cost_by(source.frame, *keys)
    table = collected(costs, "costs", dict.fromkeys(keys, Kind.KEY) | needed, optional=["runs", "roll_ups"])
    measure, amounts = spent(table)
    shown, folded = fold(amounts, limit)
    bars = len(shown) + bool(len(folded))
    ax = new_axes(1.5 + 0.3 * max(bars, 2)) if ax is None else ax
    what = " · ".join(label_text(key, 28) for key in keys)
    steps, total = int(finite_numbers(table, "steps").sum()), float(amounts.sum())
    facts = [count_text(steps, source.total)]
    if steps:
        facts += [f"total {amount_text(total, measure.unit)}", plural(len(table), "group"), *measure.facts]
        if "roll_ups" in table.column_names and (left_out := int(finite_numbers(table, "roll_ups").sum())):
            facts.append(f"{plural(left_out, 'roll-up')} left out")
        _draw(ax, [*(table.take(pa.array(rows)) for rows in (shown, folded))], keys, measure, total)
    else:
        write_no_data(ax)
    ax.set_xlabel(measure.unit, fontsize="small")
    ax.set_ylabel(what, fontsize="small", usetex=False)
    write_lines(ax, facts, title if title is not None else source.title, cut=source.total is not None)
    return ax


def _draw(ax: Axes, parts: list[pa.Table], keys: Sequence[str], measure: Measure, total: float) -> None:
    own, rest = parts
    names = [label_text(name, 32) for name in group_names(own, keys)]
    lengths: list[float] = finite_numbers(own, measure.column).tolist()
    counted = [_counted(own.slice(row, 1)) for row in range(len(own))]
    if len(rest):
        names.append(f"other ({len(rest):,})")
        lengths.append(float(finite_numbers(rest, measure.column).sum()))
        counted.append(_counted(rest))
    places = range(len(names))
    bars = ax.barh(places, lengths, height=0.72, color=PALETTE[0], linewidth=0)
    if len(rest):
        other = bars.patches[-1]
        other.set(facecolor=OTHER_COLOR, edgecolor="white", hatch=_HATCH)
    for bar in bars.patches:
        bar.set_gid("amount")
    ax.set_yticks(places, names, fontsize="small", usetex=False)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize="small")
    ax.spines[["top", "right"]].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(number_text))
    _label(ax, lengths, counted, measure.unit, total)


def _counted(rows: pa.Table) -> str:
    text = plural(float(finite_numbers(rows, "steps").sum()), "step")
    # A run may have steps in several groups, so the runs of folded groups do not add up.
    return (
        f"{text}, {plural(float(finite_numbers(rows, 'runs')[0]), 'run')}"
        if "runs" in rows.column_names and len(rows) == 1
        else text
    )


def _label(ax: Axes, lengths: list[float], counted: list[str], unit: str, total: float) -> None:
    """Write amount and share at the end of each bar, then the counts in grey; leave room for them on the right."""
    room, widest = ax.get_window_extent().width, 0.0
    for place, (length, count) in enumerate(zip(lengths, counted, strict=True)):
        share = f" · {share_text(length / total)}" if total else ""
        amount = ax.annotate(
            f"{amount_text(length, unit)}{share}", (length, place), (4, 0), textcoords="offset points", va="center",
            fontsize="small", usetex=False, gid="amount",
        )  # fmt: skip
        after = amount.get_window_extent().width + 12 * ax.figure.dpi / 72
        grey = ax.annotate(
            count, (length, place), (after * 72 / ax.figure.dpi, 0), textcoords="offset points", va="center",
            fontsize="x-small", color="0.4", usetex=False, gid="count",
        )  # fmt: skip
        widest = max(widest, after + grey.get_window_extent().width)
    # Names take about a quarter of the width; even in a narrow Axes, the bars keep a third.
    ax.set_xlim(0, (max(lengths) or 1.0) / max(0.34, 1 - widest / (0.85 * room)))
