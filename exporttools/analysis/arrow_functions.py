"""Functions of Arrow tables, taken to where the rows of a frame are.

What some kinds of frames have no expression for (order statistics, sequences of steps) runs in place for a frame in memory, on
the partitions of Dask and PySpark, and batch by batch from DuckDB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import narwhals as nw
import pyarrow as pa

from exporttools.analysis.engines import ticked
from exporttools.analysis.frames import ArrowFunction, Frame, arrow_schema, fitted, from_arrow, in_memory, relation
from exporttools.records.snapshot_table import pandas_frame

_BATCH_ROWS = 131_072


def apply(
    frame: Frame,
    columns: Sequence[str],
    function: ArrowFunction,
    schema: pa.Schema,
    *,
    together: Sequence[str] | None = None,
) -> Any:
    """Run a function of Arrow tables on a frame of any kind.

    Parameters
    ----------
    frame : Frame
    columns : sequence of str
        The columns that `function` reads, in the types of :func:`arrow_schema`.
    function : callable
        Takes a table and returns one of `schema`. It is sent to the workers of Dask and PySpark.
    schema : pyarrow.Schema
        The schema of the result.
    together : sequence of str, optional
        Rows that are equal in these columns reach `function` in one table; if empty, all rows do. None if each row
        stands for itself, so that tables may hold any rows.

    Returns
    -------
    narwhals.DataFrame or narwhals.LazyFrame
        Of the kind of `frame`, and lazy if that is. Only DuckDB's rows are read at once; the result is a relation again.
    """
    work = _checked(frame, columns, function, schema)
    selected = frame.data.select(*columns)
    native, kind = selected.to_native(), frame.implementation
    if kind.is_spark_like():
        return nw.from_native(_apply_spark(native, work, schema, together))
    if kind.is_dask():
        return nw.from_native(_apply_dask(native, work, schema, together))
    if kind.is_duckdb():
        return nw.from_native(_apply_duckdb(native, work, schema, together))
    if kind.is_polars() and isinstance(selected, nw.LazyFrame):
        import polars as pl

        def batch(rows: pl.DataFrame) -> pl.DataFrame:
            result = pl.from_arrow(work(rows.to_arrow()))
            assert isinstance(result, pl.DataFrame)
            return result

        empty = pl.from_arrow(schema.empty_table())
        assert isinstance(empty, pl.DataFrame)
        return nw.from_native(native.map_batches(batch, schema=empty.schema, streamable=together is None))
    return from_arrow(frame, work(in_memory(frame, selected)))


def with_columns(
    frame: Frame,
    columns: Sequence[str],
    function: ArrowFunction,
    schema: pa.Schema,
    *,
    together: Sequence[str] | None = None,
) -> Any:
    """The frame with columns that a function of Arrow tables makes, row by row.

    Parameters
    ----------
    frame, columns, function, together
        As for :func:`apply`; `function` returns as many rows as it takes, in their order.
    schema : pyarrow.Schema
        The new columns. One that the frame has is replaced in its place; the others come last. The rest stays as it is.

    Returns
    -------
    narwhals.DataFrame or narwhals.LazyFrame
        Of the kind of `frame`, and lazy if that is; DuckDB's rows are read at once.
    """
    work = _checked(frame, columns, function, schema)

    def widened(table: pa.Table) -> pa.Table:
        made = work(table)
        for name in schema.names:
            place = table.column_names.index(name) if name in table.column_names else None
            table = (
                table.append_column(schema.field(name), made[name])
                if place is None
                else table.set_column(place, schema.field(name), made[name])
            )
        return table

    data, kind = frame.data, frame.implementation
    native = data.to_native()
    if kind.is_spark_like():
        from pyspark.sql.pandas.types import from_arrow_schema
        from pyspark.sql.types import StructType

        made = {field.name: field for field in from_arrow_schema(schema)}
        kept = [made.pop(field.name, field) for field in native.schema]
        result = StructType([*kept, *made.values()])

        return nw.from_native(_map_spark(native, widened, result, together))
    if kind.is_dask():

        def assigned(rows: Any) -> Any:
            made = pandas_frame(work(pa.Table.from_pandas(rows[list(columns)], preserve_index=False)))
            return rows.assign(**{name: made[name].array for name in schema.names})

        meta = assigned(native._meta)  # noqa: SLF001 - as Dask's docs do
        return nw.from_native(_dask_together(native, together).map_partitions(assigned, meta=meta))
    if kind.is_duckdb():
        wide = widened(native.limit(0).to_arrow_table()).schema
        return nw.from_native(_apply_duckdb(native, widened, wide, together))
    if isinstance(data, nw.LazyFrame):
        import polars as pl

        def batch(rows: pl.DataFrame) -> pl.DataFrame:
            made = pl.from_arrow(work(rows.select(columns).to_arrow()))
            assert isinstance(made, pl.DataFrame)
            return rows.with_columns(made.get_columns())

        shape = batch(native.collect_schema().to_frame()).schema
        return nw.from_native(native.map_batches(batch, schema=shape, streamable=together is None))
    made = from_arrow(frame, work(in_memory(frame, data.select(*columns))))
    return data.with_columns(*(made[name] for name in schema.names))


def _checked(frame: Frame, columns: Sequence[str], function: ArrowFunction, schema: pa.Schema) -> ArrowFunction:
    """The function with what it takes and gives held to the types that are said. It can be sent to workers: it holds no frame."""
    wanted, what = arrow_schema(frame, columns), frame.what

    def work(table: pa.Table) -> pa.Table:
        return fitted(function(fitted(table, wanted, what)), schema, what)

    return work


def _apply_spark(native: Any, work: ArrowFunction, schema: pa.Schema, together: Sequence[str] | None) -> Any:
    from pyspark.sql.pandas.types import from_arrow_schema

    return _map_spark(native, work, from_arrow_schema(schema), together)


def _map_spark(native: Any, work: ArrowFunction, schema: Any, together: Sequence[str] | None) -> Any:
    def partition(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        held = list(batches) if together is not None else None
        for table in ([held] if held else ()) if held is not None else ([batch] for batch in batches):
            yield from work(pa.Table.from_batches(table)).to_batches()

    if together is not None:
        native = native.repartition(*(ticked(name) for name in together)) if together else native.repartition(1)
    return native.mapInArrow(partition, schema)


def _apply_dask(native: Any, work: ArrowFunction, schema: pa.Schema, together: Sequence[str] | None) -> Any:
    def partition(rows: Any) -> Any:
        return pandas_frame(work(pa.Table.from_pandas(rows, preserve_index=False)))

    return _dask_together(native, together).map_partitions(partition, meta=pandas_frame(schema.empty_table()))


def _dask_together(native: Any, together: Sequence[str] | None) -> Any:
    if together is None:
        return native
    return native.shuffle(on=list(together), shuffle_method="tasks") if together else native.repartition(npartitions=1)


def _apply_duckdb(native: Any, work: ArrowFunction, schema: pa.Schema, together: Sequence[str] | None) -> Any:
    if together is not None:
        return relation(native, work(native.to_arrow_table()))
    reader = native.to_arrow_reader(_BATCH_ROWS)
    parts = [work(pa.Table.from_batches([batch])) for batch in reader]
    return relation(native, pa.concat_tables([schema.empty_table(), *parts]))
