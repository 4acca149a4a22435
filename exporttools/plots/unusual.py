"""Anomalies: a lane for each group of steps, with a band for what is usual and marks for what is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from exporttools import analysis
from exporttools.analysis.baselines import AT_LEAST, KnownGroups, group_keys, has_profiles
from exporttools.analysis.columns import Kind
from exporttools.analysis.frames import to_arrow
from exporttools.analysis.groups import group
from exporttools.analysis.judging import FALSE_ALARMS, UNITS, beyond, expected_text, sure_limits
from exporttools.analysis.trees import read_own_amounts
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
from exporttools.plots.results import collected, finite_numbers, read_step_frame, require_positive
from exporttools.plots.step_data import PALETTE
from exporttools.text.inert import one_line
from exporttools.text.words import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    import matplotlib.axes
    from matplotlib.axes import Axes

    from exporttools.analysis.groups import Floats

_DOTS_A_LANE = 1500
_LABELS = 6
_ROOM = 0.06  # of the axis, on each side of what is drawn


def anomalies(
    data: Any,
    baseline: Any,
    *,
    measure: str = "duration_ms",
    false_alarms: float = FALSE_ALARMS,
    at_least: int = AT_LEAST,
    limit: int = 12,
    title: str | None = None,
    ax: Axes | None = None,
) -> matplotlib.axes.Axes:
    """Draw what is far above the usual of its group: one lane for each group of a baseline, on a logarithmic axis.

    The band is what is usual: it ends where this measure alone makes a row unusual. The line is the median. Ordinary
    rows are faint dots, unusual ones are marked; the most improbable are labelled with their run.

    Parameters
    ----------
    data : frame, SnapshotTable or ExportBundle
        Steps, or whatever the baseline describes.
    baseline : frame
        The result of :func:`exporttools.baseline`.
    measure : str
        One of the baseline's measures.
    false_alarms, at_least
        As for :func:`exporttools.anomalies`.
    limit : int
        The maximum number of lanes: those with the most improbable rows. The plot says how many others there are.
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
    Each row above 0 is a dot. Of a lane with more than 1,500 ordinary rows every n-th is drawn, in the order of their
    values, which the plot says; values of 0 have no place on the axis, and are counted.

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
    known = KnownGroups.read(baseline, warn=False)
    if measure not in known.measures:
        raise ConfigError(
            f"measure is {one_line(repr(measure), 60)}; the baseline has {one_line(', '.join(known.measures), 300) or 'no measures'}"
        )
    keys = dict.fromkeys(known.by, Kind.KEY)
    found = collected(
        analysis.anomalies(source.frame, known.table, false_alarms=false_alarms, at_least=at_least), "anomalies",
        keys | {"measure": Kind.TEXT, "value": Kind.NUMBER, "p_value": Kind.NUMBER}, optional=["run_id", "step_index"],
    )  # fmt: skip
    found = found.filter(pc.equal(found["measure"], measure))
    frame = read_own_amounts(source.frame, keys | {measure: Kind.NUMBER}, warn=False)
    rows = to_arrow(frame)  # all of them have a dot
    ends = sure_limits(known, measure, false_alarms, at_least, per_step=has_profiles(frame.names))
    lanes = _lanes(rows, known, measure, found, ends)
    shown = lanes[:limit]
    ax = new_axes(1.6 + 0.36 * max(len(shown), 3)) if ax is None else ax
    is_step = "step_index" in found.column_names
    judged = sum(lane.rows for lane in lanes if lane.end is not None)
    facts = [count_text(len(rows), source.total) if is_step else plural(len(rows), "row")]
    facts.append(
        f"{len(found):,} unusual (marked), {expected_text(judged * false_alarms, beyond(found, false_alarms))}"
    )
    if zeros := sum(lane.zeros for lane in shown):
        facts.append(f"{plural(zeros, 'value')} of 0 not drawn")
    if any(lane.each > 1 for lane in shown):
        facts.append(
            f"of lanes with over {_DOTS_A_LANE:,} dots, 1 in {' to '.join(_ends([lane.each for lane in shown]))} drawn"
        )
    drawn = [lane for lane in shown if lane.has_dots]
    if len(lanes) > len(shown):
        facts.append(f"{len(lanes) - len(shown):,} of {len(lanes):,} groups not shown")
    unit = UNITS.get(measure)
    ax.set_xlabel(f"{label_text(measure, 40)}{f' ({unit})' if unit else ''}, logarithmic", fontsize="small")
    if not drawn:
        write_no_data(ax, "no values above 0")
    else:
        _draw(ax, shown)
    write_lines(ax, facts, title if title is not None else source.title, cut=source.total is not None)
    return ax


def _ends(numbers: Sequence[int]) -> list[str]:
    """The least and the greatest of the numbers above 1; one of them if they are equal."""
    above = [number for number in numbers if number > 1]
    return [f"{number:,}" for number in sorted({min(above), max(above)})]


@dataclass(frozen=True, slots=True)
class _Lane:
    """A group: its rows and zeros, the values of ordinary rows, of which one in `each` is drawn, and the unusual rows."""

    name: str
    rows: int
    zeros: int
    ordinary: Floats
    each: int
    unusual: list[dict[str, Any]]
    median: float | None
    end: float | None

    @property
    def rank(self) -> tuple[float, int, str]:
        return min((row["p_value"] for row in self.unusual), default=2.0), -len(self.ordinary), self.name

    @property
    def has_dots(self) -> bool:
        return bool(len(self.ordinary) or self.unusual)

    @property
    def dots(self) -> Floats:
        """The ordinary values that are drawn: the greatest is always one of them."""
        return self.ordinary[::-1][:: self.each]


