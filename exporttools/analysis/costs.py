"""Where the money went: cost by any column, over time, and by run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporttools.analysis.columns import Kind, require_keys
from exporttools.analysis.frames import RUN_KEYS, Frame, apply, collect, epoch_us, read, sort, to_native
from exporttools.analysis.groups import group
from exporttools.errors import ConfigError
from exporttools.records.schema import ARROW_TYPES
from exporttools.records.statuses import FAILED_STATUSES
from exporttools.text.inert import one_line
from exporttools.text.words import plural
from exporttools.times import DAY_US, parse_length

if TYPE_CHECKING:
    from narwhals.typing import IntoFrameT

    from exporttools.analysis.frames import ArrowSteps

Amount = Literal["cost_cents", "tokens", "steps", "duration_ms"]

MAX_ROWS = 5_000_000
"""The most rows that :func:`cost_over_time` returns, empty periods included."""

_SUMMED = ("cost_cents", "tokens", "steps", "duration_ms")
_RESULT = (*_SUMMED, "share", "failed", "cost_cents_per_1000_tokens", "runs", "cost_cents_per_run")
_NEEDED = {"cost_cents": Kind.NUMBER, "tokens": Kind.NUMBER, "duration_ms": Kind.NUMBER}
_PERIOD, _RUN, _KNOWN = "exporttools_period", "exporttools_run", "exporttools_known"
_MONDAY_US = 4 * DAY_US  # 1970-01-05


@overload
def cost_by(frame: IntoFrameT, *keys: str) -> IntoFrameT: ...
@overload
def cost_by(frame: ArrowSteps, *keys: str) -> pa.Table: ...
def cost_by(frame: Any, *keys: str) -> Any:
    """What each group of steps cost, the most expensive first.

    Parameters
    ----------
    frame : frame of steps
        Has `keys`; ``cost_cents`` (US cents), ``tokens``, ``duration_ms`` (ms); optionally ``run_id`` and ``tenant_id``,
        to count runs, and ``status``, to count failed steps. NULL and NaN count as 0.
    *keys : str
        Columns to group by, such as ``"agent_id", "step_type"``; NULL is a group of its own. Without any, the result is
        one row.

    Returns
    -------
    frame
        Of the same kind (pyarrow for a SnapshotTable), and lazy if that is. Columns: `keys`; ``cost_cents``;
        ``share`` of the whole cost, from 0 to 1 (NULL if nothing cost anything); ``tokens``; ``steps``; ``failed``,
        those of the steps that failed, if the frame has ``status`` as text; ``duration_ms``;
        ``cost_cents_per_1000_tokens`` (NULL without tokens); and, if the frame has ``run_id``, ``runs`` and
        ``cost_cents_per_run``. Sorted by cost, then by keys.

    Raises
    ------
    ConfigError
        A column is missing or of another type.

    Notes
    -----
    Runs are identified by ``run_id`` within ``tenant_id``; steps without a run count for none.

    Examples
    --------
    >>> import polars as pl
    >>> steps = pl.DataFrame({"step_type": ["llm_call", "tool_call", "llm_call"], "run_id": ["r1", "r1", "r2"],
    ...     "cost_cents": [1.5, 0.0, 4.5], "tokens": [900, 0, 2100], "duration_ms": [800.0, 90.0, 1900.0]})
    >>> cost_by(steps, "step_type").select("step_type", "cost_cents", "share", "runs", "cost_cents_per_1000_tokens").rows()
    [('llm_call', 6.0, 1.0, 2, 2.0), ('tool_call', 0.0, 0.0, 1, None)]
    """
    return to_native(_cost_by(frame, keys))


def _cost_by(data: Any, keys: Sequence[str]) -> Any:
    keys = require_keys("keys", keys, _RESULT)
    frame = read(data, dict.fromkeys(keys, Kind.KEY) | _NEEDED, optional=RUN_KEYS)
    failed = ["failed"] if frame.is_text("status") else []
    rows = frame.data
    if failed:
        rows = rows.with_columns(failed=_one_if(nw.col("status").cast(nw.String).is_in(sorted(FAILED_STATUSES))))
    result = _sums(frame, rows, keys, [*_SUMMED, *failed])
    cents, all_cents = nw.col("cost_cents"), nw.col("cost_cents").sum()
    # In two parts: pyarrow refuses to make a float of an integer that no float holds exactly.
    thousands, rest = nw.col("tokens") // 1000, nw.col("tokens") % 1000
    tokens = thousands.cast(nw.Float64) * 1000 + rest.cast(nw.Float64)
    result = result.with_columns(
        share=nw.when(all_cents > 0).then(cents / all_cents),
        cost_cents_per_1000_tokens=nw.when(tokens > 0).then(cents * 1000 / tokens),
    )
    columns = [*keys, "cost_cents", "share", "tokens", "steps", *failed, "duration_ms", "cost_cents_per_1000_tokens"]
    if frame.has("run_id"):
        result = result.with_columns(cost_cents_per_run=nw.when(nw.col("runs") > 0).then(cents / nw.col("runs")))
        columns += ["runs", "cost_cents_per_run"]
    result = result.select(*columns)
    if keys:
        result = sort(result, "cost_cents", *keys, descending=[True, *(False for _ in keys)])
    return result


def _sums(frame: Frame, data: Any, keys: Sequence[str], summed: Sequence[str] = _SUMMED) -> Any:
    """Sums and counts by `keys`; runs are counted within each tenant first, and then added up."""
    sums = [nw.len().alias(name) if name == "steps" else nw.col(name).sum() for name in summed]
    if not frame.has("run_id"):
        return _typed(_grouped(data, keys, *sums))
    data = data.with_columns(nw.col("run_id").alias(_RUN))  # `run_id` itself may be a key
    within = [name for name in frame.has("tenant_id") if name not in keys]
    if frame.implementation.is_dask():
        # There Narwhals adds up the n_unique of partitions, and so counts a run twice that lies in two.
        result = _grouped(data, [*keys, *within, _RUN], *sums)
        result = result.with_columns(runs=_one_if(~nw.col(_RUN).is_null()))
    else:
        counts = [nw.col(_RUN).n_unique().alias("runs"), nw.col(_RUN).count().alias(_KNOWN)]
        result = _grouped(data, [*keys, *within], *sums, *counts)
        # n_unique counts the NULL of steps without a run as well.
        result = result.with_columns(runs=nw.col("runs").cast(nw.Int64) - _one_if(nw.col(_KNOWN) < nw.col("steps")))
        if not within:
            return _typed(result)
    return _typed(_grouped(result, keys, *(nw.col(name).sum() for name in (*summed, "runs"))))


def _one_if(condition: Any) -> Any:
    return nw.when(condition).then(nw.lit(1)).otherwise(nw.lit(0)).cast(nw.Int64)


def _grouped(data: Any, keys: Sequence[str], *sums: Any) -> Any:
    return data.group_by(*keys).agg(*sums) if keys else data.select(*sums)


def _typed(data: Any) -> Any:
    """Sums in the same types for every kind of frame: SQL engines widen integers, and the sum of no rows is NULL there."""
    names = data.collect_schema().names()
    whole = [
        nw.col(name).fill_null(0).cast(nw.Int64) for name in ("tokens", "steps", "failed", "runs") if name in names
    ]
    return data.with_columns(
        *(nw.col(name).fill_null(0).cast(nw.Float64) for name in ("cost_cents", "duration_ms")), *whole
    )


@overload
def top_runs(frame: IntoFrameT, limit: int = ..., *, by: Amount = ...) -> IntoFrameT: ...
@overload
def top_runs(frame: ArrowSteps, limit: int = ..., *, by: Amount = ...) -> pa.Table: ...
def top_runs(frame: Any, limit: int = 10, *, by: Amount = "cost_cents") -> Any:
    """The runs that cost most, or that used most of something else.

    Parameters
    ----------
    frame : frame of steps
        Has ``run_id``, ``cost_cents`` (US cents), ``tokens``, ``duration_ms`` (ms); optionally ``tenant_id``,
        ``agent_id`` and ``status``.
    limit : int
        The maximum number of runs.
    by : {"cost_cents", "tokens", "steps", "duration_ms"}
        What to rank by. ``duration_ms`` is the sum over steps, not the time from first to last.

    Returns
    -------
    frame
        Of the same kind. Columns: ``tenant_id``, ``run_id``, ``agent_id``, as far as the frame has them;
        ``cost_cents``, ``share`` of all runs' cost, ``tokens``, ``steps``, ``failed`` (as in :func:`cost_by`),
        ``duration_ms``, ``cost_cents_per_1000_tokens``; the greatest first.

    Raises
    ------
    ConfigError
        A column is missing or of another type, or `limit` or `by` is not valid.

    Examples
    --------
    >>> import polars as pl
    >>> steps = pl.DataFrame({"run_id": ["r1", "r2", "r2"], "cost_cents": [1.5, 0.5, 4.0], "tokens": [9, 3, 24],
    ...     "duration_ms": [5.0, 1.0, 1.0]})
    >>> top_runs(steps, 1).select("run_id", "cost_cents", "steps").rows()
    [('r2', 4.5, 2)]
    """
    if by not in _SUMMED:
        raise ConfigError(f"by is {one_line(repr(by), 60)}; expected one of {', '.join(_SUMMED)}")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise ConfigError(f"limit is {one_line(repr(limit), 60)}; expected an integer >= 0")
    steps = read(frame, {"run_id": Kind.KEY}, optional=("tenant_id", "agent_id"))
    keys = steps.has("tenant_id", "run_id", "agent_id")
    result = _cost_by(steps.native, keys).drop("runs", "cost_cents_per_run")
    if by != "cost_cents":
        result = sort(result, by, *keys, descending=[True, *(False for _ in keys)])
    return to_native(result.filter(~nw.col("run_id").is_null()).head(limit))


@overload
def cost_over_time(frame: IntoFrameT, every: str = ..., by: str | None = ...) -> IntoFrameT: ...
@overload
def cost_over_time(frame: ArrowSteps, every: str = ..., by: str | None = ...) -> pa.Table: ...
def cost_over_time(frame: Any, every: str = "1d", by: str | None = None) -> Any:
    """What was spent in each period of time, with a row of zeros for each period in which nothing was.

    Parameters
    ----------
    frame : frame of steps
        Has ``timestamp`` (with a time zone), ``cost_cents`` (US cents), ``tokens``, ``duration_ms`` (ms); `by`;
        optionally ``run_id`` and ``tenant_id``, to count runs.
    every : str
        The length of a period, such as ``"15min"``, ``"1h"``, ``"1d"``, ``"1w"``; periods are counted from 1970-01-01 in
        UTC, and whole weeks begin on Mondays.
    by : str, optional
        A column to split each period by; NULL is a group of its own.

    Returns
    -------
    frame
        Of the same kind. Columns: ``period_start`` (UTC); `by`; ``cost_cents``, ``tokens``, ``steps``, ``duration_ms``;
        ``runs`` if the frame has ``run_id``. A row for each period from the first step's to the last one's, and for each
        value of `by`; sorted by both. A step counts for the period in which it started.

    Raises
    ------
    ConfigError
        A column is missing or of another type, `every` is not a length, or there would be more than :data:`MAX_ROWS` rows.

    Notes
    -----
    For a lazy frame, the first and last time and the number of groups are computed at once, the rest when the result is.

    Examples
    --------
    >>> import polars as pl, datetime as dt
    >>> days = [dt.datetime(2026, 10, day, 9, tzinfo=dt.UTC) for day in (5, 5, 7)]
    >>> steps = pl.DataFrame({"timestamp": days, "cost_cents": [1.0, 2.0, 4.0], "tokens": [5, 5, 9], "duration_ms": [1.0, 1.0, 1.0]})
    >>> cost_over_time(steps)["cost_cents"].to_list()
    [3.0, 0.0, 4.0]
    """
    length_us = int(parse_length("every", every).total_seconds()) * 1_000_000
    if not length_us:
        raise ConfigError(f"every is {every!r}; expected a length above zero")
    if by is not None:
        require_keys("by", [by], ("period_start", *_SUMMED, "runs"))
    offset_us = _MONDAY_US if length_us % (7 * DAY_US) == 0 else 0
    needed = {"timestamp": Kind.TIME} | _NEEDED | ({} if by is None else {by: Kind.KEY})
    source = epoch_us(read(frame, needed, optional=RUN_KEYS), "timestamp", _PERIOD)
    data = source.data.with_columns(((nw.col(_PERIOD) - offset_us) // length_us).alias(_PERIOD))
    first, last = _bounds(source, data, by, every)
    keys = [_PERIOD] if by is None else [_PERIOD, by]
    sums = _sums(source, data, keys)
    amounts = [*_SUMMED, *(["runs"] if source.has("run_id") else [])]
    group_type = [] if by is None else [(by, source.key_type(by))]
    types = {"cost_cents": pa.float64(), "duration_ms": pa.float64()}
    schema = pa.schema(
        [
            ("period_start", ARROW_TYPES["timestamp"]),
            *group_type,
            *((name, types.get(name, pa.int64())) for name in amounts),
        ]
    )

    def fill(table: pa.Table) -> pa.Table:
        groups = group(table, keys[1:])
        order = _ascending(table, groups.first, by)
        rank = np.empty(len(groups), np.intp)
        rank[order] = np.arange(len(groups))
        place = (table[_PERIOD].to_numpy() - first) * len(groups) + rank[groups.of_row]
        rows = (last - first + 1) * len(groups)
        starts = np.repeat(np.arange(first, last + 1), len(groups)) * length_us + offset_us
        columns = {"period_start": pa.array(starts, pa.int64()).cast(ARROW_TYPES["timestamp"])}
        if by is not None:
            columns[by] = table[by].take(pa.array(np.tile(groups.first[order], last - first + 1)))
        for name in amounts:
            columns[name] = np.zeros(rows, schema.field(name).type.to_pandas_dtype())
            columns[name][place] = table[name].to_numpy()
        return pa.table(columns, schema=schema)

    whole = dict.fromkeys((_PERIOD, *amounts), Kind.WHOLE) | dict.fromkeys(types, Kind.NUMBER)
    summed = replace(source, data=sums, kinds=whole | ({} if by is None else {by: Kind.KEY}))
    return to_native(apply(summed, [*keys, *amounts], fill if last >= first else _no_rows(schema), schema, together=()))


def _bounds(frame: Frame, data: Any, by: str | None, every: str) -> tuple[int, int]:
    """The first and last period; without steps, the last is before the first."""
    asked = [nw.col(_PERIOD).min().alias("first"), nw.col(_PERIOD).max().alias("last")]
    asked.append(nw.lit(1).alias("groups") if by is None else nw.col(by).n_unique().alias("groups"))
    schema = pa.schema([(name, pa.int64()) for name in ("first", "last", "groups")])
    found = collect(frame, data.select(*asked), schema).to_pylist()
    if not found or found[0]["first"] is None:
        return 0, -1
    first, last, groups = found[0].values()
    periods = last - first + 1
    if periods * groups > MAX_ROWS:
        raise ConfigError(
            f"every is {every!r}: {periods:,} periods from the first step to the last for {plural(groups, 'group')} are "
            f"more than {MAX_ROWS:,} rows. Choose longer periods, or fewer steps"
        )
    return first, last


def _ascending(table: pa.Table, rows: Any, by: str | None) -> Any:
    """The order of some rows by a column, NULL last."""
    if by is None:
        return np.arange(len(rows))
    return pc.array_sort_indices(table[by].take(pa.array(rows)).combine_chunks()).to_numpy()


def _no_rows(schema: pa.Schema) -> Callable[[pa.Table], pa.Table]:
    return lambda _: schema.empty_table()
