"""Where the money went: costs by anything, over time, and by run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporttools.analysis.frames import RUN_KEYS, Frame, Kind, apply, collect, epoch_us, give, read, require_keys, sort
from exporttools.analysis.groups import group
from exporttools.errors import ConfigError
from exporttools.records.schema import ARROW_TYPES
from exporttools.text.inert import one_line
from exporttools.times import parse_length

MAX_ROWS = 5_000_000
"""How many rows of filled periods :func:`cost_over_time` makes at most."""

_SUMMED = ("cost_cents", "tokens", "steps", "duration_ms")
_ANSWERED = (*_SUMMED, "share", "cost_cents_per_1000_tokens", "runs", "cost_cents_per_run")
_NEEDED = {"cost_cents": Kind.NUMBER, "tokens": Kind.NUMBER, "duration_ms": Kind.NUMBER}
_PERIOD, _RUN, _KNOWN = "exporttools_period", "exporttools_run", "exporttools_known"
_DAY_US = 86_400_000_000
_MONDAY_US = 4 * _DAY_US  # 1970-01-05


def cost_by(frame: Any, *keys: str) -> Any:
    """What each kind of step cost, the dearest first.

    Parameters
    ----------
    frame : frame of steps
        Columns in: `keys`; ``cost_cents`` (US cents), ``tokens``, ``duration_ms`` (ms); ``run_id`` and ``tenant_id``
        where there are runs to count. NULL and NaN count as nothing.
    *keys : str
        Columns to group by, such as ``"agent_id", "step_type"``; NULL is a group of its own. Without any: one row for all.

    Returns
    -------
    frame
        Of the kind that came in (pyarrow for a SnapshotTable), lazy where that is. Columns: `keys`; ``cost_cents``;
        ``share`` of the whole cost, from 0 to 1 (NULL where nothing cost anything); ``tokens``; ``steps``;
        ``duration_ms``; ``cost_cents_per_1000_tokens`` (NULL where there are none); and, where the frame has
        ``run_id``, ``runs`` and ``cost_cents_per_run``. Sorted by cost, then by keys.

    Raises
    ------
    ConfigError
        A column is missing or of another kind.

    Notes
    -----
    Runs are told apart by ``run_id`` within ``tenant_id``; a step of no run counts for none.

    Examples
    --------
    >>> import polars as pl
    >>> steps = pl.DataFrame({"step_type": ["llm_call", "tool_call", "llm_call"], "run_id": ["r1", "r1", "r2"],
    ...     "cost_cents": [1.5, 0.0, 4.5], "tokens": [900, 0, 2100], "duration_ms": [800.0, 90.0, 1900.0]})
    >>> cost_by(steps, "step_type").select("step_type", "cost_cents", "share", "runs", "cost_cents_per_1000_tokens").rows()
    [('llm_call', 6.0, 1.0, 2, 2.0), ('tool_call', 0.0, 0.0, 1, None)]
    """
    return give(_cost_by(frame, keys))


def _cost_by(data: Any, keys: Sequence[str]) -> Any:
    keys = require_keys("keys", keys, _ANSWERED)
    frame = read(data, dict.fromkeys(keys, Kind.KEY) | _NEEDED, optional=RUN_KEYS)
    answer = _sums(frame, frame.data, keys)
    cents, all_cents = nw.col("cost_cents"), nw.col("cost_cents").sum()
    answer = answer.with_columns(
        share=nw.when(all_cents > 0).then(cents / all_cents),
        cost_cents_per_1000_tokens=nw.when(nw.col("tokens") > 0).then(cents * 1000 / nw.col("tokens")),
    )
    columns = [*keys, "cost_cents", "share", "tokens", "steps", "duration_ms", "cost_cents_per_1000_tokens"]
    if frame.has("run_id"):
        answer = answer.with_columns(cost_cents_per_run=nw.when(nw.col("runs") > 0).then(cents / nw.col("runs")))
        columns += ["runs", "cost_cents_per_run"]
    answer = answer.select(*columns)
    if keys:
        answer = sort(answer, "cost_cents", *keys, descending=[True, *(False for _ in keys)])
    return answer


def _sums(frame: Frame, data: Any, keys: Sequence[str]) -> Any:
    """Sums and counts by `keys`; runs within each tenant first, whose numbers then add up."""
    sums = [nw.col(name).sum() for name in ("cost_cents", "tokens", "duration_ms")]
    sums.append(nw.len().alias("steps"))
    if not frame.has("run_id"):
        return _typed(_grouped(data, keys, *sums))
    data = data.with_columns(nw.col("run_id").alias(_RUN))  # `run_id` itself may be a key
    within = [name for name in frame.has("tenant_id") if name not in keys]
    if frame.implementation.is_dask():
        # There Narwhals adds up the n_unique of partitions, and so counts a run twice that lies in two.
        answer = _grouped(data, [*keys, *within, _RUN], *sums)
        answer = answer.with_columns(runs=_one_if(~nw.col(_RUN).is_null()))
    else:
        counts = [nw.col(_RUN).n_unique().alias("runs"), nw.col(_RUN).count().alias(_KNOWN)]
        answer = _grouped(data, [*keys, *within], *sums, *counts)
        # Steps of no run make one value more.
        answer = answer.with_columns(runs=nw.col("runs").cast(nw.Int64) - _one_if(nw.col(_KNOWN) < nw.col("steps")))
        if not within:
            return _typed(answer)
    return _typed(_grouped(answer, keys, *(nw.col(name).sum() for name in (*_SUMMED, "runs"))))


def _one_if(condition: Any) -> Any:
    return nw.when(condition).then(nw.lit(1)).otherwise(nw.lit(0)).cast(nw.Int64)


def _grouped(data: Any, keys: Sequence[str], *sums: Any) -> Any:
    return data.group_by(*keys).agg(*sums) if keys else data.select(*sums)


def _typed(data: Any) -> Any:
    """Sums in the types that everybody's have: SQL engines widen integers, and give NULL for no rows."""
    names = data.collect_schema().names()
    whole = [nw.col(name).fill_null(0).cast(nw.Int64) for name in ("tokens", "steps", "runs") if name in names]
    return data.with_columns(
        *(nw.col(name).fill_null(0).cast(nw.Float64) for name in ("cost_cents", "duration_ms")), *whole
    )


