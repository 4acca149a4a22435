"""Anomalies: a lane for each group of steps, with a band for what is usual and marks for what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from exporttools import analysis
from exporttools.analysis.baselines import THRESHOLD, baseline_columns
from exporttools.analysis.columns import Kind
from exporttools.analysis.frames import read
from exporttools.analysis.groups import group
from exporttools.errors import ConfigError
from exporttools.plots.captions import (
    VIOLATION_COLOR,
    count_text,
    label_text,
    new_axes,
    number_text,
    write_lines,
    write_no_data,
)
from exporttools.plots.results import collected, finite_numbers, group_names, read_step_frame, require_positive
from exporttools.plots.step_data import PALETTE
from exporttools.records.schema import TRACE_STEPS
from exporttools.text.inert import one_line
from exporttools.text.words import plural

if TYPE_CHECKING:
    import matplotlib.axes
    from matplotlib.axes import Axes

    from exporttools.analysis.groups import Floats

_DOTS_A_LANE = 1500
_LABELS = 6
_UNITS = {column.name: column.unit for column in TRACE_STEPS.columns if column.unit}


def anomalies(
    data: Any,
    baseline: Any,
    *,
    measure: str = "duration_ms",
    threshold: float = THRESHOLD,
    limit: int = 12,
    title: str | None = None,
    ax: Axes | None = None,
) -> matplotlib.axes.Axes:
    """Draw what is far above the usual of its group: one lane for each group of a baseline, on a logarithmic axis.

    The band is what is usual: the median with `threshold` robust standard deviations above and below it. Ordinary rows
    are faint dots, unusual ones are marked; the most extreme are labelled with their run.

    Parameters
    ----------
    data : frame, SnapshotTable or ExportBundle
        Steps, or whatever the baseline describes.
    baseline : frame
        The result of :func:`exporttools.baseline`.
    measure : str
        One of the baseline's measures.
    threshold : float
        As for :func:`exporttools.anomalies`.
    limit : int
        The maximum number of lanes: those with the most unusual rows. The plot says how many others there are.
    title : str, optional
        Defaults to a bundle's incident or run.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ConfigError
        A column is missing or of another type, or the baseline does not have the measure.

    Notes
    -----
    Of a lane with more than 1,500 ordinary rows every n-th is drawn, in the order of their values; values of 0 are not.

    Examples
    --------
    >>> import polars as pl
    >>> from exporttools import baseline
    >>> steps = pl.DataFrame({"agent_id": ["a"] * 20, "step_type": ["tool_call"] * 20, "duration_ms": [100.0, 110.0] * 9 + [105.0, 9000.0]})
    >>> ax = anomalies(steps, baseline(steps, measures=["duration_ms"]))
    >>> ax.get_xlabel(), [label.get_text() for label in ax.get_yticklabels()]
    ('duration_ms (ms), logarithmic', ['a · tool_call'])
    """
    require_positive(limit)
    source = read_step_frame(data)
    usual = read(baseline, {"count": Kind.WHOLE}, what="baseline", warn=False)
    by, measures = baseline_columns(usual.names)
    if measure not in measures:
        raise ConfigError(
            f"measure is {one_line(repr(measure), 60)}; the baseline has {one_line(', '.join(measures), 300) or 'no measures'}"
        )
    keys = dict.fromkeys(by, Kind.KEY)
    statistics = [f"{measure}_{name}" for name in ("median", "max", "spread")]
    needed = keys | {"count": Kind.WHOLE} | dict.fromkeys(statistics, Kind.NUMBER)
    known = collected(usual.native, "baseline", needed)
    unusual = analysis.anomalies(source.frame, known, threshold)
    values = {"measure": Kind.TEXT, "value": Kind.NUMBER, "z": Kind.NUMBER}
    found = collected(unusual, "anomalies", keys | values, optional=["run_id", "step_index"])
    found = found.filter(pc.is_valid(found["measure"]))
    rows = collected(source.frame, "steps", keys | {measure: Kind.NUMBER})  # all of them have a dot
    lanes = _Lanes(rows, known, by, measure, found)
    shown = lanes.order[:limit]
    unit = _UNITS.get(measure)
    ax = new_axes(1.6 + 0.36 * max(len(shown), 3)) if ax is None else ax
    facts = [count_text(len(rows), source.total) if "step_index" in found.column_names else plural(len(rows), "row")]
    facts.append(f"{len(found):,} unusual (marked): at least {threshold:g} robust standard deviations above the median")
    if len(lanes.order) > len(shown):
        facts.append(f"{len(lanes.order) - len(shown):,} of {len(lanes.order):,} groups not shown")
    ax.set_xlabel(f"{label_text(measure, 40)}{f' ({unit})' if unit else ''}, logarithmic", fontsize="small")
    if not len(shown):
        write_no_data(ax, "no values above 0")
    else:
        _draw(ax, lanes, shown, threshold)
    write_lines(ax, facts, title if title is not None else source.title, cut=source.total is not None)
    return ax


class _Lanes:
    """The values above 0 of each group, and the groups in the order in which they are shown."""

    def __init__(self, rows: pa.Table, usual: pa.Table, by: list[str], measure: str, found: pa.Table) -> None:
        values = finite_numbers(rows, measure)
        rows, values = rows.filter(pa.array(values > 0)), values[values > 0]
        groups = group(rows, by)
        names = group_names(rows.take(pa.array(groups.first)), by)
        parts = np.split(values[np.argsort(groups.of_row, kind="stable")], np.cumsum(groups.sizes)[:-1])
        self.values: dict[str, Floats] = {name: np.sort(part) for name, part in zip(names, parts, strict=False)}
        self.usual = {
            name: (median, spread)
            for name, median, spread in zip(
                group_names(usual, by),
                usual[f"{measure}_median"].to_pylist(),
                usual[f"{measure}_spread"].to_pylist(),
                strict=True,
            )
            if median and spread
        }
        self.unusual: dict[str, list[dict[str, Any]]] = {}
        for name, row in zip(group_names(found, by), found.to_pylist(), strict=True):
            self.unusual.setdefault(name, []).append(row)
        most = {name: max(row["z"] or np.inf for row in rows_) for name, rows_ in self.unusual.items()}
        self.order = sorted(self.values, key=lambda name: (-most.get(name, 0.0), -len(self.values[name]), name))


def _draw(ax: Axes, lanes: _Lanes, shown: list[str], threshold: float) -> None:
    ink = ax.xaxis.label.get_color()
    labels: list[tuple[float, float, int, str]] = []
    for place, name in enumerate(shown):
        values = lanes.values[name]
        if usual := lanes.usual.get(name):
            median, spread = usual
            low, high = (1.01 * median * np.exp(sign * threshold * spread) - 0.01 * median for sign in (-1, 1))
            ax.barh(
                place,
                high - max(low, values[0] * 0.5),
                left=max(low, values[0] * 0.5),
                height=0.62,
                color="0.5",
                alpha=0.22,
                gid="usual",
            )
            ax.plot([median, median], [place - 0.31, place + 0.31], color=ink, linewidth=1.4, gid="median")
        marked = lanes.unusual.get(name, [])
        ordinary = np.setdiff1d(values, [row["value"] for row in marked])
        ordinary = ordinary[:: max(1, -(-len(ordinary) // _DOTS_A_LANE))]
        # Spread within the lane by the golden ratio, so that equal values do not hide each other, always in the same way.
        spread_out = (np.arange(len(ordinary)) * 0.618034) % 1 - 0.5
        ax.scatter(
            ordinary,
            place + 0.5 * spread_out,
            s=5,
            color=PALETTE[0],
            alpha=0.35,
            linewidths=0,
            gid="ordinary",
            rasterized=True,
        )
        if marked:
            at = [row["value"] for row in marked]
            ax.scatter(
                at,
                [place] * len(at),
                s=34,
                marker="D",
                color=VIOLATION_COLOR,
                edgecolors="white",
                linewidths=0.6,
                zorder=4,
                gid="unusual",
            )
            worst = max(marked, key=lambda row: (row["z"] is None, row["z"] or 0.0, row["value"]))
            labels.append((worst["z"] or np.inf, worst["value"], place, str(worst.get("run_id") or "")))
    ax.set_xscale("log")
    for _, value, place, run in sorted(labels, reverse=True)[:_LABELS]:
        if run:
            ax.annotate(
                label_text(run, 24), (value, place), (6, 0), textcoords="offset points", va="center", fontsize="x-small",
                usetex=False, gid="run",
            )  # fmt: skip
    names = [f"{label_text(name, 44)}" for name in shown]
    ax.set_yticks(range(len(shown)), names, fontsize="small", usetex=False)
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize="small")
    ax.xaxis.set_major_locator(LogLocator(numticks=9))
    ax.xaxis.set_major_formatter(FuncFormatter(number_text))
    ax.xaxis.set_minor_formatter(NullFormatter())
    left, right = ax.get_xlim()
    ax.set_xlim(left, right * (right / left) ** 0.1)  # room for the last label
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
