"""Matching a layout with a live database: for each record, the tables and expressions to select. Reads no rows."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Select
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.sql import ColumnElement, FromClause

from exporttools.connections.sql_types import SQL_TYPES
from exporttools.database.layouts import LAYOUTS, Constant, Field, Layout, Source
from exporttools.database.live_tables import LiveColumn, LiveTable, LiveTables
from exporttools.database.opening import Database
from exporttools.database.stored_columns import StoredColumn
from exporttools.database.stored_times import StoredTime
from exporttools.errors import ConfigError, SchemaMismatch
from exporttools.records.schema import RECORD_TYPES, Column, RecordType
from exporttools.text.inert import one_line

_NAMES_SHOWN = 60
"""How many names of tables or columns a message lists."""


@dataclass(frozen=True, slots=True)
class Unowned:
    """The rows of a source whose tenant is NULL, and which its layout's default tenant owns.

    Attributes
    ----------
    tenant : str
        The default tenant.
    condition : ColumnElement
        That a row is one of them.
    stored : StoredColumn
        The tenant as it is stored.
    """

    tenant: str
    condition: ColumnElement[bool]
    stored: StoredColumn


@dataclass(frozen=True, eq=False)
class BoundSource:
    """One record's source in a live database: the tables and expressions to select.

    Attributes
    ----------
    record_type : RecordType
    table : str
        The stored table's name, for messages.
    columns : tuple of Column
        The record's context, own and extra columns that can be read, in order.
    started_at : ColumnElement or None
        Traces only; see :class:`exporttools.database.layouts.Source`.
    joined : tuple of str
        The joined tables' names, for messages.
    has_unique_keys : bool
        Whether the database's own unique indexes forbid two rows of one tenant with one key.
    tenant_table : str
        The table that says whose a row is: the record's own or a joined one.
    unowned : Unowned or None
        The rows that the layout gives to its default tenant; None if the database allows no such rows.
    """

    record_type: RecordType
    table: str
    columns: tuple[Column, ...]
    started_at: ColumnElement[Any] | None
    joined: tuple[str, ...]
    has_unique_keys: bool
    tenant_table: str
    unowned: Unowned | None
    _stored: Mapping[str, StoredColumn]
    _from: FromClause
    _where: tuple[ColumnElement[bool], ...]
    _dialect: str
    _missing_indexes: Mapping[bool, str]

    def __getitem__(self, name: str) -> ColumnElement[Any]:
        """The SQL expression of a column."""
        return self._stored[name].read

    @property
    def key(self) -> tuple[ColumnElement[Any], ...]:
        """What identifies a row: its tenant and its key, as expressions that compare by bytes."""
        return tuple(self._stored[name].exact for name in _key_names(self.record_type))

    def among(self, name: str, values: Collection[str]) -> ColumnElement[bool]:
        """The condition that a column of text has one of the values: by bytes, and by the index that the column has."""
        if name != "tenant_id" or self.unowned is None:
            return self._stored[name].among(values)
        # By the column as it is stored, whose index does not serve what is read in its place.
        owned = self.unowned.stored.among(values)
        return sa.or_(owned, self.unowned.condition) if self.unowned.tenant in values else owned

    def same(self, other: BoundSource, *names: str) -> ColumnElement[bool]:
        """The condition that a row of another source has the same values in columns of text."""
        return sa.and_(*(self._stored[name].equals(other._stored[name]) for name in names))

    @property
    def from_clause(self) -> FromClause:
        """The FROM clause: the record's table with the layout's joins."""
        return self._from

    @property
    def conditions(self) -> tuple[ColumnElement[bool], ...]:
        """The layout's conditions on every row."""
        return self._where

    @property
    def payload(self) -> tuple[Column, ...]:
        """The columns without the record's context."""
        context = {column.name for column in self.record_type.context}
        return tuple(column for column in self.columns if column.name not in context)

    def select(
        self, columns: Collection[Column], *, joined: tuple[BoundSource, ColumnElement[bool]] | None = None
    ) -> Select[Any]:
        """A SELECT of the columns; `joined` adds another source by LEFT JOIN."""
        statement = sa.select(*(self[column.name].label(column.name) for column in columns))
        if joined is None:
            return statement.select_from(self._from).where(*self._where)
        other, on = joined
        lookup = self._from.outerjoin(other.from_clause, sa.and_(on, *other.conditions))
        return statement.select_from(lookup).where(*self._where)

    def time(self, name: str) -> StoredTime:
        """A time column, to be compared and sorted."""
        return StoredTime(self[name], self._dialect)

    def missing_index(self, *, one_tenant: bool) -> str | None:
        """The statement that adds an index by time, of one tenant's rows or of all; None if there is one or can be none."""
        return self._missing_indexes.get(one_tenant)


