"""Reads within one tenant: arguments, forbidden values, times of any form, and no other tenant's rows."""

from __future__ import annotations

import datetime as dt
import pickle
from pathlib import Path

import pytest

from exporttools import ConfigError, ExportBundleStore, InconsistentData, TenantMismatch
from exporttools.database.scoped_reader import ScopedReader
from tests.databases import NOON, create_native, incident, one_of_each, run, run_sql, step, trace

SECOND = dt.timedelta(seconds=1)


def test_arguments_are_checked_with_what_is_accepted(store: ExportBundleStore) -> None:
    cases = [
        (
            lambda: store.list_runs(since=dt.datetime(2026, 10, 5)),
            r"since is datetime.*naive datetime; give it a time zone",
        ),
        (
            lambda: store.list_incidents(until=dt.date(2026, 10, 5)),
            r"until is datetime.date\(2026, 10, 5\); expected a datetime",
        ),  # type: ignore[arg-type]
        (
            lambda: store.list_runs(since=NOON, until=NOON),
            r"since is 2026-10-05T12:00:00\+00:00, until is .* expected since before until",
        ),
        (lambda: store.list_runs(limit=-1), "limit is -1; expected an integer >= 0, or None for no limit"),
        (lambda: store.list_runs(limit=True), "limit is True; expected an integer"),
        (lambda: store.list_runs(limit=2.0), "limit is 2.0; expected an integer"),  # type: ignore[arg-type]
        (lambda: store.get_incident(7), "incident_id is 7; expected a str"),  # type: ignore[arg-type]
        (lambda: store.get_run_by_run_id("a\0b"), "expected a str without NUL or lone surrogates"),
        (lambda: store.get_run_by_run_id("a\ud800"), "expected a str without NUL or lone surrogates"),
        (lambda: store.list_incidents(severity=[1]), "severity is 1; expected a str"),  # type: ignore[list-item]
        (
            lambda: store.get_trace_summary("r1"),
            "traces are read for one tenant; pass tenant_id= to this call or to the store",
        ),
        (
            lambda: store.get_trace_steps("t1"),
            "traces are read for one tenant; pass tenant_id= to this call or to the store",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ConfigError, match=message):
            call()


def test_a_pandas_timestamp_is_a_datetime(store: ExportBundleStore) -> None:
    import pandas as pd

    assert len(store.list_runs(since=pd.Timestamp(NOON))) == 1


FORBIDDEN = [
    ("trace_steps", step(1, tokens=None), "tokens", "NULL", "an int64, never NULL"),
    ("trace_steps", step(1, tokens=-5), "tokens", "-5", "at least 0"),
    ("trace_steps", step(1, cost_cents=float("nan")), "cost_cents", "nan", "a finite number"),
    ("trace_steps", step(1, cost_cents=float("inf")), "cost_cents", "inf", "a finite number"),
    ("trace_steps", step(1, duration_ms=-0.5), "duration_ms", "-0.5", "at least 0"),
    ("trace_steps", step(1, status=None), "status", "NULL", "a string, never NULL"),
    ("runs", run(total_cost_cents=-1), "total_cost_cents", "-1", "at least 0"),
    ("incidents", incident(created_at=None), "created_at", "NULL", "a timestamp, never NULL"),
]


@pytest.mark.parametrize(("table", "row", "column", "found", "expected"), FORBIDDEN)
def test_forbidden_values_name_table_key_and_column(
    fresh_url: str, backend: str, table: str, row: dict[str, object], column: str, found: str, expected: str
) -> None:
    if backend == "sqlite" and found == "nan":
        found = "NULL"  # SQLite stores NaN as NULL
        expected = "a float64, never NULL"
    rows = dict(one_of_each())
    rows[table] = [step(0), row] if table == "trace_steps" else [row]
    with pytest.raises(
        InconsistentData, match=rf"{table}: row .* has {column} = {found}; expected {expected}"
    ) as caught:
        ExportBundleStore(create_native(fresh_url, rows)).get_export_bundle("i1")
    key = {"trace_steps": "trace_id='t1', step_index=1", "runs": "run_id='r1'", "incidents": "id='i1'"}[table]
    assert (caught.value.table, caught.value.key, caught.value.column) == (table, key, column)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.key) == (str(caught.value), key)


def test_a_step_index_twice_is_found(fresh_url: str) -> None:
    store = ExportBundleStore(create_native(fresh_url, one_of_each(trace_steps=[step(0), step(0)])))
    with pytest.raises(
        InconsistentData, match=r"trace_steps: row trace_id='t1', step_index=0 has step_index = 0 twice"
    ):
        store.get_trace_steps("t1", "acme")


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("tokens", 1.5, "an integer of at most 64 bits"),
        ("tokens", "many", "an integer of at most 64 bits"),
        ("cost_cents", "dear", "a number"),
        ("timestamp", "yesterday", "a time such as"),
        ("timestamp", 1759665600, "a time such as"),
        ("status", b"\x00\xff", "text"),
    ],
)
def test_sqlite_holds_any_type_in_any_column(tmp_path: Path, column: str, value: object, expected: str) -> None:
    url = create_native(
        f"sqlite:///{tmp_path / 'odd.sqlite'}", one_of_each(trace_steps=[step(0), step(1, **{column: value})])
    )
    with pytest.raises(InconsistentData, match=rf"trace_id='t1', step_index=1 has {column} = .*; expected {expected}"):
        ExportBundleStore(url).get_trace_steps("t1", "acme")


