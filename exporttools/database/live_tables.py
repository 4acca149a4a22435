"""What a database's catalog says of its tables and columns. Reads no rows and knows no layouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import DOMAIN
from sqlalchemy.sql import FromClause


@dataclass(frozen=True, slots=True)
class LiveColumn:
    """A stored column.

    Attributes
    ----------
    type : SQLAlchemy type
        Of a domain, the type that it is made of.
    nullable : bool
        Whether the database lets it be NULL.
    folds : bool
        Whether its collation may call different texts equal, as one that ignores case does.
    """

    type: sa.types.TypeEngine[Any]
    nullable: bool
    folds: bool


@dataclass(frozen=True, slots=True)
class LiveTable:
    """A table or view as it is in the database.

    Attributes
    ----------
    name, schema : str, str or None
        The schema is None where the search path finds the table.
    columns : mapping of str to LiveColumn
    unique : tuple of frozenset of str
        Sets of columns of which no two rows have the same values, unless one is NULL.
    indexes : tuple of tuple of str, or None
        SQLite only: the columns of each index over all rows that compares by bytes, in order. None for a view.
    """

    name: str
    schema: str | None
    columns: Mapping[str, LiveColumn]
    unique: tuple[frozenset[str], ...]
    indexes: tuple[tuple[str, ...], ...] | None

    def alias(self) -> FromClause:
        """The table under a new alias: two sources may read the same table."""
        columns = [sa.column(name, column.type) for name, column in self.columns.items()]
        return sa.table(self.name, *columns, schema=self.schema).alias()


class LiveTables:
    """The tables and views of a database, inspected on first use."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inspector = sa.inspect(connection)
        self._postgresql = connection.dialect.name == "postgresql"
        self._schemas = connection.get_execution_options().get("schema_translate_map") or {}
        self._tables: dict[str, LiveTable | None] = {}
        self._collates: dict[str, bool] = {}  # whether an SQLite database names any collation

    def find(self, table: str) -> LiveTable | None:
        """Return the table or view of that name (``schema.table`` if the search path does not lead to it), or None."""
        if table not in self._tables:
            self._tables[table] = self._inspected(table)
        return self._tables[table]

    def names(self) -> list[str]:
        """The names of all tables and views on the search path, sorted."""
        return sorted([*self._inspector.get_table_names(), *self._inspector.get_view_names()])

    def _inspected(self, table: str) -> LiveTable | None:
        prefix, _, name = table.rpartition(".")
        schema = self._schemas.get(prefix or None, prefix or None)
        if not self._inspector.has_table(name, schema=schema):
            return None
        reflected = self._inspector.get_columns(name, schema=schema)
        folding, unique = self._of_postgresql(name, schema) if self._postgresql else self._of_sqlite(name, schema)
        columns = {
            column["name"]: LiveColumn(
                _beneath(column["type"]), column["nullable"], folding is None or column["name"] in folding
            )
            for column in reflected
        }
        # In an SQLite column without a type, 7 and '7' are two values that read as one text.
        proper = {column for column, live in columns.items() if not isinstance(live.type, (sa.types.NullType, sa.BLOB))}
        keys = tuple(frozenset(names) for names in unique if proper.issuperset(names))
        return LiveTable(name, schema, columns, keys, None if self._postgresql else self._indexes(name, schema))

    def _of_postgresql(self, name: str, schema: str | None) -> tuple[set[str], list[list[str]]]:
        """The columns that fold, and the sets of columns that are unique."""
        quote = self._connection.dialect.identifier_preparer.quote
        relation = ".".join(quote(part) for part in (schema, name) if part)
        found = self._connection.execute(sa.text(_POSTGRESQL), {"relation": relation}).all()
        folding = {column for kind, (column, *_) in found if kind == "folding"}
        return folding, [columns for kind, columns in found if kind == "unique"]

    def _of_sqlite(self, name: str, schema: str | None) -> tuple[set[str] | None, list[list[str]]]:
        """As for PostgreSQL; None for the columns if any may fold, since SQLite does not say which."""
        database = schema or "main"
        if database not in self._collates:
            catalog = self._connection.dialect.identifier_preparer.quote(database)
            found = self._connection.exec_driver_sql(_SQLITE_COLLATES.format(catalog)).first()
            self._collates[database] = found is not None
        unique: dict[str, list[str]] = {}
        for index, column in self._connection.exec_driver_sql(_SQLITE_UNIQUE, {"name": name, "schema": database}):
            unique.setdefault(index, []).append(column)
        return None if self._collates[database] else set(), list(unique.values())

    def _indexes(self, name: str, schema: str | None) -> tuple[tuple[str, ...], ...] | None:
        """The indexes of an SQLite table."""
        if name in self._inspector.get_view_names(schema=schema):
            return None
        found: dict[str, list[str]] = {}
        for index, column in self._connection.exec_driver_sql(
            _SQLITE_INDEXES, {"name": name, "schema": schema or "main"}
        ):
            found.setdefault(index, []).append(column)
        return tuple(map(tuple, found.values()))


def _beneath(live_type: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
    while isinstance(live_type, DOMAIN):
        live_type = live_type.data_type
    return live_type


# A partial index, or one over expressions, says nothing of all rows; nor does a parent's of rows that its children hold.
_POSTGRESQL = """
SELECT 'folding', ARRAY[CAST(attname AS text)]
FROM pg_attribute JOIN pg_collation ON pg_collation.oid = attcollation
WHERE attrelid = to_regclass(:relation) AND NOT collisdeterministic
UNION ALL
SELECT 'unique', array_agg(CAST(attname AS text))
FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY ((CAST(indkey AS int2[]))[0:indnkeyatts - 1])
WHERE indrelid = to_regclass(:relation) AND indisunique AND indisvalid AND indpred IS NULL AND indexprs IS NULL
AND NOT (relkind = 'r' AND relhassubclass)
GROUP BY indexrelid
"""

_SQLITE_COLLATES = "SELECT 1 FROM {}.sqlite_schema WHERE sql LIKE '%collate%' LIMIT 1"

_SQLITE_UNIQUE = """
SELECT i.name, c.name FROM pragma_index_list(:name, :schema) AS i, pragma_index_info(i.name, :schema) AS c
WHERE i."unique" AND NOT i.partial AND NOT EXISTS (SELECT 1 FROM pragma_index_info(i.name, :schema) WHERE name IS NULL)
UNION ALL
SELECT 'primary key', name FROM pragma_table_info(:name, :schema) WHERE pk > 0
"""

_SQLITE_INDEXES = """
SELECT i.name, CASE WHEN c.coll = 'BINARY' THEN coalesce(c.name, '') ELSE '' END
FROM pragma_index_list(:name, :schema) AS i, pragma_index_xinfo(i.name, :schema) AS c
WHERE NOT i.partial AND c.key ORDER BY i.seq, c.seqno
"""
