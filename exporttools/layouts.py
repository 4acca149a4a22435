"""Where a database keeps the four records: for each a table (or a join) and, for each column, what yields it.

A :class:`Layout` is data. :func:`bind` holds it against a live database and gives :class:`Relation` objects to select from.
What is not there reads NULL where the record allows it, and is an error that names it where it does not.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Select
from sqlalchemy.sql import ColumnElement, FromClause

from exporttools.database import Database
from exporttools.errors import ConfigError, SchemaMismatch
from exporttools.inert import one_line
from exporttools.schema import RECORDS, Column, Record

SQL_TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "string": sa.Text(),
    "int64": sa.BigInteger(),
    "float64": sa.Double(),
    "timestamp": sa.TIMESTAMP(timezone=True),
}


@dataclass(frozen=True, slots=True)
class Field:
    """A column of the source's table, or of a joined one.

    Parameters
    ----------
    column : str
        The stored column's name.
    table : str, optional
        The joined table that has it; None: the source's own.
    convert : callable, optional
        From the stored column to the SQL expression to read, for another type or unit.
    """

    column: str
    table: str | None = None
    convert: Callable[[Any], ColumnElement[Any]] | None = None


@dataclass(frozen=True, slots=True)
class Constant:
    """The same value in every row, for what a database does not keep."""

    value: str | int | float


@dataclass(frozen=True, slots=True)
class Join:
    """A table to look further columns up in; rows without a match read NULL there.

    Parameters
    ----------
    table : str
    on : mapping of str to str
        From the joined table's column to the source's column that it equals.
    """

    table: str
    on: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Source:
    """Where one record lives.

    Parameters
    ----------
    table : str
        The table or view, ``schema.table`` where it is not on the search path.
    columns : mapping, optional
        From a record's column to a stored column's name, a :class:`Field` or a :class:`Constant`. What is left out is
        stored under the record's own name.
    joins : tuple of Join, optional
    where : tuple of Field, optional
        Conditions (by ``convert``) on every row; one whose column the database lacks is passed over.
    extra : tuple of Column, optional
        Further columns to read where the database has them; mapped by `columns` like the others.
    started_at : str or Field, optional
        Traces only: when the trace started, to tell a run's last trace. None: when its first step did.
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

    Examples
    --------
    A database whose incidents are called alerts, else as ours:

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

    def __post_init__(self) -> None:
        for record in RECORDS.values():
            source: Source = getattr(self, record.table)
            known = {column.name for column in (*record.context, *record.columns, *source.extra)}
            unknown = [name for name in source.columns if name not in known]
            if unknown:
                raise ConfigError(
                    f"layout {self.name!r}: {record.table} maps {', '.join(unknown)}, which it does not have; "
                    f"accepted are {', '.join(sorted(known))} (declare further ones in extra=)"
                )


NATIVE = Layout(
    name="native",
    incidents=Source("incidents"),
    runs=Source("runs"),
    traces=Source("traces"),
    trace_steps=Source("trace_steps", extra=RECORDS["trace_steps"].extra),
)
"""Our own four tables, columns as in :mod:`exporttools.schema`."""


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
            "policy_id": Field("violation_policy_id", table="runs"),
            "policy_name": Field("policy_name"),
            "violation_type": "trigger_type",
        },
        joins=(Join("runs", on={"id": "source_run_id", "tenant_id": "tenant_id"}),),
    ),
    runs=Source("runs", columns={"run_id": "id", "total_cost_cents": Field("estimated_cost_usd", convert=_cents)}),
    traces=Source("aos_traces", where=(Field("archived_at", convert=_is_null),), started_at="started_at"),
    trace_steps=Source(
        "aos_trace_steps",
        columns={
            "tenant_id": Field("tenant_id", table="aos_traces"),
            "step_type": "skill_name",
            "tokens": Constant(0),
            "content_hash": "output_hash",
        },
        joins=(Join("aos_traces", on={"trace_id": "trace_id"}),),
        where=(Field("archived_at", convert=_is_null), Field("archived_at", table="aos_traces", convert=_is_null)),
        extra=(
            Column("outcome_category", "string", True, "the platform's kind of outcome"),
            Column("outcome_code", "string", True, "the platform's code of the outcome"),
            Column("retry_count", "int64", True, "how often the step was tried again"),
        ),
    ),
)
"""The agent platform's own tables: ``incidents``, ``runs``, ``aos_traces``, ``aos_trace_steps``."""

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (NATIVE, AOS)}
"""The layouts that come with the package, by name, in the order in which ``auto`` tries them."""