def top_runs(
    frame: Any, limit: int = 10, *, by: Literal["cost_cents", "tokens", "steps", "duration_ms"] = "cost_cents"
) -> Any:
    """The runs that took most.

    Parameters
    ----------
    frame : frame of steps
        Columns in: ``run_id``, ``cost_cents`` (US cents), ``tokens``, ``duration_ms`` (ms); ``tenant_id`` and
        ``agent_id`` where it has them.
    limit : int
        How many runs at most.
    by : {"cost_cents", "tokens", "steps", "duration_ms"}
        What to rank by. ``duration_ms`` is the sum over steps, not the time from first to last.

    Returns
    -------
    frame
        Of the kind that came in. Columns: ``tenant_id``, ``run_id``, ``agent_id`` as far as they came in;
        ``cost_cents``, ``share`` of all runs' cost, ``tokens``, ``steps``, ``duration_ms``,
        ``cost_cents_per_1000_tokens``; the greatest first.

    Raises
    ------
    ConfigError
        A column is missing or of another kind, or there is nothing such to rank by.

    Examples
    --------
    >>> import polars as pl
    >>> steps = pl.DataFrame({"run_id": ["r1", "r2", "r2"], "cost_cents": [1.5, 0.5, 4.0], "tokens": [9, 3, 24],
    ...     "duration_ms": [5.0, 1.0, 1.0]})
    >>> top_runs(steps, 1).select("run_id", "cost_cents", "steps").rows()
    [('r2', 4.5, 2)]
    """
    if by not in _SUMMED:
        raise ConfigError(f"by is {one_line(repr(by), 60)}; accepted are {', '.join(_SUMMED)}")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise ConfigError(f"limit is {one_line(repr(limit), 60)}; expected a whole number from 0 on")
    known = read(frame, {"run_id": Kind.KEY}, optional=("tenant_id", "agent_id")).has("tenant_id", "run_id", "agent_id")
    answer = _cost_by(frame, known).drop("runs", "cost_cents_per_run")
    if by != "cost_cents":
        answer = sort(answer, by, *known, descending=[True, *(False for _ in known)])
    return give(answer.filter(~nw.col("run_id").is_null()).head(limit))


