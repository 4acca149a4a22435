"""What a database's catalog says of its tables and columns. Reads no rows and knows no layouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.sql import FromClause


@dataclass(frozen=True, slots=True)
class LiveTable:
    """A table or view as it is in the database.

    Attributes
    ----------
    name, schema : str, str or None
        The schema is None where the search path finds the table.
    types : mapping of str to SQLAlchemy type
        The columns' types by name.
    """

    name: str
    schema: str | None
    types: Mapping[str, sa.types.TypeEngine[Any]]

    def alias(self) -> FromClause:
        """The table under a new alias: two sources may read the same table."""
        columns = [sa.column(name, live_type) for name, live_type in self.types.items()]
        return sa.table(self.name, *columns, schema=self.schema).alias()


class LiveTables:
    """The tables and views of a database, inspected on first use."""

    def __init__(self, connection: Connection) -> None:
        self._inspector = sa.inspect(connection)
        self._tables: dict[str, LiveTable | None] = {}

    def find(self, table: str) -> LiveTable | None:
        """Return the table or view of that name (``schema.table`` if the search path does not lead to it), or None."""
        if table not in self._tables:
            self._tables[table] = self._inspected(table)
        return self._tables[table]

    def _inspected(self, table: str) -> LiveTable | None:
        prefix, _, name = table.rpartition(".")
        schema = prefix or None
        if not self._inspector.has_table(name, schema=schema):
            return None
        types = {column["name"]: column["type"] for column in self._inspector.get_columns(name, schema=schema)}
        return LiveTable(name, schema, types)

    def names(self) -> list[str]:
        """The names of all tables and views on the search path, sorted."""
        return sorted([*self._inspector.get_table_names(), *self._inspector.get_view_names()])