@dataclass(frozen=True)
class Relation:
    """One record's source as found in a live database: what to select from.

    Attributes
    ----------
    record : Record
    source : str
        The stored table's name, for messages.
    columns : tuple of Column
        The record's context, own and extra columns that can be read, in order.
    started_at : ColumnElement or None
        Traces only; see :class:`Source`.
    """

    record: Record
    source: str
    columns: tuple[Column, ...]
    started_at: ColumnElement[Any] | None
    _expressions: Mapping[str, ColumnElement[Any]]
    _from: FromClause
    _where: tuple[ColumnElement[bool], ...]
    _dialect: str

    def __getitem__(self, name: str) -> ColumnElement[Any]:
        """The SQL expression of a column."""
        return self._expressions[name]

    @property
    def from_clause(self) -> FromClause:
        """What the record is selected from."""
        return self._from

    @property
    def conditions(self) -> tuple[ColumnElement[bool], ...]:
        """What holds for every row."""
        return self._where

    @property
    def payload(self) -> tuple[Column, ...]:
        """The columns without the record's context."""
        context = {column.name for column in self.record.context}
        return tuple(column for column in self.columns if column.name not in context)

    def select(
        self, columns: Collection[Column], *, joined: tuple[Relation, ColumnElement[bool]] | None = None
    ) -> Select[Any]:
        """A SELECT of the columns; `joined` looks up another relation's columns, NULL without a match."""
        statement = sa.select(*(self[column.name].label(column.name) for column in columns))
        if joined is None:
            return statement.select_from(self._from).where(*self._where)
        other, on = joined
        lookup = self._from.outerjoin(other.from_clause, sa.and_(on, *other.conditions))
        return statement.select_from(lookup).where(*self._where)

    def moment(self, name: str) -> ColumnElement[Any]:
        """A time column as an expression that sorts by time. SQLite keeps texts of any ISO 8601 form, which do not."""
        if self._dialect == "sqlite":
            return sa.func.exporttools_utc_us(self[name], type_=sa.BigInteger())
        return self[name]

    def within(self, name: str, since: dt.datetime | None, until: dt.datetime | None) -> list[ColumnElement[bool]]:
        """The conditions that a time column is in [since, until)."""
        moment = self.moment(name)
        conditions = self._nearby(name, since, until) if self._dialect == "sqlite" else []
        if since is not None:
            conditions.append(moment >= self._bound(since))
        if until is not None:
            conditions.append(moment < self._bound(until))
        return conditions

    def _nearby(self, name: str, since: dt.datetime | None, until: dt.datetime | None) -> list[ColumnElement[bool]]:
        """What an SQLite text must be to lie in [since, until): told in C, before Python is asked for the moment.

        A text that starts with a date lies within a day of it, whatever its offset; any other passes.
        """
        stored = sa.type_coerce(self[name], sa.Text())
        dated = stored.bool_op("GLOB")("[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*")
        day = dt.timedelta(days=1)
        bounds = []
        if since is not None and since.year > 1:
            bounds.append(stored >= (since - day).date().isoformat())
        if until is not None and until.year < dt.MAXYEAR:
            bounds.append(stored < (until + 2 * day).date().isoformat())
        return [sa.or_(sa.not_(dated), sa.and_(*bounds))] if bounds else []

    def cell(self, name: str, length_s: int) -> ColumnElement[Any]:
        """Which piece of a grid of time from 1970 on, in pieces of so many seconds, a time column lies in."""
        if self._dialect == "sqlite":
            moment, length = self.moment(name), length_s * 1_000_000
            # SQLite's remainder has the sign of the dividend, and its division of integers cuts towards zero.
            return (moment - (moment % length + length) % length) // length
        seconds = sa.cast(sa.func.extract("epoch", self[name]), sa.Numeric)
        return sa.cast(sa.func.floor(seconds / length_s), sa.BigInteger())

    def _bound(self, moment: dt.datetime) -> Any:
        if self._dialect == "sqlite":
            return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
        return moment


@dataclass(frozen=True)
class BoundLayout:
    """A layout's relations in a live database, by table name."""

    name: str
    relations: Mapping[str, Relation]


def bind(database: Database, connection: Connection, layout: Layout | str, tables: Collection[str]) -> BoundLayout:
    """Hold a layout against a live database.

    Parameters
    ----------
    database, connection
    layout : Layout or {"auto", "native", "aos"}
        ``auto`` takes the first layout that fits.
    tables : collection of str
        The records that must be there, by native table name.

    Raises
    ------
    ConfigError
        No such layout.
    SchemaMismatch
        Names the tables and columns looked for, and those found.
    """
    if isinstance(layout, str) and layout != "auto" and layout not in LAYOUTS:
        raise ConfigError(
            f"no layout {one_line(layout)!r}; accepted are 'auto', {', '.join(map(repr, LAYOUTS))} or a Layout"
        )
    candidates = (
        list(LAYOUTS.values()) if layout == "auto" else [LAYOUTS[layout] if isinstance(layout, str) else layout]
    )
    with database.translated_errors():
        found = _LiveTables(connection)
        faults = []
        for candidate in candidates:
            try:
                return BoundLayout(
                    candidate.name, {name: _relation(candidate, RECORDS[name], found, database) for name in tables}
                )
            except SchemaMismatch as fault:
                faults.append(str(fault))
        raise SchemaMismatch(f"{database.label}: " + "; ".join(faults) + f". Tables found: {found.names()}")


