"""A bundle, a table or any frame of steps -> the arrays that plots draw. Nothing is drawn here."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import narwhals as nw
import numpy as np
import pyarrow as pa

from exporttools.errors import ConfigError
from exporttools.plots.time_axis import dates
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.schema import TRACE_STEPS
from exporttools.records.snapshot_table import SnapshotTable
from exporttools.records.snapshots import TraceStepSnapshot
from exporttools.records.statuses import failed_steps
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporttools.analysis.groups import Floats, Indices

    Integers: TypeAlias = NDArray[np.int64]

MAX_LANES = 12
"""How many step types a picture tells apart; the rest are folded into one."""

# Okabe and Ito's palette without black, then four of Paul Tol's "muted": told apart under the common colour vision
# deficiencies. Types of similar lightness are told apart by their lane, or by their place in a stack.
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

    ``row`` is the step's, None where no step of those here is known to be it; ``time`` is None where it lies outside.
    """

    label: str
    time: float | None
    row: int | None


@dataclass(frozen=True, slots=True, eq=False)
class StepData:
    """Steps in the order of their start. Times are matplotlib dates (days), amounts as in the schema.

    ``lane`` says for each step which of ``types`` it is; where types were folded, the last one is made up of
    ``folded`` types and has no name. ``colors`` go with ``types``.
    """

    step_index: Integers
    start_us: Integers
    start: Floats
    end: Floats
    lane: Indices
    failed: NDArray[np.bool_]
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
    def amount(self) -> tuple[str, Floats]:
        """The unit and the amounts that say what was spent: cents, or tokens where no step has a cost."""
        if not self.cost_cents.any() and self.tokens.any():
            return "tokens", self.tokens
        return "US cents", self.cost_cents


def read_steps(data: Any, violation_step_index: int | None) -> StepData:
    """Read the steps of a bundle, a SnapshotTable or any frame that Narwhals or the Arrow PyCapsule interface reads."""
    bundle = data if isinstance(data, ExportBundle) else None
    table, total = _read_table(data if bundle is None else bundle.steps)
    start_us = table["timestamp"].cast(pa.int64()).to_numpy()
    order = np.lexsort((table["step_index"].to_numpy(), start_us))
    table, start_us = table.take(pa.array(order)), start_us[order]
    step_index = table["step_index"].to_numpy()
    durations = table["duration_ms"].to_numpy()
    start = dates(start_us)
    # A duration may be any finite number, a picture's time may not.
    end = np.minimum(start + durations / _DAY_MS, max(float(dates(_LAST_TIME_US)), start.max(initial=0.0)))
    failed = np.asarray(failed_steps(table["status"]).to_numpy(), np.bool_)
    cost = table["cost_cents"].to_numpy()
    tokens = table["tokens"].to_numpy().astype(np.float64)

    wanted = _wanted_violation(bundle, violation_step_index)
    violation = _find_violation(bundle, wanted, table, step_index, start, end)
    encoded = table["step_type"].combine_chunks().dictionary_encode()
    row = None if violation is None else violation.row
    codes = np.asarray(encoded.indices.to_numpy(), np.intp)
    lane, kept, ranks = _fold(codes, len(encoded.dictionary), cost if cost.any() else tokens, failed, row)
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
        total=total,
        title=None if bundle is None else bundle.headline,
        violation=violation,
    )


def _read_table(data: Any) -> tuple[pa.Table, int | None]:
    """Give the columns that plots need, valid and of the schema's types, and how many there were before a limit."""
    names = [column.name for column in _COLUMNS]
    if isinstance(data, SnapshotTable):
        if data.snapshot_type is not TraceStepSnapshot:
            raise ConfigError(f"a plot of steps takes TraceStepSnapshots; found {data.describe()}")
        return data.to_arrow().select(names), data.total
    # SnapshotTable.to_pandas() leaves word of a cut in the frame's attrs.
    attrs = getattr(data, "attrs", None)
    total = attrs.get("total") if isinstance(attrs, dict) else None
    table = _select(data, names)
    columns = {name: _cast(table[name], name) for name in names}
    unread = {name: pa.nulls(len(table), pa.string()) for name in TRACE_STEPS.names if name not in names}
    # The one judge of what a column may hold: no NULL, no NaN, nothing below its minimum.
    table = SnapshotTable(TraceStepSnapshot, pa.table(columns | unread)).to_arrow().select(names)
    return table, total if isinstance(total, int) and total > table.num_rows else None


