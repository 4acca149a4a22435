"""Frames of any kind in, and frames of the same kind out: the one intake of everything that takes a frame.

Sums, joins and filters are Narwhals expressions, which every kind evaluates itself, lazily if it is lazy. Only this room,
:mod:`exporttools.analysis.engines` and :mod:`exporttools.analysis.arrow_functions` tell kinds of frames apart.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import narwhals as nw
import pyarrow as pa
import pyarrow.compute as pc
from narwhals.exceptions import NarwhalsError

from exporttools.analysis.columns import Kind, conversion, require_columns, require_unique, type_mismatch
from exporttools.errors import ConfigError
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.schema import ARROW_TYPES
from exporttools.records.snapshot_table import SnapshotTable, pandas_frame
from exporttools.text.inert import one_line

RUN_KEYS = ("tenant_id", "run_id")
"""What identifies a run: its id is unique within its tenant."""

TRACE_KEYS = ("tenant_id", "run_id", "trace_id")
"""What identifies a trace, of those that a frame has."""

_KINDS = {"step_index": Kind.WHOLE, "parent_step_index": Kind.WHOLE, "timestamp": Kind.TIME}

ArrowFunction = Callable[[pa.Table], pa.Table]


class ArrowStream(Protocol):
    """Anything that exports Arrow data, such as a RecordBatchReader."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


ArrowSteps: TypeAlias = SnapshotTable[Any] | ExportBundle | ArrowStream
"""What is not a frame itself, and for which functions return a pyarrow.Table."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that has the columns a function needs.

    Attributes
    ----------
    native : Any
        The frame as its library knows it; the Arrow table of a SnapshotTable, a bundle or a stream. Reading it again warns of nothing.
    data : narwhals.DataFrame or narwhals.LazyFrame
        The same; needed columns of numbers have NULL for NaN.
    what : str
        What messages call it.
    names : tuple of str
        All its columns.
    kinds : mapping
        What each needed column is needed for.
    total : int or None
        How many rows there were before a limit, if one cut them.
    """

    native: Any
    data: Any
    what: str
    names: tuple[str, ...]
    kinds: Mapping[str, Kind]
    total: int | None = None

    @property
    def implementation(self) -> nw.Implementation:
        """The library that the frame is of."""
        implementation: nw.Implementation = self.data.implementation
        return implementation

    @property
    def described(self) -> str:
        """The frame's class, for messages."""
        return f"{type(self.native).__module__.split('.')[0]}.{type(self.native).__name__}"

    def has(self, *columns: str) -> tuple[str, ...]:
        """Those of the columns that the frame has, in the order given."""
        return tuple(column for column in columns if column in self.names)

    def is_text(self, column: str) -> bool:
        """Whether the frame has the column, as text. One that is all NULL may have no type."""
        dtype = self.data.collect_schema().get(column)
        return dtype in (nw.String, nw.Unknown) or isinstance(dtype, (nw.Categorical, nw.Enum))

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


