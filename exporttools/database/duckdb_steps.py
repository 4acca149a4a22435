"""Steps in DuckDB: a temporary table, filled batch by batch, that is whole or not there. Reads no database itself."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import pyarrow as pa

from exporttools.database.scoped_reader import require_id
from exporttools.errors import ConfigError, StoreError
from exporttools.text.inert import one_line, sql_identifier

if TYPE_CHECKING:
    import duckdb


def load_steps(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch], table: str, connection: duckdb.DuckDBPyConnection | None
) -> duckdb.DuckDBPyRelation:
    """Fill a new temporary table with the batches; see :meth:`exporttools.ExportBundleStore.load_trace_steps`."""
    import duckdb

    if not table:
        raise ConfigError("table is ''; expected the name of a table to create")
    if not schema.names:
        raise ConfigError("columns is empty; expected at least one column, or None for all")
    if not isinstance(connection, duckdb.DuckDBPyConnection | None):
        raise ConfigError(f"connection is a {type(connection).__name__}; expected a DuckDBPyConnection or None")
    if connection is None:
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
    name = f"temp.main.{sql_identifier(require_id('table', table))}"
    try:
        _require_new(connection, table)
        try:
            _run(connection, f"CREATE TEMP TABLE {name} AS FROM", schema.empty_table())
            for batch in batches:
                _run(connection, f"INSERT INTO {name} FROM", pa.Table.from_batches([batch]))
        except BaseException:
            with suppress(duckdb.Error):
                connection.execute(f"DROP TABLE IF EXISTS {name}")
            raise
        return connection.table(name)
    except duckdb.Error as error:
        raise StoreError(f"DuckDB cannot hold the steps; no table was left behind: {one_line(error, 400)}") from error


def _require_new(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    found = connection.execute(
        "SELECT table_name FROM information_schema.tables"
        " WHERE (table_catalog = 'temp' OR table_catalog = current_database() AND table_schema = current_schema())"
        " AND lower(table_name) = lower(?)",
        [table],
    ).fetchone()
    if found is not None:
        raise ConfigError(
            f"the DuckDB connection already has a table {one_line(found[0], 60)!r}; drop it, or choose another name by "
            f"table=. Nothing was loaded."
        )


def _run(connection: duckdb.DuckDBPyConnection, statement: str, rows: pa.Table) -> None:
    """Run a statement that ends in FROM on some rows."""
    view = f"rows_{uuid.uuid4().hex}"
    connection.register(view, rows)
    try:
        connection.execute(f"{statement} {view}")
    finally:
        connection.unregister(view)
