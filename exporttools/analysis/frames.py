"""Frames of any kind: what a function needs of one, checked; and answers handed back as the kind that came in.

The only room that tells kinds of frames apart. Sums, joins and filters are Narwhals expressions, which every kind
evaluates itself, lazily where it is lazy. What has no expression on some of them (order statistics, sequences of
steps) is a function of Arrow tables; :func:`apply` takes it to where the rows are: in place for a frame in memory, to
the partitions of Dask and PySpark, batch by batch from DuckDB.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import narwhals as nw
import pyarrow as pa
import pyarrow.compute as pc
from narwhals.exceptions import NarwhalsError

from exporttools.errors import ConfigError
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.schema import ARROW_TYPES
from exporttools.records.snapshot_table import SnapshotTable, pandas_frame
from exporttools.text.inert import one_line

RUN_KEYS = ("tenant_id", "run_id")
"""What tells runs apart: a run's id identifies it within its tenant."""

TRACE_KEYS = ("tenant_id", "run_id", "trace_id")
"""What tells traces apart, of those that a frame has."""

_BATCH_ROWS = 131_072

ArrowFunction = Callable[[pa.Table], pa.Table]


class Kind(Enum):
    """What a column is needed for, and so what it may be."""

    KEY = "values to group by"
    NUMBER = "numbers"
    WHOLE = "whole numbers"
    TIME = "times with a time zone"
    TEXT = "text"


