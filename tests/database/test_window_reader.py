"""Windows of the fleet: counts on a grid of time, a tenant's days, and refusals of rows that do not add up."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest

from exporttools import ConfigError, ExportBundleStore, InconsistentData, SqlTraceStore, TenantMismatch
from exporttools.database.readers import require_count
from exporttools.database.scoped_reader import ScopedReader
from exporttools.database.window_reader import GridCount, TenantDay, UndatedRows
from tests.databases import NOON, create_native, incident, one_of_each, run, run_sql, step, trace

DAY = dt.timedelta(days=1)
MIDNIGHT = NOON.replace(hour=0)
DAY_S = 86_400
# Monday 2026-10-05 is day 20,731 after 1970-01-01.
MONDAY = 20_731


def test_runs_and_incidents_are_counted_by_interval(fresh_url: str) -> None:
    rows = one_of_each(
        incidents=[
            incident(created_at=NOON + DAY),
            incident(id="i2", created_at=NOON),
            incident(id="i3", created_at=None),
        ],
        runs=[
            run(),
            run(run_id="r2", completed_at=None),
            run(run_id="r3", started_at=NOON + 2 * DAY),
            run(run_id="r4", started_at=None),
            run(run_id="r5", started_at=dt.datetime(1969, 12, 31, 23, tzinfo=dt.UTC), tenant_id="globex"),
        ],
    )
    store = ExportBundleStore(create_native(fresh_url, rows))
    with store.window_snapshot() as snapshot:
        counts = snapshot.grid_counts(DAY_S, None, None, None)
        assert counts == [
            GridCount(-1, 1, 0, 0),
            GridCount(MONDAY, 2, 1, 1),
            GridCount(MONDAY + 1, 0, 0, 1),
            GridCount(MONDAY + 2, 1, 0, 0),
        ]
        assert snapshot.grid_counts(DAY_S, "acme", NOON + DAY, NOON + 2 * DAY) == [GridCount(MONDAY + 1, 0, 0, 1)]
        assert [count.number for count in snapshot.grid_counts(3600, "globex", None, None)] == [-1]
        assert snapshot.undated(None) == UndatedRows(runs=1, traces=0, incidents=1)
        assert not snapshot.undated("globex")


def test_a_tenants_days_are_those_of_a_window(fresh_url: str) -> None:
    rows = one_of_each(
        incidents=[incident(created_at=NOON), incident(id="i2", created_at=None)],
        runs=[run(completed_at=None), run(run_id="r2", started_at=NOON + DAY), run(run_id="r3", tenant_id="globex")],
        traces=[trace(), trace(trace_id="t2", run_id="nowhere")],
    )
    store = ExportBundleStore(create_native(fresh_url, rows))
    with store.window_snapshot() as snapshot:
        assert snapshot.tenant_days(None, MIDNIGHT, NOON + DAY + dt.timedelta(hours=1)) == [
            TenantDay("acme", MIDNIGHT, MIDNIGHT + DAY, 1, 1, 1),
            TenantDay("acme", MIDNIGHT + DAY, NOON + DAY + dt.timedelta(hours=1), 1, 0, 0),
            TenantDay("globex", MIDNIGHT, MIDNIGHT + DAY, 1, 0, 0),
        ]
        (undated,) = snapshot.tenant_days(None, None, None)
        assert undated == TenantDay("acme", None, None, 0, 0, 1)
        assert pa.Table.from_batches(snapshot.traces(undated))["trace_id"].to_pylist() == ["t2"]
        assert pa.Table.from_batches(snapshot.incidents(undated))["id"].to_pylist() == ["i2"]


def test_a_tenants_day_has_its_rows_in_key_order(fresh_url: str) -> None:
    rows = one_of_each(
        runs=[run(run_id=name) for name in "bca"],
        traces=[trace(trace_id=f"t{name}", run_id=name) for name in "bca"],
        trace_steps=[step(index, trace_id=f"t{name}") for index in (1, 0) for name in "bca"],
    )
    store = ExportBundleStore(create_native(fresh_url, rows))
    day = TenantDay("acme", MIDNIGHT, MIDNIGHT + DAY, 3, 0, 1)
    with store.window_snapshot() as snapshot:
        assert pa.Table.from_batches(snapshot.runs(day))["run_id"].to_pylist() == ["a", "b", "c"]
        assert pa.Table.from_batches(snapshot.traces(day))["trace_id"].to_pylist() == ["ta", "tb", "tc"]
        assert pa.Table.from_batches(snapshot.incidents(day))["id"].to_pylist() == ["i1"]
        steps = pa.Table.from_batches(snapshot.trace_steps(day, ["ta", "tc"])).select(
            ["tenant_id", "trace_id", "step_index"]
        )
        assert [tuple(row.values()) for row in steps.to_pylist()] == [
            ("acme", "ta", 0), ("acme", "ta", 1), ("acme", "tc", 0), ("acme", "tc", 1),
        ]  # fmt: skip
        assert snapshot.mean_steps("acme") == 2.0
        assert snapshot.mean_steps("globex") == 0.0


def test_a_row_without_a_tenant_is_named(fresh_url: str) -> None:
    store = ExportBundleStore(create_native(fresh_url, one_of_each(runs=[run(tenant_id=None)])))
    message = r"^runs: 1 row has tenant_id = NULL; expected a string, never NULL\. Name a tenant to leave them out, or say in a layout"
    with store.window_snapshot() as snapshot, pytest.raises(InconsistentData, match=message):
        snapshot.tenant_days(None, MIDNIGHT, MIDNIGHT + DAY)


def test_rows_of_another_tenant_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'nocase.sqlite'}", one_of_each(runs=[]))
    run_sql(
        url,
        "DROP TABLE runs",
        "CREATE TABLE runs (run_id TEXT, tenant_id TEXT COLLATE NOCASE, started_at DATETIME)",
        "INSERT INTO runs VALUES ('r1', 'ACME', '2026-10-05 12:00:00')",
    )
    day = TenantDay("acme", MIDNIGHT, MIDNIGHT + DAY, 0, 0, 0)
    with ExportBundleStore(url).window_snapshot() as snapshot:
        assert list(snapshot.runs(day)) == []
        # The condition alone keeps them out; should it fail, the check behind it does.
        monkeypatch.setattr(ScopedReader, "is_tenant", lambda self, source, tenant: [source["tenant_id"] == tenant])
        with pytest.raises(TenantMismatch) as caught:
            list(snapshot.runs(day))
    assert str(caught.value) == "runs: the database returned rows of other tenants for 'acme'"


def test_rows_that_a_join_multiplied_are_refused() -> None:
    require_count("runs of acme", 7, 7)
    with pytest.raises(InconsistentData) as caught:
        require_count("runs of acme", 1_000, 2_000)
    assert str(caught.value) == (
        "runs of acme: 2,000 rows were read, but 1,000 were counted in the same snapshot; "
        "does a join of the layout match several rows? None of these rows was kept"
    )


def test_traces_of_another_database_have_no_window(url: str) -> None:
    store = ExportBundleStore(url, trace_store=SqlTraceStore(url))
    with pytest.raises(ConfigError) as caught, store.window_snapshot():
        pass
    assert (
        str(caught.value) == "an export reads runs and their traces in one snapshot; both must be in the same database"
    )
