"""Calls that were repeated again and again: loops, and retry storms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa

from exporttools.analysis.columns import Kind
from exporttools.analysis.frames import TRACE_KEYS, apply, arrow_schema, read, sort, to_native
from exporttools.analysis.groups import group, numbers
from exporttools.analysis.sequences import Sequences
from exporttools.errors import ConfigError
from exporttools.records.schema import ARROW_TYPES
from exporttools.records.statuses import failed_steps
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    from narwhals.typing import IntoFrameT

    from exporttools.analysis.frames import ArrowSteps

AT_LEAST = 3
"""How often a call must be made to be reported: twice is an ordinary retry."""

_TRACE = "exporttools_trace"


@overload
def repeated_calls(frame: IntoFrameT, *, at_least: int = ...) -> IntoFrameT: ...
@overload
def repeated_calls(frame: ArrowSteps, *, at_least: int = ...) -> pa.Table: ...
def repeated_calls(frame: Any, *, at_least: int = AT_LEAST) -> Any:
    """Calls that a trace made `at_least` times, by ``content_hash``: how often, for how long, and what that wasted.

    Parameters
    ----------
    frame : frame of steps
        Has ``step_index``, ``timestamp`` (with a time zone), ``step_type``, ``cost_cents`` (US cents), ``duration_ms``
        (ms), ``status``, ``content_hash`` (NULL if not known, which is never a repeat); optionally ``tenant_id``,
        ``run_id``, ``trace_id`` and ``name``. Without the first three, all rows are one trace.
    at_least : int
        At least 2.

    Returns
    -------
    frame
        Of the same kind. Columns: ``tenant_id``, ``run_id``, ``trace_id`` and ``name``, as far as the frame has them;
        ``step_type``, ``content_hash``; ``kind``: ``retry storm`` if all calls failed, or all but one, else
        ``loop``; ``times``; ``failed``; ``first_step_index``, ``last_step_index``, ``first_timestamp``;
        ``elapsed_ms`` from the start of the first call to the end of the last; ``cost_cents`` of all calls;
        ``wasted_cost_cents`` and ``wasted_duration_ms`` of all calls but the first that succeeded; ``waiting_ms``, the time
        before the repeats in which no step ran; ``reason``, in words. The most repeated first.

    Raises
    ------
    ConfigError
        A column is missing or of another type, or `at_least` is less than 2.

    Examples
    --------
    >>> import polars as pl, datetime as dt
    >>> noon = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)
    >>> steps = pl.DataFrame({"step_index": range(4), "timestamp": [noon + dt.timedelta(seconds=i) for i in range(4)],
    ...     "step_type": ["tool_call"] * 4, "cost_cents": [0.5] * 4, "duration_ms": [200.0] * 4, "status": ["ok"] * 4,
    ...     "content_hash": ["a", "b", "a", "a"]})
    >>> repeated_calls(steps).select("kind", "times", "wasted_cost_cents", "waiting_ms").rows()
    [('loop', 3, 1.0, 1600.0)]
    """
    if not isinstance(at_least, int) or isinstance(at_least, bool) or at_least < 2:
        raise ConfigError(f"at_least is {one_line(repr(at_least), 60)}; expected an integer >= 2")
    needed = {
        "step_index": Kind.WHOLE, "timestamp": Kind.TIME, "step_type": Kind.TEXT, "cost_cents": Kind.NUMBER,
        "duration_ms": Kind.NUMBER, "status": Kind.TEXT, "content_hash": Kind.TEXT,
    }  # fmt: skip
    source = read(frame, needed, optional=(*TRACE_KEYS, "name"))
    keys = list(source.has(*TRACE_KEYS))
    texts = [*keys, "step_type", *source.has("name"), "content_hash"]
    schema = pa.schema(
        [
            *arrow_schema(source, texts),
            ("kind", pa.string()),
            *((name, pa.int64()) for name in ("times", "failed", "first_step_index", "last_step_index")),
            ("first_timestamp", ARROW_TYPES["timestamp"]),
            *((name, pa.float64()) for name in _AMOUNTS),
            ("reason", pa.string()),
        ]
    )

    def find(table: pa.Table) -> pa.Table:
        steps = Sequences.of(table, keys)
        ordered = steps.table.append_column(_TRACE, pa.array(steps.trace))
        groups = group(ordered, [_TRACE, "content_hash"])
        times = groups.sizes
        known = ordered["content_hash"].is_valid().to_numpy()
        chosen = np.flatnonzero((times >= at_least) & known[groups.first])
        failed_row = failed_steps(ordered["status"]).to_numpy()
        failed = groups.sums(failed_row).astype(np.int64)
        rows = np.arange(len(ordered))
        last = np.zeros(len(groups), np.intp)
        last[groups.of_row] = rows
        # The one call that was needed is the first that succeeded. If none did, all were wasted.
        useful = np.full(len(groups), -1)
        worked = rows[~failed_row][::-1]
        useful[groups.of_row[worked]] = worked
        wasted = np.ones(len(ordered), np.bool_)
        wasted[useful[useful >= 0]] = False
        cost, duration = (np.nan_to_num(numbers(ordered, name)) for name in ("cost_cents", "duration_ms"))
        start_us = ordered["timestamp"].cast(pa.int64()).to_numpy()
        again = rows != groups.first[groups.of_row]
        amounts = {
            "elapsed_ms": (start_us[last] - start_us[groups.first]) / 1000 + duration[last],
            "cost_cents": groups.sums(cost),
            "wasted_cost_cents": groups.sums(cost * wasted),
            "wasted_duration_ms": groups.sums(duration * wasted),
            "waiting_ms": groups.sums(steps.waiting_ms * again),
        }
        first = ordered.take(pa.array(groups.first[chosen]))
        storm = failed[chosen] >= times[chosen] - 1
        columns = {name: first[name] for name in texts} | {
            "kind": np.where(storm, "retry storm", "loop"),
            "times": times[chosen],
            "failed": failed[chosen],
            "first_step_index": first["step_index"],
            "last_step_index": ordered["step_index"].take(pa.array(last[chosen])),
            "first_timestamp": first["timestamp"],
            **{name: values[chosen] for name, values in amounts.items()},
        }
        found = pa.table(
            {name: pa.array(values) if isinstance(values, np.ndarray) else values for name, values in columns.items()}
        )
        return found.append_column("reason", pa.array([_words(row) for row in found.to_pylist()], pa.string()))

    found = apply(source, [*keys, *source.has("name"), *needed], find, schema, together=keys)
    order = ["times", *keys, "first_step_index"]
    return to_native(sort(found, *order, descending=[True, *(False for _ in order[1:])]))


_AMOUNTS = ("elapsed_ms", "cost_cents", "wasted_cost_cents", "wasted_duration_ms", "waiting_ms")


def _words(found: dict[str, Any]) -> str:
    what = one_line(" ".join(filter(None, (found["step_type"], found.get("name")))), 80)
    failed = f", {found['failed']:,} failed" if found["failed"] else ""
    spent = f", {found['wasted_cost_cents']:,.2f} US cents wasted" if found["wasted_cost_cents"] else ""
    return (
        f"{what} {found['times']:,} times{failed}, steps {found['first_step_index']:,} to {found['last_step_index']:,} "
        f"in {found['elapsed_ms'] / 1000:,.1f} s{spent}"
    )
