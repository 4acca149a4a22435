"""Exports on both databases: what a dataset then holds, how it is brought up to date, and what stops it."""

from __future__ import annotations

import datetime as dt
import pickle
import resource
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporttools import (
    ConfigError,
    DestinationConflict,
    ExportBundleStore,
    ExportInterrupted,
    InconsistentData,
    TenantMismatch,
    export_dataset,
    open_dataset,
    plan_export,
)
from exporttools.dataset.manifest import read_manifest
from exporttools.dataset.storage import LocalStorage, open_storage
from exporttools.export import task as task_module
from tests.databases import NOON, create_native, incident, insert, one_of_each, run, run_sql, step, trace, writable

HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
TABLES = ("incidents", "runs", "traces", "trace_steps")


def export(url: str, destination: Path, **options: Any) -> Any:
    return export_dataset(ExportBundleStore(url), destination, progress=False, **options)


def files_of(destination: Path) -> set[str]:
    return {p.relative_to(destination).as_posix() for p in destination.rglob("*") if p.is_file()}


def two_days() -> dict[str, list[dict[str, Any]]]:
    """Two runs on two days, each with an incident, a trace and a step."""
    return {
        "incidents": [incident(id=f"i{i}", source_run_id=f"r{i}", created_at=NOON + i * DAY) for i in (0, 1)],
        "runs": [run(run_id=f"r{i}", started_at=NOON + i * DAY, completed_at=NOON + i * DAY + HOUR) for i in (0, 1)],
        "traces": [trace(trace_id=f"t{i}", run_id=f"r{i}") for i in (0, 1)],
        "trace_steps": [step(0, trace_id=f"t{i}", timestamp=NOON + i * DAY) for i in (0, 1)],
    }


def test_promise_11_the_sample_arrives_complete(sample_url: str, sample: Any, tmp_path: Path) -> None:
    report = export(sample_url, tmp_path / "d")
    dataset = open_dataset(tmp_path / "d")
    assert dict(dataset.rows) == {table: sample[table].num_rows for table in TABLES} == dict(report.rows)
    assert dataset.verify().findings == ()
    for table, key in (("trace_steps", "trace_id"), ("runs", "run_id")):
        expected = sorted(zip(*(sample[table][c].to_pylist() for c in ("tenant_id", key)), strict=True))
        found = sorted(zip(*(dataset.to_arrow(table)[c].to_pylist() for c in ("tenant_id", key)), strict=True))
        assert found == expected
    assert dataset.sql("select sum(tokens) from ledger").fetchall() == [
        (sum(sample["trace_steps"]["tokens"].to_pylist()),)
    ]


def test_promise_11_each_value_arrives(fresh_url: str, tmp_path: Path) -> None:
    rows = one_of_each(runs=[run(goal="ünï\u2028code 'quoted' %s :x", total_cost_cents=2**62, policy_snapshot_id=None)])
    export(create_native(fresh_url, rows, extra={"model": "string"}), tmp_path)
    dataset = open_dataset(tmp_path)
    for table in TABLES:
        for row, expected in zip(dataset.to_arrow(table).to_pylist(), rows[table], strict=True):
            assert {name: row[name] for name in expected} == expected
    assert dataset.schema("trace_steps").names[-1] == "model"


def test_both_databases_give_the_same_digest(sample_urls: dict[str, str], tmp_path: Path) -> None:
    for name, url in sample_urls.items():
        export(url, tmp_path / name, window="7d")
    one, other = (open_dataset(tmp_path / name) for name in sample_urls)
    assert dict(one.content_digests) == dict(other.content_digests)


@pytest.mark.parametrize("window", ["2d", "14d"])
def test_windows_of_days_of_any_length_give_the_same_digest(sample_url: str, tmp_path: Path, window: str) -> None:
    export(sample_url, tmp_path / "daily")
    export(sample_url, tmp_path / "other", window=window)
    assert open_dataset(tmp_path / "daily").content_digest == open_dataset(tmp_path / "other").content_digest


