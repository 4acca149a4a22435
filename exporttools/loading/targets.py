"""Databases to write to: PostgreSQL through ADBC, which sends binary COPY, and SQLite. Knows tables and rows, no records.

A new SQLite file is built under another name and renamed when it is complete. Each target is one transaction, so that a
load that fails or is killed leaves nothing behind.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import adbc_driver_postgresql.dbapi
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import URL
from sqlalchemy.dialects import postgresql, sqlite

from exporttools.connections.driver_errors import translated_errors
from exporttools.connections.sql_types import SQL_TYPES
from exporttools.connections.urls import libpq_conninfo, parse_url, safe_label, secrets_of
from exporttools.errors import ConfigError, ConnectionFailed
from exporttools.files.durable import new_file
from exporttools.text.inert import one_line

DatabaseName = str | os.PathLike[str] | URL
"""A database to write to: a URL or the path of an SQLite file."""


class Target(Protocol):
    """A database in an open transaction, which its opener ends."""

    dialect: sa.Dialect
    sql_types: dict[str, sa.types.TypeEngine[Any]]
    key_at_once: bool
    """Whether a table is created with its primary key; adding the key after the rows is faster."""

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return all rows of a statement."""
        ...

    def execute(self, statement: str) -> None:
        """Run a statement."""
        ...

    def column_names(self, table: str) -> list[str]:
        """Return the table's columns, or an empty list if there is no such table."""
        ...

    def append(self, table: str, rows: pa.Table) -> None:
        """Write rows to a table that has their columns."""
        ...


@contextmanager
def open_target(database: DatabaseName) -> Iterator[tuple[Target, str]]:
    """A database in a transaction, which is committed at the end of the block, with its name for messages.

    Raises
    ------
    StoreError
        The database failed. Nothing was written.
    """
    url = parse_url(database)
    label = safe_label(url)
    open_url = _open_sqlite if url.get_backend_name() == "sqlite" else _open_postgresql
    with translated_errors(label, secrets_of(url)), open_url(url, label) as target:
        yield target, label


class _Postgresql:
    """A PostgreSQL transaction over ADBC."""

    # Not the driver's own parameter style, which would double every % in a name.
    dialect: sa.Dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    sql_types = SQL_TYPES
    key_at_once = False

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        self._cursor.execute(statement)
        return list(self._cursor.fetchall())

    def execute(self, statement: str) -> None:
        self._cursor.execute(statement)

    def column_names(self, table: str) -> list[str]:
        live = f"attrelid = to_regclass('{table}') AND attnum > 0 AND NOT attisdropped"
        rows = self.query(f"SELECT attname::text FROM pg_attribute WHERE {live} ORDER BY attnum")  # noqa: S608
        return [name for (name,) in rows]

    def append(self, table: str, rows: pa.Table) -> None:
        self._cursor.adbc_ingest(table, rows, mode="append")


@contextmanager
def _open_postgresql(url: URL, label: str) -> Iterator[_Postgresql]:  # noqa: ARG001
    with closing(adbc_driver_postgresql.dbapi.connect(libpq_conninfo(url))) as connection:
        with closing(connection.cursor()) as cursor:
            target = _Postgresql(cursor)
            # Keys and indexes are built by sorting, which needs more memory than reads do.
            target.execute("SET LOCAL maintenance_work_mem = '256MB'")
            yield target
        connection.commit()


class _Sqlite:
    """An SQLite transaction. Times are text as SQLAlchemy's DateTime writes them."""

    dialect: sa.Dialect = sqlite.dialect()
    sql_types = SQL_TYPES | {"float64": sa.Float(), "timestamp": sa.DateTime()}
    key_at_once = True

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement).fetchall()

    def execute(self, statement: str) -> None:
        self._connection.execute(statement)

    def column_names(self, table: str) -> list[str]:
        return [name for (name,) in self.query(f"SELECT name FROM pragma_table_info('{table}')")]  # noqa: S608

    def append(self, table: str, rows: pa.Table) -> None:
        quoted = self.dialect.identifier_preparer.quote
        names = ", ".join(quoted(name) for name in rows.column_names)
        marks = ", ".join("?" * rows.num_columns)
        values = zip(*(_sqlite_values(column) for column in rows.columns), strict=True)
        self._connection.executemany(f"INSERT INTO {quoted(table)} ({names}) VALUES ({marks})", values)  # noqa: S608


def _sqlite_values(column: pa.ChunkedArray) -> list[Any]:
    """A column's values as sqlite3 accepts them, where possible without a Python call for each value."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us")).cast(pa.string())
    if pa.types.is_string(column.type) or not column.null_count:
        return list(column.to_numpy().tolist())
    return list(column.to_pylist())


@contextmanager
def _open_sqlite(url: URL, label: str) -> Iterator[_Sqlite]:
    path = Path(url.database or "")
    if os.path.lexists(path):
        with _sqlite_transaction(path) as target:
            yield target
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(new_file(path))
        except OSError as error:
            raise ConnectionFailed(f"{label}: the file cannot be created: {one_line(error.strerror)}") from error
        file.close()  # SQLite opens it by its name
        with _sqlite_transaction(Path(file.name), new=True) as target:
            yield target
        try:
            stack.close()
        except FileExistsError as error:
            raise ConfigError(
                f"{label} was created by someone else during the load; that file was left unchanged. Nothing was written."
            ) from error


@contextmanager
def _sqlite_transaction(path: Path, *, new: bool = False) -> Iterator[_Sqlite]:
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        if new:
            # Nobody else sees the file before it is complete, so there is nothing to roll back to.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
        # For the planner a sample of each index is enough, and fast on millions of rows.
        connection.execute("PRAGMA analysis_limit = 1000")
        connection.execute("BEGIN IMMEDIATE")
        yield _Sqlite(connection)
        connection.execute("COMMIT")