class _LiveTables:
    """The tables and views that a database has, read when asked for."""

    def __init__(self, connection: Connection) -> None:
        self._inspector = sa.inspect(connection)
        self._tables: dict[str, dict[str, sa.types.TypeEngine[Any]] | None] = {}

    def types(self, table: str) -> dict[str, sa.types.TypeEngine[Any]] | None:
        """The columns' types by name; None: there is no such table."""
        if table not in self._tables:
            schema, _, name = table.rpartition(".")
            there = self._inspector.has_table(name, schema=schema or None)
            columns = self._inspector.get_columns(name, schema=schema or None) if there else None
            self._tables[table] = None if columns is None else {column["name"]: column["type"] for column in columns}
        return self._tables[table]

    def alias(self, table: str) -> FromClause:
        """The table to select from, under a name of its own: two sources may look into one table."""
        schema, _, name = table.rpartition(".")
        columns = [sa.column(column, live_type) for column, live_type in (self.types(table) or {}).items()]
        return sa.table(name, *columns, schema=schema or None).alias()

    def names(self) -> str:
        names = sorted([*self._inspector.get_table_names(), *self._inspector.get_view_names()])
        shown = ", ".join(one_line(name, 60) for name in names[:20])
        return (shown + (f" and {len(names) - 20} more" if len(names) > 20 else "")) or "none"


def _relation(layout: Layout, record: Record, live: _LiveTables, database: Database) -> Relation:
    source: Source = getattr(layout, record.table)
    if live.types(source.table) is None:
        raise SchemaMismatch(
            f"layout {layout.name!r} keeps {record.plural} in a table {source.table!r}, which is not there"
        )
    aliases = {source.table: live.alias(source.table)}
    from_: FromClause = aliases[source.table]
    for join in source.joins:
        own, theirs = live.types(source.table) or {}, live.types(join.table) or {}
        if all(column in theirs for column in join.on) and all(column in own for column in join.on.values()):
            other = aliases[join.table] = live.alias(join.table)
            from_ = from_.outerjoin(
                other, sa.and_(*(other.c[theirs] == aliases[source.table].c[own] for theirs, own in join.on.items()))
            )

    def stored(place: str | Field) -> tuple[sa.ColumnElement[Any], Field] | None:
        spot = Field(place) if isinstance(place, str) else place
        alias = aliases.get(spot.table or source.table)
        return None if alias is None or spot.column not in alias.c else (alias.c[spot.column], spot)

    expressions: dict[str, ColumnElement[Any]] = {}
    columns = []
    for column in (*record.context, *record.columns, *source.extra):
        place = source.columns.get(column.name, column.name)
        sql_type = SQL_TYPES[column.type]
        if isinstance(place, Constant):
            expressions[column.name] = sa.cast(sa.literal(place.value), sql_type)
        elif (hit := stored(place)) is not None:
            live_column, spot = hit
            expressions[column.name] = (
                spot.convert(live_column)
                if spot.convert
                else _typed(column, live_column, database.dialect, source.table)
            )
        elif column in source.extra:
            continue
        elif column.nullable:
            expressions[column.name] = sa.cast(sa.null(), sql_type)
        else:
            spot = Field(place) if isinstance(place, str) else place
            table = spot.table or source.table
            there = ", ".join(one_line(name, 60) for name in live.types(table) or {}) or "no such table"
            raise SchemaMismatch(
                f"layout {layout.name!r}: table {table!r} has no column {spot.column!r}, which yields "
                f"{record.table}.{column.name}; columns found: {there}"
            )
        columns.append(column)
    conditions = (stored(condition) for condition in source.where)
    where = tuple(spot.convert(live_column) for live_column, spot in filter(None, conditions) if spot.convert)
    started = stored(source.started_at) if source.started_at else None
    relation = Relation(record, source.table, tuple(columns), None, expressions, from_, where, database.dialect)
    if started is None:
        return relation
    started_column = _typed(Column("started_at", "timestamp", True, ""), started[0], database.dialect, source.table)
    expressions["started_at"] = started_column
    return replace(relation, started_at=relation.moment("started_at"))


def _typed(column: Column, live: ColumnElement[Any], dialect: str, table: str) -> ColumnElement[Any]:
    """A stored column as an expression of the record's type. Only casts that lose nothing are made on the quiet."""
    kind = live.type
    if dialect == "sqlite":
        # Declared types bind SQLite to nothing; values are held against the record's types when they arrive.
        as_text = column.type == "string" and not isinstance(kind, sa.String)
        return sa.cast(live, sa.Text()) if as_text else live
    if column.type == "string":
        return live if isinstance(kind, sa.String) and not isinstance(kind, sa.Enum) else sa.cast(live, sa.Text())
    if column.type == "int64" and isinstance(kind, sa.Integer):
        return live
    if column.type == "float64" and isinstance(kind, sa.Float):
        return live
    if column.type == "float64" and isinstance(kind, (sa.Numeric, sa.Integer)):
        return sa.cast(live, sa.Double())
    if column.type == "timestamp" and isinstance(kind, sa.DateTime):
        return live if kind.timezone else sa.func.timezone("UTC", live, type_=sa.TIMESTAMP(timezone=True))
    raise SchemaMismatch(
        f"table {table!r}: column {live.key!r} is of type {kind}; {column.name} is a {column.type}. "
        f"Give its Field a convert= in a layout of your own"
    )