def test_threads_processes_and_dask_give_equal_digests(sample_url: str, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    store = ExportBundleStore(sample_url)
    with ThreadPoolExecutor(3) as threads:
        export_dataset(store, tmp_path / "threads", executor=threads, progress=False)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        export_dataset(store, tmp_path / "processes", executor=processes, progress=False)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert len(client.scheduler_info()["workers"]) == 2
        export_dataset(store, tmp_path / "dask", executor=client.get_executor(), progress=False)
    digests = {name: open_dataset(tmp_path / name).content_digest for name in ("threads", "processes", "dask")}
    assert len(set(digests.values())) == 1


def test_tasks_are_small_and_hold_no_secret(sample_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTS_URL", "postgresql://reader:sesame@db.internal/agents")
    storage = open_storage(tmp_path)
    task = task_module.ExportTask(ExportBundleStore("env:AGENTS_URL"), storage, None, NOON, NOON + DAY, HOUR)
    sent = pickle.dumps(task)
    assert len(sent) < 2000
    assert b"sesame" not in sent
    assert pickle.loads(sent).store.list_runs.__self__.tenant_id is None
    assert pickle.loads(pickle.dumps(ExportBundleStore(sample_url))).list_runs(limit=1).total == 300
    with pytest.raises(ConfigError, match=r"the store's URL holds a password, which would travel .* 'env:NAME'"):
        pickle.dumps(ExportBundleStore("postgresql://reader:sesame@db.internal/agents"))
    engine = writable(sample_url)
    with pytest.raises(ConfigError, match="a store on an Engine cannot be sent to another process"):
        pickle.dumps(ExportBundleStore(engine))
    engine.dispose()
    with pytest.raises(ConfigError, match="the environment variable 'NOT_SET' is not set"):
        ExportBundleStore("env:NOT_SET")


def test_a_second_export_does_nothing(fresh_url: str, tmp_path: Path) -> None:
    url = create_native(fresh_url, two_days())
    first = export(url, tmp_path)
    before = files_of(tmp_path)
    second = export(url, tmp_path)
    assert (first.windows_committed, first.windows_skipped) == (2, 0)
    assert (second.windows_committed, second.windows_skipped, second.manifest) == (0, 2, first.manifest)
    assert files_of(tmp_path) == before
    assert "nothing new" in str(second)


def test_a_run_that_finishes_between_two_exports_is_updated(fresh_url: str, tmp_path: Path) -> None:
    rows = two_days()
    rows["runs"][0].update(completed_at=None, termination_reason=None)
    url = create_native(fresh_url, rows)
    first = export(url, tmp_path)
    assert (first.windows_provisional, first.open_runs) == (1, 1)
    assert "provisional: 1 windows with 1 open runs" in str(first)
    again = export(url, tmp_path)  # it never ends: it stays counted, and nothing is written
    assert (again.windows_provisional, again.open_runs, again.windows_unchanged, again.windows_committed) == (
        1,
        1,
        1,
        0,
    )
    run_sql(
        url,
        "UPDATE runs SET completed_at = '2026-10-05 13:00:00', termination_reason = 'completed' WHERE run_id = 'r0'",
    )
    engine = writable(url)
    with engine.begin() as connection:
        insert(connection, "trace_steps", step(1, trace_id="t0"))
    engine.dispose()
    last = export(url, tmp_path)
    assert (last.windows_provisional, last.open_runs, last.windows_committed) == (0, 0, 1)
    dataset = open_dataset(tmp_path)
    found = dataset.sql("select run_id, termination_reason, count(*) from ledger group by all order by 1").fetchall()
    assert found == [("r0", "completed", 2), ("r1", "budget_exceeded", 1)]
    assert dataset.verify().ok
    assert open_dataset(tmp_path, as_of=first.manifest).sql("select count(*) from trace_steps").fetchall() == [(2,)]
    assert export(url, tmp_path).windows_skipped == 2


def test_runs_without_a_start_and_traces_without_a_run_are_exported_and_counted(fresh_url: str, tmp_path: Path) -> None:
    rows = two_days()
    rows["runs"].append(run(run_id="queued", started_at=None, completed_at=None))
    rows["traces"] += [trace(trace_id="t2", run_id="queued"), trace(trace_id="t3", run_id="never heard of")]
    rows["trace_steps"] += [step(0, trace_id="t2"), step(0, trace_id="t3")]
    url = create_native(fresh_url, rows)
    report = export(url, tmp_path)
    assert report.undated_runs == 1
    assert "undated: 1 runs without a start" in str(report)
    dataset = open_dataset(tmp_path)
    assert [p.parent.name for p in tmp_path.glob("runs/*/day=__undated__/*")] == ["day=__undated__"]
    found = dataset.sql("select trace_id, run_id, day from ledger where day = '__undated__' order by 1").fetchall()
    assert found == [("t2", "queued", "__undated__"), ("t3", "never heard of", "__undated__")]
    assert dataset.verify().findings == ()
    run_sql(
        url,
        "UPDATE runs SET started_at = '2026-10-06 01:00:00', completed_at = '2026-10-06 02:00:00' WHERE run_id = 'queued'",
    )
    later = export(url, tmp_path)  # its day is settled already and is not read again by itself
    assert later.undated_runs == 0


def test_a_window_that_is_not_over_is_read_again(fresh_url: str, tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    url = create_native(fresh_url, {"runs": [run(started_at=now - HOUR, completed_at=now)]})
    assert export(url, tmp_path).windows_provisional >= 1
    engine = writable(url)
    with engine.begin() as connection:
        insert(connection, "runs", run(run_id="later", started_at=now - HOUR / 2, completed_at=now))
    engine.dispose()
    export(url, tmp_path)
    assert open_dataset(tmp_path).rows["runs"] == 2


def test_since_and_until_are_half_open_and_later_exports_fill_up(fresh_url: str, tmp_path: Path) -> None:
    url = create_native(fresh_url, two_days())
    report = export(url, tmp_path, since=NOON, until=NOON + DAY)
    assert report.rows["runs"] == 1
    assert open_dataset(tmp_path).to_arrow("runs")["run_id"].to_pylist() == ["r0"]
    export(url, tmp_path)
    dataset = open_dataset(tmp_path)
    assert dict(dataset.rows) == {"incidents": 2, "runs": 2, "traces": 2, "trace_steps": 2}
    assert dataset.verify().ok
    naive = dt.datetime(2026, 10, 5)
    with pytest.raises(ConfigError, match="a naive datetime"):
        export(url, tmp_path, since=naive)


@pytest.mark.parametrize("window", ["5h", "0d", "week", "90000d", 7])
def test_windows_that_are_none(sample_url: str, tmp_path: Path, window: Any) -> None:
    with pytest.raises(ConfigError, match="window is "):
        export(sample_url, tmp_path, window=window)


def test_promise_10_no_row_of_another_tenant(fresh_url: str, tmp_path: Path) -> None:
    canary = "CANARY-of-borealis"
    rows: dict[str, list[Any]] = {table: list(of) for table, of in one_of_each().items()}
    for table, of in one_of_each().items():
        for row in of:
            texts = {
                name: canary
                for name, value in row.items()
                if isinstance(value, str) and name not in ("id", "run_id", "trace_id", "source_run_id")
            }
            rows[table].append(row | texts | {"tenant_id": "borealis"})
    url = create_native(fresh_url, rows)
    export(url, tmp_path / "acme", tenant_id="acme")
    for path in (tmp_path / "acme").rglob("*"):
        assert path.is_dir() or canary.encode() not in path.read_bytes()
        assert "borealis" not in str(path)
    assert open_dataset(tmp_path / "acme").tenants == ("acme",)
    export(url, tmp_path / "all")
    dataset = open_dataset(tmp_path / "all")
    assert dataset.tenants == ("acme", "borealis")
    assert dataset.verify().ok
    for path in (tmp_path / "all").glob("*/tenant_id=acme/*/*.parquet"):
        assert canary.encode() not in path.read_bytes()
    with pytest.raises(TenantMismatch):
        export_dataset(ExportBundleStore(url, tenant_id="acme"), tmp_path / "x", tenant_id="borealis", progress=False)
    with pytest.raises(
        DestinationConflict,
        match=r"holds an export of all tenants; this one is of tenant 'acme'. Export into another place",
    ):
        export(url, tmp_path / "all", tenant_id="acme")


@pytest.mark.parametrize("window", ["1h", "1d", "7d"])
def test_times_at_both_ends_of_the_calendar(fresh_url: str, tmp_path: Path, window: str) -> None:
    utc, edge = dt.UTC, dt.timedelta(microseconds=1)
    times = [dt.datetime(1, 1, 1, tzinfo=utc), dt.datetime(1970, 1, 1, tzinfo=utc) - edge, dt.datetime(1970, 1, 1, tzinfo=utc),
             dt.datetime(2026, 10, 6, tzinfo=utc) - edge, dt.datetime(9999, 12, 31, 23, 59, 59, 999_998, tzinfo=utc)]  # fmt: skip
    runs = [run(run_id=f"r{i}", started_at=moment, completed_at=moment) for i, moment in enumerate(times)]
    export(create_native(fresh_url, {"runs": runs}), tmp_path, window=window)
    dataset = open_dataset(tmp_path)
    found = dict(zip(*(dataset.to_arrow("runs")[name].to_pylist() for name in ("run_id", "started_at")), strict=True))
    assert found == {f"r{i}": moment for i, moment in enumerate(times)}
    assert dataset.verify().findings == ()


def test_tenants_with_any_name(fresh_url: str, tmp_path: Path) -> None:
    names = ["a/b=c%", "123", "' OR 1=1 --", "ACME", "acme", "../../x", "ü ", "__undated__", "%s"]
    rows = {
        "runs": [run(run_id=f"r{i}", tenant_id=name) for i, name in enumerate(names)],
        "traces": [trace(trace_id=f"t{i}", run_id=f"r{i}", tenant_id=name) for i, name in enumerate(names)],
        "trace_steps": [step(0, trace_id=f"t{i}", tenant_id=name, tokens=i) for i, name in enumerate(names)],
    }
    export(create_native(fresh_url, rows), tmp_path / "d")
    dataset = open_dataset(tmp_path / "d")
    assert dataset.tenants == tuple(sorted(names))
    assert dataset.verify().findings == ()
    found = dict(dataset.sql("select tenant_id, tokens from ledger").fetchall())
    assert found == {name: i for i, name in enumerate(names)}
    assert {p.name for p in tmp_path.iterdir()} <= {"d", "fresh.sqlite"}


def test_a_bad_row_stops_the_export_and_says_which(fresh_url: str, tmp_path: Path) -> None:
    rows = two_days()
    rows["trace_steps"][1]["cost_cents"] = None
    url = create_native(fresh_url, rows)
    with pytest.raises(
        ExportInterrupted, match=r"trace_steps: row .*step_index=0 has cost_cents = NULL.*1 of 2 windows are committed"
    ) as caught:
        export(url, tmp_path, jobs=1)
    assert isinstance(caught.value.__cause__, InconsistentData)
    assert open_dataset(tmp_path).rows["runs"] == 1
    assert open_dataset(tmp_path).verify().ok


def test_a_step_twice_stops_the_export(fresh_url: str, tmp_path: Path) -> None:
    url = create_native(fresh_url, one_of_each(trace_steps=[step(0), step(0)]))
    with pytest.raises(
        ExportInterrupted,
        match=r"trace_id='t1', step_index=0 comes after .*expected strictly ascending keys, each once",
    ):
        export(url, tmp_path)


def test_the_plan_counts_and_writes_nothing(sample_url: str, sample: Any, tmp_path: Path) -> None:
    plan = plan_export(ExportBundleStore(sample_url), tmp_path / "d")
    assert plan.runs >= 300
    assert abs(plan.estimated_steps - sample["trace_steps"].num_rows) < sample["trace_steps"].num_rows / 2
    assert list(tmp_path.iterdir()) == []
    assert str(plan).startswith(f"{tmp_path / 'd'}: {len(plan.windows)} windows to read, 0 settled; ")
    export(sample_url, tmp_path / "d")
    assert all(
        window.why == "provisional" for window in plan_export(ExportBundleStore(sample_url), tmp_path / "d").windows
    )


# --- promise 7


def test_promise_07_each_window_is_of_one_point_in_time(fresh_url: str, tmp_path: Path) -> None:
    """A writer moves cents between two runs and their steps, of one window."""
    url = create_native(
        fresh_url,
        {
            "runs": [run(run_id=f"r{i}", total_cost_cents=50) for i in (1, 2)],
            "traces": [trace(trace_id=f"t{i}", run_id=f"r{i}") for i in (1, 2)],
            "trace_steps": [step(0, trace_id=f"t{i}", cost_cents=50.0) for i in (1, 2)],
        },
    )
    engine = writable(url)
    if "sqlite" in url:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    stop, moved = threading.Event(), threading.Event()

    def move() -> None:
        amount = 0
        while not stop.is_set():
            amount = (amount + 7) % 50
            with engine.begin() as connection:
                for name, cents in (("1", 50 + amount), ("2", 50 - amount)):
                    connection.execute(
                        sa.text("UPDATE runs SET total_cost_cents = :c WHERE run_id = :r"),
                        {"c": cents, "r": f"r{name}"},
                    )
                    connection.execute(
                        sa.text("UPDATE trace_steps SET cost_cents = :c WHERE trace_id = :t"),
                        {"c": cents, "t": f"t{name}"},
                    )
            moved.set()

    thread = threading.Thread(target=move)
    thread.start()
    moved.wait(10)
    seen = set()
    try:
        for i in range(12):
            export(url, tmp_path / str(i), jobs=1)
            of_runs = dict(open_dataset(tmp_path / str(i)).sql("select run_id, total_cost_cents from runs").fetchall())
            of_steps = dict(open_dataset(tmp_path / str(i)).sql("select run_id, cost_cents from ledger").fetchall())
            assert of_runs == of_steps
            assert sum(of_runs.values()) == 100
            seen.add(of_runs["r1"])
    finally:
        stop.set()
        thread.join()
        engine.dispose()
    assert len(seen) > 1  # the writer was at work


# --- promise 9

SLOW = """
CREATE VIEW trace_steps AS
SELECT 'acme' AS tenant_id, 't1' AS trace_id, i::bigint AS step_index, timestamptz '2026-10-05 12:00:00Z' AS "timestamp",
       'llm_call' AS step_type, 1::bigint AS tokens, 0.5::float8 AS cost_cents, 1::float8 AS duration_ms,
       'ok' AS status, NULL::text AS content_hash
FROM generate_series(0, 20000) AS i
WHERE CASE WHEN i >= 19000 AND left(current_query(), 4) = 'COPY' AND EXISTS (SELECT FROM slow)
      THEN {slowness} ELSE true END
"""


def slow_steps(url: str, slowness: str = "pg_sleep(0.01)::text IS NOT NULL") -> str:
    """A trace of 20,001 steps that arrives slowly, or not, for as long as the table `slow` has a row."""
    create_native(url, one_of_each())
    run_sql(
        url,
        "DROP TABLE trace_steps",
        "CREATE TABLE slow (n int)",
        "INSERT INTO slow VALUES (1)",
        SLOW.format(slowness=slowness),
    )
    return url


def test_promise_09_a_backend_killed_in_mid_copy_is_retried(
    fresh_postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = slow_steps(fresh_postgres_url)
    monkeypatch.setattr(task_module, "sleep", lambda _: run_sql(url, "DELETE FROM slow"))  # it heals meanwhile
    ended: list[str] = []
    stop = threading.Event()

    def kill() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not ended and not stop.is_set():
                row = connection.execute(
                    "SELECT query, pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND left(query, 4) = 'COPY' LIMIT 1"
                ).fetchone()
                if row:
                    ended.append(row[0])

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        report = export(url, tmp_path)
    finally:
        stop.set()
        thread.join()
    assert [statement[:4] for statement in ended] == ["COPY"]
    assert len(report.retries) == 1
    assert "retries: 1; the last since" in str(report)
    assert open_dataset(tmp_path).rows["trace_steps"] == 20_001
    assert open_dataset(tmp_path).verify().ok


@pytest.mark.parametrize(
    ("slowness", "message"),
    [
        ("pg_sleep(0.01)::text IS NOT NULL", "the statement was cancelled; raise statement_timeout"),
        ("conflict()", "the read conflicted with a change and was rolled back"),
    ],
)
def test_promise_09_a_failure_that_stays_stops_the_export_clearly(
    fresh_postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slowness: str, message: str
) -> None:
    run_sql(
        fresh_postgres_url,
        "CREATE FUNCTION conflict() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'conflict with recovery' USING ERRCODE = '40001'; END $$",
    )
    url = slow_steps(fresh_postgres_url, slowness)
    engine = writable(url)
    with engine.begin() as connection:
        insert(connection, "runs", run(run_id="r0", started_at=NOON - DAY, completed_at=NOON - DAY))
    engine.dispose()
    waits: list[float] = []
    monkeypatch.setattr(task_module, "sleep", waits.append)
    store = ExportBundleStore(url, statement_timeout=0.5)
    with pytest.raises(
        ExportInterrupted,
        match=f"{message}.*1 of 2 windows are committed and stay; the same export, run again, goes on from there",
    ):
        export_dataset(store, tmp_path, jobs=1, progress=False)
    assert len(waits) == 3  # four attempts in all, each later than the one before
    assert waits == sorted(waits)
    dataset = open_dataset(tmp_path)
    assert dict(dataset.rows) == {"incidents": 0, "runs": 1, "traces": 0, "trace_steps": 0}
    assert dataset.verify().ok
    run_sql(url, "DELETE FROM slow")
    report = export_dataset(ExportBundleStore(url), tmp_path, progress=False)
    assert (report.windows_skipped, report.rows["trace_steps"]) == (1, 20_001)


def test_promise_09_a_timeout_on_sqlite_stops_the_export_clearly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'db.sqlite'}", one_of_each(trace_steps=[]))
    run_sql(
        url,
        "DROP TABLE trace_steps",
        "CREATE VIEW trace_steps AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000) "
        "SELECT 'acme' AS tenant_id, 't1' AS trace_id, i AS step_index, '2026-10-05 12:00:00' AS timestamp, 'x' AS step_type, "
        "1 AS tokens, 0.5 AS cost_cents, 1.0 AS duration_ms, 'ok' AS status, NULL AS content_hash FROM n",
    )
    waits: list[float] = []
    monkeypatch.setattr(task_module, "sleep", waits.append)
    with pytest.raises(
        ExportInterrupted, match="the statement ran longer than statement_timeout.*0 of 1 windows are committed"
    ):
        export_dataset(ExportBundleStore(url, statement_timeout=0.1), tmp_path / "d", progress=False)
    assert len(waits) == 3
    assert sum(open_dataset(tmp_path / "d").rows.values()) == 0


# --- promises 12 to 15; kill -9 is in test_export_kills.py


UNTIL = dt.datetime(2026, 10, 9, tzinfo=dt.UTC)


class Stopped(Exception):
    """An interruption at some operation on the destination."""


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> list[str]:
    """Let the destination's `at`th change fail. Gives the changes before it."""
    changes: list[str] = []

    def failing(name: str) -> Any:
        original = getattr(LocalStorage, name)

        def call(self: LocalStorage, *arguments: Any) -> Any:
            if len(changes) == at:
                raise error
            changes.append(name)
            return original(self, *arguments)

        return call

    for name in ("create", "new_part_file", "delete"):
        monkeypatch.setattr(LocalStorage, name, failing(name))
    return changes


@pytest.fixture(scope="module")
def one_shots(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """Content digests of uninterrupted exports, by database and window."""
    return {}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    window=st.sampled_from(["6h", "1d", "3d"]),
    stops=st.lists(st.integers(0, 60), min_size=1, max_size=3),
    full=st.booleans(),
)
def test_promise_15_resumed_equals_one_shot(
    sample_url: str,
    one_shots: dict[tuple[str, str], str],
    tmp_path_factory: pytest.TempPathFactory,
    window: str,
    stops: list[int],
    full: bool,
) -> None:
    directory = tmp_path_factory.mktemp("resumed")
    if (sample_url, window) not in one_shots:
        export(sample_url, directory / "one-shot", window=window, until=UNTIL)
        one_shots[sample_url, window] = open_dataset(directory / "one-shot").content_digest
    for at in stops:
        with pytest.MonkeyPatch.context() as monkeypatch:
            error = OSError(28, "No space left on device") if full else Stopped()
            interrupt(monkeypatch, at, error)
            with suppress(ExportInterrupted, OSError, Stopped):
                export(sample_url, directory / "d", window=window, until=UNTIL, jobs=1)
        if read_manifest(open_storage(directory / "d")) is not None:
            assert open_dataset(directory / "d").verify().findings == ()
    export(sample_url, directory / "d", window=window, until=UNTIL)
    dataset = open_dataset(directory / "d")
    verification = dataset.verify()
    assert verification.findings == ()
    assert dataset.content_digest == one_shots[sample_url, window]
    assert dataset.sql(
        "select count(*) - count(distinct (tenant_id, trace_id, step_index)) from trace_steps"
    ).fetchall() == [(0,)]


def test_promise_13_a_full_disk_is_a_clear_error_and_keeps_what_was(fresh_url: str, tmp_path: Path) -> None:
    rows = two_days()
    rows["trace_steps"] += [step(i, trace_id="t1", content_hash=f"{i * 7919 % 10007:032x}") for i in range(1, 3000)]
    url = create_native(fresh_url, rows)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(ExportInterrupted, match=r"File too large.*1 of 2 windows are committed and stay"):
            export(url, tmp_path, jobs=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert open_dataset(tmp_path).rows["runs"] == 1
    assert open_dataset(tmp_path).verify().ok
    assert not list(tmp_path.rglob("*partial"))
    export(url, tmp_path)
    assert open_dataset(tmp_path).rows["trace_steps"] == 3001
    assert open_dataset(tmp_path).verify().ok


def test_promise_14_all_is_synced_before_the_manifest(
    fresh_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporttools.files import durable

    url = create_native(fresh_url, one_of_each())
    calls: list[tuple[str, str]] = []
    fsync, rename = durable.fsync, durable._rename_to_new
    monkeypatch.setattr(durable, "fsync", lambda path: (calls.append(("sync", path.name)), fsync(path))[1])
    monkeypatch.setattr(durable, "_rename_to_new", lambda a, b: (calls.append(("rename", b.name)), rename(a, b))[1])
    export(url, tmp_path)
    names = [name for what, name in calls if what == "rename"]
    assert [name.partition("-")[0] for name in names] == [
        "000001.json",
        "part",
        "part",
        "part",
        "part",
        names[5],
        "000002.json",
    ]
    for at, (what, name) in enumerate(calls):
        if what == "rename":
            assert calls[at - 1][0] == "sync"  # what is renamed, then the directory it went to
            assert calls[at - 1][1].startswith(".")
            assert calls[at + 1] == (
                "sync",
                "_manifest" if name.endswith(".json") and len(name) == 11 else calls[at + 1][1],
            )


def test_orphans_of_a_failed_export_are_ignored_and_removed(
    fresh_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = create_native(fresh_url, two_days())
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 5, Stopped())  # the manifest of the first window, whose parts are all there
        with pytest.raises(Stopped):
            export(url, tmp_path, jobs=1)
    stray = tmp_path / "runs" / "tenant_id=acme" / "day=2026-10-05" / "part-00000000000000000000000000000000.parquet"
    stray.write_bytes(b"left by someone")
    assert len(list(tmp_path.glob("*/*/*/*.parquet"))) >= 4
    assert sum(open_dataset(tmp_path).rows.values()) == 0
    assert open_dataset(tmp_path).verify().unlisted >= 4
    export(url, tmp_path)
    assert not stray.exists()
    assert open_dataset(tmp_path).verify().unlisted == 0
    assert open_dataset(tmp_path).verify().ok


def test_of_two_exporters_one_wins_and_nothing_is_lost(
    fresh_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = create_native(fresh_url, two_days())
    overtaken: list[Any] = []
    original = task_module._attempt

    def attempt(task: Any) -> Any:
        if not overtaken:
            overtaken.append(None)  # the other exports everything while the first is at its first window
            overtaken.append(export(url, tmp_path))
        return original(task)

    monkeypatch.setattr(task_module, "_attempt", attempt)
    with pytest.raises(DestinationConflict, match="another export began here, with a manifest after 1; this one stops"):
        export(url, tmp_path, jobs=1)
    dataset = open_dataset(tmp_path)
    assert dict(dataset.rows) == {"incidents": 2, "runs": 2, "traces": 2, "trace_steps": 2}
    assert dataset.manifest.number == overtaken[1].manifest
    assert dataset.verify().ok
    assert export(url, tmp_path).windows_skipped == 2


def test_many_exporters_at_once(sample_url: str, tmp_path: Path) -> None:
    def attempt(_: int) -> str:
        try:
            export(sample_url, tmp_path, window="7d", jobs=1)
        except DestinationConflict:
            return "conflict"
        return "done"

    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(attempt, range(4)))
    assert set(ends) <= {"done", "conflict"}
    assert "done" in ends
    export(sample_url, tmp_path, window="7d")
    dataset = open_dataset(tmp_path)
    assert dataset.verify().findings == ()
    assert dataset.rows["runs"] == 300


def test_part_files_are_named_by_content_and_in_key_order(sample_url: str, tmp_path: Path) -> None:
    import hashlib

    export(sample_url, tmp_path)
    paths = sorted(tmp_path.glob("trace_steps/*/*/*.parquet"))
    assert len(paths) > 10
    for path in paths:
        assert path.name == f"part-{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}.parquet"
        keys = pq.read_table(path, columns=["trace_id", "step_index"], partitioning=None).to_pylist()
        pairs = [(row["trace_id"].encode(), row["step_index"]) for row in keys]
        assert pairs == sorted(set(pairs))


@pytest.mark.real
def test_real_agents_totals(real: Path, tmp_path: Path) -> None:
    export(str(real / "agents.sqlite"), tmp_path)
    found = open_dataset(tmp_path).sql(
        "select tenant_id, count(*), sum(tokens)::bigint, round(sum(cost_cents), 6), round(sum(duration_ms), 3), "
        "count(*) filter (status = 'error') from ledger group by 1 order by 1"
    )
    assert found.fetchall() == [
        ("inspect", 638, 155318, 0.0, 1986863.064, 0),
        ("langfuse", 138, 26766, 2.365675, 554974.0, 0),
        ("openhands", 222, 1926683, 0.0, 348518.018, 21),
    ]


def test_reports_are_inert(fresh_url: str, tmp_path: Path) -> None:
    url = create_native(fresh_url, two_days())
    hostile = tmp_path / "<script>alert(1)<"
    plan = plan_export(ExportBundleStore(url), hostile)
    report = export(url, hostile)
    for shown in (plan, report, open_dataset(hostile), open_dataset(hostile).verify()):
        assert "<script>" not in shown._repr_html_()
        assert "&lt;script&gt;" in shown._repr_html_()


def test_a_bar_says_rows_and_windows_where_somebody_watches(
    fresh_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    import types

    store = ExportBundleStore(create_native(fresh_url, two_days()))
    export_dataset(store, tmp_path / "unseen")  # standard error is no terminal here
    assert capsys.readouterr().err == ""
    shell = types.SimpleNamespace(kernel="a notebook's")
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    export_dataset(store, tmp_path / "seen")
    last = capsys.readouterr().err.splitlines()[-1]
    assert "8.00 rows [" in last
    assert "2/2 windows]" in last


def test_speed_is_that_of_the_clock(fresh_url: str, tmp_path: Path) -> None:
    url = create_native(fresh_url, two_days())
    began = time.monotonic()
    report = export(url, tmp_path)
    assert 0 < report.seconds <= time.monotonic() - began