def cost_over_time(frame: Any, every: str = "1d", by: str | None = None) -> Any:
    """What was spent in each period of time, with zeros where nothing was.

    Parameters
    ----------
    frame : frame of steps
        Columns in: ``timestamp`` (with a time zone), ``cost_cents`` (US cents), ``tokens``, ``duration_ms`` (ms); `by`;
        ``run_id`` and ``tenant_id`` where there are runs to count.
    every : str
        The periods' length, such as ``"15min"``, ``"1h"``, ``"1d"``, ``"1w"``; in UTC from 1970-01-01 on. Whole weeks
        begin on Mondays.
    by : str, optional
        A column to split each period by; NULL is a group of its own.

    Returns
    -------
    frame
        Of the kind that came in. Columns: ``period_start`` (UTC); `by`; ``cost_cents``, ``tokens``, ``steps``,
        ``duration_ms``; ``runs`` where the frame has ``run_id``. A row for each period from the first step's to the last
        one's and for each value of `by`; sorted by both. A step counts for the period in which it started.

    Raises
    ------
    ConfigError
        A column is missing or of another kind, `every` is none, or there would be more than :data:`MAX_ROWS` rows.

    Notes
    -----
    Of a lazy frame the first and last time and the number of groups are asked for at once, the rest when it is collected.

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
        raise ConfigError(f"every is {every!r}; expected more than nothing")
    if by is not None:
        require_keys("by", [by], (*_ANSWERED, "period_start"))
    offset_us = _MONDAY_US if length_us % (7 * _DAY_US) == 0 else 0
    needed = {"timestamp": Kind.TIME} | _NEEDED | ({} if by is None else {by: Kind.KEY})
    frame_ = epoch_us(read(frame, needed, optional=RUN_KEYS), "timestamp", _PERIOD)
    data = frame_.data.with_columns(((nw.col(_PERIOD) - offset_us) // length_us).alias(_PERIOD))
    first, last = _bounds(frame_, data, by, every)
    keys = [_PERIOD] if by is None else [_PERIOD, by]
    sums = _sums(frame_, data, keys)
    amounts = [*_SUMMED, *(["runs"] if frame_.has("run_id") else [])]
    group_type = [] if by is None else [(by, frame_.key_type(by))]
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
    summed = replace(frame_, data=sums, kinds=whole | ({} if by is None else {by: Kind.KEY}))
    return give(apply(summed, [*keys, *amounts], fill if last >= first else _none(schema), schema, together=()))


def _bounds(frame: Frame, data: Any, by: str | None, every: str) -> tuple[int, int]:
    """The first and last period; the last before the first where there is none."""
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
            f"every is {every!r}: {periods:,} periods from first to last step, for {groups:,} "
            f"{'group' if groups == 1 else 'groups'}; at most {MAX_ROWS:,} rows are made. Choose a longer one, or fewer steps"
        )
    return first, last


def _ascending(table: pa.Table, rows: Any, by: str | None) -> Any:
    """The order of some rows by a column, NULL last."""
    if by is None:
        return np.arange(len(rows))
    return pc.array_sort_indices(table[by].take(pa.array(rows)).combine_chunks()).to_numpy()


def _none(schema: pa.Schema) -> Callable[[pa.Table], pa.Table]:
    return lambda _: schema.empty_table()
