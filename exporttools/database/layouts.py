"""Where a database keeps the four records: for each its table, joined tables, and the source of every column.

A :class:`Layout` is data, and a user's own takes a few lines. When a store first reads, it matches the layout with the
live database (:func:`exporttools.database.binding.bind`). Every table and column that a layout names must exist there,
or :class:`exporttools.errors.SchemaMismatch` names what is missing and what is most like it; a :class:`Field` can be
marked ``optional``. A column that the layout does not name is stored under its own name; if it is missing, it reads NULL
where the record allows NULL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import ColumnElement

from exporttools.errors import ConfigError
from exporttools.records.schema import RECORD_TYPES, Column


@dataclass(frozen=True, slots=True)
class Field:
    """A stored column of the source's table or of a joined table, converted where that is needed.

    Parameters
    ----------
    column : str
        The stored column's name.
    table : str, optional
        The joined table that has the column, as named in its :class:`Join`; by default the source's own table.
    convert : callable, optional
        Takes the stored column (a SQLAlchemy expression) and returns the expression to read, such as
        ``lambda usd: sa.cast(sa.func.round(usd * 100), sa.BigInteger())``. By default the column is read as it is.
    optional : bool
        Whether some databases lack the column: then it reads NULL, and a condition on it is skipped. By default a
        column that is missing raises SchemaMismatch.
    """

    column: str
    table: str | None = None
    convert: Callable[[Any], ColumnElement[Any]] | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Constant:
    """The same value in every row, for a column that the database does not store."""

    value: str | int | float


@dataclass(frozen=True, slots=True)
class Join:
    """A LEFT JOIN: a table with further columns. A source row without a match reads NULL in them.

    Parameters
    ----------
    table : str
        The joined table; another one than the source's own. At most one of its rows may match a row of the source.
    on : mapping of str to str
        The join's equalities: ``{joined table's column: source table's column}``.
    """

    table: str
    on: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Source:
    """Where one record is stored.

    Parameters
    ----------
    table : str
        The table or view; ``schema.table`` if the schema is not on the search path.
    columns : mapping, optional
        Maps a record's column to the name of a stored column, a :class:`Field` or a :class:`Constant`. A column that is
        not mapped is stored under its own name.
    joins : tuple of Join, optional
        Tables that a :class:`Field` of `columns` or `where` may name.
    where : tuple of Field, optional
        Conditions that every row must meet; each Field's `convert` returns the condition.
    extra : tuple of Column, optional
        Further columns, mapped by `columns` like the record's own; those that are not mapped are read where the database
        has them. They appear in frames and files, not in snapshots.
    started_at : str or Field, optional
        For traces: the column that says when a trace started, which decides which of a run's traces is the last. By
        default a trace starts with its first step.
    """

    table: str
    columns: Mapping[str, str | Field | Constant] = field(default_factory=dict)
    joins: tuple[Join, ...] = ()
    where: tuple[Field, ...] = ()
    extra: tuple[Column, ...] = ()
    started_at: str | Field | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a database keeps the four records.

    Parameters
    ----------
    name : str
        The layout's name in messages, reprs and bundles.
    incidents, runs, traces, trace_steps : Source
    default_tenant : str, optional
        The tenant whose rows have NULL as their tenant. By default such rows are nobody's, and a read of all tenants
        raises InconsistentData.

    Raises
    ------
    ConfigError
        A source maps a column that its record does not have, has a condition without `convert`, or names a table twice.

    Examples
    --------
    Like our own layout, but the incidents are in a table ``alerts``:

    >>> from dataclasses import replace
    >>> mine = replace(NATIVE, name="mine", incidents=Source("alerts", {"id": "alert_id", "violation_type": "kind"}))
    >>> mine.incidents.table
    'alerts'
    """

    name: str
    incidents: Source
    runs: Source
    traces: Source
    trace_steps: Source
    default_tenant: str | None = None

    def __post_init__(self) -> None:
        for record_type in RECORD_TYPES.values():
            source: Source = getattr(self, record_type.table)
            known = {column.name for column in record_type.stored_columns(source.extra)}
            unknown = [name for name in source.columns if name not in known]
            if unknown:
                raise ConfigError(
                    f"layout {self.name!r}: {record_type.table} has no column {', '.join(unknown)} to map; "
                    f"expected {', '.join(sorted(known))} (declare further columns in extra=)"
                )
            tables = [source.table, *(join.table for join in source.joins)]
            if repeated := sorted({table for table in tables if tables.count(table) > 1}):
                raise ConfigError(
                    f"layout {self.name!r}: {record_type.table} reads {', '.join(map(repr, repeated))} twice; expected "
                    f"each table once. To join a table to itself, join a view of it"
                )
            if idle := [condition.column for condition in source.where if condition.convert is None]:
                raise ConfigError(
                    f"layout {self.name!r}: the where of {record_type.table} says nothing about {', '.join(map(repr, idle))}; "
                    f"expected a condition, such as Field({idle[0]!r}, convert=lambda column: column.is_(None))"
                )


NATIVE = Layout(
    name="native",
    incidents=Source("incidents"),
    runs=Source("runs", extra=RECORD_TYPES["runs"].extra),
    traces=Source("traces"),
    trace_steps=Source("trace_steps", extra=RECORD_TYPES["trace_steps"].extra),
)
"""Our own four tables, with the columns of :mod:`exporttools.records.schema`."""


def _cents(usd: Any) -> ColumnElement[Any]:
    return sa.cast(sa.func.round(usd * 100), sa.BigInteger)


def _is_null(column: Any) -> ColumnElement[Any]:
    condition: ColumnElement[Any] = column.is_(None)
    return condition


AOS = Layout(
    name="aos",
    incidents=Source(
        "incidents",
        columns={
            "policy_id": Field("violation_policy_id", table="runs", optional=True),
            "violation_type": "trigger_type",
        },
        joins=(Join("runs", on={"id": "source_run_id", "tenant_id": "tenant_id"}),),
    ),
    runs=Source(
        "runs",
        columns={"run_id": "id", "total_cost_cents": Field("estimated_cost_usd", convert=_cents, optional=True)},
    ),
    traces=Source(
        "aos_traces", where=(Field("archived_at", convert=_is_null, optional=True),), started_at="started_at"
    ),
    trace_steps=Source(
        "aos_trace_steps",
        columns={
            "tenant_id": Field("tenant_id", table="aos_traces"),
            "step_type": "skill_name",
            "tokens": Constant(0),
            "content_hash": "output_hash",
        },
        joins=(Join("aos_traces", on={"trace_id": "trace_id"}),),
        where=(
            Field("archived_at", convert=_is_null, optional=True),
            Field("archived_at", table="aos_traces", convert=_is_null, optional=True),
        ),
        extra=(
            Column("outcome_category", "string", True, "the platform's kind of outcome"),
            Column("outcome_code", "string", True, "the platform's code of the outcome"),
            Column("retry_count", "int64", True, "how often the step was tried again"),
        ),
    ),
    default_tenant="default",
)
"""The agent platform's own tables: ``incidents``, ``runs``, ``aos_traces``, ``aos_trace_steps``."""

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (NATIVE, AOS)}
"""The built-in layouts by name, in the order in which ``auto`` tries them."""
