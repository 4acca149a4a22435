"""The only room that writes a database: makes the four native tables and fills them in bulk. Reads none of their rows.

PostgreSQL is filled through ADBC, which sends binary COPY; tables, rows and indexes are one transaction. A new SQLite
file is built under another name and renamed when it is whole; one that exists is filled in one transaction. Either way
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
from exporttools.connections.urls import libpq_conninfo, parse_url, safe_label
from exporttools.errors import ConfigError, ConnectionFailed
from exporttools.files.durable import new_file
from exporttools.records.schema import ARROW_TYPES, RECORD_TYPES, Column, arrow_schema, column_of
from exporttools.records.validity import Origin, require_valid
from exporttools.text.inert import one_line

DatabaseName = str | os.PathLike[str] | URL
"""What names a database to write: a URL or the path of an SQLite file."""

Batches = Iterable[tuple[str, pa.Table]]
"""Native tables' names, each with some of its rows."""

INDEXES: dict[str, tuple[str, ...]] = {
    "incidents": ("created_at",),
    "runs": ("started_at",),
    "traces": ("tenant_id", "run_id"),
}
"""What reads look for, beyond the keys."""


def load_tables(
    database: DatabaseName, batches: Batches, *, on_rows: Callable[[str, int], None] | None = None
) -> dict[str, int]:
    """Make the four native tables and fill them; tables that exist already must be empty.

    Parameters
    ----------
    database : str, path or URL
        ``postgresql://...``, ``sqlite:///...`` or the path of an SQLite file, which need not exist yet.
    batches : iterable of (str, pyarrow.Table)
        Taken one at a time, so that memory is one batch. A table's first batch says which extra columns it has beyond
        the record's (:data:`exporttools.records.schema.RECORD_TYPES`); the others must have the same.
    on_rows : callable, optional
        Told the table and the number of rows after each batch.

    Returns
    -------
    dict of str to int
        How many rows each of the four tables was given.

    Raises
    ------
    ConfigError
        A table holds rows already, lacks columns, or a batch is not of its table's columns. Nothing was written.
    InconsistentData
        A value that its column forbids. Nothing was written.
    StoreError
        What the database says. Nothing was written.

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
    with translated_errors(label, url.password), open_target(url, label) as target:
        load = _Load(target, label)
        for table, rows in batches:
            load.append(table, rows)
            if on_rows is not None:
                on_rows(table, rows.num_rows)
        load.finish()
        return load.row_counts


class _Target(Protocol):
    """A database in an open transaction; its end is the opener's."""

    dialect: sa.Dialect
    sql_types: dict[str, sa.types.TypeEngine[Any]]
    key_at_once: bool
    """Whether a table is made with its primary key; one that is added after the rows is faster."""

    def query(self, statement: str) -> list[tuple[Any, ...]]: ...

    def execute(self, statement: str) -> None: ...

    def column_names(self, table: str) -> list[str]:
        """Empty where there is no such table."""
        ...

    def append(self, table: str, rows: pa.Table) -> None: ...


class _Load:
    """One load: which tables were there, which were made, and how many rows each was given."""

    def __init__(self, target: _Target, label: str) -> None:
        self._target = target
        self._label = label
        self._found = {table: target.column_names(table) for table in RECORD_TYPES}
        self._schemas: dict[str, pa.Schema] = {}
        self._made: list[sa.Table] = []
        self.row_counts = dict.fromkeys(RECORD_TYPES, 0)
        self._require_empty()

    def append(self, table: str, rows: pa.Table) -> None:
        """Write some rows; a table's first make the table."""
        if table not in RECORD_TYPES:
            accepted = ", ".join(RECORD_TYPES)
            raise ConfigError(f"no native table {one_line(table)!r}; accepted are {accepted}. Nothing was written.")
        if table not in self._schemas:
            self._begin_table(table, rows.schema)
        expected = self._schemas[table]
        if not rows.schema.equals(expected):
            raise ConfigError(
                f"{table}: a batch has the columns {_described(rows.schema)}; its first had {_described(expected)}. "
                f"Nothing was written."
            )
        record_type = RECORD_TYPES[table]
        require_valid(rows, record_type.stored_columns(), origin=Origin(table), key=record_type.stored_key)
        self._target.append(table, rows)
        self.row_counts[table] += rows.num_rows

    def finish(self) -> None:
        """Make the tables that no rows came for, then keys and indexes, and count for the planner."""
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
                f"{self._label} holds rows already, in {', '.join(filled)}; expected a database whose tables "
                f"{', '.join(RECORD_TYPES)} are absent or empty. Nothing was written."
            )

    def _begin_table(self, table: str, schema: pa.Schema) -> None:
        columns = _columns(table, schema)
        self._schemas[table] = schema
        found = self._found[table]
        missing = [column.name for column in columns if column.name not in found]
        if found and missing:
            raise ConfigError(
                f"{self._label}: the table {table} is there without {', '.join(missing)}; "
                f"found are {', '.join(one_line(name, 60) for name in found)}. Nothing was written."
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
    """The table's columns in the order of the rows, after checking that all the record's are there, of its types."""
    known = {column.name: column for column in RECORD_TYPES[table].stored_columns()}
    wrong = [
        f"{name} {column.type}"
        for name, column in known.items()
        if schema.get_all_field_indices(name) == [] or schema.field(name).type != ARROW_TYPES[column.type]
    ]
    if wrong:
        raise ConfigError(
            f"{table}: rows lack the columns {', '.join(wrong)}; found are {_described(schema)}. Nothing was written."
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

    # Not the driver's own style of parameters, which would double every % in a name.
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
            # Keys and indexes are made by sorting: what is enough memory for a read is little for that.
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
    """A column's values as sqlite3 takes them; without a Python call a value wherever that can be."""
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
            raise ConnectionFailed(f"{label}: the file cannot be made: {one_line(error.strerror)}") from error
        file.close()  # SQLite opens it by its name
        with _sqlite_transaction(Path(file.name), new=True) as target:
            yield target
        try:
            stack.close()
        except FileExistsError as error:
            raise ConfigError(
                f"{label} appeared while it was being made; it was left as it is. Nothing was written."
            ) from error


@contextmanager
def _sqlite_transaction(path: Path, *, new: bool = False) -> Iterator[_Sqlite]:
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        if new:
            # Nobody else sees the file before it is whole, so there is nothing to roll back to.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
        # A sample of each index is enough for the planner, and quick on millions of rows.
        connection.execute("PRAGMA analysis_limit = 1000")
        connection.execute("BEGIN IMMEDIATE")
        yield _Sqlite(connection)
        connection.execute("COMMIT")