def test_sqlite_times_of_any_iso_form_sort_by_time(tmp_path: Path) -> None:
    forms = [
        "2026-10-05 12:00:00", "2026-10-05T12:00:01", "2026-10-05 14:00:02+02:00", "2026-10-05T12:00:03Z",
        "2026-10-05 12:00:04.5", "2026-10-05T12:00:05.000000+00:00",
    ]  # fmt: skip
    rows = one_of_each(runs=[run(run_id=f"r{i}", started_at=form) for i, form in enumerate(forms)])
    store = ExportBundleStore(create_native(f"sqlite:///{tmp_path / 'forms.sqlite'}", rows))
    found = store.list_runs(order="oldest", since=NOON, until=NOON + 5 * SECOND)
    assert [(item.run_id, item.started_at) for item in found] == [
        (f"r{i}", NOON + dt.timedelta(seconds=4.5 if i == 4 else i)) for i in range(5)
    ]


@pytest.mark.parametrize(
    "form",
    [
        "2026-10-06 11:30:00+23:30",
        "2026-10-04T12:30:00-23:30",
        "20261005T120000Z",
        "2026-W41-1T12:00:00",
        "2026-10-05T12",
    ],
)
def test_a_period_finds_times_of_any_iso_form(tmp_path: Path, form: str) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'form.sqlite'}", one_of_each(runs=[run(started_at=form)]))
    store = ExportBundleStore(url)
    assert [found.started_at for found in store.list_runs(since=NOON, until=NOON + SECOND)] == [NOON]
    assert len(store.list_runs(since=NOON + SECOND)) == len(store.list_runs(until=NOON)) == 0


# Tenants


def test_a_scoped_store_reads_one_tenant(fresh_url: str) -> None:
    rows = {
        "incidents": [incident(), incident(tenant_id="globex", policy_name="canary")],
        "runs": [run(), run(tenant_id="globex", goal="canary")],
        "traces": [trace(), trace(tenant_id="globex")],
        "trace_steps": [step(0), step(0, tenant_id="globex", step_type="canary")],
    }
    url = create_native(fresh_url, rows)
    scoped = ExportBundleStore(url, tenant_id="acme")
    bundle = scoped.get_export_bundle("i1")
    assert bundle is not None
    assert "canary" not in repr([table.to_arrow().to_pylist() for table in bundle.tables.values()])
    for found in (scoped.list_incidents(), scoped.list_runs(), scoped.list_traces()):
        assert {row.tenant_id for row in found} == {"acme"}  # type: ignore[attr-defined]
    for call in (
        lambda: scoped.list_runs(tenant_id="globex"),
        lambda: scoped.list_traces(tenant_id="globex"),
        lambda: scoped.get_trace_summary("r1", "globex"),
        lambda: scoped.get_trace_steps("t1", "globex"),
    ):
        with pytest.raises(
            TenantMismatch,
            match="^the store is scoped to tenant 'acme'; the call asks for 'globex'. Create a store for that tenant, or one without",
        ):
            call()
    unscoped = ExportBundleStore(url)
    for call in (
        lambda: unscoped.get_incident("i1"),
        lambda: unscoped.get_run_by_run_id("r1"),
        lambda: unscoped.get_export_bundle("i1"),
    ):
        with pytest.raises(
            InconsistentData,
            match=r"is in several rows, of tenants 'acme', 'globex'; expected one. Name the tenant: ExportBundleStore\(..., tenant_id=...\)$",
        ):
            call()
    assert [found.step_type for found in unscoped.get_trace_steps("t1", "globex")] == ["canary"]


def test_rows_of_another_tenant_are_withheld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'nocase.sqlite'}", {})
    run_sql(
        url,
        "DROP TABLE runs",
        "CREATE TABLE runs (run_id TEXT, tenant_id TEXT COLLATE NOCASE)",
        "INSERT INTO runs VALUES ('r1', 'acme'), ('r2', 'ACME')",
    )
    assert [found.run_id for found in ExportBundleStore(url, tenant_id="acme").list_runs()] == ["r1"]
    # The condition alone keeps the others out; should it fail, the check behind it does.
    monkeypatch.setattr(ScopedReader, "is_tenant", lambda self, source, tenant: [source["tenant_id"] == tenant])
    with pytest.raises(
        TenantMismatch,
        match="^runs: the database returned rows of tenants 'ACME', 'acme' for 'acme'; does tenant_id have a case-insensitive collation\\? All of these rows were withheld$",
    ):
        ExportBundleStore(url, tenant_id="acme").list_runs()
