"""Two runs side by side: by step type what each cost and how long it took, and how the cost grew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.ticker import FuncFormatter, MaxNLocator

from exporttools import analysis
from exporttools.plots.answers import collected, fold, numbers, read_step_frame
from exporttools.plots.captions import count_text, label_text, new_axes, number_text, write_lines
from exporttools.plots.panels import split
from exporttools.text.words import amount_text
from exporttools.times import duration_text

if TYPE_CHECKING:
    from collections.abc import Callable

    import matplotlib.axes
    from matplotlib.axes import Axes

    from exporttools.analysis.groups import Floats, Indices

_LIMIT = 8
# Dark and plain, light and hatched: told apart in grey.
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
        Of one trace each, with the columns that :func:`exporttools.analysis.compare_runs` needs.
    title : str, optional
        Else the two runs' names.
    ax : matplotlib.axes.Axes, optional
        Where to draw: all three panels take its place. Else a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The panel of costs in US cents, or tokens where neither run has a cost; `ax`, where it was given.

    Raises
    ------
    ConfigError
        A column is missing or of another kind, or a frame has several traces.
    InconsistentData
        A sum is infinite.

    Notes
    -----
    Time is the sum of the steps' durations. The 8 step types that cost or took most are shown, the rest is folded.

    Examples
    --------
    >>> from exporttools import SnapshotTable, TraceStepSnapshot
    >>> none = SnapshotTable.empty(TraceStepSnapshot)
    >>> compare_runs(none, none).get_xlabel()
    'US cents'
    """
    sources = (read_step_frame(a), read_step_frame(b))
    table = collected(analysis.compare_runs(*(source.frame for source in sources)), "comparison")
    names = tuple(label_text(source.title or f"run {side}", 60) for source, side in zip(sources, "ab", strict=True))
    unit, measure = "US cents", "cost_cents"
    if not any(pc.sum(table[f"cost_cents_{side}"]).as_py() for side in "ab") and any(
        pc.sum(table[f"tokens_{side}"]).as_py() for side in "ab"
    ):
        unit, measure = "tokens", "tokens"
    cost, time = ([numbers(table, f"{name}_{side}") for side in "ab"] for name in (measure, "duration_ms"))
    facts = [
        f"{side}: {count_text(len(table) - table[f'step_index_{side}'].null_count, source.total)}, "
        f"{amount_text(float(of.sum()), unit)}"
        for side, source, of in zip("ab", sources, cost, strict=True)
    ]
    if other := pc.sum(pc.equal(table["change"], "status")).as_py():
        facts.append(f"{other:,} ended otherwise")
    facts += ["no step has a cost, so tokens are shown"] if unit == "tokens" else []
    types, of_type = _types(table, cost, time)
    ax = new_axes(3.0 + 0.42 * max(len(types), 2)) if ax is None else ax
    ax.set_xlabel(unit, fontsize="small")
    until = None
    if len(table):
        costs, until, growth = split(ax, [0.42 * len(types) + 0.3, 1.6], [2, 1], wspace=0.08)
        _draw_pairs(costs, _sums(of_type, cost, len(types)), lambda value: amount_text(value, unit).split(" ")[0])
        _draw_pairs(until, _sums(of_type, time, len(types)), lambda value: duration_text(value * 1000))
        costs.set_yticks(range(len(types)), types, fontsize="small", usetex=False)
        until.set_yticks(range(len(types)), [""] * len(types))
        until.set_xlabel("seconds in steps", fontsize="small")
        until.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value / 1000)))
        _draw_growth(growth, table, cost, names, unit)
    else:
        ax.set(xticks=[], yticks=[])
        ax.text(0.5, 0.5, "no steps", transform=ax.transAxes, ha="center", va="center", fontsize="large", usetex=False)
    cut = any(source.total is not None for source in sources)
    write_lines(ax, facts, title if title is not None else " | ".join(names), cut=cut, until=until)
    return ax


def _types(table: pa.Table, cost: list[Floats], time: list[Floats]) -> tuple[list[str], Indices]:
    """Name the step types that are shown, the greatest share of cost or time first; and say for each row which is its."""
    encoded = table["step_type"].combine_chunks().dictionary_encode(null_encoding="encode")
    code, count = encoded.indices.to_numpy(), len(encoded.dictionary)
    shares = [
        np.bincount(code, of[0] + of[1], count) / (float(of[0].sum() + of[1].sum()) or 1.0) for of in (cost, time)
    ]
    shown, folded = fold(np.maximum(*shares) if count else np.zeros(0), _LIMIT)
    place = np.full(count, len(shown), np.intp)
    place[shown] = np.arange(len(shown))
    names = [label_text(name, 28) for name in encoded.dictionary.take(pa.array(shown)).to_pylist()]
    return [*names, *([f"other ({len(folded):,} types)"] if len(folded) else [])], place[code]


def _sums(of_type: Indices, values: list[Floats], count: int) -> list[Floats]:
    return [np.asarray(np.bincount(of_type, of, count), np.float64) for of in values]


def _draw_pairs(ax: Axes, sums: list[Floats], text: Callable[[float], str]) -> None:
    """Draw two bars a step type, and behind them by how much the second is more."""
    places = np.arange(len(sums[0]))
    for number, (of, look) in enumerate(zip(sums, _LOOKS, strict=True)):
        ax.barh(places + (number - 0.5) * 0.38, of, height=0.36, gid=f"run {'ab'[number]}", **look)
    most = max(float(np.max(of, initial=0.0)) for of in sums) or 1.0
    for place, (a, b) in enumerate(zip(*sums, strict=True)):
        if a != b:
            ax.text(
                max(a, b) + 0.015 * most, place, f"{'+' if b > a else '−'}{text(abs(b - a))}", va="center", fontsize="small",
                usetex=False, gid="difference",
            )  # fmt: skip
    ax.set_xlim(0, most * 1.25)
    ax.set_ylim(len(places) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize="small")
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(number_text))
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _draw_growth(ax: Axes, table: pa.Table, cost: list[Floats], names: tuple[str, ...], unit: str) -> None:
    """Draw what was spent so far after each step of both runs, by the step's number in its run."""
    for side, of, (color, style), name in zip("ab", cost, _LINES, names, strict=True):
        index = table[f"step_index_{side}"]
        known = index.is_valid().to_numpy()
        order = np.argsort(index.drop_null().to_numpy(), kind="stable")
        so_far = np.r_[0.0, np.cumsum(of[known][order])]
        ax.step(
            np.arange(len(so_far)),
            so_far,
            where="post",
            color=color,
            linestyle=style,
            linewidth=1.6,
            label=f"{side}: {name}",
            gid=f"run {side}",
        )
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
