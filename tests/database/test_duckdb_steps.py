"""Steps loaded into DuckDB: the rows of a scan, in a new or a given connection, whole or not at all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pytest

from exporttools import (
    ConfigError,
    ConnectionFailed,
    ExportBundleStore,
    InconsistentData,
    QueryTimeout,
    StoreError,
    TenantMismatch,
)
from exporttools.database import duckdb_steps
from tests.databases import NOON, create_native, one_of_each, run, run_sql, step, trace

SECOND = dt.timedelta(seconds=1)


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection with a table and a setting of its user's."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'Asia/Kathmandu'")
        connection.execute("CREATE TABLE prices (model TEXT)")
        yield connection


def tables_of(connection: duckdb.DuckDBPyConnection) -> list[str]:
    rows = connection.execute("SELECT table_name FROM information_schema.tables ORDER BY ALL").fetchall()
    return [name for (name,) in rows]


@pytest.fixture
def many_url(fresh_url: str) -> str:
    """Steps of two traces, more than come in one batch."""
    rows = [step(index, trace_id=name) for name in ("t1", "t2") for index in range(5_000)]
    return create_native(fresh_url, one_of_each(traces=[trace(), trace(trace_id="t2")], trace_steps=rows))


def test_the_rows_are_those_of_a_scan(sample_url: str) -> None:
    store = ExportBundleStore(sample_url)
    steps = store.load_trace_steps()
    expected = store.scan_trace_steps().read_all()
    assert steps.columns == expected.column_names
    assert steps.to_arrow_table().to_pylist() == expected.to_pylist()
    assert steps.to_arrow_table().schema.types == expected.schema.types


def test_a_new_connection_is_in_utc_and_in_memory(url: str) -> None:
    steps = ExportBundleStore(url).load_trace_steps()
    assert steps.alias == "trace_steps"
    assert steps.project("timestamp::TEXT").limit(1).fetchall() == [("2026-10-05 12:00:00+00",)]
    assert steps.limit(1).project("current_setting('TimeZone'), current_database()").fetchall() == [("UTC", "memory")]


def test_a_given_connection_keeps_its_settings_and_tables(url: str, connection: duckdb.DuckDBPyConnection) -> None:
    steps = ExportBundleStore(url).load_trace_steps(table='acme\'s "steps"', connection=connection)
    assert steps.project("step_index").fetchall() == [(0,), (1,), (2,)]
    assert connection.execute("""SELECT count(*) FROM "acme's ""steps""\" """).fetchall() == [(3,)]
    assert tables_of(connection) == ['acme\'s "steps"', "prices"]
    assert connection.execute("SELECT current_setting('TimeZone')").fetchall() == [("Asia/Kathmandu",)]
    assert connection.execute(
        "SELECT database_name, temporary FROM duckdb_tables() WHERE table_name LIKE 'acme%'"
    ).fetchall() == [("temp", True)]


def test_the_filters_are_those_of_a_scan(fresh_url: str) -> None:
    rows = one_of_each(
        runs=[run(), run(run_id="r2", agent_id="sorter"), run(run_id="r3", tenant_id="globex")],
        traces=[trace(), trace(trace_id="t2", run_id="r2"), trace(trace_id="t3", run_id="r3", tenant_id="globex")],
        trace_steps=[step(0), step(1), step(0, trace_id="t2"), step(0, trace_id="t3", tenant_id="globex")],
    )
    url = create_native(fresh_url, rows)
    store = ExportBundleStore(url)

    def loaded(**filters: Any) -> list[tuple[Any, ...]]:
        return store.load_trace_steps(columns=["step_index", "trace_id"], **filters).fetchall()

    assert loaded() == [("t1", 0), ("t1", 1), ("t2", 0), ("t3", 0)]
    assert loaded(tenant_id="globex") == [("t3", 0)]
    assert loaded(agent_id="sorter") == [("t2", 0)]
    assert loaded(run_id=["r1", "r3"]) == [("t1", 0), ("t1", 1), ("t3", 0)]
    assert loaded(since=NOON + SECOND) == [("t1", 1)]
    assert loaded(until=NOON) == []
    scoped = ExportBundleStore(url, tenant_id="globex")
    assert scoped.load_trace_steps(columns=["trace_id"]).fetchall() == [("t3",)]
    with pytest.raises(TenantMismatch, match="scoped to tenant 'globex'; the call asks for 'acme'"):
        scoped.load_trace_steps(tenant_id="acme")