def read(
    data: Any,
    needed: Mapping[str, Kind],
    *,
    what: str = "steps",
    optional: Sequence[str] = (),
    numbers: Sequence[str] = (),
    warn: bool = True,
) -> Frame:
    """Take a frame of any kind and check the columns that are needed.

    Parameters
    ----------
    data : frame, SnapshotTable, ExportBundle or Arrow stream
        Of a bundle, its steps, with ``tenant_id``, ``run_id``, ``trace_id`` and ``agent_id`` as far as they are known.
    needed : mapping
        What each column is needed for.
    what : str
        What messages call the frame.
    optional : sequence of str
        Columns that identify rows (:data:`TRACE_KEYS`, ``step_index``, ...) or group them; checked if the frame has them.
    numbers : sequence of str
        Columns of numbers; checked if the frame has them.
    warn : bool
        Warn if a limit cut the rows. Plots say so themselves.

    Raises
    ------
    ConfigError
        This is not a frame.
    ColumnNotFound, DuplicateColumn, ColumnTypeMismatch
        A column is missing, there is more than one of a name, or a needed one is of another type.

    Warns
    -----
    UserWarning
        A limit cut the rows, so that the result covers only a part of them.
    """
    native, total = _native(data, what)
    if warn and total is not None:
        warnings.warn(
            f"{what}: a limit cut the rows to {len(native):,} of {total:,}; the result covers only those", stacklevel=3
        )
    frame: Any = nw.from_native(_plain(native) if isinstance(native, pa.Table) else native)
    schema = frame.collect_schema()
    names = tuple(schema.names())
    kinds = {name: _KINDS.get(name, Kind.KEY) for name in optional if name in names} | dict(needed)
    kinds |= {name: Kind.NUMBER for name in numbers if name in names}
    require_columns(what, names, kinds)
    typed = (Kind.NUMBER, Kind.WHOLE, Kind.TIME)
    objects = [name for name, kind in kinds.items() if kind in typed and schema[name] == nw.Object]
    if objects and frame.implementation.is_pandas():  # numbers or times in a column without a type
        frame = nw.from_native(frame.to_native().assign(**{name: native[name].infer_objects() for name in objects}))
        schema = frame.collect_schema()
    found = [conversion(what, column, schema[column], kind) for column, kind in kinds.items()]
    if conversions := [expression for expression in found if expression is not None]:
        frame = frame.with_columns(*conversions)
    return Frame(native, frame, what, names, kinds, total)


def has_only_nulls(frame: Frame, column: str) -> bool:
    """Whether a column is known to hold nothing but NULL. Of lazy frames only a DuckDB relation is asked."""
    if isinstance(frame.data, nw.LazyFrame) and not frame.implementation.is_duckdb():
        return False
    counted = frame.data.select(nw.col(column).count().alias("count"))
    return bool(collect(frame, counted, pa.schema([("count", pa.int64())]))["count"][0].as_py() == 0)


def _native(data: Any, what: str) -> tuple[Any, int | None]:
    """What Narwhals takes, with unique column names; and how many rows there were before a limit, if one cut them."""
    if isinstance(data, ExportBundle):
        return _bundle_steps(data), data.steps.total
    if isinstance(data, SnapshotTable):
        return data.to_arrow(), data.total
    try:
        frame = nw.from_native(data)
    except TypeError:
        table = _arrow_table(data)
        if table is None:
            raise ConfigError(
                f"cannot read {what} from {type(data).__name__}; expected a SnapshotTable, an ExportBundle or a frame that "
                f"Narwhals knows (pandas, Polars, pyarrow, DuckDB, Dask, PySpark, ...)"
            ) from None
        require_unique(what, table.column_names)
        return table, None
    except NarwhalsError as error:
        require_unique(what, _column_names(data))
        raise ConfigError(f"cannot read {what} from {type(data).__name__}: {one_line(error, 300)}") from error
    native = frame.to_native()
    if isinstance(frame, nw.LazyFrame) and not frame.implementation.is_polars():  # Narwhals checks only the others
        require_unique(what, _column_names(native))
    return _without_mark(native)


def _without_mark(native: Any) -> tuple[Any, int | None]:
    """A frame without the mark by which ``SnapshotTable.to_pandas`` shows that a limit cut it; and the total in that mark."""
    attributes = getattr(native, "attrs", None)
    if not isinstance(attributes, dict) or not attributes.get("truncated"):
        return native, None
    total = attributes.get("total")
    native = copy.copy(native)  # shallow: the caller's frame keeps its mark
    native.attrs = {name: value for name, value in attributes.items() if name not in ("truncated", "total")}
    return native, total if isinstance(total, int) and total > len(native) else None


def _column_names(native: Any) -> list[str]:
    return [str(name) for name in (native.column_names if isinstance(native, pa.Table) else native.columns)]


def _arrow_table(data: Any) -> pa.Table | None:
    """All rows of an Arrow stream or array, in memory; None if it is neither."""
    if isinstance(data, pa.RecordBatchReader):
        return data.read_all()  # and not through Arrow's C stream, where an error loses its type
    if not hasattr(data, "__arrow_c_stream__") and not hasattr(data, "__arrow_c_array__"):
        return None
    try:
        return pa.table(data)
    except (pa.ArrowInvalid, TypeError):  # a single column
        return None


