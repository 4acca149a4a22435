"""Exports that a database or a destination stops: the error is clear, commits stay, and a resumed export ends the same."""

from __future__ import annotations

import datetime as dt
import errno
import os
import resource
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporttools import ExportBundleStore, ExportInterrupted, InconsistentData, export_dataset, open_dataset
from exporttools.dataset.destinations import open_storage
from exporttools.dataset.local_storage import LocalStorage
from exporttools.dataset.manifest_reader import read_manifest
from exporttools.export import task as task_module
from tests.databases import NOON, create_native, insert, one_of_each, run, run_sql, step, writable
from tests.export.fleets import DAY, HOUR, Stopped, export, interrupt, two_days


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
        match=r"trace_id='t1', step_index=0 comes after .*expected strictly ascending keys without duplicates",
    ):
        export(url, tmp_path)


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
    assert "retries: 1; the last one because of: " in str(report)
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
        match=f"{message}.*1 of 2 windows are committed and stay; the same export, run again, continues from there",
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


UNTIL = dt.datetime(2026, 10, 9, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def one_shots(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """Content digests of uninterrupted exports, by database and window."""
    return {}


def require_resumed_equals_one_shot(
    url: str, one_shots: dict[tuple[str, str], str], directory: Path, window: str, stops: list[int], full: bool
) -> None:
    """Stop an export at each of these changes of the destination, then run it to the end."""
    if (url, window) not in one_shots:
        export(url, directory / "one-shot", window=window, until=UNTIL)
        one_shots[url, window] = open_dataset(directory / "one-shot").content_digest
    for at in stops:
        with pytest.MonkeyPatch.context() as monkeypatch:
            error = OSError(28, "No space left on device") if full else Stopped()
            interrupt(monkeypatch, at, error)
            with suppress(ExportInterrupted, Stopped):
                export(url, directory / "d", window=window, until=UNTIL, jobs=1)
        begun = [directory / "d"] if read_manifest(open_storage(directory / "d")) is not None else []
        assert [found for place in begun for found in open_dataset(place).verify().findings] == []
    export(url, directory / "d", window=window, until=UNTIL)
    dataset = open_dataset(directory / "d")
    assert dataset.verify().findings == ()
    assert dataset.content_digest == one_shots[url, window]
    assert dataset.sql(
        "select count(*) - count(distinct (tenant_id, trace_id, step_index)) from trace_steps"
    ).fetchall() == [(0,)]


@pytest.mark.slow
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
    require_resumed_equals_one_shot(sample_url, one_shots, directory, window, stops, full)


@pytest.mark.parametrize("full", [False, True])
def test_promise_15_resumed_after_three_stops_equals_one_shot(
    sample_url: str, one_shots: dict[tuple[str, str], str], tmp_path: Path, full: bool
) -> None:
    require_resumed_equals_one_shot(sample_url, one_shots, tmp_path, "3d", [0, 7, 20], full)


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
    synced: list[str] = []
    published: list[tuple[str, str, str, int]] = []
    fsync, rename = durable.fsync, durable._rename_to_new

    def recorded_fsync(path: Path) -> None:
        synced.append(path.name)
        fsync(path)

    def recorded_rename(source: Path, target: Path) -> None:
        published.append((source.name, target.name, target.parent.name, len(synced)))
        rename(source, target)

    monkeypatch.setattr(durable, "fsync", recorded_fsync)
    monkeypatch.setattr(durable, "_rename_to_new", recorded_rename)
    export(url, tmp_path)
    (part_list,) = (tmp_path / "_manifest" / "windows").iterdir()
    names = [name for _, name, _, _ in published]
    assert [name.partition("-")[0] for name in names] == [
        "000001.json", "part", "part", "part", "part", part_list.name, "000002.json"
    ]  # fmt: skip
    assert [directory for _, _, directory, _ in published] == [
        "_manifest", *["day=2026-10-05"] * 4, "windows", "_manifest"
    ]  # fmt: skip
    for partial, _, directory, count in published:
        assert partial.startswith(".")
        assert synced[count - 1 : count + 1] == [partial, directory]  # what is renamed, then the directory it went to


def test_promise_14_every_new_directory_is_synced_into_its_parent(
    fresh_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def recorded_fsync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    export(create_native(fresh_url, one_of_each()), tmp_path)
    directories = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert len(directories) > 10
    assert [path for path in directories if path.parent.stat().st_ino not in synced] == []


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


@pytest.mark.parametrize("named", ["directory", "manifest"])
def test_a_destination_that_cannot_be_begun_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'db.sqlite'}", two_days())
    refused = OSError(errno.EROFS, os.strerror(errno.EROFS), f"the {named}")

    def refuse(*_: Any, **__: Any) -> None:
        raise refused

    owner, method = {"directory": (Path, "mkdir"), "manifest": (LocalStorage, "create")}[named]
    with monkeypatch.context() as patch:
        patch.setattr(owner, method, refuse)
        with pytest.raises(ExportInterrupted) as caught:
            export(url, tmp_path / "d")
    assert str(caught.value) == (
        f"the export could not begin: [Errno 30] Read-only file system: 'the {named}'. No window was committed; "
        "once that is fixed, run the same export again"
    )
    assert caught.value.__cause__ is refused
    export(url, tmp_path / "d")
    assert open_dataset(tmp_path / "d").rows["runs"] == 2


def test_an_export_that_cannot_remove_what_a_killed_one_left_keeps_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'db.sqlite'}", two_days())
    export(url, tmp_path / "d", until=NOON + HOUR)
    stray = tmp_path / "d" / "runs" / "tenant_id=acme" / "day=2026-10-05" / f"part-{'0' * 32}.parquet"
    stray.write_bytes(b"left by a killed export")

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "delete", refuse)
        with pytest.raises(
            ExportInterrupted, match=r"the export could not begin: \[Errno 13\] Permission denied\. No window"
        ):
            export(url, tmp_path / "d")
    assert open_dataset(tmp_path / "d").rows["runs"] == 1
    export(url, tmp_path / "d")
    assert open_dataset(tmp_path / "d").rows["runs"] == 2
    assert not stray.exists()
