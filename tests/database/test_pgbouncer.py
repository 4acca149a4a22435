"""Behind pgbouncer in transaction mode: each transaction may be on another connection, which others use before and after."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from exporttools import ExportBundleStore, QueryTimeout, export_dataset, open_dataset
from exporttools.database import trace_store as trace_store_module
from exporttools.database.readers import BULK_ROWS
from tests.databases import create_native, new_database, one_of_each, run_sql
from tests.pgbouncer import pgbouncer
from tests.tenants import allow, only_acme, role_on, schema_per_tenant, seen_by, shared_tables

LONG = BULK_ROWS + 1
THREADS = 8


@pytest.fixture(scope="module")
def urls(postgres_server: str) -> Iterator[dict[str, str]]:
    """The same long trace by a direct connection, and through a pooler that has fewer connections than clients."""
    direct = create_native(new_database(postgres_server), one_of_each(trace_steps=[]))
    run_sql(
        direct,
        "INSERT INTO trace_steps SELECT 'acme', 't1', i, timestamptz '2026-10-05 12:00Z' + i * interval '1 second', 'llm_call',"
        f" i, i * 0.25, 1, 'ok', NULL FROM generate_series(1, {LONG}) i",
    )
    with pgbouncer(direct, "postgres", pool_size=2 * THREADS) as through:
        yield {"direct": direct, "through": through}


def everything(store: ExportBundleStore, destination: Path) -> dict[str, Any]:
    """What each kind of read of a long trace returns."""
    bundle = store.get_export_bundle("i1")
    assert bundle is not None
    export_dataset(store, destination, progress=False)
    with closing(store.scan_trace_steps()) as steps, store.snapshot() as same:
        return {
            "get_trace_steps": store.get_trace_steps("t1", "acme"),
            "scan_trace_steps": steps.read_all(),
            "get_export_bundle": (bundle.incident, bundle.run, bundle.trace, bundle.steps),
            "export_dataset": open_dataset(destination).content_digest,
            "snapshot": (same.list_runs(), same.list_incidents(), same.get_trace_steps("t1", "acme")),
        }


@pytest.mark.parametrize("bulk_rows", [1, 10**9], ids=["in bulk", "row by row"])
def test_every_read_is_as_by_a_direct_connection(
    urls: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    bulk_rows: int,
) -> None:
    expected = everything(ExportBundleStore(urls["direct"]), tmp_path / "direct")
    assert len(expected["get_trace_steps"]) == LONG
    monkeypatch.setattr(trace_store_module, "BULK_ROWS", bulk_rows)
    caplog.set_level(logging.INFO, "exporttools")
    store = ExportBundleStore(urls["through"])
    for number in range(3):
        assert everything(store, tmp_path / f"{number}") == expected
    assert "reading rows, since" not in caplog.text


def test_threads_share_the_poolers_connections(urls: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    expected = ExportBundleStore(urls["direct"]).get_export_bundle("i1")
    store = ExportBundleStore(urls["through"])
    caplog.set_level(logging.INFO, "exporttools")

    def read(number: int) -> Any:
        if number % 2:
            return store.get_export_bundle("i1") == expected
        with closing(store.scan_trace_steps(columns=["tokens"])) as steps:
            return steps.read_all()["tokens"].to_pylist() == [*range(1, LONG + 1)]

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(read, range(5 * THREADS))) == [True] * 5 * THREADS
    assert "reading rows, since" not in caplog.text


def test_a_statement_timeout_is_not_left_to_the_next_client(fresh_postgres_url: str) -> None:
    create_native(fresh_postgres_url, one_of_each())
    run_sql(
        fresh_postgres_url,
        "ALTER TABLE runs RENAME TO raw_runs",
        "CREATE VIEW runs AS SELECT *, pg_sleep(3600)::text AS slept FROM raw_runs WHERE pg_sleep(3600) IS NOT NULL",
    )
    with pgbouncer(fresh_postgres_url, "postgres", pool_size=1) as through:
        store = ExportBundleStore(through, statement_timeout=0.2)
        assert store.get_incident("i1") is not None
        with pytest.raises(QueryTimeout, match="the statement was cancelled; raise statement_timeout"):
            store.get_run_by_run_id("r1")
        assert store.get_incident("i1") is not None
        with psycopg.connect(through.replace("+psycopg", "")) as other:
            left = other.execute(
                "SELECT current_setting('statement_timeout'), current_setting('transaction_read_only')"
            )
            assert left.fetchone() == ("0", "off")


def test_promise_20_behind_pgbouncer_in_transaction_mode(
    fresh_postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_store_module, "BULK_ROWS", 1)
    with role_on(fresh_postgres_url) as role, pgbouncer(fresh_postgres_url, role) as through:
        shared_tables(fresh_postgres_url)
        allow(fresh_postgres_url, role, "tenant_id = current_setting('app.tenant_id', true)")
        engine = sa.create_engine(through, connect_args={"prepare_threshold": None})

        @sa.event.listens_for(engine, "begin")
        def set_tenant(connection: sa.Connection) -> None:
            connection.exec_driver_sql("SET LOCAL app.tenant_id = 'acme'")

        assert seen_by(ExportBundleStore(engine), tmp_path / "dataset") == only_acme()
        engine.dispose()


def test_promise_20_a_connection_that_another_client_has_set_up_is_not_read_from_in_bulk(
    fresh_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another client SETs stays with the pooler's connection, and is the next one's: here the second one's."""
    monkeypatch.setattr(trace_store_module, "BULK_ROWS", 1)
    schema_per_tenant(fresh_postgres_url)
    run_sql(fresh_postgres_url, f"ALTER DATABASE {sa.make_url(fresh_postgres_url).database} SET search_path = acme")
    with pgbouncer(fresh_postgres_url, "postgres", pool_size=2) as through:
        store = ExportBundleStore(through, tenant_id="acme")
        expected = store.get_export_bundle("i1")
        assert expected is not None
        assert expected.run is not None
        assert expected.run.goal == "acme"
        client = through.replace("+psycopg", "")
        with psycopg.connect(client) as first, psycopg.connect(client) as second:
            first.execute("SELECT 1")
            second.execute("SET search_path = globex")
            second.commit()
            first.commit()  # so that it is the first to be lent again
        assert store.get_export_bundle("i1") == expected