_KINDS = {"step_index": Kind.WHOLE, "timestamp": Kind.TIME}


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that has the columns which a function needs.

    Attributes
    ----------
    native : Any
        The frame as Narwhals takes it; a SnapshotTable's Arrow table.
    data : narwhals.DataFrame or narwhals.LazyFrame
        The same; NaN in needed columns of numbers is NULL there.
    what : str
        What messages call it.
    names : tuple of str
        All its columns.
    kinds : mapping
        By needed column.
    """

    native: Any
    data: Any
    what: str
    names: tuple[str, ...]
    kinds: Mapping[str, Kind]

    @property
    def implementation(self) -> nw.Implementation:
        """The library whose frame it is."""
        implementation: nw.Implementation = self.data.implementation
        return implementation

    @property
    def described(self) -> str:
        """What kind of frame it is, for messages."""
        return f"{type(self.native).__module__.split('.')[0]}.{type(self.native).__name__}"

    def has(self, *columns: str) -> tuple[str, ...]:
        """Those of the columns that it has, in the order given."""
        return tuple(column for column in columns if column in self.names)

    def key_type(self, column: str) -> pa.DataType:
        """The Arrow type in which a column to group by reaches Arrow functions."""
        dtype = self.data.collect_schema()[column]
        if dtype.is_integer():
            return pa.int64()
        if dtype == nw.Boolean:
            return pa.bool_()
        if dtype == nw.Date:
            return pa.date32()
        return ARROW_TYPES["timestamp"] if isinstance(dtype, nw.Datetime) else pa.string()


def read(data: Any, needed: Mapping[str, Kind], *, what: str = "steps", optional: Sequence[str] = ()) -> Frame:
    """Take a frame of any kind, with the columns needed.

    Parameters
    ----------
    data : frame, SnapshotTable or ExportBundle
        Of a bundle, its steps.
    needed : mapping
        By column, what it is needed for.
    what : str
        What messages call the frame.
    optional : sequence of str
        Columns that tell rows apart (:data:`TRACE_KEYS` and what a step has), needed where the frame has them.

    Raises
    ------
    ConfigError
        It is no frame, or a column is missing or of another kind; the message names those there are.

    Warns
    -----
    UserWarning
        A limit cut the rows off, so that the answer is about a part.
    """
    if isinstance(data, ExportBundle):
        data = data.steps
    attributes = getattr(data, "attrs", None)
    cut = attributes.get("total") if isinstance(attributes, dict) and attributes.get("truncated") else None
    if isinstance(data, SnapshotTable):
        cut, data = data.total, data.to_arrow()
    try:
        frame: Any = nw.from_native(data)
    except TypeError:
        if not hasattr(data, "__arrow_c_stream__"):
            raise ConfigError(
                f"cannot read {what} from {type(data).__name__}; accepted are a SnapshotTable and a frame that Narwhals "
                f"knows (pandas, Polars, pyarrow, DuckDB, Dask, PySpark, ...)"
            ) from None
        data = pa.table(data)
        frame = nw.from_native(data)
    except NarwhalsError as error:  # two columns of one name, say
        raise ConfigError(f"{what}: the frame cannot be read: {one_line(error, 300)}") from error
    if cut is not None:
        warnings.warn(
            f"a limit cut these {what} to {len(data):,} of {cut:,}; the answer is about those alone", stacklevel=3
        )
    if isinstance(data, pa.Table):
        frame = nw.from_native(_plain(data))
    schema = frame.collect_schema()
    names = tuple(schema.names())
    kinds = {name: _KINDS.get(name, Kind.KEY) for name in optional if name in names} | dict(needed)
    if absent := [column for column in kinds if column not in names]:
        raise ConfigError(f"{what}: no column {_listed(absent)}; found {_listed(names) or 'no columns'}")
    changes = [
        change for column, kind in kinds.items() if (change := _fitting(what, column, schema[column], kind)) is not None
    ]
    if changes:
        frame = frame.with_columns(*changes)
    return Frame(data, frame, what, names, kinds)


def require_keys(what: str, keys: Sequence[Any], answered: Sequence[str]) -> list[str]:
    """Columns to group by, each once.

    Raises
    ------
    ConfigError
        One is no column's name, or that of a column which the answer has besides.
    """
    for key in keys:
        if not isinstance(key, str):
            raise ConfigError(f"{what} has {one_line(repr(key), 60)}; expected names of columns")
        if key in answered:
            raise ConfigError(f"{what} has {key!r}, which the answer has besides; rename that column to group by it")
    return list(dict.fromkeys(keys))


def _plain(table: pa.Table) -> pa.Table:
    """A table of nullable fields without metadata, and text of one type: what only differs in those is to go together."""
    columns = [
        column.cast(pa.string())
        if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type)
        else column
        for column in table.columns
    ]
    return pa.Table.from_arrays(columns, names=table.column_names)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(one_line(name, 60) for name in names)


def _fitting(what: str, column: str, dtype: Any, kind: Kind) -> Any:
    """The expression that makes a column what it is needed as; None where it is already."""
    value = nw.col(column)
    if dtype == nw.Unknown or (dtype == nw.Object and kind in (Kind.KEY, Kind.TEXT)):
        return None  # an all-NULL column of pyarrow or Polars has no type, text in pandas may have none
    fits, change = False, None
    if kind in (Kind.NUMBER, Kind.WHOLE):
        fits = dtype.is_numeric()
        if dtype.is_float():
            change = value.fill_nan(None)
        elif dtype.is_decimal():
            change = value.cast(nw.Float64)
    elif kind is Kind.TIME:
        fits = isinstance(dtype, nw.Datetime) and dtype.time_zone is not None
    elif isinstance(dtype, (nw.Categorical, nw.Enum)):
        fits, change = True, value.cast(nw.String)
    elif kind is Kind.TEXT:
        fits = dtype == nw.String
    else:
        fits = not (dtype.is_nested() or dtype.is_float() or dtype == nw.Binary)
    if not fits:
        raise ConfigError(f"{what}: column {one_line(column, 60)!r} is {dtype}; expected {kind.value}")
    return change


def give(answer: Any) -> Any:
    """A Narwhals answer as the kind of frame that came in; pandas rows are numbered anew."""
    if isinstance(answer, nw.LazyFrame):
        return answer.to_native()
    return nw.maybe_reset_index(answer).to_native()


def sort(answer: Any, *by: str, descending: Sequence[bool] | bool = False) -> Any:
    """An answer's rows in order, NULL last. Answers are small: Dask sorts them as one partition.

    Its own sort would compute all that comes before it here and now, to find out where to cut.
    """
    flags = [descending] * len(by) if isinstance(descending, bool) else list(descending)
    if not answer.implementation.is_dask():
        return answer.sort(*by, descending=flags, nulls_last=True)

    def sorted_rows(rows: Any) -> Any:
        return rows.sort_values(list(by), ascending=[not flag for flag in flags], ignore_index=True)

    return nw.from_native(answer.to_native().repartition(npartitions=1).map_partitions(sorted_rows))


def epoch_us(frame: Frame, column: str, name: str) -> Frame:
    """The frame with one more column: a time as whole microseconds since 1970, whatever time zone a session has."""
    data, native = frame.data, frame.native
    if frame.implementation.is_duckdb():
        quoted = '"' + column.replace('"', '""') + '"'
        data = nw.from_native(data.to_native().project(f'*, epoch_us({quoted}) AS "{name}"'))
    elif frame.implementation.is_spark_like():
        from pyspark.sql import functions

        data = nw.from_native(data.to_native().withColumn(name, functions.unix_micros(functions.col(_ticked(column)))))
    else:
        data = data.with_columns(nw.col(column).dt.timestamp("us").alias(name))
    return Frame(native, data, frame.what, (*frame.names, name), frame.kinds)


def _ticked(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def collect(frame: Frame, answer: Any, schema: pa.Schema) -> pa.Table:
    """A Narwhals answer in memory, as Arrow of the given columns and types."""
    selected = answer.select(*schema.names)
    if isinstance(selected, nw.LazyFrame):
        selected = selected.collect("pyarrow")
    return fitted(selected.to_arrow(), schema, frame.what)


def arrow_schema(frame: Frame, columns: Sequence[str]) -> pa.Schema:
    """The types in which the given needed columns reach Arrow functions."""
    types = {
        Kind.NUMBER: pa.float64(),
        Kind.WHOLE: pa.int64(),
        Kind.TIME: ARROW_TYPES["timestamp"],
        Kind.TEXT: pa.string(),
    }
    kinds = frame.kinds
    return pa.schema([(name, types.get(kinds[name]) or frame.key_type(name)) for name in columns])


def fitted(table: pa.Table, schema: pa.Schema, what: str) -> pa.Table:
    """A table's columns, in the order and of the types of a schema.

    Raises
    ------
    ConfigError
        A value cannot be of its column's type.
    """
    columns = []
    for field in schema:
        values = table[field.name]
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), None, values)
        try:
            # Nanoseconds lose their last digits, and whole numbers beyond 2**53, which nothing here tells apart.
            rounded = pa.types.is_timestamp(field.type) or pa.types.is_floating(field.type)
            columns.append(values.cast(field.type, safe=not rounded))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ConfigError(
                f"{what}: column {one_line(field.name, 60)!r} is {values.type}; expected {field.type}: {one_line(error)}"
            ) from None
    return pa.Table.from_arrays(columns, schema=schema)


def apply(
    frame: Frame,
    columns: Sequence[str],
    function: ArrowFunction,
    schema: pa.Schema,
    *,
    together: Sequence[str] | None = None,
) -> Any:
    """A function of Arrow tables, taken to a frame of any kind.

    Parameters
    ----------
    frame : Frame
    columns : sequence of str
        Those that `function` reads; they reach it in the types of :func:`arrow_schema`.
    function : callable
        Takes a table and gives one of `schema`. It is sent to the workers of Dask and PySpark.
    schema : pyarrow.Schema
        Of what comes back.
    together : sequence of str, optional
        Rows that are equal in these columns reach `function` in one table; all rows do where it is empty. None: each
        row stands for itself, and tables may hold any.

    Returns
    -------
    narwhals.DataFrame or narwhals.LazyFrame
        Of the kind of `frame`; lazy where that is, but for DuckDB: its rows are read here and now, and only the answer
        is a relation.
    """
    wanted, what = arrow_schema(frame, columns), frame.what

    def work(table: pa.Table) -> pa.Table:
        return fitted(function(fitted(table, wanted, what)), schema, what)

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
            answer = pl.from_arrow(work(rows.to_arrow()))
            assert isinstance(answer, pl.DataFrame)
            return answer

        empty = pl.from_arrow(schema.empty_table())
        assert isinstance(empty, pl.DataFrame)
        return nw.from_native(native.map_batches(batch, schema=empty.schema, streamable=together is None))
    if isinstance(selected, nw.LazyFrame):
        selected = selected.collect("pyarrow")
    return from_arrow(frame, work(selected.to_arrow()))


def _apply_spark(native: Any, work: ArrowFunction, schema: pa.Schema, together: Sequence[str] | None) -> Any:
    from pyspark.sql.pandas.types import from_arrow_schema

    def partition(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        held = list(batches) if together is not None else None
        for table in ([held] if held else ()) if held is not None else ([batch] for batch in batches):
            yield from work(pa.Table.from_batches(table)).to_batches()

    if together is not None:
        native = native.repartition(*(_ticked(name) for name in together)) if together else native.repartition(1)
    return native.mapInArrow(partition, from_arrow_schema(schema))


def _apply_dask(native: Any, work: ArrowFunction, schema: pa.Schema, together: Sequence[str] | None) -> Any:
    def partition(rows: Any) -> Any:
        return pandas_frame(work(pa.Table.from_pandas(rows, preserve_index=False)))

    if together is not None:
        native = (
            native.shuffle(on=list(together), shuffle_method="tasks") if together else native.repartition(npartitions=1)
        )
    return native.map_partitions(partition, meta=pandas_frame(schema.empty_table()))


def _apply_duckdb(native: Any, work: ArrowFunction, schema: pa.Schema, together: Sequence[str] | None) -> Any:
    if together is not None:
        return _relation(native, work(native.to_arrow_table()))
    reader = native.to_arrow_reader(_BATCH_ROWS)
    parts = [work(pa.Table.from_batches([batch])) for batch in reader]
    return _relation(native, pa.concat_tables([schema.empty_table(), *parts]))


def _relation(native: Any, answer: pa.Table) -> Any:  # noqa: ARG001 - DuckDB finds `answer` by its name
    """Arrow as a relation of the connection that `native` is of, so that the two can be joined."""
    return native.query("exporttools_unused", "FROM answer").set_alias("answer")


def from_arrow(frame: Frame, table: pa.Table) -> Any:
    """Rows in memory as a Narwhals frame of the kind that came in."""
    kind = frame.implementation
    if kind.is_pandas():
        return nw.from_native(pandas_frame(table))
    if kind.is_duckdb():
        return nw.from_native(_relation(frame.data.to_native(), table))
    if kind.is_spark_like():
        return nw.from_native(frame.data.to_native().sparkSession.createDataFrame(table))
    if kind.is_dask():
        import dask.dataframe

        partitioned: Any = dask.dataframe.from_pandas(pandas_frame(table), npartitions=1)  # type: ignore[no-untyped-call]
        return nw.from_native(partitioned)
    answer: Any = nw.from_arrow(table, backend=kind)  # type: ignore[arg-type]  # an eager one, or Polars
    return answer.lazy() if isinstance(frame.data, nw.LazyFrame) else answer
