"""The waterfall: from a normal run to this one, contribution by contribution, in US cents and in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from exporttools.analysis.columns import Kind
from exporttools.errors import ConfigError
from exporttools.plots.captions import label_text, new_axes, number_text, write_lines
from exporttools.plots.panels import split
from exporttools.plots.results import collected, finite_numbers, require_positive
from exporttools.plots.step_data import OTHER_COLOR, PALETTE
from exporttools.records.export_bundle import ExportBundle
from exporttools.text.words import amount_text
from exporttools.times import duration_text

if TYPE_CHECKING:
    from collections.abc import Callable

    import matplotlib.axes
    import pyarrow as pa
    from matplotlib.axes import Axes

    from exporttools.analysis.groups import Floats

_MORE, _LESS = PALETTE[5], PALETTE[0]
_HATCH = "////"
_UNSEEN = 0.002
_NEEDED = {
    "step_type": Kind.TEXT, "name": Kind.TEXT, "cause": Kind.TEXT, "cost_cents": Kind.NUMBER, "duration_ms": Kind.NUMBER,
}  # fmt: skip


def what_changed(
    contributions: Any,
    *,
    bundle: ExportBundle | None = None,
    limit: int = 8,
    title: str | None = None,
    ax: Axes | None = None,
) -> matplotlib.axes.Axes:
    r"""Draw what explains how a run differs from a normal one: a waterfall in US cents, and beside it one in time.

    Parameters
    ----------
    contributions : frame
        The result of :func:`exporttools.what_changed`: ``step_type``, ``name``, ``cause``, ``cost_cents`` (US cents) and
        ``duration_ms`` (ms), the greatest first.
    bundle : ExportBundle, optional
        The run in question: the waterfalls then begin at a normal run's cost and time and end at this one's.
        Without it they begin at 0 and end at the difference.
    limit : int
        The maximum number of bars for contributions; the rest share one, "all else".
    title : str, optional
        Defaults to the bundle's incident or run.
    ax : matplotlib.axes.Axes, optional
        Where to draw: both panels take its place. By default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The panel in US cents; `ax`, if it was given.

    Raises
    ------
    ConfigError
        A column is missing or of another type, or `limit` is not a positive integer.

    Examples
    --------
    >>> import polars as pl
    >>> changes = pl.DataFrame({"step_type": ["llm_call"], "name": [None], "cause": ["dearer tokens"],
    ...     "cost_cents": [12.5], "duration_ms": [0.0]})
    >>> [label.get_text() for label in what_changed(changes).get_yticklabels()]
    ['dearer tokens\nllm_call', 'difference']
    """
    require_positive(limit)
    if bundle is not None and not isinstance(bundle, ExportBundle):
        raise ConfigError(f"bundle is a {type(bundle).__name__}; expected an ExportBundle or None")
    table = collected(contributions, "contributions", _NEEDED)
    amounts = [finite_numbers(table, name) for name in ("cost_cents", "duration_ms")]
    names = _names(table, limit)
    bars = [_folded(values, limit) for values in amounts]
    ends = [None, None] if bundle is None else _ends(bundle)
    labels = [*(["a normal run"] if bundle else []), *names, "this run" if bundle else "difference"]
    ax = new_axes(1.5 + 0.42 * max(len(labels), 3)) if ax is None else ax
    facts = [
        f"{'this run minus a normal one' if bundle else 'difference from a normal run'}: "
        f"{_signed(amounts[0].sum(), _us_cents)}, {_signed(amounts[1].sum(), _time)}"
    ]
    if len(table) > limit:
        facts.append(f"the {len(table) - len(names) + 1} smallest folded")
    cents, time = split(ax, [1.0], [2])
    for panel, values, end, text, unit in (
        (cents, bars[0], ends[0], _cents, "US cents"),
        (time, bars[1], ends[1], _time, "seconds from first start to last end"),
    ):
        _draw(panel, values, end, text, unit)
    cents.set_yticks(range(len(labels)), labels, fontsize="small", usetex=False)
    time.set_yticks(range(len(labels)), [""] * len(labels))
    time.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value / 1000)))
    headline = None if bundle is None else bundle.headline
    write_lines(cents, facts, title if title is not None else headline, cut=False, until=time)
    return ax


def _names(table: pa.Table, limit: int) -> list[str]:
    rows = table.select(["cause", "step_type", "name"]).to_pylist()
    shown = rows if len(rows) <= limit else rows[: limit - 1]
    names = []
    for row in shown:
        what = " ".join(str(row[key]) for key in ("step_type", "name") if row[key] is not None)
        names.append(f"{label_text(row['cause'], 30)}\n{label_text(what, 30)}")
    return [*names, f"all else ({len(rows) - len(shown)})"] if len(rows) > limit else names


def _folded(values: Floats, limit: int) -> Floats:
    return values if len(values) <= limit else np.r_[values[: limit - 1], values[limit - 1 :].sum()]


def _ends(bundle: ExportBundle) -> list[float]:
    """The run's cost in US cents, and its milliseconds from the first start to the last end."""
    steps = bundle.steps.to_arrow()
    start_ms = steps["timestamp"].cast("int64").to_numpy() / 1000
    end_ms = start_ms + steps["duration_ms"].to_numpy()
    return [float(bundle.totals["cost_cents"]), float(end_ms.max() - start_ms.min()) if len(steps) else 0.0]


