"""A run's trace, and the steps of many traces batch by batch."""

from __future__ import annotations

import datetime as dt
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from exporttools import ConfigError, ExportBundleStore, InconsistentData, TenantMismatch
from tests.databases import NOON, create_native, one_of_each, run, run_sql, step, trace, wal_mode

SECOND = dt.timedelta(seconds=1)
COLUMNS = ["tenant_id", "run_id", "trace_id", "agent_id", "step_index", "timestamp", "step_type", "tokens", "cost_cents",
           "duration_ms", "status", "content_hash", "name", "model", "error"]  # fmt: skip


def _with_traces(url: str, *traces: dict[str, object], steps: list[dict[str, object]]) -> ExportBundleStore:
    return ExportBundleStore(create_native(url, one_of_each(traces=traces, trace_steps=steps)), tenant_id="acme")


def test_the_trace_with_a_violation_comes_first(fresh_url: str) -> None:
    clean = {"violation_step_index": None, "violation_timestamp": None}
    store = _with_traces(
        fresh_url,
        trace(trace_id="a"),
        trace(trace_id="b", **clean),
        steps=[step(trace_id="a"), step(trace_id="b", timestamp=NOON + SECOND)],
    )
    found = store.get_trace_summary("r1")
    assert found is not None
    assert found.trace_id == "a"
    bundle = store.get_export_bundle("i1")
    assert bundle is not None
    assert bundle.trace_count == 2
    assert len(bundle.steps) == 1


def test_else_the_last_started_else_the_greatest_id(fresh_url: str) -> None:
    clean = {"violation_step_index": None, "violation_timestamp": None}
    names = ["z", "a", "B"]
    store = _with_traces(
        fresh_url,
        *(trace(trace_id=name, run_id=f"r-{i}", **clean) for i in (1, 2) for name in (f"{i}{n}" for n in names)),
        steps=[step(trace_id="1a", timestamp=NOON + SECOND), step(trace_id="1z"), step(trace_id="1B")],
    )
    picks = {run_id: store.get_trace_summary(run_id) for run_id in ("r-1", "r-2")}
    assert picks["r-1"] and picks["r-1"].trace_id == "1a"
    assert picks["r-2"] and picks["r-2"].trace_id == "2z"  # by code points, whatever the database's locale
    assert {found.trace_id for found in store.list_traces(run_id="r-1")} == {"1z", "1a", "1B"}


# Steps of many traces


def test_all_steps_in_batches(sample_url: str, sample: Any) -> None:
    reader = ExportBundleStore(sample_url).scan_trace_steps()
    assert isinstance(reader, pa.RecordBatchReader)
    assert reader.schema.names == COLUMNS
    batches = list(reader)
    assert len(batches) > 1
    table = pa.Table.from_batches(batches)
    assert table.num_rows == sample["trace_steps"].num_rows
    assert sum(table["tokens"].to_pylist()) == sum(sample["trace_steps"]["tokens"].to_pylist())
    keys = list(zip(*(table[name].to_pylist() for name in ("trace_id", "step_index")), strict=True))
    assert keys == sorted(keys)
    runs_of = dict(zip(sample["traces"]["trace_id"].to_pylist(), sample["traces"]["run_id"].to_pylist(), strict=True))
    assert all(runs_of[t] == r for t, r in zip(table["trace_id"].to_pylist(), table["run_id"].to_pylist(), strict=True))