def test_bad_arguments_load_nothing(url: str, connection: duckdb.DuckDBPyConnection) -> None:
    store = ExportBundleStore(url)
    connection.register("trace_steps", pa.table({"mine": [1]}))
    taken = (
        "the DuckDB connection already has a table '{}'; drop it, or choose another name by table=. Nothing was loaded."
    )
    for table, message in (
        ("trace_steps", taken.format("trace_steps")),
        ("Prices", taken.format("prices")),
        (7, "table is 7; expected a str"),
    ):
        with pytest.raises(ConfigError) as caught:
            store.load_trace_steps(table=table, connection=connection)  # type: ignore[arg-type]
        assert str(caught.value) == message
    with pytest.raises(ConfigError, match="^no column 'cents'; found tenant_id, run_id"):
        store.load_trace_steps(columns=["cents"], table="new", connection=connection)
    assert connection.execute("SELECT mine FROM trace_steps").fetchall() == [(1,)]
    assert tables_of(connection) == ["prices", "trace_steps"]


def test_a_bad_value_late_in_the_read_leaves_no_table(many_url: str, connection: duckdb.DuckDBPyConnection) -> None:
    run_sql(many_url, "UPDATE trace_steps SET tokens = NULL WHERE trace_id = 't2' AND step_index = 4900")
    connection.execute("BEGIN")
    connection.execute("INSERT INTO prices VALUES ('lark-2')")
    store = ExportBundleStore(many_url)
    with pytest.raises(InconsistentData, match="trace_id='t2', step_index=4900 has tokens = NULL") as caught:
        store.load_trace_steps(connection=connection)
    assert caught.value.column == "tokens"
    connection.execute("COMMIT")  # the transaction of the connection's user lives on
    assert connection.execute("FROM prices").fetchall() == [("lark-2",)]
    assert tables_of(connection) == ["prices"]
    run_sql(many_url, "UPDATE trace_steps SET tokens = 1 WHERE tokens IS NULL")
    assert len(store.load_trace_steps(connection=connection)) == 10_000


