"""When steps ran within their traces: which contain others, and which the end of a trace waited for. In numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from exporttools.analysis.frames import TRACE_KEYS
from exporttools.analysis.groups import Floats, Indices, numbers
from exporttools.errors import ConfigError, InconsistentData
from exporttools.records.intervals import last_before_last
from exporttools.records.roll_ups import read_tree
from exporttools.records.step_trees import StepTree


def require_places(table: pa.Table) -> None:
    """Raise if a step has no place in its trace.

    Raises
    ------
    ConfigError
        A ``timestamp`` or ``step_index`` is NULL.
    """
    for name in ("timestamp", "step_index"):
        if table[name].null_count:
            raise ConfigError(
                f"steps: column {name!r} is NULL in {table[name].null_count:,} of {len(table):,} rows, so that those "
                f"steps have no place in their trace. Drop those rows, or fill in the values"
            )


def tree_of(table: pa.Table, trace: Indices, trace_keys: Sequence[str], what: str = "steps") -> StepTree | None:
    """Which steps of a table are parts of which; None if none is.

    Raises
    ------
    ConfigError
        Two steps of a trace have the same index, and steps name their parents.
    """
    try:
        return read_tree(table, trace)
    except InconsistentData as error:
        missing = [name for name in TRACE_KEYS if name not in trace_keys]
        advice = (
            f"Keep the columns {', '.join(missing)}, which tell traces apart"
            if missing
            else "Drop steps that are there twice"
        )
        raise ConfigError(f"{what}: {error}. {advice}") from None


def intervals_ms(table: pa.Table, trace: Indices) -> tuple[Floats, Floats]:
    """When each step began and ended, in ms since the first start of its trace."""
    start_us = table["timestamp"].cast(pa.int64()).to_numpy()
    first = np.full(int(trace.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, trace, start_us)
    begin: Floats = (start_us - first[trace]) / 1000
    return begin, begin + np.nan_to_num(numbers(table, "duration_ms"))


def parents_by_time(table: pa.Table, trace: Indices) -> pa.Array:
    """The index of the step that each is part of by its time: of those whose interval contains its own, and is longer, the
    one that began last. NULL where there is none, and in traces in which a step names its parent.
    """
    begin, end = intervals_ms(table, trace)
    named = np.zeros(int(trace.max(initial=-1)) + 1, np.bool_)
    named[trace[table["parent_step_index"].is_valid().to_numpy()]] = True
    step_index = table["step_index"].to_numpy()
    order = np.lexsort((step_index, -end, begin, trace))
    order = order[~named[trace[order]]]
    parent = np.full(len(table), -1, np.int64)
    open_rows: list[int] = []
    traces, begins, ends = (values[order].tolist() for values in (trace, begin, end))
    for place, (number, start, stop) in enumerate(zip(traces, begins, ends, strict=True)):
        while open_rows and (traces[open_rows[-1]] != number or ends[open_rows[-1]] < stop):
            open_rows.pop()
        above = open_rows[-1] if open_rows else None
        if above is not None and begins[above] == start and ends[above] == stop:  # neither contains the other
            parent[order[place]] = parent[order[above]]
            open_rows.pop()
        elif above is not None:
            parent[order[place]] = order[above]
        open_rows.append(place)
    return pa.array(step_index[np.maximum(parent, 0)] if len(table) else parent, pa.int64(), mask=parent < 0)


def critical_ms(table: pa.Table, trace: Indices, tree: StepTree) -> Floats:
    """For how long the end of its trace waited for each step and for none of its children."""
    begin, end = intervals_ms(table, trace)
    for rows in tree.levels[1:]:  # within the parent's interval, which is cut to that of its own parent
        begin[rows] = np.maximum(begin[rows], begin[tree.parent[rows]])
        end[rows] = np.minimum(end[rows], end[tree.parent[rows]])
    length = np.maximum(end - begin, 0.0)
    roots = tree.levels[0]
    siblings = np.where(tree.parent >= 0, tree.parent, len(tree) + trace)
    rows = np.concatenate([roots[np.argsort(trace[roots], kind="stable")], *tree.levels[1:]])  # siblings side by side
    ran = rows[length[rows] > 0]
    waited_for = np.zeros(len(tree), np.bool_)
    waited_for[ran] = last_before_last(siblings[ran], begin[ran], end[ran])
    for rows in tree.levels[1:]:
        waited_for[rows] &= waited_for[tree.parent[rows]]
    own = np.where(waited_for, length, 0.0)
    children = np.flatnonzero(waited_for & (tree.parent >= 0))
    own -= np.bincount(tree.parent[children], length[children], len(tree))
    return np.maximum(own, 0.0)