def _draw(ax: Axes, values: Floats, end: float | None, text: Callable[[float], str], unit: str) -> None:
    """Draw one waterfall that ends at `end`, or begins at 0 if that is None."""
    begin = 0.0 if end is None else end - float(values.sum())
    reached = begin + np.cumsum(values)
    before = np.r_[begin, reached[:-1]] if len(values) else np.zeros(0)
    first = int(end is not None)
    places = np.arange(len(values)) + first
    last = len(values) + first
    ink = ax.xaxis.label.get_color()
    if first:
        ax.barh(0, begin, height=0.6, color=OTHER_COLOR, gid="normal")
    for sign, color, hatch in ((1, _MORE, None), (-1, _LESS, _HATCH)):
        chosen = np.sign(values) == sign
        ax.barh(
            places[chosen], values[chosen], left=before[chosen], height=0.6, color=color, edgecolor="white",
            linewidth=0.4, hatch=hatch, gid="more" if sign > 0 else "less",
        )  # fmt: skip
    total = float(reached[-1]) if len(values) else begin
    ax.barh(last, total, height=0.6, color=ink if first else OTHER_COLOR, alpha=0.75, gid="this run")
    for place, value in enumerate(reached.tolist()):
        ax.plot([value, value], [place + first - 0.3, place + first + 1.3], color="0.5", linewidth=0.7, gid="step")
    ax.axvline(0, color=ink, linewidth=0.6)
    low, high = min(0.0, begin, total, *before, *reached), max(0.0, begin, total, *before, *reached)
    width = (high - low) or 1.0
    ax.set_xlim(low - (0.22 * width if low < 0 else 0), high + 0.22 * width)
    ax.set_ylim(last + 0.6, -0.6)
    rows = [(0, begin, begin, False)] if first else []
    rows += [
        (place, float(value), max(float(a), float(b)), True)
        for place, value, a, b in zip(places.tolist(), values, before, reached, strict=True)
    ]
    rows.append((last, total, max(total, 0.0), not first))
    for place, value, right, signed in rows:
        if signed and abs(value) < _UNSEEN * width:
            continue
        ax.text(
            right + 0.01 * width, place, _signed(value, text) if signed else text(value), va="center",
            fontsize="small", usetex=False, gid="amount",
        )  # fmt: skip
    ax.set_xlabel(unit, fontsize="small")
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(number_text))
    ax.tick_params(axis="x", labelsize="small")
    ax.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)


def _us_cents(value: float) -> str:
    return amount_text(value, "US cents")


def _cents(value: float) -> str:  # short, beside an axis in US cents
    return amount_text(value, "¢").replace(" ", "")


def _time(value: float) -> str:
    return duration_text(value * 1000)


def _signed(value: float, text: Callable[[float], str]) -> str:
    return f"{'+' if value >= 0 else '−'}{text(abs(value))}"
