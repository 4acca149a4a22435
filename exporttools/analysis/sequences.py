"""Steps in the order in which they happened: how much of its trace's time each took, and which repeat an earlier one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from exporttools.analysis.groups import Flags, Floats, Indices, group, numbers
from exporttools.errors import ConfigError


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
        time from the first start to the last end; time in which several steps ran at once counts for the first.
    """

    table: pa.Table
    trace: Indices
    busy_ms: Floats
    waiting_ms: Floats

    @classmethod
    def of(cls, table: pa.Table, trace_keys: Sequence[str]) -> Sequences:
        """Order the steps of a table that has ``timestamp``, ``step_index`` and ``duration_ms``.

        Raises
        ------
        ConfigError
            A ``timestamp`` or ``step_index`` is NULL: such a step has no place in its trace.
        """
        for name in ("timestamp", "step_index"):
            if table[name].null_count:
                raise ConfigError(
                    f"steps: column {name!r} is NULL in {table[name].null_count:,} of {len(table):,} rows, so that those "
                    f"steps have no place in their trace. Drop those rows, or fill in the values"
                )
        trace = group(table, trace_keys).of_row
        start_us = table["timestamp"].cast(pa.int64()).to_numpy()
        order = np.lexsort((table["step_index"].to_numpy(), start_us, trace))
        trace, start_us = trace[order], start_us[order]
        table = table.take(pa.array(order))
        duration_us = np.rint(np.nan_to_num(numbers(table, "duration_ms")) * 1000)
        end_us = start_us.astype(np.float64) + duration_us
        first = np.flatnonzero(np.r_[True, np.diff(trace) > 0][: len(trace)])
        reached_us = end_us.copy()
        for begin, end in pairwise([*first, len(trace)]):
            np.maximum.accumulate(end_us[begin:end], out=reached_us[begin:end])
        before_us = np.r_[np.nan, reached_us[:-1]][: len(trace)]
        before_us[first] = start_us[first]
        waiting_us = np.maximum(start_us - before_us, 0.0)
        busy_us = np.maximum(reached_us - before_us, 0.0) - waiting_us
        return cls(table, trace, busy_us / 1000, waiting_us / 1000)

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