def test_filters_are_pushed_down(sample_url: str, sample: Any) -> None:
    store = ExportBundleStore(sample_url, tenant_id="acme-retail")
    runs = store.list_runs(limit=40)
    agent = next(r.agent_id for r in runs if r.agent_id)
    table = store.scan_trace_steps(agent_id=agent, columns=["agent_id", "tenant_id", "tokens"]).read_all()
    assert table.column_names == ["tenant_id", "agent_id", "tokens"]
    assert set(table["tenant_id"].to_pylist()) == {"acme-retail"}
    assert set(table["agent_id"].to_pylist()) == {agent}
    times = sample["trace_steps"]["timestamp"].to_pylist()
    since, until = sorted(times)[1000], sorted(times)[2000]
    found = ExportBundleStore(sample_url).scan_trace_steps(since=since, until=until).read_all()
    assert found.num_rows == sum(since <= t < until for t in times)
    some = [r.run_id for r in runs[:3]]
    assert set(store.scan_trace_steps(run_id=some).read_all()["run_id"].to_pylist()) <= set(some)


def test_steps_of_no_known_run_are_not_lost(fresh_url: str) -> None:
    rows = one_of_each(
        traces=[trace(), trace(trace_id="t2", run_id="nowhere")],
        trace_steps=[step(0), step(0, trace_id="t2"), step(0, trace_id="t3")],
    )
    table = ExportBundleStore(create_native(fresh_url, rows)).scan_trace_steps().read_all()
    assert list(zip(*(table[c].to_pylist() for c in ("trace_id", "run_id", "agent_id")), strict=True)) == [
        ("t1", "r1", "triage"), ("t2", "nowhere", None), ("t3", None, None),
    ]  # fmt: skip


def test_what_cannot_be_scanned(sample_url: str) -> None:
    store = ExportBundleStore(sample_url, tenant_id="acme-retail")
    with pytest.raises(ConfigError, match="no column 'cents'; found tenant_id, run_id, trace_id, agent_id, step_index"):
        store.scan_trace_steps(columns=["cents"])
    with pytest.raises(TenantMismatch):
        store.scan_trace_steps(tenant_id="borealis-bank")
    with pytest.raises(ConfigError, match="naive"):
        store.scan_trace_steps(since=dt.datetime(2026, 10, 5))


def test_a_bad_value_is_named(fresh_url: str) -> None:
    url = create_native(fresh_url, {"runs": [run()], "traces": [trace()], "trace_steps": [step(0, tokens=None)]})
    with pytest.raises(
        InconsistentData,
        match=r"^trace_steps: row tenant_id='acme', trace_id='t1', step_index=0 has tokens = NULL",
    ):
        ExportBundleStore(url).scan_trace_steps().read_all()


def test_closing_early_ends_the_read(fresh_postgres_url: str) -> None:
    create_native(fresh_postgres_url, one_of_each())
    run_sql(
        fresh_postgres_url,
        "INSERT INTO trace_steps SELECT 'acme', 't1', i, now(), 'x', 1, 1, 1, 'ok', repeat('x', 200) FROM generate_series(10, 400000) AS i",
    )
    busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle' AND backend_type = 'client backend'"
    store = ExportBundleStore(fresh_postgres_url)
    with psycopg.connect(fresh_postgres_url, autocommit=True) as connection:
        reader = store.scan_trace_steps()
        reader.read_next_batch()
        assert connection.execute(busy).fetchone()[0] == 2
        reader.close()  # `reader` itself lives on
        with pytest.raises(pa.ArrowInvalid, match="closed"):
            reader.read_next_batch()
        still = 2
        for _ in range(10_000):  # the server notices on its own time
            still = connection.execute(busy).fetchone()[0]
            if not still:
                break
        assert still == 0
    assert len(store.list_runs()) == 1


def test_inside_a_snapshot_it_sees_its_point_in_time(fresh_url: str) -> None:
    url = wal_mode(create_native(fresh_url, one_of_each()))
    store = ExportBundleStore(url)
    with store.snapshot():
        assert store.scan_trace_steps(columns=["tokens"]).read_all().num_rows == 3
        run_sql(url, "DELETE FROM trace_steps")
        assert store.scan_trace_steps(columns=["tokens"]).read_all().num_rows == 3
    assert store.scan_trace_steps(columns=["tokens"]).read_all().num_rows == 0