@dataclass(frozen=True)
class BoundLayout:
    """A layout's sources in a live database, by native table name."""

    name: str
    sources: Mapping[str, BoundSource]
    default_tenant: str | None


def bind(database: Database, connection: Connection, layout: Layout | str, tables: Collection[str]) -> BoundLayout:
    """Match a layout with a live database.

    Parameters
    ----------
    database, connection
    layout : Layout or {"auto", "native", "aos"}
        ``auto`` takes the first built-in layout that fits.
    tables : collection of str
        The records to find, by native table name.

    Raises
    ------
    ConfigError
        There is no layout of that name.
    SchemaMismatch
        No layout fits; names the missing tables and columns, and those found.
    """
    if isinstance(layout, str) and layout != "auto" and layout not in LAYOUTS:
        raise ConfigError(
            f"there is no layout {one_line(layout)!r}; expected 'auto', {', '.join(map(repr, LAYOUTS))} or a Layout"
        )
    candidates = (
        list(LAYOUTS.values()) if layout == "auto" else [LAYOUTS[layout] if isinstance(layout, str) else layout]
    )
    with database.translated_errors():
        found = LiveTables(connection)
        faults = []
        for candidate in candidates:
            try:
                sources = {
                    name: _Binding(candidate, RECORD_TYPES[name], found, database.dialect).bound() for name in tables
                }
                return BoundLayout(candidate.name, sources, candidate.default_tenant)
            except SchemaMismatch as fault:
                faults.append(str(fault))
        raise SchemaMismatch(f"{database.label}: {'; '.join(faults)}. Tables found: {_listed(found.names()) or 'none'}")


