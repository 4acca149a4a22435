"""Matching a layout with a live database: for each record, the tables and expressions to select. Reads no rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Select
from sqlalchemy.sql import ColumnElement, FromClause

from exporttools.connections.sql_types import SQL_TYPES
from exporttools.database.layouts import LAYOUTS, Constant, Field, Layout, Source
from exporttools.database.opening import Database
from exporttools.errors import ConfigError, SchemaMismatch
from exporttools.records.schema import RECORD_TYPES, Column, RecordType
from exporttools.text.inert import one_line
from exporttools.times import epoch_us


@dataclass(frozen=True)
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
    """

    record_type: RecordType
    table: str
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

    def moment(self, name: str) -> ColumnElement[Any]:
        """A time column as an expression that sorts by time; in SQLite, texts of mixed ISO 8601 forms do not."""
        if self._dialect == "sqlite":
            return sa.func.exporttools_utc_us(self[name], type_=sa.BigInteger())
        return self[name]

    def within(self, name: str, since: dt.datetime | None, until: dt.datetime | None) -> list[ColumnElement[bool]]:
        """The conditions that put a time column in [since, until)."""
        moment = self.moment(name)
        conditions = self._nearby(name, since, until) if self._dialect == "sqlite" else []
        if since is not None:
            conditions.append(moment >= self._bound(since))
        if until is not None:
            conditions.append(moment < self._bound(until))
        return conditions

    def _nearby(self, name: str, since: dt.datetime | None, until: dt.datetime | None) -> list[ColumnElement[bool]]:
        """Conditions that SQLite checks in C, before it calls Python to parse a text's time.

        A text that starts with a date is within a day of it, whatever its offset; any other text passes.
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

    def grid_number(self, name: str, length_s: int) -> ColumnElement[Any]:
        """The number of the grid interval that a time column falls in; intervals of `length_s` start at 1970-01-01."""
        if self._dialect == "sqlite":
            moment, length = self.moment(name), length_s * 1_000_000
            # SQLite's remainder takes the sign of the dividend, and its integer division truncates towards zero.
            return (moment - (moment % length + length) % length) // length
        seconds = sa.cast(sa.func.extract("epoch", self[name]), sa.Numeric)
        return sa.cast(sa.func.floor(seconds / length_s), sa.BigInteger())

    def _bound(self, moment: dt.datetime) -> Any:
        if self._dialect == "sqlite":
            return epoch_us(moment)
        return moment


@dataclass(frozen=True)
class BoundLayout:
    """A layout's sources in a live database, by native table name."""

    name: str
    sources: Mapping[str, BoundSource]


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
        found = _LiveTables(connection)
        faults = []
        for candidate in candidates:
            try:
                return BoundLayout(
                    candidate.name, {name: _bound(candidate, RECORD_TYPES[name], found, database) for name in tables}
                )
            except SchemaMismatch as fault:
                faults.append(str(fault))
        raise SchemaMismatch(f"{database.label}: " + "; ".join(faults) + f". Tables found: {found.names()}")


class _LiveTables:
    """The tables and views of a database, inspected on first use."""

    def __init__(self, connection: Connection) -> None:
        self._inspector = sa.inspect(connection)
        self._schemas: Mapping[str | None, str | None] = (
            connection.get_execution_options().get("schema_translate_map") or {}
        )
        self._tables: dict[str, dict[str, sa.types.TypeEngine[Any]] | None] = {}

    def types(self, table: str) -> dict[str, sa.types.TypeEngine[Any]] | None:
        """Return the columns' types by name, or None if there is no such table."""
        if table not in self._tables:
            schema, name = self._place(table)
            exists = self._inspector.has_table(name, schema=schema)
            columns = self._inspector.get_columns(name, schema=schema) if exists else None
            self._tables[table] = None if columns is None else {column["name"]: column["type"] for column in columns}
        return self._tables[table]

    def alias(self, table: str) -> FromClause:
        """The table under a new alias: two sources may read the same table."""
        schema, name = self._place(table)
        columns = [sa.column(column, live_type) for column, live_type in (self.types(table) or {}).items()]
        return sa.table(name, *columns, schema=schema).alias()

    def _place(self, table: str) -> tuple[str | None, str]:
        """The table's schema, as the Engine's ``schema_translate_map`` has it, and its name."""
        schema, _, name = table.rpartition(".")
        return self._schemas.get(schema or None, schema or None), name

    def names(self) -> str:
        names = sorted([*self._inspector.get_table_names(), *self._inspector.get_view_names()])
        shown = ", ".join(one_line(name, 60) for name in names[:20])
        return (shown + (f" and {len(names) - 20} more" if len(names) > 20 else "")) or "none"


def _bound(layout: Layout, record_type: RecordType, live: _LiveTables, database: Database) -> BoundSource:
    source: Source = getattr(layout, record_type.table)
    if live.types(source.table) is None:
        raise SchemaMismatch(
            f"layout {layout.name!r} reads {record_type.plural} from a table {source.table!r}, which does not exist"
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
    for column in record_type.stored_columns(source.extra):
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
            names = ", ".join(one_line(name, 60) for name in live.types(table) or {})
            raise SchemaMismatch(
                f"layout {layout.name!r}: table {table!r} has no column {spot.column!r}, which "
                f"{record_type.table}.{column.name} is read from; "
                + (f"columns found: {names}" if names else "there is no such table")
            )
        columns.append(column)
    conditions = (stored(condition) for condition in source.where)
    where = tuple(spot.convert(live_column) for live_column, spot in filter(None, conditions) if spot.convert)
    started = stored(source.started_at) if source.started_at else None
    bound = BoundSource(record_type, source.table, tuple(columns), None, expressions, from_, where, database.dialect)
    if started is None:
        return bound
    started_column = _typed(Column("started_at", "timestamp", True, ""), started[0], database.dialect, source.table)
    expressions["started_at"] = started_column
    return replace(bound, started_at=bound.moment("started_at"))


def _typed(column: Column, live: ColumnElement[Any], dialect: str, table: str) -> ColumnElement[Any]:
    """A stored column as an expression of the record's type. Only lossless casts are implicit."""
    kind = live.type
    if dialect == "sqlite":
        # SQLite does not enforce declared types; values are checked against the record's types when they arrive.
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
        f"table {table!r}: column {live.key!r} is of type {kind}; {column.name} is {column.described}. "
        f"Convert it in a layout of your own: Field({live.key!r}, convert=...)"
    )
