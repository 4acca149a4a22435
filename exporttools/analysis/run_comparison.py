"""Two runs side by side, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporttools.analysis.frames import TRACE_KEYS, Frame, Kind, arrow_schema, collect, from_arrow, give, read
from exporttools.analysis.groups import group
from exporttools.analysis.sequences import Sequences
from exporttools.errors import ConfigError
from exporttools.text.inert import one_line

_MEASURES = ("cost_cents", "tokens", "duration_ms")
_STEP = {
    "step_index": Kind.WHOLE, "timestamp": Kind.TIME, "step_type": Kind.TEXT, "status": Kind.TEXT,
    "cost_cents": Kind.NUMBER, "tokens": Kind.WHOLE, "duration_ms": Kind.NUMBER,
}  # fmt: skip


def compare_runs(a: Any, b: Any) -> Any:
    """The steps of two runs side by side: the n-th of a step type with the n-th of the same type.

    Parameters
    ----------
    a, b : frame of steps, SnapshotTable or ExportBundle
        Of one trace each. Columns in: ``step_index``, ``timestamp`` (with a time zone), ``step_type``, ``status``,
        ``cost_cents`` (US cents), ``tokens``, ``duration_ms`` (ms); ``tenant_id``, ``run_id`` and ``trace_id``, where
        they are, have one value.

    Returns
    -------
    frame
        Of the kind of `a`; its two runs are read at once. Columns: ``step_type``; ``occurrence``, from 0; ``step_index_a``,
        ``step_index_b``, ``status_a``, ``status_b``; ``cost_cents_a``, ``cost_cents_b``, ``cost_cents_difference`` (b less a,
        a step that is not there counting 0); the same for ``tokens`` and ``duration_ms``; ``change``: ``only in a``,
        ``only in b``, ``status`` (one failed or ended otherwise) or ``same``. NULL where a run has no such step. In the
        order of `a`, steps of `b` alone by their own place.

    Raises
    ------
    ConfigError
        A column is missing or of another kind, or a frame has several traces.

    Examples
    --------
    >>> from exporttools import ExportBundleStore
    >>> from exporttools.database.embedded import embedded_database
    >>> store = ExportBundleStore(embedded_database())
    >>> compared = compare_runs(store.get_export_bundle("inc-0000-3"), store.get_export_bundle("inc-0000-2"))
    >>> sorted(set(compared["change"].to_pylist()))
    ['only in a', 'only in b', 'same', 'status']
    """
    source, left = _one_trace(a, "a")
    _, right = _one_trace(b, "b")
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
    return give(from_arrow(source, table.take(order)))


def _one_trace(data: Any, side: str) -> tuple[Frame, pa.Table]:
    """A run's steps in order, numbered within their step type."""
    frame = read(data, _STEP, what=f"run {side}", optional=TRACE_KEYS)
    keys = frame.has(*TRACE_KEYS)
    table = collect(frame, frame.data, arrow_schema(frame, [*keys, *_STEP]))
    for key in keys:
        values = table[key].unique()
        if len(values) > 1:
            shown = ", ".join(one_line(value, 60) for value in values.slice(0, 3).to_pylist())
            raise ConfigError(
                f"run {side} has {len(values):,} values of {key} ({shown}, ...); expected one trace's steps"
            )
    steps = Sequences.of(table, keys).table.select(list(_STEP)).drop_columns(["timestamp"])
    groups = group(steps, ["step_type"])
    order = np.argsort(groups.of_row, kind="stable")
    sizes = groups.sizes
    occurrence = np.empty(len(steps), np.int64)
    occurrence[order] = np.arange(len(steps)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return frame, steps.append_column("occurrence", pa.array(occurrence))
