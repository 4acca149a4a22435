"""Calls that were repeated again and again: loops, and retry storms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporttools.analysis.arrow_functions import apply
from exporttools.analysis.columns import Kind, require_integer
from exporttools.analysis.engines import only, sort
from exporttools.analysis.failures import failed
from exporttools.analysis.frames import TRACE_KEYS, Frame, arrow_schema, to_native
from exporttools.analysis.groups import Flags, Floats, Groups, Indices, group, numbers
from exporttools.analysis.sequences import Sequences
from exporttools.analysis.trees import own_amounts, read_recorded
from exporttools.records.roll_ups import CONTAINER_TYPES
from exporttools.records.schema import ARROW_TYPES
from exporttools.records.statuses import failed_steps
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from narwhals.typing import IntoFrameT

    from exporttools.analysis.frames import ArrowSteps

AT_LEAST = 3
"""How often a call must be made to be reported: twice is an ordinary retry."""

AT_LEAST_CHANGED = 5
"""How often a call must fail in a row to be reported if its content changes: three different commands that fail are ordinary work."""

THINKING = frozenset(
    {
        "llm_call", "llm", "generation", "chat", "chat_model", "completion", "text_completion", "generate_content", "model", "inference",
        "message", "prompt", "thinking", "think", "thought", "reasoning", "reflection", "plan", "planning", "memory", "recall", "embedding",
        "embeddings", "reranker", "rerank", "parser", "guardrail", "evaluator", "evaluation", "score", "event",
        *CONTAINER_TYPES,
    }
)  # fmt: skip
"""Step types, in lower case and with ``_``, that change nothing outside the agent: it thinks, or judges what it thought, or they stand around other steps."""


@overload
def repeated_calls(frame: IntoFrameT, *, at_least: int = ...) -> IntoFrameT: ...
@overload
def repeated_calls(frame: ArrowSteps, *, at_least: int = ...) -> pa.Table: ...
def repeated_calls(frame: Any, *, at_least: int = AT_LEAST) -> Any:
    """Calls that a trace made `at_least` times while it got nowhere: how often, for how long, and what that wasted.

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
        Of the same kind, and lazy if that is. Columns: ``tenant_id``, ``run_id``, ``trace_id`` and ``name``, as far as
        the frame has them; ``step_type``; ``content_hash``, NULL if it changed; ``kind``: ``retry storm`` if all calls
        failed, or all but one, ``retries with changes`` if the content changed as well, else ``loop``; ``times``;
        ``failed``; ``first_step_index``, ``last_step_index``, ``first_timestamp``; ``elapsed_ms`` from the start of the first
        call to the end of the last; ``cost_cents`` of all calls; ``wasted_cost_cents`` and ``wasted_duration_ms`` of all
        calls but the first that succeeded; ``waiting_ms``, the time before the repeats in which no step ran; ``reason``, in
        words. The most repeated first.

    Raises
    ------
    ConfigError
        A column is missing or of another type, `at_least` is less than 2, or a ``timestamp`` or ``step_index`` is NULL
        in a trace that repeats calls.

    Notes
    -----
    A call repeats an earlier one of its trace if it has the same ``content_hash`` and nothing new happened in between. Something new
    is a step of a type that acts (none of those in :data:`THINKING`) and that succeeded with this content for the first time in its
    trace, or with one that is not known; but not if the trace has that content `at_least` times. So to run a test, edit, and run it again
    is progress, however often; two calls in turn, or a model asked anew before each same call, are a loop.

    Retries with changes are at least `at_least` and at least 5 calls of one ``step_type`` and ``name`` that failed one right after the other, with
    nothing but thinking in between, and that are not repeats already. The next call of that name, if it succeeded, is the one that
    was needed. They are told only from frames with ``name``.

    Examples
    --------
    >>> import polars as pl, datetime as dt
    >>> noon = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)
    >>> steps = pl.DataFrame({"step_index": range(4), "timestamp": [noon + dt.timedelta(seconds=i) for i in range(4)],
    ...     "step_type": ["tool_call"] * 4, "cost_cents": [0.5] * 4, "duration_ms": [200.0] * 4, "status": ["ok"] * 4,
    ...     "content_hash": ["b", "a", "a", "a"]})
    >>> repeated_calls(steps).select("kind", "times", "wasted_cost_cents", "waiting_ms").rows()
    [('loop', 3, 1.0, 1600.0)]
    """
    require_integer("at_least", at_least, 2)
    needed = {
        "step_index": Kind.WHOLE, "timestamp": Kind.TIME, "step_type": Kind.TEXT, "cost_cents": Kind.NUMBER,
        "duration_ms": Kind.NUMBER, "status": Kind.TEXT, "content_hash": Kind.TEXT,
    }  # fmt: skip
    source = read_recorded(frame, needed, optional=(*TRACE_KEYS, "name"))
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
        suspected = own_amounts(_suspected_rows(table, keys, at_least), keys, recorded=["duration_ms"])
        found = _found(_Trace.of(suspected, keys), texts, at_least)
        return found.append_column("reason", pa.array([_words(row) for row in found.to_pylist()], pa.string()))

    columns = [*keys, *source.has("name", "parent_step_index"), *needed]
    found = apply(_suspected(source, keys, at_least), columns, find, schema, together=keys)
    order = ["times", *keys, "first_step_index"]
    return to_native(sort(found, *order, descending=[True, *(False for _ in order[1:])]))


_AMOUNTS = ("elapsed_ms", "cost_cents", "wasted_cost_cents", "wasted_duration_ms", "waiting_ms")


def _suspected(source: Frame, keys: Sequence[str], at_least: int) -> Frame:
    """The steps of those traces of a lazy frame that may have something to report, told by counting, which engines do themselves."""
    if not keys or not isinstance(source.data, nw.LazyFrame):
        return source
    known = source.data.filter(~nw.col("content_hash").is_null())
    often = [_counted(known, [*keys, "content_hash"], at_least).select(*keys)]
    if source.has("name"):
        failing = source.data.filter(failed(source))
        often.append(_counted(failing, [*keys, "step_type", "name"], max(at_least, AT_LEAST_CHANGED)).select(*keys))
    return only(source, nw.concat(often), keys)


def _suspected_rows(table: pa.Table, keys: Sequence[str], at_least: int) -> pa.Table:
    """The same of rows in memory."""
    trace = group(table, keys)
    table = table.append_column(_COUNT, pa.array(trace.of_row))
    content = group(table, [_COUNT, "content_hash"])
    often = (content.sizes >= at_least)[content.of_row] & table["content_hash"].is_valid().to_numpy()
    suspected = np.zeros(len(trace), np.bool_)
    suspected[trace.of_row[often]] = True
    if "name" in table.column_names:
        failing = table.filter(failed_steps(table["status"]))
        calls = group(failing, [_COUNT, "step_type", "name"])
        suspected[failing[_COUNT].to_numpy()[calls.first[calls.sizes >= max(at_least, AT_LEAST_CHANGED)]]] = True
    return table.filter(pa.array(suspected[trace.of_row])).drop_columns([_COUNT])


def _counted(data: Any, keys: Sequence[str], at_least: int) -> Any:
    return data.group_by(*keys).agg(nw.len().alias(_COUNT)).filter(nw.col(_COUNT) >= at_least)


_COUNT = "exporttools_count"


@dataclass(frozen=True, slots=True)
class _Trace:
    """The steps of some traces in order, and what is known of each."""

    steps: Sequences
    failed: Flags
    thinks: Flags
    content: Groups
    has_content: Flags

    @classmethod
    def of(cls, table: pa.Table, keys: Sequence[str]) -> _Trace:
        steps = Sequences.of(table, keys)
        ordered = steps.table.append_column(_COUNT, pa.array(steps.trace))
        types = pc.replace_substring_regex(pc.utf8_lower(ordered["step_type"]), "[- ]", "_")
        return cls(
            steps,
            failed_steps(ordered["status"]).to_numpy(),
            pc.is_in(types, pa.array(sorted(THINKING))).to_numpy(),
            group(ordered, [_COUNT, "content_hash"]),
            ordered["content_hash"].is_valid().to_numpy(),
        )

    def __len__(self) -> int:
        return len(self.steps.table)

    def news(self, at_least: int) -> Flags:
        """Whether each step did something new: it acted, it succeeded with this content for the first time, and it is no repetition."""
        news = ~self.failed & ~self.thinks
        rows = np.flatnonzero(news & self.has_content & (self.content.sizes < at_least)[self.content.of_row])
        first = np.zeros(len(self), np.bool_)
        _, at = np.unique(self.content.of_row[rows], return_index=True)
        first[rows[at]] = True
        return news & (first | ~self.has_content)

    def repeats(self, at_least: int) -> tuple[Indices, Indices]:
        """The rows that make one call `at_least` times with nothing new in between, and the number of the repetition of each."""
        rows = np.flatnonzero(self.has_content & (self.content.sizes >= at_least)[self.content.of_row])
        rows = rows[np.argsort(self.content.of_row[rows], kind="stable")]
        content = self.content.of_row[rows]
        news = self.news(at_least)
        until = np.cumsum(news)
        between: Indices = (until - news)[rows[1:]] - until[rows[:-1]]
        begins = np.r_[True, (content[1:] != content[:-1]) | (between > 0)][: len(rows)]
        return _kept(rows, begins, np.ones(len(rows), np.bool_), at_least)

    def retries(self, taken: Flags, at_least: int) -> Iterator[tuple[Indices, Indices]]:
        """The same for calls of one type and name that fail in a row, without the rows that are `taken`."""
        if "name" not in self.steps.table.column_names:
            return
        table = self.steps.table.append_column(_COUNT, pa.array(self.steps.trace))
        call = group(table, [_COUNT, "step_type", "name"]).of_row
        start_us = table["timestamp"].cast(pa.int64()).to_numpy()
        end_us = start_us + np.nan_to_num(numbers(table, "duration_ms")) * 1000
        thoughts = np.cumsum(self.thinks)
        thoughtless = ~np.bincount(self.steps.trace, self.thinks).astype(np.bool_)[self.steps.trace]
        # What thinks does not stand between calls that act, but all stand between those that think.
        for thinks, rows in ((False, np.flatnonzero(~self.thinks)), (True, np.arange(len(self)))):
            # The call after the last that failed belongs to them, if it is the same: it is the one that worked.
            begins = np.r_[True, (call[rows[1:]] != call[rows[:-1]]) | ~self.failed[rows[:-1]]][: len(rows)]
            # Calls of one answer, or that run at once, are one try.
            anew = start_us[rows[1:]] >= end_us[rows[:-1]]
            anew &= (thoughts[rows[1:]] > thoughts[rows[:-1]]) | thoughtless[rows[1:]]
            anew = np.r_[True, anew][: len(rows)] | begins
            counted = anew & self.failed[rows] & ~taken[rows] & (self.thinks[rows] == thinks)
            found, number = _kept(rows, begins, counted, at_least)
            free = ~taken[found]
            yield found[free], number[free]


def _kept(rows: Indices, begins: Flags, counted: Flags, at_least: int) -> tuple[Indices, Indices]:
    """The rows of those stretches that have `at_least` rows that count, and the stretches' numbers, from 0."""
    stretch = np.cumsum(begins) - 1
    kept = np.bincount(stretch, counted, int(begins.sum())) >= at_least
    return rows[kept[stretch]], (np.cumsum(kept) - 1)[stretch[kept[stretch]]]


