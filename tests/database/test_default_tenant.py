"""Rows whose tenant is NULL: whose they are is for the layout to say, and how many there are is said aloud."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from exporttools import NATIVE, ExportBundleStore, Field, InconsistentData, Join, Source
from tests.database.test_layouts import create_aos
from tests.databases import NOON, create_native, incident, insert, one_of_each, run, run_sql, step, trace, writable

HOUSE = replace(NATIVE, name="house", default_tenant="house")


def _with_nulls(url: str) -> str:
    """Two runs, one trace and one step without a tenant, beside those of acme and of the default tenant itself."""
    tenants = {"acme": "r1", "house": "r2"}
    return create_native(
        url,
        {
            "incidents": [incident(), incident(id="i3", tenant_id="house", source_run_id="r3")],
            "runs": [*(run(tenant_id=tenant, run_id=name) for tenant, name in tenants.items()),
                     run(tenant_id=None, run_id="r3"), run(tenant_id=None, run_id="r4", started_at=None)],
            "traces": [trace(), trace(tenant_id=None, run_id="r3", trace_id="t3")],
            "trace_steps": [step(0), step(0, tenant_id=None, trace_id="t3")],
        },
    )  # fmt: skip


def test_rows_without_a_tenant_are_the_default_tenants(fresh_url: str) -> None:
    url = _with_nulls(fresh_url)
    everyone = ExportBundleStore(url, layout=HOUSE)
    assert "without a tenant" not in repr(everyone)
    assert {(found.run_id, found.tenant_id) for found in everyone.list_runs()} == {
        ("r1", "acme"), ("r2", "house"), ("r3", "house"), ("r4", "house"),
    }  # fmt: skip
    assert repr(everyone).endswith("layout house · all tenants · 2 runs without a tenant read as tenant 'house'>")
    scanned = everyone.scan_trace_steps().read_all().to_pylist()
    assert [(row["tenant_id"], row["run_id"], row["agent_id"]) for row in scanned] == [
        ("acme", "r1", "triage"), ("house", "r3", "triage"),
    ]  # fmt: skip
    assert repr(everyone).endswith("2 runs, 1 trace, 1 step without a tenant read as tenant 'house'>")
    for store in (everyone, ExportBundleStore(url, tenant_id="house", layout=HOUSE)):
        assert {found.run_id for found in store.list_runs(tenant_id="house")} == {"r2", "r3", "r4"}
        assert [found.trace_id for found in store.list_traces(tenant_id="house", run_id="r3")] == ["t3"]
        assert len(store.get_trace_steps("t3", "house")) == 1
        assert store.scan_trace_steps(tenant_id="house").read_all().num_rows == 1
        bundle = store.get_export_bundle("i3")
        assert bundle is not None
        assert bundle.missing == ()
        assert bundle.run and bundle.run.tenant_id == "house"
    acme = ExportBundleStore(url, tenant_id="acme", layout=HOUSE)
    assert [found.run_id for found in acme.list_runs()] == ["r1"]
    assert len(acme.get_trace_steps("t3")) == 0
    assert acme.get_run_by_run_id("r3") is None
    assert "without a tenant" not in repr(acme)


def test_how_many_there_are_can_be_asked(fresh_url: str) -> None:
    url = _with_nulls(fresh_url)
    for tenant, expected in ((None, {"runs": 2, "traces": 1, "trace_steps": 1}), ("acme", {})):
        reader = ExportBundleStore(url, layout=HOUSE)._reader
        with reader.database.transaction() as connection:
            assert reader.unowned_rows(connection, tenant) == expected
    reader = ExportBundleStore(url)._reader
    with reader.database.transaction() as connection:
        assert reader.unowned_rows(connection, None) == {}


def test_an_export_reads_them_too(fresh_url: str) -> None:
    day = NOON.replace(hour=0)
    with ExportBundleStore(_with_nulls(fresh_url), layout=HOUSE).window_snapshot() as snapshot:
        assert [(found.tenant_id, found.runs) for found in snapshot.tenant_days(None, None, None)] == [("house", 1)]
        days = snapshot.tenant_days(None, day, day.replace(day=6))
        assert [(found.tenant_id, found.runs) for found in days] == [("acme", 1), ("house", 2)]
        assert sum(batch.num_rows for batch in snapshot.trace_steps(days[1], ["t3"])) == 1


def test_nobodys_rows_are_counted_with_the_remedy(fresh_url: str) -> None:
    store = ExportBundleStore(_with_nulls(fresh_url))
    message = (
        "runs: 2 rows have tenant_id = NULL; expected a string, never NULL. Name a tenant to leave them out, or say in a "
        "layout whose they are: dataclasses.replace(layout, default_tenant='...')"
    )
    for read in (store.list_runs, lambda: store.get_run_by_run_id("r3")):
        with pytest.raises(InconsistentData) as caught:
            read()
        assert str(caught.value) == message
        assert (caught.value.table, caught.value.column) == ("runs", "tenant_id")
    with pytest.raises(InconsistentData) as caught:
        store.load_trace_steps()
    assert str(caught.value).startswith("trace_steps: 1 row has tenant_id = NULL; expected a string, never NULL. Name")
    assert [found.run_id for found in store.list_runs(tenant_id="acme")] == ["r1"]


def test_one_key_with_and_without_a_tenant_is_there_twice(fresh_url: str) -> None:
    url = create_native(fresh_url, one_of_each(runs=[run(tenant_id="house"), run(tenant_id=None)]))
    run_sql(url, "CREATE UNIQUE INDEX one ON runs (tenant_id, run_id)")
    for read in ("list_runs", "scan_trace_steps"):
        with pytest.raises(InconsistentData, match="^runs: run_id='r1' is in several rows of tenant 'house'"):
            getattr(ExportBundleStore(url, layout=HOUSE), read)()


def test_the_platforms_runs_without_a_tenant_are_the_default_tenants(fresh_url: str) -> None:
    url = create_aos(fresh_url, later=True)
    run_sql(
        url,
        "UPDATE runs SET tenant_id = NULL",
        "UPDATE incidents SET tenant_id = 'default'",
        "UPDATE aos_traces SET tenant_id = 'default'",
    )
    for tenant in (None, "default"):
        store = ExportBundleStore(url, tenant_id=tenant)
        bundle = store.get_export_bundle("i1")
        assert bundle is not None
        assert bundle.missing == ()
        assert bundle.incident and bundle.incident.policy_id == "p9"  # through the join on the tenant
        assert [found.tenant_id for found in store.list_runs()] == ["default"]
        assert set(store.scan_trace_steps().read_all()["agent_id"].to_pylist()) == {"a1"}
        assert "1 run without a tenant read as tenant 'default'" in repr(store)


OWNED_BY_TRACES = replace(
    HOUSE,
    trace_steps=Source(
        "trace_steps",
        {"tenant_id": Field("tenant_id", table="traces")},
        joins=(Join("traces", on={"trace_id": "trace_id"}),),
    ),
)


def test_a_step_of_no_trace_is_not_the_default_tenants(fresh_url: str) -> None:
    url = _with_nulls(fresh_url)
    owned = ExportBundleStore(url, layout=OWNED_BY_TRACES)
    assert owned.scan_trace_steps().read_all()["tenant_id"].to_pylist() == ["acme", "house"]
    engine = writable(url)
    with engine.begin() as connection:
        insert(connection, "trace_steps", step(0, trace_id="lost"))
    engine.dispose()
    store = ExportBundleStore(url, layout=OWNED_BY_TRACES)
    assert store.scan_trace_steps(tenant_id="house").read_all()["trace_id"].to_pylist() == ["t3"]
    with pytest.raises(InconsistentData) as caught:
        store.load_trace_steps()
    assert str(caught.value) == (
        "trace_steps: 1 row has tenant_id = NULL; expected a string, never NULL. It is read from 'traces', which has no "
        "matching row, or NULL in it. Name a tenant to leave them out"
    )


def test_the_index_of_the_tenant_still_serves(fresh_postgres_url: str) -> None:
    url = _with_nulls(fresh_postgres_url)
    run_sql(url, "CREATE INDEX runs_tenant ON runs (tenant_id)")
    store = ExportBundleStore(url, layout=HOUSE)
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if parameters and "ORDER BY" in statement:
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute("EXPLAIN " + statement, parameters)
            plans.append("\n".join(row[0] for row in cursor.fetchall()))

    sa.event.listen(store._reader.database.engine, "before_cursor_execute", explain)
    for tenant, condition in (("acme", "(tenant_id = 'acme'::text)"), ("house", "(tenant_id IS NULL)")):
        store.list_runs(tenant_id=tenant)
        assert f"Index Cond: {condition}" in plans[-1]
