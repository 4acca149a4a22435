"""The two readers: what goes through them comes out unchanged, in bulk and by rows."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

import adbc_driver_manager
import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from exporttools import ExportBundleStore, InconsistentData, QueryTimeout, SchemaMismatch, TraceStepSnapshot
from exporttools.database import trace_store as trace_store_module
from exporttools.database.readers import BulkReader
from exporttools.loading import load_tables
from exporttools.records.snapshot_table import SnapshotTable
from tests.databases import create_native, one_of_each, run_sql, step, writable

INT64 = st.integers(min_value=0, max_value=2**63 - 1)
FLOAT = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
TIME = st.datetimes(timezones=st.just(dt.UTC))

STEPS = st.lists(
    st.builds(
        TraceStepSnapshot,
        step_index=INT64,
        timestamp=TIME,
        step_type=TEXT,
        tokens=INT64,
        cost_cents=FLOAT,
        duration_ms=FLOAT,
        status=TEXT,
        content_hash=st.none() | TEXT,
    ),
    unique_by=lambda found: found.step_index,
    max_size=8,
)

_ONE_DATABASE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_ONE_DATABASE
@given(steps=STEPS, trace_id=TEXT, tenant_id=TEXT)
def test_any_step_comes_back_as_it_was(
    fresh_url: str, steps: list[TraceStepSnapshot], trace_id: str, tenant_id: str
) -> None:
    expected = SnapshotTable.from_records(TraceStepSnapshot, sorted(steps, key=lambda found: found.step_index))
    _fill(fresh_url, expected, trace_id, tenant_id)
    store = ExportBundleStore(fresh_url)
    assert store.get_trace_steps(trace_id, tenant_id) == expected
    with pytest.MonkeyPatch.context() as patch:  # in bulk too, where the database is PostgreSQL
        patch.setattr(trace_store_module, "BULK_ROWS", 0)
        assert store.get_trace_steps(trace_id, tenant_id) == expected


def _fill(url: str, steps: SnapshotTable[TraceStepSnapshot], trace_id: str, tenant_id: str) -> None:
    """Replace the steps in a database that may hold an earlier example's."""
    try:
        run_sql(url, "DELETE FROM trace_steps")
    except DBAPIError:  # the first example: there is no table yet
        create_native(url, {})
    table = steps.to_arrow()
    for name, value in (("trace_id", trace_id), ("tenant_id", tenant_id)):
        table = table.add_column(
            0, pa.field(name, pa.string(), nullable=False), [pa.array([value] * len(steps), pa.string())]
        )
    load_tables(url, [("trace_steps", table)])


@pytest.mark.parametrize(
    "trace_id", ["it's", "100%", "%s %% %(x)s", "back\\slash", ":bind", 'quo"te', "E'\\'", "$1", "💥", "a\nb", ""]
)
def test_bulk_reads_quote_ids(fresh_postgres_url: str, monkeypatch: pytest.MonkeyPatch, trace_id: str) -> None:
    url = create_native(
        fresh_postgres_url, one_of_each(trace_steps=[step(0, trace_id=trace_id), step(0, trace_id="other")])
    )
    monkeypatch.setattr(trace_store_module, "BULK_ROWS", 1)
    monkeypatch.setattr(trace_store_module, "read_table", None)  # there is no way but ADBC
    assert len(ExportBundleStore(url).get_trace_steps(trace_id, "acme")) == 1
    run_sql(url, f"ALTER DATABASE {make_url(url).database} SET standard_conforming_strings = off")
    assert len(ExportBundleStore(url).get_trace_steps(trace_id, "acme")) == 1


@pytest.fixture
def big_url(fresh_postgres_url: str) -> str:
    """A trace of more steps than rows are read one by one."""
    url = create_native(fresh_postgres_url, one_of_each(trace_steps=[]))
    run_sql(
        url,
        "INSERT INTO trace_steps SELECT 'acme', 't1', i, timestamptz '2026-10-05 12:00Z' + i * interval '1 second', 'llm_call',"
        " i, i * 0.25, 1, 'ok', NULL FROM generate_series(0, 9999) i",
    )
    return url


def test_both_readers_agree(big_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ExportBundleStore(big_url, tenant_id="acme")
    bulk = store.get_trace_steps("t1")
    monkeypatch.setattr(trace_store_module, "BULK_ROWS", 10**9)
    assert store.get_trace_steps("t1") == bulk
    assert len(bulk) == 10_000


def test_a_kept_connection_that_died_is_replaced(big_url: str) -> None:
    store = ExportBundleStore(big_url, tenant_id="acme")
    assert len(store.get_trace_steps("t1")) == 10_000
    _end_other_connections(big_url, "application_name <> 'exporttools'")
    assert len(store.get_trace_steps("t1")) == 10_000
    _end_other_connections(big_url, "true")  # the pool's too
    assert len(store.get_trace_steps("t1")) == 10_000


def _end_other_connections(url: str, which: str) -> None:
    sql = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND {which}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql)  # type: ignore[arg-type]


