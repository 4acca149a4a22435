"""Two runs side by side: what each step type cost and how long it took, and how the cost grew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.ticker import FuncFormatter, MaxNLocator

from exporttools import analysis
from exporttools.analysis.columns import Kind
from exporttools.analysis.run_comparison import only_in, sums_by_step_type
from exporttools.plots.captions import count_text, label_text, new_axes, number_text, write_lines, write_no_data
from exporttools.plots.measures import choose_measure
from exporttools.plots.panels import split
from exporttools.plots.results import collected, finite_numbers, fold, read_step_frame
from exporttools.text.words import amount_text, plural
from exporttools.times import duration_text

if TYPE_CHECKING:
    from collections.abc import Callable

    import matplotlib.axes
    from matplotlib.axes import Axes

    from exporttools.analysis.groups import Floats

_LIMIT = 8
_SIDES: tuple[Literal["a", "b"], ...] = ("a", "b")
_SUMMED = ("cost_cents", "tokens", "duration_ms")
_SUMS = dict.fromkeys((f"{name}_{side}" for name in _SUMMED for side in (*_SIDES, "difference")), Kind.NUMBER)
# Dark and plain, light and hatched: distinct even in grey.
_LOOKS: tuple[dict[str, Any], ...] = (
    {"facecolor": "#0072B2", "edgecolor": "white", "linewidth": 0.0},
    {"facecolor": "#E69F00", "edgecolor": "white", "linewidth": 0.0, "hatch": "////"},
)
_LINES = (("#0072B2", "-"), ("#B87C00", "--"))


def compare_runs(a: Any, b: Any, *, title: str | None = None, ax: Axes | None = None) -> matplotlib.axes.Axes:
    """Draw two runs side by side: cost and time by step type with their differences, and the cost so far by step.

    Parameters
    ----------
    a, b : ExportBundle, SnapshotTable of TraceStepSnapshot, or frame
        Each of one trace, with the columns that :func:`exporttools.compare_runs` needs.
    title : str, optional
        Defaults to the names of the two runs.
    ax : matplotlib.axes.Axes, optional
        Where to draw: all three panels take its place. By default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The panel of costs in US cents, or tokens if neither run has a cost; `ax`, if it was given.

    Raises
    ------
    ConfigError
        A column is missing or of another type, or a frame has several traces.
    InconsistentData
        A sum is infinite.

    Notes
    -----
    Time is the sum of the steps' durations. The 8 step types that cost or took most are shown, the rest are folded.

    Examples
    --------
    >>> from exporttools import SnapshotTable, TraceStepSnapshot
    >>> none = SnapshotTable.empty(TraceStepSnapshot)
    >>> compare_runs(none, none).get_xlabel()
    'US cents'
    """
    sources = (read_step_frame(a), read_step_frame(b))
    frames = [source.frame for source in sources]
    names = tuple(label_text(source.title or f"run {side}", 60) for source, side in zip(sources, "ab", strict=True))
    needed = {
        "step_type": Kind.TEXT,
        "change": Kind.TEXT,
        "step_index_a": Kind.WHOLE,
        "step_index_b": Kind.WHOLE,
    } | _SUMS
    steps = collected(analysis.compare_runs(*frames), "comparison", needed, optional=("name",))
    types = sums_by_step_type(steps)
    sums = {name: [finite_numbers(types, f"{name}_{side}") for side in "ab"] for name in _SUMMED}
    measure, _ = choose_measure(np.r_[*sums["cost_cents"]], np.r_[*sums["tokens"]])
    unit, cost, time = measure.unit, sums[measure.column], sums["duration_ms"]
    facts = [
        f"{side}: {count_text(pc.sum(types[f'steps_{side}']).as_py() or 0, source.total)}, {amount_text(float(of.sum()), unit)}"
        for side, source, of in zip("ab", sources, cost, strict=True)
    ]
    if changes := pc.sum(types["status_changes"]).as_py():
        facts.append(f"{plural(changes, 'step')} with a different status")
    facts += measure.facts
    labels, cost, time = _folded(types["step_type"], cost, time)
    ax = new_axes(3.0 + 0.42 * max(len(labels), 2)) if ax is None else ax
    ax.set_xlabel(unit, fontsize="small")
    until = None
    if len(types):
        costs, until, growth = split(ax, [0.42 * len(labels) + 0.3, 1.6], [2, 1], wspace=0.08)
        _draw_pairs(costs, cost, lambda value: amount_text(value, unit).split(" ")[0])
        _draw_pairs(until, time, lambda value: duration_text(value * 1000))
        costs.set_yticks(range(len(labels)), labels, fontsize="small", usetex=False)
        until.set_yticks(range(len(labels)), [""] * len(labels))
        until.set_xlabel("time in steps (s)", fontsize="small")
        until.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value / 1000)))
        _draw_growth(growth, _so_far(steps, measure.column), names, unit)
    else:
        write_no_data(ax)
    cut = any(source.total is not None for source in sources)
    alone = {side: only_in(steps, side) for side in _SIDES}
    more = [f"only in {side}: {words}" for side, words in alone.items() if words]
    write_lines(ax, facts, title if title is not None else " | ".join(names), more=more, cut=cut, until=until)
    return ax


def _folded(
    types: pa.ChunkedArray, cost: list[Floats], time: list[Floats]
) -> tuple[list[str], list[Floats], list[Floats]]:
    """The names of the step types that are shown, the greatest share of cost or time first; and both runs' sums for them."""
    shares = [(of[0] + of[1]) / (float(of[0].sum() + of[1].sum()) or 1.0) for of in (cost, time)]
    shown, rest = fold(np.maximum(*shares), _LIMIT)
    names = [label_text(name, 28) for name in types.take(pa.array(shown)).to_pylist()]
    if not len(rest):
        return names, [of[shown] for of in cost], [of[shown] for of in time]
    cost, time = ([np.r_[of[shown], of[rest].sum()] for of in sums] for sums in (cost, time))
    return [*names, f"other ({len(rest):,} types)"], cost, time