def _found(trace: _Trace, texts: Sequence[str], at_least: int) -> pa.Table:
    """A row for each repetition."""
    found = [trace.repeats(at_least)]
    taken = np.zeros(len(trace), np.bool_)
    taken[found[0][0]] = True
    found += trace.retries(taken, max(at_least, AT_LEAST_CHANGED))
    counts = [int(number.max(initial=-1)) + 1 for _, number in found]
    rows = np.concatenate([rows for rows, _ in found])
    number = np.concatenate([number + sum(counts[:i]) for i, (_, number) in enumerate(found)])
    changed = (np.arange(sum(counts)) >= counts[0]) & (np.bincount(number, trace.has_content[rows], sum(counts)) > 0)
    begins = np.flatnonzero(np.r_[True, number[1:] != number[:-1]][: len(rows)])
    first, last = rows[begins], rows[np.r_[begins[1:], len(rows)][: len(begins)] - 1]

    def sums(values: Any) -> Floats:
        return np.bincount(number, values, len(begins)).astype(np.float64)

    table, times, failed_calls = trace.steps.table, sums(None), sums(trace.failed[rows])
    # The one call that was needed is the first that succeeded. If none did, all were wasted.
    worked = np.flatnonzero(~trace.failed[rows])
    wasted = np.ones(len(rows), np.bool_)
    wasted[worked[np.unique(number[worked], return_index=True)[1]]] = False
    again = np.ones(len(rows), np.bool_)
    again[begins] = False
    cost, duration = (np.nan_to_num(numbers(table, name)) for name in ("cost_cents", "duration_ms"))
    start_us = table["timestamp"].cast(pa.int64()).to_numpy()
    amounts = {
        "elapsed_ms": (start_us[last] - start_us[first]) / 1000 + duration[last],
        "cost_cents": sums(cost[rows]),
        "wasted_cost_cents": sums(cost[rows] * wasted),
        "wasted_duration_ms": sums(duration[rows] * wasted),
        "waiting_ms": sums(trace.steps.waiting_ms[rows] * again),
    }
    at = table.take(pa.array(first))
    columns = {name: at[name] for name in texts} | {
        "content_hash": pc.if_else(pa.array(changed), None, at["content_hash"]),
        "kind": pa.array(np.where(changed, _CHANGED, np.where(failed_calls >= times - 1, "retry storm", "loop"))),
        "times": pa.array(times.astype(np.int64)),
        "failed": pa.array(failed_calls.astype(np.int64)),
        "first_step_index": at["step_index"],
        "last_step_index": table["step_index"].take(pa.array(last)),
        "first_timestamp": at["timestamp"],
        **{name: pa.array(values) for name, values in amounts.items()},
    }
    return pa.table(columns)


_CHANGED = "retries with changes"


def _words(found: dict[str, Any]) -> str:
    what = one_line(" ".join(filter(None, (found["step_type"], found.get("name")))), 80)
    changed = " with changes" if found["kind"] == _CHANGED else ""
    failed_calls = f", {found['failed']:,} failed" if found["failed"] else ""
    spent = f", {found['wasted_cost_cents']:,.2f} US cents wasted" if found["wasted_cost_cents"] else ""
    return (
        f"{what} {found['times']:,} times{changed}{failed_calls}, steps {found['first_step_index']:,} to "
        f"{found['last_step_index']:,} in {found['elapsed_ms'] / 1000:,.1f} s{spent}"
    )
