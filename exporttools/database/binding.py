"""Matching a layout with a live database: for each record, the tables and expressions to select. Reads no rows."""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Select
from sqlalchemy.sql import ColumnElement, FromClause

from exporttools.connections.sql_types import SQL_TYPES
from exporttools.database.layouts import LAYOUTS, Constant, Field, Layout, Source
from exporttools.database.live_tables import LiveTables
from exporttools.database.opening import Database
from exporttools.errors import ConfigError, SchemaMismatch
from exporttools.records.schema import RECORD_TYPES, Column, RecordType
from exporttools.text.inert import one_line
from exporttools.times import epoch_us

_NAMES_SHOWN = 60
"""How many names of tables or columns a message lists."""


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
        found = LiveTables(connection)
        faults = []
        for candidate in candidates:
            try:
                sources = {
                    name: _Binding(candidate, RECORD_TYPES[name], found, database.dialect).bound() for name in tables
                }
                return BoundLayout(candidate.name, sources)
            except SchemaMismatch as fault:
                faults.append(str(fault))
        raise SchemaMismatch(f"{database.label}: {'; '.join(faults)}. Tables found: {_listed(found.names()) or 'none'}")


class _Binding:
    """Matches one source of a layout with the live tables."""

    def __init__(self, layout: Layout, record_type: RecordType, live: LiveTables, dialect: str) -> None:
        self._layout, self._record_type, self._dialect = layout, record_type, dialect
        self._source: Source = getattr(layout, record_type.table)
        self._live = live
        self._aliases: dict[str, FromClause] = {}

    def bound(self) -> BoundSource:
        """The source in the live database, or SchemaMismatch."""
        source, record_type = self._source, self._record_type
        from_ = self._from()
        expressions: dict[str, ColumnElement[Any]] = {}
        columns = []
        for column in record_type.stored_columns(source.extra):
            expression = self._expression(column)
            if expression is not None:
                expressions[column.name] = expression
                columns.append(column)
        where = []
        for condition in source.where:
            hit = self._stored(condition, f"a condition on {record_type.table} needs")
            if hit is not None and condition.convert is not None:
                where.append(condition.convert(hit))
        bound = BoundSource(
            record_type, source.table, tuple(columns), None, expressions, from_, tuple(where), self._dialect
        )
        if source.started_at is None:
            return bound
        started = self._converted(Column("started_at", "timestamp", True, ""), _field(source.started_at))
        if started is None:
            return bound
        expressions["started_at"] = started
        return replace(bound, started_at=bound.moment("started_at"))

    def _from(self) -> FromClause:
        source = self._source
        own = from_ = self._table(source.table, "reads {} from a table")
        for join in source.joins:
            other = self._table(join.table, "joins {} with a table")
            for side, table, names in ((own, source.table, join.on.values()), (other, join.table, join.on)):
                for name in names:
                    if name not in side.c:
                        raise self._missing(name, table, f"the join of {join.table!r} to {source.table!r} needs")
            from_ = from_.outerjoin(
                other, sa.and_(*(other.c[theirs] == own.c[ours] for theirs, ours in join.on.items()))
            )
        return from_

    def _table(self, table: str, use: str) -> FromClause:
        found = self._live.find(table)
        if found is None:
            raise SchemaMismatch(
                f"layout {self._layout.name!r} {use.format(self._record_type.plural)} {table!r}, which does not exist"
                f"{_nearest(table, self._live.names())}"
            )
        self._aliases[table] = found.alias()
        return self._aliases[table]

    def _expression(self, column: Column) -> ColumnElement[Any] | None:
        """What a record's column is read from; None for an extra column that the database does not have."""
        place = self._source.columns.get(column.name)
        sql_type = SQL_TYPES[column.type]
        if isinstance(place, Constant):
            return sa.cast(sa.literal(place.value), sql_type)
        own = Field(column.name, optional=column.nullable) if place is None else _field(place)
        spot = own if column.nullable else replace(own, optional=False)
        expression = self._converted(column, spot)
        if expression is None and column not in self._source.extra:
            return sa.cast(sa.null(), sql_type)
        return expression

    def _converted(self, column: Column, spot: Field) -> ColumnElement[Any] | None:
        """A stored column as the record's; None if it is optional and missing."""
        stored = self._stored(spot, f"{self._record_type.table}.{column.name} is read from")
        if stored is None:
            return None
        if spot.convert is not None:
            return spot.convert(stored)
        return _typed(column, stored, self._dialect, spot.table or self._source.table)

    def _stored(self, spot: Field, use: str) -> ColumnElement[Any] | None:
        """A stored column; None if it is optional and missing."""
        table = spot.table or self._source.table
        if table not in self._aliases:
            raise SchemaMismatch(
                f"layout {self._layout.name!r}: {use} a table {table!r}, which {self._record_type.table} "
                f"does not join{_nearest(table, list(self._aliases))}; tables read: {_listed(list(self._aliases))}"
            )
        alias = self._aliases[table]
        if spot.column in alias.c:
            return alias.c[spot.column]
        if spot.optional:
            return None
        raise self._missing(spot.column, table, use)

    def _missing(self, column: str, table: str, use: str) -> SchemaMismatch:
        found = [element.name for element in self._aliases[table].c]
        return SchemaMismatch(
            f"layout {self._layout.name!r}: table {table!r} has no column {column!r}, which {use}"
            f"{_nearest(column, found)}; columns found: {_listed(found)}"
        )


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