class _Binding:
    """Matches one source of a layout with the live tables."""

    def __init__(self, layout: Layout, record_type: RecordType, live: LiveTables, dialect: str) -> None:
        self._layout, self._record_type, self._dialect = layout, record_type, dialect
        self._source: Source = getattr(layout, record_type.table)
        self._live = live
        self._tables: dict[str, LiveTable] = {}
        self._aliases: dict[str, FromClause] = {}

    def bound(self) -> BoundSource:
        """The source in the live database, or SchemaMismatch."""
        source, record_type = self._source, self._record_type
        from_ = self._from()
        stored: dict[str, StoredColumn] = {}
        columns = []
        for column in record_type.stored_columns(source.extra):
            found = self._column(column)
            if found is not None:
                stored[column.name] = found
                columns.append(column)
        where = []
        for condition in source.where:
            element = self._element(condition, f"a condition on {record_type.table} needs")
            if element is not None and condition.convert is not None:
                where.append(condition.convert(element))
        unowned = self._unowned(stored["tenant_id"])
        if unowned is not None:
            stored["tenant_id"] = self._owned(unowned)
        bound = BoundSource(
            record_type=record_type,
            table=source.table,
            columns=tuple(columns),
            started_at=None,
            joined=tuple(join.table for join in source.joins),
            has_unique_keys=self._has_unique_keys(),
            tenant_table=self._place("tenant_id").table or source.table,
            unowned=unowned,
            _stored=stored,
            _from=from_,
            _where=tuple(where),
            _dialect=self._dialect,
            _missing_indexes=self._missing_indexes(),
        )
        if source.started_at is None:
            return bound
        started = self._read(Column("started_at", "timestamp", True, ""), _field(source.started_at))
        if started is None:
            return bound
        stored["started_at"] = started
        return replace(bound, started_at=bound.time("started_at").moment)

    def _from(self) -> FromClause:
        source = self._source
        from_ = self._table(source.table, "reads {} from a table")
        for join in source.joins:
            other = self._table(join.table, "joins {} with a table")
            use = f"the join of {join.table!r} to {source.table!r} needs"
            on = [
                self._key(Field(theirs, join.table), ours, use).equals(self._key(Field(ours), ours, use))
                for theirs, ours in join.on.items()
            ]
            from_ = from_.outerjoin(other, sa.and_(*on))
        return from_

    def _table(self, table: str, use: str) -> FromClause:
        found = self._live.find(table)
        if found is None:
            raise SchemaMismatch(
                f"layout {self._layout.name!r} {use.format(self._record_type.plural)} {table!r}, which does not exist"
                f"{_nearest(table, self._live.names())}"
            )
        self._tables[table], self._aliases[table] = found, found.alias()
        return self._aliases[table]

    def _key(self, spot: Field, ours: str, use: str) -> StoredColumn:
        """A column of a join, which compares as text where the two are of different types; NULL is the default tenant."""
        element = self._element(spot, use)
        if element is None:
            raise self._missing(spot, use)
        key = StoredColumn(element, _as_text(element, self._dialect), self._live_column(spot).folds, self._dialect)
        return self._with_default(key) if self._defaults(spot, ours) else key

    def _defaults(self, spot: Field, ours: str) -> bool:
        """Whether a column joined with one of the source's is a tenant that may be NULL, and NULL has an owner."""
        tenant = self._place("tenant_id")
        is_tenant = ours == tenant.column and tenant.table in (None, self._source.table) and tenant.convert is None
        return self._layout.default_tenant is not None and is_tenant and self._live_column(spot).nullable

    def _with_default(self, tenant: StoredColumn) -> StoredColumn:
        read = sa.func.coalesce(tenant.read, sa.literal(self._layout.default_tenant, sa.Text()), type_=sa.Text())
        return replace(tenant, stored=read, read=read)

    def _place(self, name: str) -> Field:
        """Where a column is stored; a Constant is in no table."""
        place = self._source.columns.get(name, name)
        return Field("", convert=lambda _: sa.null()) if isinstance(place, Constant) else _field(place)

    def _unowned(self, stored: StoredColumn) -> Unowned | None:
        """The rows without a tenant that the layout gives to its default tenant, where the database allows any."""
        spot = self._place("tenant_id")
        if self._layout.default_tenant is None or not spot.column:
            return None
        if spot.convert is None and not self._live_column(spot).nullable:
            return None
        missing: ColumnElement[bool] = stored.stored.is_(None)
        for join in self._source.joins:
            if join.table == spot.table:  # a row that matches no owner has none, whatever the layout's default
                missing = sa.and_(missing, self._aliases[join.table].c[next(iter(join.on))].is_not(None))
        return Unowned(self._layout.default_tenant, missing, stored)

    def _owned(self, unowned: Unowned) -> StoredColumn:
        read = sa.case((unowned.condition, sa.literal(unowned.tenant, sa.Text())), else_=unowned.stored.read)
        return replace(unowned.stored, stored=read, read=read)

    def _column(self, column: Column) -> StoredColumn | None:
        """What a record's column is read from; None for an extra column that the database does not have."""
        place = self._source.columns.get(column.name)
        if isinstance(place, Constant):
            return self._same_in_every_row(sa.literal(place.value), column)
        own = Field(column.name, optional=column.nullable) if place is None else _field(place)
        found = self._read(column, own if column.nullable else replace(own, optional=False))
        if found is None and column not in self._source.extra:
            return self._same_in_every_row(sa.null(), column)
        return found

    def _same_in_every_row(self, value: ColumnElement[Any], column: Column) -> StoredColumn:
        expression = sa.cast(value, SQL_TYPES[column.type])
        return StoredColumn(expression, expression, False, self._dialect)

    def _read(self, column: Column, spot: Field) -> StoredColumn | None:
        """A stored column read as the record's; None if it is optional and missing."""
        element = self._element(spot, f"{self._record_type.table}.{column.name} is read from")
        if element is None:
            return None
        if spot.convert is not None:
            element = read = spot.convert(element)
        else:
            read = _typed(column, element, self._dialect, spot.table or self._source.table)
        folds = column.type == "string" and self._live_column(spot).folds
        return StoredColumn(element, read, folds, self._dialect)

    def _element(self, spot: Field, use: str) -> ColumnElement[Any] | None:
        """A stored column; None if it is optional and missing."""
        table = spot.table or self._source.table
        if table not in self._aliases:
            raise SchemaMismatch(
                f"layout {self._layout.name!r}: {use} a table {table!r}, which {self._record_type.table} "
                f"does not join{_nearest(table, list(self._aliases))}; tables read: {_listed(list(self._aliases))}"
            )
        if spot.column in self._tables[table].columns:
            return self._aliases[table].c[spot.column]
        if spot.optional:
            return None
        raise self._missing(spot, use)

    def _live_column(self, spot: Field) -> LiveColumn:
        return self._tables[spot.table or self._source.table].columns[spot.column]

    def _missing(self, spot: Field, use: str) -> SchemaMismatch:
        table = spot.table or self._source.table
        found = list(self._tables[table].columns)
        return SchemaMismatch(
            f"layout {self._layout.name!r}: table {table!r} has no column {spot.column!r}, which {use}"
            f"{_nearest(spot.column, found)}; columns found: {_listed(found)}"
        )

    def _has_unique_keys(self) -> bool:
        """Whether unique indexes say that no two rows have one key, and that each join matches at most one row."""
        places = [self._place(name) for name in _key_names(self._record_type)]
        own = {spot.column for spot in places if spot.table in (None, self._source.table) and spot.convert is None}
        keys = {self._source.table: {name for name in own if not self._defaults(Field(name), name)}}
        for join in self._source.joins:
            on = join.on.items()
            keys[join.table] = {theirs for theirs, ours in on if not self._defaults(Field(theirs, join.table), ours)}
        return all(any(unique <= key for unique in self._tables[table].unique) for table, key in keys.items())

    def _missing_indexes(self) -> dict[bool, str]:
        """By whether one tenant's rows are read: the statement that adds an index by time, where SQLite could use one."""
        live, time = self._tables[self._source.table], self._record_type.time
        if self._dialect != "sqlite" or time is None or live.indexes is None:
            return {}
        places = [self._place("tenant_id"), self._place(time)]
        owned = [
            p.table in (None, self._source.table) and p.convert is None and p.column in live.columns for p in places
        ]
        tenant, moment = (place.column for place in places)
        wanted: dict[bool, tuple[str, ...]] = {False: (moment,)} if owned[1] else {}
        if all(owned):
            wanted[True] = (tenant, moment)
        return {
            one_tenant: _create_index(live, columns)
            for one_tenant, columns in wanted.items()
            if not any(index[: len(columns)] == columns for index in live.indexes)
        }


