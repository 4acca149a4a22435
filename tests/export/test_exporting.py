"""Exports on both databases: what a dataset then holds, and how it is brought up to date."""

from __future__ import annotations

import datetime as dt
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from exporttools import (
    NATIVE,
    ConfigError,
    DestinationConflict,
    ExportBundleStore,
    TenantMismatch,
    export_dataset,
    open_dataset,
    plan_export,
)
from exporttools.text.inert import html_text
from tests.databases import NOON, create_native, incident, insert, one_of_each, run, run_sql, step, trace, writable
from tests.export.fleets import DAY, HOUR, TABLES, export, files_of, two_days


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
    assert "provisional: 1 window with 1 open run, read again by the next export" in str(first)
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
    assert "undated: 1 run without a start" in str(report)
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


def test_incidents_without_a_creation_are_exported_and_counted(fresh_url: str, tmp_path: Path) -> None:
    rows = two_days()
    url = create_native(fresh_url, rows)
    export(url, tmp_path)
    assert not open_dataset(tmp_path).schema("incidents").field("created_at").nullable
    engine = writable(url)
    with engine.begin() as connection:
        for name, tenant in (("u1", "acme"), ("u2", "borealis")):
            insert(connection, "incidents", incident(id=name, tenant_id=tenant, created_at=None))
    engine.dispose()
    plan = plan_export(ExportBundleStore(url), tmp_path)
    assert (plan.undated_incidents, plan.to_dict()["undated_incidents"], plan.runs) == (2, 2, 0)
    assert str(plan).splitlines()[1:] == ["  undated rows  provisional  0 runs, 2 incidents"]
    report = export(url, tmp_path)
    assert (report.undated_incidents, report.undated_runs, report.to_dict()["undated_incidents"]) == (2, 0, 2)
    assert "undated: 2 incidents without a time of creation, under day=__undated__" in str(report)
    dataset = open_dataset(tmp_path)
    assert dataset.rows["incidents"] == 4
    assert ("undated rows", "0 runs, 2 incidents") in dataset.facts
    assert dataset.time_range == (NOON, NOON + DAY)
    assert dataset.verify().findings == ()
    assert dataset.schema("incidents").field("created_at").nullable
    assert dataset.to_arrow("incidents", ["created_at"]).column(0).null_count == 2
    found = dataset.sql("select id, day from incidents where created_at is null order by 1").fetchall()
    assert found == [("u1", "__undated__"), ("u2", "__undated__")]
    assert export(url, tmp_path).windows_unchanged == 1
    assert open_dataset(tmp_path).compact(window="7d").rows["incidents"] == 4
    run_sql(url, "UPDATE incidents SET created_at = '2027-01-01 00:00:00' WHERE id IN ('u1', 'u2')")
    assert export(url, tmp_path).undated_incidents == 0
    dataset = open_dataset(tmp_path)
    assert not dataset.schema("incidents").field("created_at").nullable
    assert dataset.verify().findings == ()


def test_rows_without_a_tenant_are_counted(fresh_url: str, tmp_path: Path) -> None:
    rows = two_days()
    for table in ("runs", "traces", "trace_steps"):
        rows[table][0]["tenant_id"] = None
    rows["incidents"][0]["tenant_id"] = "house"
    url = create_native(fresh_url, rows)
    store = ExportBundleStore(url, layout=replace(NATIVE, name="house", default_tenant="house"))
    report = export_dataset(store, tmp_path / "all", progress=False)
    assert (dict(report.unowned_rows), report.default_tenant) == ({"runs": 1, "traces": 1}, "house")
    assert report.to_dict()["unowned_rows"] == {"runs": 1, "traces": 1}
    line = "without a tenant: 1 run, 1 trace, read as tenant 'house'"
    assert f"  {line}" in str(report).splitlines()
    assert html_text(line) in report._repr_html_()
    run_sql(url, "UPDATE runs SET tenant_id = NULL")  # counted at each export
    assert dict(export_dataset(store, tmp_path / "all", progress=False).unowned_rows) == {"runs": 2, "traces": 1}
    acme = export_dataset(store, tmp_path / "acme", tenant_id="acme", progress=False)
    assert (dict(acme.unowned_rows), acme.default_tenant) == ({}, None)
    assert "without a tenant" not in str(acme)


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
def test_invalid_windows(sample_url: str, tmp_path: Path, window: Any) -> None:
    with pytest.raises(ConfigError, match="window is .*; expected "):
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
    paths = list((tmp_path / "acme").rglob("*"))
    contents = [path.read_bytes() for path in paths if path.is_file()]
    assert len(contents) > 4
    assert [content for content in contents if canary.encode() in content] == []
    assert [path for path in paths if "borealis" in str(path)] == []
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
        match=r"holds an export of all tenants; this one is of tenant 'acme'\. Export to another destination",
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