def _bundle_steps(bundle: ExportBundle) -> pa.Table:
    """A bundle's steps, with the columns that say whose they are."""
    table = bundle.steps.to_arrow()
    run, trace = bundle.run, bundle.trace
    known = {
        "tenant_id": bundle.tenant_id,
        "run_id": getattr(run or trace, "run_id", None),
        "trace_id": getattr(trace, "trace_id", None),
        "agent_id": getattr(run, "agent_id", None),
    }
    for name, value in known.items():
        if value is not None and name not in table.column_names:
            table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), len(table)))
    return table


def _plain(table: pa.Table) -> pa.Table:
    """A table of nullable fields without metadata, and text of one type, so that tables that differ only in those combine."""
    columns = [
        column.cast(pa.string())
        if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type)
        else column
        for column in table.columns
    ]
    return pa.Table.from_arrays(columns, names=table.column_names)


def to_native(result: Any) -> Any:
    """A Narwhals frame as one of its library; pandas gets a new RangeIndex."""
    if isinstance(result, nw.LazyFrame):
        return result.to_native()
    return nw.maybe_reset_index(result).to_native()


def collect(frame: Frame, result: Any, schema: pa.Schema) -> pa.Table:
    """A Narwhals result in memory, as Arrow of the given columns and types."""
    return fitted(in_memory(frame, result.select(*schema.names)), schema, frame.what)


def in_memory(frame: Frame, selected: Any) -> pa.Table:
    """A Narwhals frame as Arrow."""
    if isinstance(selected, nw.LazyFrame):
        selected = selected.collect("pyarrow")
    try:
        table: pa.Table = selected.to_arrow()
    except (pa.ArrowException, TypeError) as error:  # values of several types in one column of pandas
        raise ConfigError(f"cannot read {frame.what} from {frame.described}: {one_line(error, 300)}") from error
    return table


def to_arrow(frame: Frame) -> pa.Table:
    """The needed columns in memory, as Arrow."""
    return collect(frame, frame.data, arrow_schema(frame, list(frame.kinds)))


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
    ColumnTypeMismatch
        A value does not fit its column's type.
    """
    columns = []
    for field in schema:
        values = table[field.name]
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), None, values)
        try:
            # Nanoseconds and integers beyond 2**53 lose their last digits, which nothing here needs.
            rounded = pa.types.is_timestamp(field.type) or pa.types.is_floating(field.type)
            columns.append(values.cast(field.type, safe=not rounded))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise type_mismatch(what, field.name, values.type, field.type, one_line(error)) from None
    return pa.Table.from_arrays(columns, schema=schema)


def relation(native: Any, exporttools_result: pa.Table) -> Any:  # noqa: ARG001 - DuckDB finds it by its name
    """Arrow as a relation of the same connection as `native`, so that the two can be joined."""
    return native.query("exporttools_unused", "FROM exporttools_result").set_alias("result")


def from_arrow(frame: Frame, table: pa.Table) -> Any:
    """Rows in memory as a Narwhals frame of the kind that came in."""
    kind = frame.implementation
    if kind.is_pandas():
        return nw.from_native(pandas_frame(table))
    if kind.is_duckdb():
        return nw.from_native(relation(frame.data.to_native(), table))
    if kind.is_spark_like():
        return nw.from_native(frame.data.to_native().sparkSession.createDataFrame(table))
    if kind.is_dask():
        import dask.dataframe

        partitioned: Any = dask.dataframe.from_pandas(pandas_frame(table), npartitions=1)  # type: ignore[no-untyped-call]
        return nw.from_native(partitioned)
    result: Any = nw.from_arrow(table, backend=kind)  # type: ignore[arg-type]  # an eager one, or Polars
    return result.lazy() if isinstance(frame.data, nw.LazyFrame) else result