def _so_far(steps: pa.Table, column: str) -> list[Floats]:
    """What each run had spent after each of its steps, from 0 on."""
    growth: list[Floats] = []
    for side in "ab":
        own = steps.filter(steps[f"step_index_{side}"].is_valid())
        growth.append(np.r_[0.0, np.cumsum(finite_numbers(own, f"{column}_{side}"))])
    return growth


def _draw_pairs(ax: Axes, sums: list[Floats], text: Callable[[float], str]) -> None:
    """Draw two bars for each step type, and at their end by how much the second differs."""
    places = np.arange(len(sums[0]))
    for number, (of, look) in enumerate(zip(sums, _LOOKS, strict=True)):
        ax.barh(places + (number - 0.5) * 0.38, of, height=0.36, gid=f"run {'ab'[number]}", **look)
    most = max(float(np.max(of, initial=0.0)) for of in sums) or 1.0
    for place, (a, b) in enumerate(zip(*sums, strict=True)):
        if abs(b - a) > 1e-9 * most:  # and not the last digit of a sum
            ax.text(
                max(a, b) + 0.015 * most, place, f"{'+' if b > a else '−'}{text(abs(b - a))}", va="center", fontsize="small",
                usetex=False, gid="difference",
            )  # fmt: skip
    ax.set_xlim(0, most * 1.3)
    ax.set_ylim(len(places) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize="small")
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(number_text))
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _draw_growth(ax: Axes, growth: list[Floats], names: tuple[str, ...], unit: str) -> None:
    """Draw what both runs had spent after each of their steps."""
    for side, so_far, (color, style), name in zip("ab", growth, _LINES, names, strict=True):
        ax.step(
            np.arange(len(so_far)), so_far, where="post", color=color, linestyle=style, linewidth=1.6,
            label=f"{side}: {name}", gid=f"run {side}",
        )  # fmt: skip
    ax.set_xlabel("steps so far", fontsize="small")
    ax.set_ylabel(f"{unit} so far", fontsize="small")
    ax.set_ylim(bottom=0)
    ax.margins(x=0.01)
    ax.tick_params(labelsize="small")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(number_text))
    for line in ax.legend(loc="upper left", frameon=False, fontsize="small").get_texts():
        line.set_usetex(False)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
