"""PROMISES row 9, the bundle's side: a read that fails midway never yields a bundle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from exporttools import ConnectionFailed, ExportBundleStore, QueryTimeout, StoreError, write_bundle
from exporttools.cli import app
from tests.databases import create_native, one_of_each, run_sql

# More rows than the store reads row by row, so that they come by COPY; the last of them then come slowly.
SLOW_STEPS = """
CREATE VIEW trace_steps AS
SELECT 'acme' AS tenant_id, 't1' AS trace_id, i::bigint AS step_index, timestamptz '2026-10-05 12:00:00Z' AS "timestamp",
       'llm_call' AS step_type, 1::bigint AS tokens, 0.5::float8 AS cost_cents, 1::float8 AS duration_ms,
       'ok' AS status, NULL::text AS content_hash
FROM generate_series(0, 20000) AS i
WHERE CASE WHEN i >= 19000 AND left(current_query(), 4) = 'COPY' THEN pg_sleep(0.01)::text IS NOT NULL ELSE true END
"""
SLEEPING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND left(query, 4) = 'COPY'"


@pytest.fixture
def slow_url(fresh_postgres_url: str) -> str:
    """A database whose one trace takes ten seconds to COPY, nearly all of them after most of its rows."""
    create_native(fresh_postgres_url, one_of_each())
    run_sql(fresh_postgres_url, "DROP TABLE trace_steps", SLOW_STEPS)
    return fresh_postgres_url


@pytest.fixture
def killed_midway(slow_url: str) -> Iterator[list[str]]:
    """Ends the backend that reads the steps, once it has delivered most of them. Gives the statements that it ended."""
    ended: list[str] = []
    stop = threading.Event()

    def kill() -> None:
        with psycopg.connect(slow_url, autocommit=True) as connection:
            while not ended and not stop.is_set():
                row = connection.execute(
                    f"SELECT query, pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN ({SLEEPING}) LIMIT 1"  # type: ignore[arg-type]
                ).fetchone()
                if row:
                    ended.append(row[0])

    thread = threading.Thread(target=kill)
    thread.start()
    yield ended
    stop.set()
    thread.join()


def test_promise_09_a_backend_killed_in_mid_copy_yields_no_bundle(
    slow_url: str, killed_midway: list[str], tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["-d", slow_url, "bundle", "i1", "-o", str(tmp_path / "b")])
    assert [statement[:4] for statement in killed_midway] == ["COPY"]
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_promise_09_the_error_of_a_killed_backend_is_ours(slow_url: str, killed_midway: list[str]) -> None:
    store = ExportBundleStore(slow_url)
    with pytest.raises(StoreError) as caught:
        store.get_export_bundle("i1")
    assert killed_midway
    assert isinstance(caught.value, ConnectionFailed)


def test_promise_09_a_timeout_midway_yields_no_bundle_and_the_next_read_is_whole(slow_url: str, tmp_path: Path) -> None:
    with pytest.raises(QueryTimeout):
        ExportBundleStore(slow_url, statement_timeout=0.5).get_export_bundle("i1")
    run_sql(slow_url, "DROP VIEW trace_steps", SLOW_STEPS.replace("pg_sleep(0.01)", "pg_sleep(0)"))
    bundle = ExportBundleStore(slow_url).get_export_bundle("i1")
    assert bundle is not None
    assert len(bundle.steps) == 20_001
    assert write_bundle(bundle, tmp_path / "b").is_dir()
