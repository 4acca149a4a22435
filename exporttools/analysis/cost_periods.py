"""What was spent in each period of time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporttools.analysis.arrow_functions import apply
from exporttools.analysis.columns import Kind, require_keys
from exporttools.analysis.costs import NEEDED, SUMMED, summed_by
from exporttools.analysis.engines import epoch_us
from exporttools.analysis.frames import RUN_KEYS, Frame, collect, to_native
from exporttools.analysis.groups import group
from exporttools.analysis.trees import RollUpsOption, read_own_amounts
from exporttools.errors import ConfigError
from exporttools.records.schema import ARROW_TYPES
from exporttools.text.words import plural
from exporttools.times import DAY_US, parse_length

if TYPE_CHECKING:
    from narwhals.typing import IntoFrameT

    from exporttools.analysis.frames import ArrowSteps
    from exporttools.analysis.groups import Integers

MAX_ROWS = 5_000_000
"""The most rows that :func:`cost_over_time` returns, empty periods included."""

_PERIOD = "exporttools_period"
_MONDAY_US = 4 * DAY_US  # 1970-01-05


@overload
def cost_over_time(
    frame: IntoFrameT, every: str = ..., by: str | Sequence[str] | None = ..., *, roll_ups: RollUpsOption = ...
) -> IntoFrameT: ...
@overload
def cost_over_time(
    frame: ArrowSteps, every: str = ..., by: str | Sequence[str] | None = ..., *, roll_ups: RollUpsOption = ...
) -> pa.Table: ...
def cost_over_time(
    frame: Any, every: str = "1d", by: str | Sequence[str] | None = None, *, roll_ups: RollUpsOption = "skip"
) -> Any:
    """What was spent in each period of time, with a row of zeros for each period in which nothing was.

    Parameters
    ----------
    frame : frame of steps
        Has ``timestamp`` (with a time zone), ``cost_cents`` (US cents), ``tokens``, ``duration_ms`` (ms); `by`;
        optionally ``run_id`` and ``tenant_id``, to count runs. NULL and NaN count as 0.
    every : str
        The length of a period, such as ``"15min"``, ``"1h"``, ``"1d"``, ``"1w"``; periods are counted from 1970-01-01 in
        UTC, and whole weeks begin on Mondays.
    by : str or sequence of str, optional
        Columns to split each period by; NULL is a group of its own.
    roll_ups : {"skip", "count"}
        As for :func:`cost_by`.

    Returns
    -------
    frame
        Of the same kind. Columns: ``period_start`` (UTC); `by`; ``cost_cents``, ``tokens``, ``steps``, ``duration_ms``;
        ``runs`` if the frame has ``run_id``. A row for each period from the first step's to the last one's, and for each
        group of `by` that there is; sorted by period, then by `by`. A step counts for the period in which it started. If
        steps have NULL as their time, a last period holds them, whose ``period_start`` is NULL: the rows always add up
        to what :func:`cost_by` says.

    Raises
    ------
    ConfigError
        A column is missing or of another type, `every` is not a length, or there would be more than :data:`MAX_ROWS` rows.

    Notes
    -----
    For a lazy frame, the groups with their first and last time are computed at once, the rest when the result is.

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
    given = [] if by is None else [by] if isinstance(by, str) or not isinstance(by, Iterable) else by
    by = require_keys("by", given, ("period_start", *SUMMED, "runs"))
    offset_us = _MONDAY_US if length_us % (7 * DAY_US) == 0 else 0
    needed = {"timestamp": Kind.TIME} | NEEDED | dict.fromkeys(by, Kind.KEY)
    source = epoch_us(read_own_amounts(frame, needed, optional=RUN_KEYS, roll_ups=roll_ups), "timestamp", _PERIOD)
    data = source.data.with_columns(((nw.col(_PERIOD) - offset_us) // length_us).alias(_PERIOD))
    periods = _periods(source, data, by, every)
    amounts = [*SUMMED, *(["runs"] if source.has("run_id") else [])]
    types = {"cost_cents": pa.float64(), "duration_ms": pa.float64()}
    schema = pa.schema(
        [
            ("period_start", ARROW_TYPES["timestamp"]),
            *((name, source.key_type(name)) for name in by),
            *((name, types.get(name, pa.int64())) for name in amounts),
        ]
    )

    def fill(table: pa.Table) -> pa.Table:
        groups = group(table, by)
        order = _ascending(table, groups.first, by)
        rank = np.empty(len(groups), np.intp)
        rank[order] = np.arange(len(groups))
        row = periods.number(table[_PERIOD]) * len(groups) + rank[groups.of_row]
        starts = periods.starts(length_us, offset_us).take(pa.array(np.repeat(np.arange(len(periods)), len(groups))))
        columns = {"period_start": starts}
        for name in by:
            columns[name] = table[name].take(pa.array(np.tile(groups.first[order], len(periods))))
        for name in amounts:
            columns[name] = np.zeros(len(starts), schema.field(name).type.to_pandas_dtype())
            columns[name][row] = table[name].to_numpy()
        return pa.table(columns, schema=schema)

    keys = [_PERIOD, *by]
    whole = dict.fromkeys((_PERIOD, *amounts), Kind.WHOLE) | dict.fromkeys(types, Kind.NUMBER)
    summed = replace(source, data=summed_by(source, data, keys), kinds=whole | dict.fromkeys(by, Kind.KEY))
    return to_native(apply(summed, [*keys, *amounts], fill if len(periods) else _no_rows(schema), schema, together=()))


@dataclass(frozen=True, slots=True)
class _Periods:
    """The periods from the first to the last, numbered from 1970 on; and one more for steps without a time, if there are any."""

    first: int
    count: int
    without_time: bool

    def __len__(self) -> int:
        return self.count + self.without_time

    def number(self, period: pa.ChunkedArray) -> Integers:
        """Which of these periods they are; NULL is the last."""
        return np.asarray(pc.fill_null(pc.subtract(period, self.first), self.count).to_numpy(), np.int64)

    def starts(self, length_us: int, offset_us: int) -> pa.Array:
        numbers = np.arange(self.first, self.first + len(self))
        return pa.array(numbers * length_us + offset_us, mask=np.arange(len(self)) == self.count).cast(
            ARROW_TYPES["timestamp"]
        )


def _periods(frame: Frame, data: Any, by: Sequence[str], every: str) -> _Periods:
    period = nw.col(_PERIOD)
    asked = [
        period.min().alias("first"),
        period.max().alias("last"),
        period.count().alias("timed"),
        nw.len().alias("steps"),
    ]
    schema = pa.schema([(name, pa.int64()) for name in ("first", "last", "timed", "steps")])
    groups = collect(frame, data.group_by(*by).agg(*asked) if by else data.select(*asked), schema)
    without_time = bool(pc.any(pc.less(groups["timed"], groups["steps"])).as_py())
    first, last = pc.min(groups["first"]).as_py(), pc.max(groups["last"]).as_py()
    if first is None:
        return _Periods(0, 0, without_time)
    periods = _Periods(first, last - first + 1, without_time)
    if len(periods) * len(groups) > MAX_ROWS:
        raise ConfigError(
            f"every is {every!r}: {periods.count:,} periods from the first step to the last for "
            f"{plural(len(groups), 'group')} are more than {MAX_ROWS:,} rows. Choose longer periods, or fewer steps"
        )
    return periods


def _ascending(table: pa.Table, rows: Any, by: Sequence[str]) -> Any:
    """The order of some rows by columns, NULL last."""
    if not by:
        return np.arange(len(rows))
    keys = table.select(list(by)).take(pa.array(rows))
    return pc.sort_indices(keys, [(name, "ascending") for name in by]).to_numpy()


def _no_rows(schema: pa.Schema) -> Callable[[pa.Table], pa.Table]:
    return lambda _: schema.empty_table()
