"""Two runs side by side, step by step or by step type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporttools.analysis.columns import Kind
from exporttools.analysis.frames import TRACE_KEYS, Frame, from_arrow, read, to_arrow, to_native
from exporttools.analysis.groups import group
from exporttools.analysis.sequences import Sequences
from exporttools.errors import ConfigError, InconsistentData
from exporttools.records.exact_sums import exact_sum
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    from narwhals.typing import IntoFrameT

    from exporttools.analysis.frames import ArrowSteps

By = Literal["step", "step_type"]

_MEASURES = ("cost_cents", "tokens", "duration_ms")
_STEP = {
    "step_index": Kind.WHOLE, "timestamp": Kind.TIME, "step_type": Kind.TEXT, "status": Kind.TEXT,
    "cost_cents": Kind.NUMBER, "tokens": Kind.WHOLE, "duration_ms": Kind.NUMBER,
}  # fmt: skip


@overload
def compare_runs(a: IntoFrameT, b: Any, *, by: By = ...) -> IntoFrameT: ...
@overload
def compare_runs(a: ArrowSteps, b: Any, *, by: By = ...) -> pa.Table: ...
def compare_runs(a: Any, b: Any, *, by: By = "step") -> Any:
    """Two runs side by side: the n-th step of each type with the n-th of the same type, or their sums by step type.

    Parameters
    ----------
    a, b : frame of steps, SnapshotTable or ExportBundle
        Each of one trace. Has ``step_index``, ``timestamp`` (with a time zone), ``step_type``, ``status``,
        ``cost_cents`` (US cents), ``tokens``, ``duration_ms`` (ms); ``tenant_id``, ``run_id`` and ``trace_id``, if they
        are there, have one value.
    by : {"step", "step_type"}
        A row for each pair of steps, or for each step type.

    Returns
    -------
    frame
        Of the kind of `a`, computed at once. In a difference, `a` is subtracted from `b`, and a missing step counts 0.

        By step: ``step_type``; ``occurrence``, from 0; ``step_index_a``, ``step_index_b``, ``status_a``, ``status_b``;
        ``cost_cents_a``, ``cost_cents_b``, ``cost_cents_difference``; the same for ``tokens`` and ``duration_ms``;
        ``change``: ``only in a``, ``only in b``, ``status`` (the two have different ones) or ``same``. NULL where a run
        has no such step. In the order of `a`, with the steps of `b` alone at their own place.

        By step type: ``step_type``; ``steps_a``, ``steps_b``; ``status_changes``, the pairs with different statuses;
        the same sums and differences. Sorted by the size of the difference in cost, then in duration.

    Raises
    ------
    ConfigError
        A column is missing or of another type, a frame has several traces, or `by` is not valid.

    Examples
    --------
    >>> from exporttools import ExportBundleStore
    >>> from exporttools.database.embedded import embedded_database
    >>> store = ExportBundleStore(embedded_database())
    >>> a, b = (store.get_export_bundle(f"inc-0000-{number}") for number in (4, 6))
    >>> sorted(set(compare_runs(a, b)["change"].to_pylist()))
    ['only in b', 'same', 'status']
    >>> compare_runs(a, b, by="step_type").select(["step_type", "steps_a", "steps_b"]).to_pylist()[0]
    {'step_type': 'llm_call', 'steps_a': 12, 'steps_b': 23}
    """
    if by not in ("step", "step_type"):
        raise ConfigError(f"by is {one_line(repr(by), 60)}; expected 'step' or 'step_type'")
    source, left = _one_trace(a, "a")
    _, right = _one_trace(b, "b")
    compared = _side_by_side(left, right)
    return to_native(from_arrow(source, compared if by == "step" else _by_step_type(compared)))


def _one_trace(data: Any, side: str) -> tuple[Frame, pa.Table]:
    """A run's steps in order, numbered within their step type."""
    frame = read(data, _STEP, what=f"run {side}", optional=TRACE_KEYS)
    keys = frame.has(*TRACE_KEYS)
    table = to_arrow(frame)
    for key in keys:
        values = table[key].unique()
        if len(values) > 1:
            shown = ", ".join(one_line(value, 60) for value in values.slice(0, 3).to_pylist())
            raise ConfigError(
                f"run {side} has {len(values):,} values of {key} ({shown}, ...); expected the steps of one trace"
            )
    steps = Sequences.of(table, keys).table.select(list(_STEP)).drop_columns(["timestamp"])
    groups = group(steps, ["step_type"])
    order = np.argsort(groups.of_row, kind="stable")
    sizes = groups.sizes
    occurrence = np.empty(len(steps), np.int64)
    occurrence[order] = np.arange(len(steps)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return frame, steps.append_column("occurrence", pa.array(occurrence))


def _side_by_side(left: pa.Table, right: pa.Table) -> pa.Table:
    joined = left.join(right, ["step_type", "occurrence"], join_type="full outer", left_suffix="_a", right_suffix="_b")
    columns: dict[str, Any] = {name: joined[name] for name in ("step_type", "occurrence")}
    for name in ("step_index", "status"):
        columns |= {f"{name}_{side}": joined[f"{name}_{side}"] for side in "ab"}
    for name in _MEASURES:
        of_a, of_b = joined[f"{name}_a"], joined[f"{name}_b"]
        columns |= {f"{name}_a": of_a, f"{name}_b": of_b}
        columns[f"{name}_difference"] = pc.subtract(pc.fill_null(of_b, 0), pc.fill_null(of_a, 0))
    only_a, only_b = (pc.is_null(joined[f"step_index_{side}"]) for side in "ba")
    columns["change"] = pc.case_when(
        pc.make_struct(only_a, only_b, pc.not_equal(joined["status_a"], joined["status_b"])),
        "only in a", "only in b", "status", "same",
    )  # fmt: skip
    table = pa.table(columns)
    place = pc.coalesce(table["step_index_a"], table["step_index_b"])
    order = pc.sort_indices(
        pa.table({"place": place, "b": table["step_index_b"], "type": table["step_type"]}),
        sort_keys=[("place", "ascending"), ("b", "ascending"), ("type", "ascending")],
    )
    return table.take(order)


def _by_step_type(compared: pa.Table) -> pa.Table:
    sums = {f"steps_{side}": pc.is_valid(compared[f"step_index_{side}"]).cast(pa.int64()) for side in "ab"}
    sums["status_changes"] = pc.equal(compared["change"], "status").cast(pa.int64())
    sums |= {
        name: compared[name]
        for measure in _MEASURES
        for name in (f"{measure}_{end}" for end in ("a", "b", "difference"))
    }
    for name, values in sums.items():  # Arrow would wrap around in silence
        if pa.types.is_integer(values.type) and abs(total := exact_sum(pc.abs(values))) >= 2**63:
            raise InconsistentData(f"{name} adds up to {total:,}, more than a 64-bit integer holds", column=name)
    # One thread adds up in the order of the steps, so that equal runs have equal sums.
    grouped = pa.table({"step_type": compared["step_type"], **sums}).group_by("step_type", use_threads=False)
    options = pc.ScalarAggregateOptions(min_count=0)
    table = grouped.aggregate([(name, "sum", options) for name in sums]).rename_columns(["step_type", *sums])
    sizes = {name: pc.abs(table[f"{name}_difference"]) for name in ("cost_cents", "duration_ms")}
    order = pc.sort_indices(
        pa.table(sizes | {"type": table["step_type"]}),
        sort_keys=[("cost_cents", "descending"), ("duration_ms", "descending"), ("type", "ascending")],
    )
    return table.take(order)
