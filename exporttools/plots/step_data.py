"""The steps of a bundle, a table or any frame, as the arrays that plots draw. Nothing is drawn here."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from exporttools.analysis.columns import KINDS
from exporttools.analysis.frames import to_arrow
from exporttools.analysis.trees import read_own_amounts
from exporttools.errors import ConfigError
from exporttools.plots.measures import Measure, choose_measure
from exporttools.plots.time_axis import dates
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.schema import TRACE_STEPS
from exporttools.records.statuses import failed_steps
from exporttools.records.validity import Origin, require_valid
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    from exporttools.analysis.groups import Flags, Floats, Indices, Integers

MAX_LANES = 12
"""How many step types a plot shows; the rest are folded into one."""

# Okabe and Ito's palette without black, then four of Paul Tol's "muted": distinct under the common colour vision
# deficiencies. Types of similar lightness differ by their lane, or by their place in a stack.
PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00",
    "#F0E442", "#332288", "#999933", "#882255", "#44AA99",
)  # fmt: skip
OTHER_COLOR = "#999999"

_COLUMNS = tuple(column for column in TRACE_STEPS.columns if not column.nullable)
_LAST_TIME_US = np.datetime64("9999-12-31T23:59:59", "us").astype(np.int64)
_DAY_MS = 86_400_000.0


@dataclass(frozen=True, slots=True, eq=False)
class Violation:
    """Where it went wrong, in words and on the time axis.

    ``row`` is that of its step, None if it is not known; ``time`` is None if it lies outside the plot.
    """

    label: str
    time: float | None
    row: int | None


@dataclass(frozen=True, slots=True, eq=False)
class StepData:
    """Steps in the order of their start. Times are matplotlib dates (days), amounts as in the schema.

    ``lane`` is the place of each step's type in ``types``; if types were folded, the last of them stands for
    ``folded`` types and has no name. ``colors`` are those of ``types``.
    """

    step_index: Integers
    start_us: Integers
    start: Floats
    end: Floats
    lane: Indices
    failed: Flags
    cost_cents: Floats
    tokens: Floats
    types: tuple[str, ...]
    colors: tuple[str, ...]
    folded: int
    total: int | None
    title: str | None
    violation: Violation | None

    def __len__(self) -> int:
        return len(self.start)

    @property
    def spent(self) -> tuple[Measure, Floats]:
        """What to show as spent, and how much of it each step spent."""
        return choose_measure(self.cost_cents, self.tokens)


def read_steps(data: Any, violation_step_index: int | None) -> StepData:
    """Read the steps of a bundle, a SnapshotTable or any frame; each value must be one that its column may hold."""
    bundle = data if isinstance(data, ExportBundle) else None
    needed = {column.name: KINDS[column.type] for column in _COLUMNS}
    frame = read_own_amounts(data, needed, recorded=["duration_ms"], warn=False)  # a bar is as long as its step
    table = to_arrow(frame).select(list(needed))
    require_valid(table, _COLUMNS, origin=Origin(frame.what), key=TRACE_STEPS.key)
    start_us = table["timestamp"].cast(pa.int64()).to_numpy()
    order = np.lexsort((table["step_index"].to_numpy(), start_us))
    table, start_us = table.take(pa.array(order)), start_us[order]
    step_index = table["step_index"].to_numpy()
    durations = table["duration_ms"].to_numpy()
    start = dates(start_us)
    # A duration may be any finite number, but an axis ends with the year 9999.
    end = np.minimum(start + durations / _DAY_MS, max(float(dates(_LAST_TIME_US)), start.max(initial=0.0)))
    failed = np.asarray(failed_steps(table["status"]).to_numpy(), np.bool_)
    cost = table["cost_cents"].to_numpy()
    tokens = table["tokens"].to_numpy().astype(np.float64)

    wanted = _wanted_violation(bundle, violation_step_index)
    violation = _find_violation(bundle, wanted, table, step_index, start, end)
    encoded = table["step_type"].combine_chunks().dictionary_encode()
    row = None if violation is None else violation.row
    codes = np.asarray(encoded.indices.to_numpy(), np.intp)
    lane, kept, ranks = _fold(codes, len(encoded.dictionary), choose_measure(cost, tokens)[1], failed, row)
    names = encoded.dictionary.take(pa.array(kept, pa.int64())).to_pylist()
    folded = len(encoded.dictionary) - len(kept)
    colors = tuple(PALETTE[rank % len(PALETTE)] for rank in ranks) + ((OTHER_COLOR,) if folded else ())
    return StepData(
        step_index=step_index,
        start_us=start_us,
        start=start,
        end=end,
        lane=lane,
        failed=failed,
        cost_cents=cost,
        tokens=tokens,
        types=(*names, *(("",) if folded else ())),
        colors=colors,
        folded=folded,
        total=frame.total,
        title=None if bundle is None else bundle.headline,
        violation=violation,
    )


def _wanted_violation(bundle: ExportBundle | None, violation_step_index: int | None) -> int | None:
    if violation_step_index is None:
        return bundle.trace.violation_step_index if bundle is not None and bundle.trace is not None else None
    try:
        return operator.index(violation_step_index)
    except TypeError:
        found = one_line(repr(violation_step_index), 80)
        raise ConfigError(f"violation_step_index is {found}; expected an integer or None") from None


def _find_violation(
    bundle: ExportBundle | None, wanted: int | None, table: pa.Table, step_index: Integers, start: Floats, end: Floats
) -> Violation | None:
    """The violation among the steps, or word that it is not there."""
    recorded = bundle.trace.violation_timestamp if bundle is not None and bundle.trace is not None else None
    if wanted is None:
        if recorded is None:
            return None
        time = float(dates(pa.scalar(recorded, pa.timestamp("us", "UTC")).value))
        if not len(start) or not start[0] <= time <= end.max():
            return Violation("violation: outside the time range of these steps", None, None)
        return Violation("violation (its step is not recorded)", time, None)
    rows = np.flatnonzero(step_index == wanted)
    if not len(rows):
        return Violation(f"violation: step {wanted:,}, not among these steps", None, None)
    row = int(rows[0])
    step_type, status = (table[name][row].as_py() for name in ("step_type", "status"))
    label = f"violation: step {wanted:,} · {one_line(step_type, 32)} · {one_line(status, 20)}"
    return Violation(label, float(start[row]), row)


def _fold(
    codes: Indices, count: int, amounts: Floats, failed: Flags, violation_row: int | None
) -> tuple[Indices, Indices, list[int]]:
    """The lane of each step, the types that have a lane of their own in order of first appearance, and their ranks.

    A type ranks by its share of the steps, of the cost or of the failed steps, whichever is greatest: the one expensive
    call and the one failure of a long run are what a reader looks for. The type of the violation comes first.
    """
    shares = np.zeros((3, count))
    for row, weights in enumerate((np.ones(len(codes)), amounts, failed.astype(np.float64))):
        if weights.any():
            shares[row] = np.bincount(codes, weights / weights.max(), minlength=count)
            shares[row] /= shares[row].sum()
    rank = shares.max(axis=0, initial=0.0)
    # Colours depend on the rank alone, so that they are the same in plots with and without a violation.
    rank_of = np.empty(count, np.intp)
    rank_of[np.argsort(-rank, kind="stable")] = np.arange(count)
    if violation_row is not None:
        rank[codes[violation_row]] = 2.0
    order = np.argsort(-rank, kind="stable")
    kept = np.sort(order[: count if count <= MAX_LANES else MAX_LANES - 1])
    lane_of = np.full(count, len(kept), np.intp)
    lane_of[kept] = np.arange(len(kept))
    return lane_of[codes], kept, rank_of[kept].tolist()