def test_a_database_lost_halfway_leaves_no_table(
    fresh_postgres_url: str, connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = create_native(fresh_postgres_url, one_of_each())
    run_sql(
        url,
        "INSERT INTO trace_steps SELECT 'acme', 't1', i, now(), 'x', 1, 1, 1, 'ok', repeat('x', 200)"
        " FROM generate_series(10, 400000) AS i",
    )
    statements: list[str] = []
    insert = duckdb_steps._run

    def insert_and_kill(into: duckdb.DuckDBPyConnection, statement: str, rows: pa.Table) -> None:
        insert(into, statement, rows)
        statements.append(statement[:6])
        if statements == ["CREATE"]:
            return
        with psycopg.connect(url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    monkeypatch.setattr(duckdb_steps, "_run", insert_and_kill)
    with pytest.raises(ConnectionFailed, match="closed the connection. The driver says: "):
        ExportBundleStore(url).load_trace_steps(connection=connection)
    assert statements[:2] == ["CREATE", "INSERT"]  # some rows were in
    assert tables_of(connection) == ["prices"]


def test_a_timeout_halfway_leaves_no_table(tmp_path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'slow.sqlite'}", one_of_each())
    run_sql(
        url,
        "DROP TABLE trace_steps",
        "CREATE VIEW trace_steps AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000) "
        "SELECT 'acme' AS tenant_id, 't1' AS trace_id, i AS step_index, '2026-10-05 12:00:00' AS timestamp, 'x' AS step_type, "
        "1 AS tokens, 0.5 AS cost_cents, 1.0 AS duration_ms, 'ok' AS status, NULL AS content_hash FROM n",
    )
    with pytest.raises(QueryTimeout, match="the statement ran longer than statement_timeout"):
        ExportBundleStore(url, statement_timeout=0.1).load_trace_steps(connection=connection)
    assert tables_of(connection) == ["prices"]


def test_an_interrupt_leaves_no_table_and_ends_the_read(
    many_url: str, connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = duckdb_steps._run

    def interrupted(into: duckdb.DuckDBPyConnection, statement: str, rows: pa.Table) -> None:
        insert(into, statement, rows)
        if statement.startswith("INSERT"):
            raise KeyboardInterrupt

    monkeypatch.setattr(duckdb_steps, "_run", interrupted)
    store = ExportBundleStore(many_url)
    with pytest.raises(KeyboardInterrupt):
        store.load_trace_steps(connection=connection)
    assert tables_of(connection) == ["prices"]
    assert store._reader.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_a_failure_of_duckdb_is_ours(url: str) -> None:
    closed = duckdb.connect()
    closed.close()
    with pytest.raises(StoreError) as caught:
        ExportBundleStore(url).load_trace_steps(connection=closed)
    assert str(caught.value) == (
        "DuckDB cannot hold the steps; no table was left behind: Connection Error: Connection already closed!"
    )
    assert isinstance(caught.value.__cause__, duckdb.Error)


def test_more_rows_than_memory_spill_to_disk(fresh_postgres_url: str, tmp_path: Path) -> None:
    url = create_native(fresh_postgres_url, one_of_each())
    run_sql(
        url,
        "INSERT INTO trace_steps SELECT 'acme', 't1', i, now(), 'x', 1, 1, 1, 'ok', md5(i::text) || md5((-i)::text)"
        " FROM generate_series(10, 1000000) AS i",
    )
    settings = {"memory_limit": "40MB", "threads": 1, "temp_directory": str(tmp_path / "spill")}
    with duckdb.connect(config=settings) as connection:
        steps = ExportBundleStore(url).load_trace_steps(columns=["step_index", "content_hash"], connection=connection)
        (spilled,) = connection.execute("SELECT sum(size) FROM duckdb_temporary_files()").fetchall()
        assert spilled[0] > 10_000_000
        assert steps.aggregate("count(*), max(step_index)").fetchall() == [(999_994, 1_000_000)]


def test_a_trace_store_that_cannot_scan(url: str) -> None:
    class Remote:
        def get_trace_summary(self, run_id: str, tenant_id: str | None = None) -> None: ...

        def get_trace_steps(self, trace_id: str, tenant_id: str | None = None) -> None: ...

    store = ExportBundleStore(url, trace_store=Remote())  # type: ignore[arg-type]
    for read in (store.load_trace_steps, store.scan_trace_steps):
        with pytest.raises(ConfigError, match="^a Remote cannot scan steps; SqlTraceStore can$"):
            read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"table": ""}, "table is ''; expected the name of a table to create"),
        ({"columns": []}, "columns is empty; expected at least one column, or None for all"),
        ({"connection": 5}, "connection is a int; expected a DuckDBPyConnection or None"),
    ],
)
def test_arguments_that_are_nothing_to_load_into(url: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ExportBundleStore(url).load_trace_steps(**arguments)
    assert str(caught.value) == message


def test_a_table_of_that_name_in_another_schema_is_no_hindrance(
    url: str, connection: duckdb.DuckDBPyConnection
) -> None:
    connection.execute("CREATE SCHEMA other; CREATE TABLE other.trace_steps (n INTEGER)")
    assert len(ExportBundleStore(url).load_trace_steps(connection=connection)) > 0
