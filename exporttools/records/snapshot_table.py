"""SnapshotTable: an immutable table of records of one type, in Arrow. No database and no file may come in here."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, cast, overload

import pyarrow as pa

from exporttools.errors import ConfigError, InconsistentData
from exporttools.records.exact_sums import exact_sum
from exporttools.records.roll_ups import RollUps, count_once, find_roll_ups
from exporttools.records.schema import ARROW_TYPES, Column, RecordType, column_of
from exporttools.records.validity import Origin, require_valid
from exporttools.text.inert import html_text, one_line
from exporttools.text.words import amount_text, plural

if TYPE_CHECKING:
    import pandas as pd

HTML_ROWS = 10
"""How many rows of a table a notebook shows."""

_LEFT_ALIGNED = (ARROW_TYPES["string"], ARROW_TYPES["timestamp"])


class SnapshotType(Protocol):
    """What every snapshot class has: its record type."""

    RECORD_TYPE: ClassVar[RecordType]


T_co = TypeVar("T_co", bound=SnapshotType, covariant=True)
T = TypeVar("T", bound=SnapshotType)


if TYPE_CHECKING:
    _Base = Sequence
else:
    # Not a subclass of Sequence at run time: Polars would read it row by row before looking for Arrow, and lose
    # time zones and extra columns. It has all of Sequence's methods.
    class _Base(Generic[T_co]):
        __contains__ = Sequence.__contains__
        __reversed__ = Sequence.__reversed__
        index = Sequence.index
        count = Sequence.count


class SnapshotTable(_Base[T_co]):
    """An immutable sequence of snapshots, backed by an Arrow table.

    Iteration and an integer index return snapshots, which are built only when asked for; a slice returns a table.
    pandas, Polars, DuckDB and pyarrow read it directly through the Arrow PyCapsule interface.

    Parameters
    ----------
    snapshot_type : type
        :class:`IncidentSnapshot`, :class:`RunSnapshot`, :class:`TraceSummarySnapshot` or :class:`TraceStepSnapshot`.
    table : pyarrow.Table
        The record type's columns and any extra columns (string, int64, float64 or timestamp[us, UTC]).
    total : int, optional
        How many rows there were, if a limit cut some off.
    origin : Origin, optional
        How error messages refer to the rows.

    Raises
    ------
    ConfigError
        A column is missing, duplicate or of another type, or `total` is less than the number of rows.
    InconsistentData
        A column holds a value that it forbids.

    Examples
    --------
    >>> from exporttools import RunSnapshot, SnapshotTable
    >>> runs = SnapshotTable.from_records(RunSnapshot, [RunSnapshot(run_id="r1", tenant_id="acme")])
    >>> len(runs), runs[0].run_id, runs.truncated
    (1, 'r1', False)
    >>> runs.to_arrow().num_rows
    1
    """

    def __init__(
        self, snapshot_type: type[T_co], table: pa.Table, *, total: int | None = None, origin: Origin | None = None
    ) -> None:
        record_type = snapshot_type.RECORD_TYPE
        extra = extra_columns(record_type, table.schema)
        schema = record_type.arrow_schema(extra)
        ordered = table.select(schema.names)
        for field in schema:
            if ordered.schema.field(field.name).type != field.type:
                found = ordered.schema.field(field.name).type
                raise ConfigError(
                    f"{record_type.table}: column {field.name!r} is of type {found}; expected {field.type}"
                )
        columns = (*record_type.columns, *extra)
        require_valid(table, columns, origin=origin or Origin(record_type.table), key=record_type.key)
        if total is not None and total < table.num_rows:
            raise ConfigError(f"total is {total}, but there are {table.num_rows} rows")
        self._snapshot_type = snapshot_type
        self._table = pa.Table.from_arrays(ordered.columns, schema=schema)
        self._total = total if total != table.num_rows else None

    @classmethod
    def from_records(cls, snapshot_type: type[T], records: Iterable[T]) -> SnapshotTable[T]:
        """Make a table of snapshots, in the order given.

        Raises
        ------
        ConfigError
            A record is of another class, a datetime is naive, or a value is not of its column's type.
        """
        rows = list(records)
        if others := [type(row).__name__ for row in rows if not isinstance(row, snapshot_type)]:
            raise ConfigError(f"expected instances of {snapshot_type.__name__}; found {others[0]}")
        columns = [
            column_array(column, [getattr(row, column.name) for row in rows])
            for column in snapshot_type.RECORD_TYPE.columns
        ]
        table = pa.Table.from_arrays(columns, schema=snapshot_type.RECORD_TYPE.arrow_schema())
        return cast("type[SnapshotTable[T]]", cls)(snapshot_type, table)

    @classmethod
    def empty(cls, snapshot_type: type[T]) -> SnapshotTable[T]:
        """Make a table without rows."""
        return cls.from_records(snapshot_type, [])

    @property
    def snapshot_type(self) -> type[T_co]:
        """The class of the snapshots."""
        return self._snapshot_type

    @property
    def record_type(self) -> RecordType:
        """The type of the rows: its columns, key and table."""
        return self._snapshot_type.RECORD_TYPE

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema: the record type's columns, then extra columns, with units and meanings as metadata."""
        return self._table.schema

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """The names of the columns beyond the record type's own."""
        return tuple(self._table.schema.names[len(self.record_type.columns) :])

    @property
    def total(self) -> int | None:
        """How many rows there were, if a limit cut some off, else None."""
        return self._total

    @property
    def truncated(self) -> bool:
        """Whether a limit cut rows off."""
        return self._total is not None

    @cached_property
    def sums(self) -> Mapping[str, int | float]:
        """The exact sum of each additive column, over the rows here. NULLs count as zero.

        Where steps are parts of others (the extra column ``parent_step_index``), each cent and token counts once, and of
        each step its own time; see :func:`exporttools.step_tree`. Where two steps have one index, as in several traces put
        together, that cannot be told, and all that is recorded counts.

        Returns
        -------
        mapping
            By column name, in the column's unit; read-only. Equal rows have equal sums whatever their chunks
            (:class:`exporttools.records.exact_sums.ExactSum`); a sum that no float can hold is infinite.
        """
        table = self._table if self._roll_ups is None else count_once(self._table, self._roll_ups)
        additive = [column.name for column in self.record_type.columns if column.additive]
        return MappingProxyType({name: exact_sum(table[name]) for name in additive})

    @cached_property
    def _roll_ups(self) -> RollUps | None:
        """What steps repeat of their parts, if they are and that can be told."""
        names = self._table.column_names
        if "step_index" not in names or "parent_step_index" not in names:
            return None
        if self._table.schema.field("parent_step_index").type != ARROW_TYPES["int64"]:
            return None
        try:
            return find_roll_ups(self._table)
        except InconsistentData:
            return None

    def to_arrow(self) -> pa.Table:
        """Return the backing Arrow table, without copying."""
        return self._table

    def to_pandas(self) -> pd.DataFrame:
        """Return a new DataFrame.

        Returns
        -------
        pandas.DataFrame
            Integers stay integers (``int64``, or ``Int64`` if the column is nullable, whatever its values), times are
            ``datetime64[us, UTC]``, text is ``str``, floats are ``float64`` (NaN for NULL). If a limit cut rows off,
            ``attrs`` holds ``truncated`` and ``total``.
        """
        frame = pandas_frame(self._table)
        if self.truncated:
            frame.attrs.update(truncated=True, total=self._total)
        return frame

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        return self._table.schema.__arrow_c_schema__()

    def __len__(self) -> int:
        return cast("int", self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> SnapshotTable[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | SnapshotTable[T_co]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self._with(self._table.slice(start, max(0, stop - start)))
            return self._with(self._table.take(pa.array(range(start, stop, step), pa.int64())))
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"index {index} is out of range for {self._count(len(self))}")
        return next(iter(self._with(self._table.slice(position, 1))))

    def __iter__(self) -> Iterator[T_co]:
        names = self.record_type.names
        for batch in self._table.select(names).to_batches(max_chunksize=1024):
            for values in zip(*(python_values(column) for column in batch.columns), strict=True):
                yield self._snapshot_type(*values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SnapshotTable):
            return NotImplemented
        return (
            self._snapshot_type is other._snapshot_type
            and self._total == other._total
            and bool(self._table.equals(other._table))
        )

    __hash__ = None  # type: ignore[assignment]  # equal by value, and hashing would read every row

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._snapshot_type, self._table, self._total)

    def __repr__(self) -> str:
        record_type = self.record_type
        lines = [f"<SnapshotTable of {self.describe()}>"]
        lines += [f"  {one_line(snapshot, 110)}" for snapshot in self[:3]]
        if len(self) > 3:
            lines.append(f"  ... {plural(len(self) - 3, f'more {record_type.noun}', f'more {record_type.plural}')}")
        return "\n".join(lines)

    def describe(self) -> str:
        """Return the number of rows, what a limit cut off, and the totals with units, in one line.

        Examples
        --------
        >>> from exporttools import RunSnapshot, SnapshotTable
        >>> runs = [RunSnapshot("r1", "acme", total_cost_cents=12), RunSnapshot("r2", "acme")]
        >>> SnapshotTable.from_records(RunSnapshot, runs).describe()
        '2 runs · 12 US cents, 1 unknown'
        """
        counted = self._count(len(self))
        if self._total is not None:
            counted = f"{len(self):,} of {self._count(self._total)} (cut by a limit)"
        totals = (
            [self._total_text(column) for column in self.record_type.columns if column.additive] if len(self) else []
        )
        left_out = self._roll_ups.steps if self._roll_ups is not None else 0
        return " · ".join([counted, *totals, *([f"{plural(left_out, 'roll-up')} left out"] if left_out else [])])

    def _total_text(self, column: Column) -> str:
        """A column's sum with its unit, and how many values are NULL: those are unknown, and not zero."""
        value, unknown = self.sums[column.name], self._table[column.name].null_count
        if unknown == len(self):
            return f"{column.unit} unknown"
        total = (
            amount_text(value, column.unit) if isinstance(value, float) and column.unit else f"{value:,} {column.unit}"
        )
        return f"{total}, {unknown:,} unknown" if unknown else total

    def _count(self, rows: int) -> str:
        return plural(rows, self.record_type.noun, self.record_type.plural)

    def _repr_html_(self) -> str:
        shown = self._table.slice(0, HTML_ROWS)
        sides = ["left" if field.type in _LEFT_ALIGNED else "right" for field in self.schema]
        units = [(field.metadata or {}).get(b"unit", b"").decode() for field in self.schema]
        head = "".join(
            f"<th style='text-align:{side}'>{html_text(name, 60)}{f' <i>({html_text(unit, 30)})</i>' if unit else ''}</th>"
            for name, unit, side in zip(self.schema.names, units, sides, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(
                f"<td style='text-align:{side}'>{html_value(value)}</td>"
                for value, side in zip(row, sides, strict=True)
            )
            + "</tr>"
            for row in zip(*(python_values(column) for column in shown.columns), strict=True)
        )
        more = f" · the first {HTML_ROWS} shown" if len(self) > HTML_ROWS else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{html_text(self.describe())}{more}</p>"

    def _with(self, table: pa.Table) -> SnapshotTable[T_co]:
        """Return some of this table's rows, valid as the whole is. If a limit cut the whole, it cut them too."""
        return _restore(self._snapshot_type, table, self._total)


def _restore(snapshot_type: type[T], table: pa.Table, total: int | None) -> SnapshotTable[T]:
    part: SnapshotTable[T] = SnapshotTable.__new__(SnapshotTable)
    part._snapshot_type, part._table, part._total = snapshot_type, table, total  # noqa: SLF001
    return part


def pandas_frame(table: pa.Table) -> pd.DataFrame:
    """Convert an Arrow table to a DataFrame. Integers stay integers: ``int64``, or ``Int64`` if the column is nullable."""
    import pandas as pd

    nullable_integers = [f.name for f in table.schema if f.nullable and f.type == ARROW_TYPES["int64"]]
    plain = [name for name in table.schema.names if name not in nullable_integers]
    frame: pd.DataFrame = table.select(plain).to_pandas()
    for name in nullable_integers:
        column = table[name].to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
        frame.insert(table.schema.names.index(name), name, column)
    return frame


def extra_columns(record_type: RecordType, schema: pa.Schema) -> tuple[Column, ...]:
    """Return a table's columns beyond the record type's own. Well-known ones keep their unit and meaning."""
    absent = [name for name in record_type.names if name not in schema.names]
    if absent:
        raise ConfigError(f"{record_type.table}: no column {', '.join(absent)}; found {', '.join(schema.names)}")
    if len(set(schema.names)) < len(schema.names):
        raise ConfigError(f"{record_type.table}: duplicate column names in {', '.join(schema.names)}")
    known = {column.name: column for column in record_type.extra}
    not_extra = {*record_type.names, *(column.name for column in record_type.context)}
    found = [column_of(field) for field in schema if field.name not in not_extra]
    return tuple(known.get(column.name, column) for column in found)


def column_array(column: Column, values: Sequence[Any]) -> pa.Array:
    """Convert Python values to an Arrow array of the column's type.

    Raises
    ------
    ConfigError
        A datetime is naive, or a value is not of the column's type.
    """
    for value in values:
        if value is None:
            continue
        if isinstance(value, dt.datetime) and value.tzinfo is None:
            raise ConfigError(
                f"{column.name} is {value!r}, a naive datetime; give it a time zone, such as tzinfo=datetime.UTC"
            )
        if not isinstance(value, _PYTHON_TYPES[column.type]) or isinstance(value, bool):
            raise ConfigError(f"{column.name} is {one_line(repr(value))}; expected {column.described}")
    try:
        return pa.array(values, ARROW_TYPES[column.type])
    except (pa.ArrowInvalid, UnicodeEncodeError, OverflowError) as error:
        raise ConfigError(f"{column.name} has a value that is not {column.described}: {one_line(error)}") from error


_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "int64": (int,),
    "float64": (float, int),
    "timestamp": (dt.datetime,),
}


def python_values(column: pa.Array) -> list[Any]:
    """Convert an Arrow array to Python objects, with times in :data:`datetime.UTC`."""
    values: list[Any] = column.to_pylist()
    if column.type == ARROW_TYPES["timestamp"]:
        return [value if value is None else value.replace(tzinfo=dt.UTC) for value in values]
    return values


def html_value(value: object) -> str:
    """Return the escaped text of a table cell."""
    if value is None:
        return "<i>NULL</i>"
    return html_text(f"{value:.6g}" if isinstance(value, float) else value, 80)