def _create_index(table: LiveTable, columns: tuple[str, ...]) -> str:
    quote = sqlite.dialect().identifier_preparer.quote
    schema = f"{quote(table.schema)}." if table.schema else ""
    index = quote("_".join((table.name, *columns)))
    return f"CREATE INDEX {schema}{index} ON {quote(table.name)} ({', '.join(map(quote, columns))})"


def _key_names(record_type: RecordType) -> tuple[str, ...]:
    return ("tenant_id", *record_type.stored_key)


def _field(place: str | Field) -> Field:
    return Field(place) if isinstance(place, str) else place


def _nearest(name: str, found: Sequence[str]) -> str:
    """The names most like the one that was not found, as a question; empty if there are none."""
    folded = {candidate.lower(): candidate for candidate in found}
    close = [one_line(folded[match], 60) for match in difflib.get_close_matches(name.lower(), folded)]
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(one_line(name, 60) for name in names[:_NAMES_SHOWN])
    return shown + (f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else "")


def _as_text(live: ColumnElement[Any], dialect: str) -> ColumnElement[Any]:
    kind = live.type
    # An Enum is a String to SQLAlchemy, and citext ignores case in every collation.
    plain = isinstance(kind, sa.String) and (dialect == "sqlite" or not isinstance(kind, (sa.Enum, CITEXT)))
    return live if plain else sa.cast(live, sa.Text())


def _typed(column: Column, live: ColumnElement[Any], dialect: str, table: str) -> ColumnElement[Any]:
    """A stored column as an expression of the record's type. Only lossless casts are implicit."""
    kind = live.type
    if column.type == "string":
        return _as_text(live, dialect)
    if dialect == "sqlite":
        # SQLite does not enforce declared types; values are checked against the record's types when they arrive.
        return live
    if column.type == "int64" and isinstance(kind, sa.Integer):
        return live
    if column.type == "float64" and isinstance(kind, sa.REAL):
        # As it is written: 0.1. A plain cast adds digits that nobody stored, 0.10000000149, by one reader and not the other.
        return sa.cast(sa.cast(live, sa.Text()), sa.Double())
    if column.type == "float64" and isinstance(kind, sa.Float):
        return live
    if column.type == "float64" and isinstance(kind, (sa.Numeric, sa.Integer)):
        return sa.cast(live, sa.Double())
    if column.type == "timestamp" and isinstance(kind, sa.DateTime):
        return live if kind.timezone else sa.func.timezone("UTC", live, type_=sa.TIMESTAMP(timezone=True))
    raise SchemaMismatch(
        f"table {table!r}: column {live.key!r} is of type {kind}; {column.name} is {column.described}. "
        f"Convert it in a layout of your own: Field({live.key!r}, convert=...)"
    )