def _lanes(rows: pa.Table, known: KnownGroups, measure: str, found: pa.Table, ends: Floats) -> list[_Lane]:
    """The groups, in the order in which they are shown."""
    rows = known.folded(rows)
    values = finite_numbers(rows, measure)
    groups = group(rows, known.by)
    keys = group_keys(rows.select(known.by).take(pa.array(groups.first)), known.by)
    parts = np.split(values[np.argsort(groups.of_row, kind="stable")], np.cumsum(groups.sizes)[:-1])
    by_place: dict[int, list[Floats]] = {}
    unknown: dict[tuple[Any, ...], Floats] = {}
    for key, part in zip(keys, parts, strict=False):
        if (place := known.row(key)) >= 0:
            by_place.setdefault(place, []).append(part)
        else:
            unknown[key] = part
    unusual: dict[int, list[dict[str, Any]]] = {}
    for key, row in zip(group_keys(known.folded(found), known.by), found.to_pylist(), strict=True):
        unusual.setdefault(known.row(key), []).append(row)
    medians = known.statistic(measure, "median")
    lanes = [
        _lane(known.text(known.keys[place]), np.concatenate(part), unusual.get(place, []), medians[place], ends[place])
        for place, part in by_place.items()
    ]
    lanes += [_lane(known.text(key), part, [], np.nan, np.nan) for key, part in unknown.items()]
    return sorted(lanes, key=lambda lane: lane.rank)


def _lane(name: str, values: Floats, unusual: list[dict[str, Any]], median: float, end: float) -> _Lane:
    ordinary = np.sort(values[values > 0])
    marked = np.sort(np.array([row["value"] for row in unusual], np.float64))
    # Each unusual row takes one of the values away, not all that are equal to it.
    place = np.searchsorted(ordinary, marked) + np.arange(len(marked)) - np.searchsorted(marked, marked)
    ordinary = np.delete(ordinary, place)
    each = max(1, -(-len(ordinary) // _DOTS_A_LANE))
    usual, limit = (float(value) if np.isfinite(value) else None for value in (median, end))
    return _Lane(name, len(values), int((values == 0).sum()), ordinary, each, unusual, usual or None, limit)


def _draw(ax: Axes, lanes: list[_Lane]) -> None:
    ink = ax.xaxis.label.get_color()
    drawn = [lane.dots for lane in lanes] + [np.array([row["value"] for row in lane.unusual]) for lane in lanes]
    drawn.append(np.array([lane.median for lane in lanes if lane.median], np.float64))
    every = np.log(np.concatenate(drawn))
    margin = max(_ROOM * (every.max() - every.min()), np.log(1.2))
    named = any(row.get("run_id") for lane in lanes for row in lane.unusual)
    left, right = np.exp(every.min() - margin), np.exp(every.max() + (3 if named else 1) * margin)
    ax.set_xscale("log")
    ax.set_xlim(left, right)
    labels: list[tuple[float, float, int, str]] = []
    for place, lane in enumerate(lanes):
        if lane.end is not None and lane.end > left:
            ax.barh(
                place, min(lane.end, right) - left, left=left, height=0.62, color="0.5", alpha=0.22, gid="usual"
            )  # fmt: skip
        if lane.median:
            ax.plot([lane.median] * 2, [place - 0.31, place + 0.31], color=ink, linewidth=1.4, gid="median")
        # Spread within the lane by the golden ratio, so that equal values do not hide each other, always in the same way.
        dots = lane.dots
        spread_out = (np.arange(len(dots)) * 0.618034) % 1 - 0.5
        ax.scatter(
            dots, place + 0.5 * spread_out, s=5, color=PALETTE[0], alpha=0.35, linewidths=0, gid="ordinary", rasterized=True
        )  # fmt: skip
        if lane.unusual:
            at = [row["value"] for row in lane.unusual]
            ax.scatter(
                at, [place] * len(at), s=34, marker="D", color=VIOLATION_COLOR, edgecolors="white", linewidths=0.6,
                zorder=4, gid="unusual",
            )  # fmt: skip
            worst = min(lane.unusual, key=lambda row: (row["p_value"], -row["value"]))
            labels.append((worst["p_value"], worst["value"], place, str(worst.get("run_id") or "")))
    for _, value, place, run in sorted(labels)[:_LABELS]:
        if run:
            ax.annotate(
                label_text(run, 24), (value, place), (6, 0), textcoords="offset points",
                va="center", fontsize="x-small", usetex=False, gid="run", zorder=5,
            )  # fmt: skip
    ax.set_yticks(
        range(len(lanes)),
        [label_text(lane.name, 44) + ("" if lane.end else ", not judged") for lane in lanes],
        fontsize="small",
        usetex=False,
    )
    ax.set_ylim(len(lanes) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize="small")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if right > 100 * left else (1.0, 2.0, 5.0), numticks=9))
    ax.xaxis.set_major_formatter(FuncFormatter(number_text))
    ax.xaxis.set_minor_formatter(NullFormatter())
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