def _select(data: Any, names: list[str]) -> pa.Table:
    try:
        frame = nw.from_native(data)
    except TypeError:
        if not hasattr(data, "__arrow_c_stream__") and not hasattr(data, "__arrow_c_array__"):
            raise ConfigError(
                f"cannot read steps from {type(data).__name__}; accepted are an ExportBundle, a SnapshotTable of steps "
                f"and a frame that Narwhals knows (pandas, Polars, pyarrow, DuckDB, ...)"
            ) from None
        frame = nw.from_native(pa.table(data))
    found = frame.collect_schema().names()
    absent = [name for name in names if name not in found]
    if absent:
        columns = ", ".join(one_line(name, 60) for name in found) or "no columns"
        raise ConfigError(f"steps: no column {', '.join(absent)}; found {columns}")
    selected = frame.select(names)
    if isinstance(selected, nw.LazyFrame):
        return selected.collect("pyarrow").to_native()
    return selected.to_arrow()


def _cast(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    wanted = TRACE_STEPS.arrow_schema().field(name).type
    if pa.types.is_timestamp(values.type) and values.type.tz is None:
        raise ConfigError(f"steps: column {name!r} has naive times; give them a time zone, such as UTC")
    try:
        # Nanoseconds lose their last digits, which no plot shows; any other loss is an error.
        return values.cast(wanted, safe=not pa.types.is_timestamp(wanted))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        why = one_line(error)
        raise ConfigError(f"steps: column {name!r} is of type {values.type}; expected {wanted}: {why}") from error


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
    """Find the violation among the steps, or say that it is not there."""
    recorded = bundle.trace.violation_timestamp if bundle is not None and bundle.trace is not None else None
    if wanted is None:
        if recorded is None:
            return None
        time = float(dates(pa.scalar(recorded, pa.timestamp("us", "UTC")).value))
        if not len(start) or not start[0] <= time <= end.max():
            return Violation("violation: not in the time of these steps", None, None)
        return Violation("violation (its step is not recorded)", time, None)
    rows = np.flatnonzero(step_index == wanted)
    if not len(rows):
        return Violation(f"violation: step {wanted:,}, not among these steps", None, None)
    row = int(rows[0])
    step_type, status = (table[name][row].as_py() for name in ("step_type", "status"))
    label = f"violation: step {wanted:,} · {one_line(step_type, 32)} · {one_line(status, 20)}"
    return Violation(label, float(start[row]), row)


def _fold(
    codes: Indices, count: int, amounts: Floats, failed: NDArray[np.bool_], violation_row: int | None
) -> tuple[Indices, Indices, list[int]]:
    """Give the lane of each step, the types that have their own lane in order of first appearance, and their ranks.

    A type ranks by its share of the steps, of the cost or of the failed steps, whichever is greatest: the one dear
    call and the one failure of a long run are what its reader looks for. The violation's own type comes first.
    """
    shares = np.zeros((3, count))
    for row, weights in enumerate((np.ones(len(codes)), amounts, failed.astype(np.float64))):
        if weights.any():
            shares[row] = np.bincount(codes, weights / weights.max(), minlength=count)
            shares[row] /= shares[row].sum()
    rank = shares.max(axis=0, initial=0.0)
    # Colours go by rank alone, so that they are the same in plots with and without a violation.
    rank_of = np.empty(count, np.intp)
    rank_of[np.argsort(-rank, kind="stable")] = np.arange(count)
    if violation_row is not None:
        rank[codes[violation_row]] = 2.0
    order = np.argsort(-rank, kind="stable")
    kept = np.sort(order[: count if count <= MAX_LANES else MAX_LANES - 1])
    lane_of = np.full(count, len(kept), np.intp)
    lane_of[kept] = np.arange(len(kept))
    return lane_of[codes], kept, rank_of[kept].tolist()
