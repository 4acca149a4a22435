"""The only room that writes to a database: creates the four native tables and fills them in bulk. Reads none of their rows.

PostgreSQL is filled through ADBC, which sends binary COPY, in one transaction with its tables and indexes. A new SQLite
file is built under another name and renamed when it is complete; an existing one is filled in one transaction. Either way
a load that fails or is killed leaves no half-filled table behind.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import adbc_driver_postgresql.dbapi
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import URL
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import AddConstraint, CreateIndex, CreateTable

from exporttools.connections.driver_errors import translated_errors
from exporttools.connections.sql_types import SQL_TYPES
from exporttools.connections.urls import libpq_conninfo, parse_url, safe_label, secrets_of
from exporttools.errors import ConfigError, ConnectionFailed
from exporttools.files.durable import new_file
from exporttools.records.schema import ARROW_TYPES, RECORD_TYPES, Column, arrow_schema, column_of
from exporttools.records.validity import Origin, require_valid
from exporttools.text.inert import one_line

DatabaseName = str | os.PathLike[str] | URL
"""A database to write to: a URL or the path of an SQLite file."""

Batches = Iterable[tuple[str, pa.Table]]
"""Names of native tables, each with some of its rows."""

INDEXES: dict[str, tuple[str, ...]] = {
    "incidents": ("created_at",),
    "runs": ("started_at",),
    "traces": ("tenant_id", "run_id"),
}
"""The columns of each table's index, beyond the primary keys: what reads filter and sort by."""


def load_tables(
    database: DatabaseName, batches: Batches, *, on_rows: Callable[[str, int], None] | None = None
) -> dict[str, int]:
    """Create the four native tables and fill them; tables that exist already must be empty.

    Parameters
    ----------
    database : str, path or URL
        ``postgresql://...``, ``sqlite:///...`` or the path of an SQLite file, which is created if it does not exist.
    batches : iterable of (str, pyarrow.Table)
        Consumed one at a time, so that only one batch is in memory. A table's first batch decides which extra columns it
        has beyond the record's (:data:`exporttools.records.schema.RECORD_TYPES`); later batches must have the same.
    on_rows : callable, optional
        Called with the table and the number of rows after each batch.

    Returns
    -------
    dict of str to int
        How many rows were written to each of the four tables.

    Raises
    ------
    ConfigError
        A table already has rows, lacks columns, or a batch does not have its table's columns. Nothing was written.
    InconsistentData
        A column forbids one of its values. Nothing was written.
    StoreError
        The database failed. Nothing was written.

    Examples
    --------
    >>> import datetime as dt, tempfile
    >>> from exporttools.records.schema import INCIDENTS
    >>> incident = {"id": "inc-1", "tenant_id": "acme", "created_at": dt.datetime(2026, 10, 5, tzinfo=dt.UTC)}
    >>> rows = pa.Table.from_pylist([incident], schema=INCIDENTS.arrow_schema())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load_tables(f"{folder}/agents.sqlite", [("incidents", rows)])
    {'incidents': 1, 'runs': 0, 'traces': 0, 'trace_steps': 0}
    """
    url = parse_url(database)
    label = safe_label(url)
    open_target = _open_sqlite if url.get_backend_name() == "sqlite" else _open_postgresql
    with translated_errors(label, secrets_of(url)), open_target(url, label) as target:
        load = _Load(target, label)
        for table, rows in batches:
            load.append(table, rows)
            if on_rows is not None:
                on_rows(table, rows.num_rows)
        load.finish()
        return load.row_counts


class _Target(Protocol):
    """A database in an open transaction, which its opener ends."""

    dialect: sa.Dialect
    sql_types: dict[str, sa.types.TypeEngine[Any]]
    key_at_once: bool
    """Whether a table is created with its primary key; adding the key after the rows is faster."""

    def query(self, statement: str) -> list[tuple[Any, ...]]: ...

    def execute(self, statement: str) -> None: ...

    def column_names(self, table: str) -> list[str]:
        """Return the table's columns, or an empty list if there is no such table."""
        ...

    def append(self, table: str, rows: pa.Table) -> None: ...


