"""What engines do in their own ways, where Narwhals has no expression for it or theirs is wrong: sorting, joining, times, quantiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import narwhals as nw

from exporttools.analysis.frames import (
    Frame,
    relation,
)
from exporttools.text.inert import sql_identifier


def sort(result: Any, *by: str, descending: Sequence[bool] | bool = False) -> Any:
    """A result's rows in order, NULL last. Results are small: Dask sorts them as one partition.

    Its own sort would compute all that comes before it at once, to find out where to cut.
    """
    flags = [descending] * len(by) if isinstance(descending, bool) else list(descending)
    if not result.implementation.is_dask():
        return result.sort(*by, descending=flags, nulls_last=True)

    def sorted_rows(rows: Any) -> Any:
        return rows.sort_values(list(by), ascending=[not flag for flag in flags], ignore_index=True)

    return nw.from_native(result.to_native().repartition(npartitions=1).map_partitions(sorted_rows))


def concat(rows: Any, others: Any) -> Any:
    """The rows of two Narwhals frames of one kind and the same columns; DuckDB's are of the connection of the second."""
    if not rows.implementation.is_duckdb():
        return nw.concat([rows, others])
    import duckdb

    try:
        return nw.concat([rows, others])
    except duckdb.InvalidInputException:  # of two connections
        moved = nw.from_native(relation(others.to_native(), rows.to_native().to_arrow_table()))
        return nw.concat([moved, others])


def quantiles(frame: Frame, by: Sequence[str], wanted: Mapping[str, Mapping[str, float]]) -> Any | None:
    """The number of rows of each group, and quantiles of columns of numbers, where a library knows exact ones.

    Parameters
    ----------
    frame : Frame
    by : sequence of str
        The columns to group by; if empty, all rows are one group.
    wanted : mapping
        For each column, what its quantiles are called and their shares, from 0 to 1.

    Returns
    -------
    narwhals.DataFrame, narwhals.LazyFrame or None
        `by`, ``count`` and the quantiles, interpolated linearly. None if the library has no exact quantiles of groups, or
        is slower at them than :mod:`exporttools.analysis.groups`.
    """
    names = ["count", *(name for of_column in wanted.values() for name in of_column)]
    if frame.implementation.is_polars():
        asked = [
            nw.col(column).cast(nw.Float64).quantile(share, interpolation="linear").alias(name)
            for column, of_column in wanted.items()
            for name, share in of_column.items()
        ]
        asked.insert(0, nw.len().cast(nw.Int64).alias("count"))
        return frame.data.group_by(*by).agg(*asked) if by else frame.data.select(*asked)
    if not frame.implementation.is_duckdb():
        return None
    # All quantiles of a column at once: one by one they take three times as long, and as many times the memory.
    keys = [sql_identifier(name) for name in by]
    lists, picked = [], [*keys, "exporttools_count AS count"]
    for number, (column, of_column) in enumerate(wanted.items()):
        shares = ", ".join(f"{share!r}::DOUBLE" for share in of_column.values())
        lists.append(f"quantile_cont({sql_identifier(column)}::DOUBLE, [{shares}]) AS exporttools_{number}")
        picked += [f"exporttools_{number}[{i}] AS {sql_identifier(name)}" for i, name in enumerate(of_column, start=1)]
    summed = frame.data.to_native().aggregate(
        ", ".join([*keys, "count(*) AS exporttools_count", *lists]), ", ".join(keys)
    )
    return nw.from_native(summed.project(", ".join(picked))).select(*by, *names)


def epoch_us(frame: Frame, column: str, name: str) -> Frame:
    """The frame with one more column: a time as microseconds since 1970, whatever its or the session's time zone."""
    data, native = frame.data, frame.native
    if frame.implementation.is_duckdb():
        data = nw.from_native(data.to_native().project(f'*, epoch_us({sql_identifier(column)}) AS "{name}"'))
    elif frame.implementation.is_spark_like():
        from pyspark.sql import functions

        data = nw.from_native(data.to_native().withColumn(name, functions.unix_micros(functions.col(ticked(column)))))
    else:
        if frame.implementation.is_pandas_like() or frame.implementation.is_dask():
            # In pandas, Narwhals takes no time in a zone whose name has an underscore for a time.
            rows = data.to_native()
            data = nw.from_native(rows.assign(**{name: rows[column].dt.tz_convert("UTC")}))
            column = name
        time = nw.col(column)
        if (
            frame.implementation.is_pyarrow() and data.collect_schema()[column] == nw.Unknown
        ):  # all NULL, without a type
            time = time.cast(nw.Datetime("us", "UTC"))
        data = data.with_columns(time.dt.timestamp("us").alias(name))
    return Frame(native, data, frame.what, (*frame.names, name), frame.kinds, frame.total)


def ticked(name: str) -> str:
    """A name as Spark quotes it."""
    return "`" + name.replace("`", "``") + "`"


def only(frame: Frame, groups: Any, keys: Sequence[str]) -> Frame:
    """The frame with those of its rows whose keys are in the few rows of `groups`, and with all rows that have a NULL key.

    NULL equals NULL where rows are grouped, but not in a join.
    """
    if frame.implementation.is_duckdb():  # its planner cannot know that they are few, and would hash the whole frame
        groups = nw.from_native(relation(groups.to_native(), groups.to_native().to_arrow_table()))
    unknown = nw.any_horizontal(*(nw.col(key).is_null() for key in keys), ignore_nulls=True)
    found = frame.data.filter(~unknown).join(groups, on=list(keys), how="semi")
    return replace(frame, data=nw.concat([found, frame.data.filter(unknown)]))
