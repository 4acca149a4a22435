"""Steps in the order in which they happened: how much of its trace's time each took, and which repeat an earlier one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from exporttools.analysis.groups import Flags, Floats, Indices, Integers, group, numbers
from exporttools.analysis.step_times import require_places, tree_of
from exporttools.records.intervals import running_max
from exporttools.records.roll_ups import containers_of


@dataclass(frozen=True, slots=True)
class Sequences:
    """The steps of some traces, ordered by trace, start and ``step_index``.

    Attributes
    ----------
    table : pyarrow.Table
        The rows in that order.
    trace : array of int
        The number of each row's trace, ascending.
    busy_ms, waiting_ms : array of float
        How much of the trace's time passed during the step, and how much before it while no step ran. They add up to the
        time from the first start to the last end. Time in which several steps ran at once counts for the deepest of them (a
        parent has only what no step inside it covers), and of equally deep ones for the first. Time that passed only in
        containers, such as an agent's span, is waiting for the next step; what lies before the first of the other steps
        and after the last is the containers' own. So a span around a trace changes nothing.
    """

    table: pa.Table
    trace: Indices
    busy_ms: Floats
    waiting_ms: Floats

    @classmethod
    def of(cls, table: pa.Table, trace_keys: Sequence[str]) -> Sequences:
        """Order the steps of a table that has ``timestamp``, ``step_index`` and ``duration_ms``.

        If it has ``parent_step_index`` as well, time belongs to the innermost step.

        Raises
        ------
        ConfigError
            A ``timestamp`` or ``step_index`` is NULL: such a step has no place in its trace. Or two steps of a trace have the
            same index, and steps name their parents.
        """
        require_places(table)
        trace = group(table, trace_keys).of_row
        start_us = table["timestamp"].cast(pa.int64()).to_numpy()
        order = np.lexsort((table["step_index"].to_numpy(), start_us, trace))
        trace, start_us = trace[order], start_us[order]
        table = table.take(pa.array(order))
        end_us = start_us.astype(np.float64) + np.rint(np.nan_to_num(numbers(table, "duration_ms")) * 1000)
        tree = tree_of(table, trace, trace_keys)
        if tree is None:
            return cls(table, trace, *_in_turn(trace, start_us, end_us, None))
        holds = containers_of(table, tree)
        alone = np.ones(int(trace[-1]) + 1, np.bool_)  # traces of nothing but containers
        alone[trace[~holds]] = False
        inner = np.flatnonzero(~holds | alone[trace])
        busy_ms, waiting_ms = np.zeros(len(trace)), np.zeros(len(trace))
        busy_ms[inner], waiting_ms[inner] = _in_turn(trace[inner], start_us[inner], end_us[inner], tree.depth[inner])
        _add_outside(busy_ms, trace, start_us, end_us, np.flatnonzero(holds & ~alone[trace]), inner)
        return cls(table, trace, busy_ms, waiting_ms)

    def repeated(self) -> Flags:
        """Whether each step has the ``content_hash`` of an earlier one of its trace; never if it is NULL."""
        if "content_hash" not in self.table.column_names:
            return np.zeros(len(self.trace), np.bool_)
        table = self.table.append_column("exporttools_trace", pa.array(self.trace))
        groups = group(table, ["exporttools_trace", "content_hash"])
        again = np.ones(len(self.trace), np.bool_)
        again[groups.first] = False
        known: Flags = self.table["content_hash"].is_valid().to_numpy()
        return again & known


def _first_rows(trace: Indices) -> Indices:
    """The first row of each trace."""
    return np.flatnonzero(np.r_[True, np.diff(trace) > 0][: len(trace)])


def _in_turn(trace: Indices, start_us: Integers, end_us: Floats, depth: Integers | None) -> tuple[Floats, Floats]:
    """How long each step was the one that ran, and how long none had run before it, in ms."""
    reached_us = running_max(trace, end_us)
    first = _first_rows(trace)
    before_us = np.r_[np.nan, reached_us[:-1]][: len(trace)]
    before_us[first] = start_us[first]
    waiting_us = np.maximum(start_us - before_us, 0.0)
    busy_us = np.maximum(reached_us - before_us, 0.0) - waiting_us
    if depth is not None and depth.any():
        busy_us = _innermost(trace, start_us.astype(np.float64), end_us, depth)
    return busy_us / 1000, waiting_us / 1000


def _add_outside(
    busy_ms: Floats, trace: Indices, start_us: Integers, end_us: Floats, holds: Indices, inner: Indices
) -> None:
    """Give the time before the first and after the last of the other steps to the containers that it lies in."""
    if not len(holds):
        return
    begun, ended = np.full(int(trace[-1]) + 1, np.inf), np.full(int(trace[-1]) + 1, -np.inf)
    np.minimum.at(begun, trace[inner], start_us[inner])
    np.maximum.at(ended, trace[inner], end_us[inner])
    first = holds[_first_rows(trace[holds])]  # rows are in the order of their start
    busy_ms[first] += np.maximum(begun[trace[first]] - start_us[first], 0.0) / 1000
    by_end = holds[np.lexsort((end_us[holds], trace[holds]))]
    last = by_end[np.r_[trace[by_end][1:] != trace[by_end][:-1], True]]
    busy_ms[last] += np.maximum(end_us[last] - ended[trace[last]], 0.0) / 1000


def _innermost(trace: Indices, start: Floats, end: Floats, depth: Indices) -> Floats:
    """How much time belongs to each step: at each moment to the deepest that runs, and of equally deep ones to the first row.

    The starts and ends of a trace cut its time into cells. Every step claims its cells, as two overlapping blocks of a power of
    two, and blocks hand down the strongest claim to their halves: n log n for any nesting, and no loop over steps.
    """
    rows = len(trace)
    of, at = np.r_[trace, trace], np.r_[start, end]
    order = np.lexsort((at, of))
    of, at = of[order], at[order]
    begins = np.r_[True, (of[1:] != of[:-1]) | (at[1:] != at[:-1])]
    cell = np.empty(2 * rows, np.intp)
    cell[order] = np.cumsum(begins) - 1
    left, right = cell[:rows], cell[rows:]
    width = np.diff(at[begins], append=np.nan)  # that of a trace's last cell is claimed by no step
    by_claim = np.argsort(-depth, kind="stable")
    claim = np.empty(rows, np.intp)
    claim[by_claim] = np.arange(rows)
    level = np.frexp((right - left).astype(np.float64))[1] - 1  # of the greatest block that fits; -1 if there is none
    strongest = np.full(len(width), rows)
    for power in range(int(level.max(initial=-1)), -1, -1):
        mine = np.flatnonzero(level == power)
        for block in (left[mine], right[mine] - (1 << power)):
            np.minimum.at(strongest, block, claim[mine])
        if power:
            half = 1 << (power - 1)
            strongest[half:] = np.minimum(strongest[half:], strongest[:-half].copy())
    claimed = strongest < rows
    return np.bincount(by_claim[strongest[claimed]], width[claimed], rows).astype(np.float64)