class _Load:
    """One load: the tables found, the tables created, and how many rows were written to each."""

    def __init__(self, target: _Target, label: str) -> None:
        self._target = target
        self._label = label
        self._found = {table: target.column_names(table) for table in RECORD_TYPES}
        self._schemas: dict[str, pa.Schema] = {}
        self._made: list[sa.Table] = []
        self.row_counts = dict.fromkeys(RECORD_TYPES, 0)
        self._require_empty()

    def append(self, table: str, rows: pa.Table) -> None:
        """Write some rows; a table's first rows create the table."""
        if table not in RECORD_TYPES:
            accepted = ", ".join(RECORD_TYPES)
            raise ConfigError(
                f"there is no native table {one_line(table)!r}; expected {accepted}. Nothing was written."
            )
        if table not in self._schemas:
            self._begin_table(table, rows.schema)
        expected = self._schemas[table]
        if not rows.schema.equals(expected):
            raise ConfigError(
                f"{table}: a batch has the columns {_described(rows.schema)}; the first batch had {_described(expected)}. "
                f"Nothing was written."
            )
        record_type = RECORD_TYPES[table]
        require_valid(rows, record_type.stored_columns(), origin=Origin(table), key=record_type.stored_key)
        self._target.append(table, rows)
        self.row_counts[table] += rows.num_rows

    def finish(self) -> None:
        """Create the tables that got no rows, then keys and indexes, and update the planner's statistics."""
        for table, record_type in RECORD_TYPES.items():
            if table not in self._schemas:
                self._begin_table(table, arrow_schema(record_type.stored_columns()))
        for made in self._made:
            if not self._target.key_at_once:
                self._run(AddConstraint(_with_key(made).primary_key))
            for index in made.indexes:
                self._run(CreateIndex(index))
        self._target.execute("ANALYZE")

    def _require_empty(self) -> None:
        filled = []
        for table, names in self._found.items():
            one_row = sa.select(sa.literal(1)).select_from(sa.table(table)).limit(1)
            if names and self._target.query(self._sql(one_row)):
                filled.append(table)
        if filled:
            raise ConfigError(
                f"{self._label} already has rows in {', '.join(filled)}; expected the tables {', '.join(RECORD_TYPES)} "
                f"to be missing or empty. Nothing was written."
            )

    def _begin_table(self, table: str, schema: pa.Schema) -> None:
        columns = _columns(table, schema)
        self._schemas[table] = schema
        found = self._found[table]
        missing = [column.name for column in columns if column.name not in found]
        if found and missing:
            raise ConfigError(
                f"{self._label}: the existing table {table} has no column {', '.join(missing)}; "
                f"found {', '.join(one_line(name, 60) for name in found)}. Nothing was written."
            )
        if not found:
            made = _sql_table(table, columns, self._target.sql_types)
            self._run(CreateTable(_with_key(made) if self._target.key_at_once else made))
            self._made.append(made)

    def _run(self, statement: sa.sql.ClauseElement) -> None:
        self._target.execute(self._sql(statement))

    def _sql(self, statement: sa.sql.ClauseElement) -> str:
        return str(statement.compile(dialect=self._target.dialect, compile_kwargs={"literal_binds": True}))


def _columns(table: str, schema: pa.Schema) -> list[Column]:
    """The table's columns in the order of the rows, which must include all of the record's columns with their types."""
    known = {column.name: column for column in RECORD_TYPES[table].stored_columns()}
    wrong = [
        f"{name} {column.type}"
        for name, column in known.items()
        if schema.get_all_field_indices(name) == [] or schema.field(name).type != ARROW_TYPES[column.type]
    ]
    if wrong:
        raise ConfigError(
            f"{table}: the rows lack the columns {', '.join(wrong)}; found {_described(schema)}. Nothing was written."
        )
    return [known.get(field.name) or column_of(field) for field in schema]


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{one_line(field.name, 60)} {field.type}" for field in schema)


def _sql_table(table: str, columns: Sequence[Column], sql_types: dict[str, Any]) -> sa.Table:
    made = sa.Table(
        table,
        sa.MetaData(),
        *(sa.Column(column.name, sql_types[column.type], nullable=column.nullable) for column in columns),
    )
    if table in INDEXES:
        sa.Index(f"ix_{table}_{INDEXES[table][-1]}", *(made.c[name] for name in INDEXES[table]))
    return made


def _with_key(made: sa.Table) -> sa.Table:
    copy = made.to_metadata(sa.MetaData())
    copy.append_constraint(sa.PrimaryKeyConstraint(*RECORD_TYPES[made.name].stored_key))
    return copy


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