def test_rows_are_read_where_there_is_no_second_connection(big_url: str, caplog: pytest.LogCaptureFixture) -> None:
    run_sql(
        big_url, "CREATE ROLE lonely LOGIN CONNECTION LIMIT 1", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO lonely"
    )
    store = ExportBundleStore(make_url(big_url).set(username="lonely"), tenant_id="acme")
    try:
        with caplog.at_level(logging.INFO, logger="exporttools"):
            assert len(store.get_trace_steps("t1")) == 10_000
        assert "reading rows, since ADBC could not join the snapshot" in caplog.text
    finally:
        store._reader.database.engine.dispose()
        run_sql(big_url, "DROP OWNED BY lonely", "DROP ROLE lonely")


def test_a_bulk_read_that_fails_gives_nothing(big_url: str) -> None:
    run_sql(big_url, "UPDATE trace_steps SET cost_cents = 'NaN' WHERE step_index = 7777")
    store = ExportBundleStore(big_url, tenant_id="acme")
    with pytest.raises(
        InconsistentData, match=r"trace_id='t1', step_index=7777 has cost_cents = nan; expected a finite number"
    ):
        store.get_trace_steps("t1")
    run_sql(big_url, "UPDATE trace_steps SET cost_cents = 0, timestamp = 'infinity' WHERE step_index = 7777")
    with pytest.raises(
        InconsistentData, match=r"step_index=7777 has timestamp = .*; expected a time in the years 1 to 9999"
    ):
        store.get_trace_steps("t1")


def test_a_bulk_read_keeps_to_the_statement_timeout(big_url: str) -> None:
    run_sql(
        big_url,
        "ALTER TABLE trace_steps RENAME TO raw_steps",
        "CREATE FUNCTION slowly(i bigint) RETURNS bigint LANGUAGE plpgsql AS $$BEGIN IF i > 4000 THEN PERFORM pg_sleep(0.01); END IF; RETURN i; END$$",
        "CREATE VIEW trace_steps AS SELECT tenant_id, trace_id, step_index, timestamp, step_type, slowly(tokens) tokens, cost_cents,"
        " duration_ms, status, content_hash FROM raw_steps",
    )
    store = ExportBundleStore(big_url, tenant_id="acme", statement_timeout=0.5)
    with pytest.raises(QueryTimeout, match="the statement was cancelled; raise statement_timeout"):
        store.get_trace_steps("t1")


def test_times_at_the_calendars_ends_whatever_the_servers_zone(fresh_postgres_url: str) -> None:
    ends = [dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)]
    rows = [{"run_id": f"r{i}", "tenant_id": "acme", "started_at": moment} for i, moment in enumerate(ends)]
    url = create_native(fresh_postgres_url, {"runs": rows})
    for zone in ("America/New_York", "Pacific/Auckland"):
        run_sql(url, f"ALTER DATABASE {make_url(url).database} SET timezone = '{zone}'")
        assert [found.started_at for found in ExportBundleStore(url).list_runs(order="oldest")] == ends


def test_a_column_dropped_meanwhile_is_named(fresh_url: str) -> None:
    store = ExportBundleStore(create_native(fresh_url, one_of_each()))
    assert store.get_run_by_run_id("r1")
    run_sql(fresh_url, "ALTER TABLE runs DROP COLUMN goal")
    with pytest.raises(SchemaMismatch, match=r"a column of the layout no longer exists. The driver says: .*goal"):
        store.get_run_by_run_id("r1")


def test_a_text_that_is_not_utf8(tmp_path: Any) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'latin.sqlite'}", one_of_each())
    run_sql(url, "UPDATE runs SET goal = CAST(x'ff' AS TEXT)")
    with pytest.raises(InconsistentData, match="a stored text is not valid UTF-8.*goal"):
        ExportBundleStore(url).get_run_by_run_id("r1")


def test_a_locked_database(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'locked.sqlite'}", one_of_each())
    monkeypatch.setattr("exporttools.database.opening._SQLITE_BUSY_TIMEOUT_S", 0.01)
    engine = writable(url)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA locking_mode = EXCLUSIVE")
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        with pytest.raises(QueryTimeout, match="timed out waiting for a writer to unlock the database"):
            ExportBundleStore(url).list_runs()
    engine.dispose()


def test_the_bulk_reader_closes_its_connection(big_url: str) -> None:
    store = ExportBundleStore(big_url, tenant_id="acme")
    store.get_trace_steps("t1")
    bulk: BulkReader = store.trace_store._bulk  # type: ignore[attr-defined]
    kept = bulk._idle[0].adbc
    with psycopg.connect(big_url, autocommit=True) as connection:
        states = connection.execute(
            "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert {state for (state,) in states} == {"idle"}  # no transaction is left open
    del store, bulk
    with pytest.raises(adbc_driver_manager.Error, match="must call AdbcConnectionInit first"):
        kept.cursor().execute("SELECT 1")
