"""Stores of single tenants over the connections of one store."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import sqlalchemy as sa

from exporttools import (
    ConfigError,
    ExportBundleStore,
    InconsistentData,
    SnapshotTable,
    SqlTraceStore,
    TenantMismatch,
    TraceStepSnapshot,
    TraceSummarySnapshot,
)
from exporttools.database import scoped_reader
from exporttools.database import trace_store as trace_store_module
from tests.databases import create_native, run_sql, trace, writable
from tests.tenants import shared_tables, url_of

OTHERS = "^the store is scoped to tenant 'acme'; the call asks for 'globex'"


@pytest.fixture
def url(fresh_url: str) -> str:
    shared_tables(fresh_url)
    return fresh_url


def seen(store: ExportBundleStore) -> list[Any]:
    """The content of each kind of read that says whose it is."""
    bundle = store.get_export_bundle("i1")
    assert bundle is not None and bundle.incident is not None and bundle.run is not None
    with store.scan_trace_steps() as reader:
        scanned = set(reader.read_all()["tenant_id"].to_pylist())
    return [
        [found.policy_name for found in store.list_incidents()],
        [found.goal for found in store.list_runs()],
        len(store.list_traces()),
        {found.content_hash for found in store.get_trace_steps("t1")},
        (bundle.incident.policy_name, bundle.run.goal),
        scanned,
    ]


def only(tenant: str) -> list[Any]:
    return [[tenant], [tenant], 1, {tenant}, (tenant, tenant), {tenant}]


def test_each_tenants_store_reads_its_own_rows_through_the_same_connections(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = []
    bind = scoped_reader.bind
    monkeypatch.setattr(trace_store_module, "BULK_ROWS", 1)
    monkeypatch.setattr(scoped_reader, "bind", lambda *given: bound.append(1) or bind(*given))
    engine = sa.create_engine(url_of(url) if "postgresql" in url else url)
    opened: list[int] = []
    sa.event.listen(engine, "connect", lambda *_: opened.append(1))
    everyone = ExportBundleStore(engine)
    for tenant in ("acme", "globex", "acme"):
        assert seen(everyone.for_tenant(tenant)) == only(tenant)
    assert (len(bound), len(opened)) == (1, 1)
    assert everyone.tenant_id is None
    with pytest.raises(InconsistentData, match="of tenants 'acme', 'globex'"):
        everyone.get_incident("i1")
    kept = everyone.for_tenant("acme").trace_store._bulk._idle  # type: ignore[attr-defined]
    assert kept is everyone.trace_store._bulk._idle  # type: ignore[attr-defined]
    assert len(kept) == ("postgresql" in url)
    engine.dispose()


def test_another_tenants_store_is_refused(url: str) -> None:
    scoped = ExportBundleStore(url, tenant_id="acme")
    assert seen(scoped.for_tenant("acme")) == only("acme")
    for store in (scoped, SqlTraceStore(url, tenant_id="acme"), ExportBundleStore(url).for_tenant("acme")):
        with pytest.raises(TenantMismatch, match=OTHERS):
            store.for_tenant("globex")
    with pytest.raises(TenantMismatch, match=OTHERS):
        ExportBundleStore(url).for_tenant("acme").list_runs(tenant_id="globex")
    for wrong in (None, 7, "a\0b"):
        with pytest.raises(ConfigError, match="^tenant_id is .*; expected a str"):
            ExportBundleStore(url).for_tenant(wrong)  # type: ignore[arg-type]


def test_reprs_say_whose_rows_are_read(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORTTOOLS_TENANT_ID", "acme")
    by_the_environment = ExportBundleStore(url)
    assert repr(by_the_environment).endswith(" · layout auto · tenant 'acme' by EXPORTTOOLS_TENANT_ID>")
    monkeypatch.delenv("EXPORTTOOLS_TENANT_ID")
    everyone = ExportBundleStore(url)
    everyone.list_runs()
    assert repr(everyone).endswith(" · layout native · all tenants>")
    assert repr(everyone.for_tenant("acme")).endswith(" · layout native · tenant 'acme'>")
    assert repr(everyone.for_tenant("acme").trace_store).endswith(" · layout native · tenant 'acme'>")
    assert repr(SqlTraceStore(url).for_tenant("acme")).endswith(" · layout auto · tenant 'acme'>")


def test_a_snapshot_of_the_parent_is_read_too(fresh_postgres_url: str) -> None:
    shared_tables(fresh_postgres_url)
    everyone = ExportBundleStore(fresh_postgres_url)
    earlier = everyone.for_tenant("globex")
    with everyone.snapshot():
        run_sql(fresh_postgres_url, "DELETE FROM runs")
        assert [len(everyone.for_tenant(t).list_runs()) for t in ("acme", "globex")] == [1, 1]
        with earlier.snapshot():
            assert len(earlier.list_runs()) == len(everyone.list_runs()) - 1 == 1
    assert len(everyone.list_runs()) == len(earlier.list_runs()) == 0


def test_keys_are_proved_for_each_tenant(url: str) -> None:
    run_sql(url, "INSERT INTO runs SELECT * FROM runs WHERE tenant_id = 'globex'")
    everyone = ExportBundleStore(url)
    assert len(everyone.for_tenant("acme").list_runs()) == 1
    with pytest.raises(InconsistentData, match="^runs: run_id='r1' is in several rows of tenant 'globex'"):
        everyone.for_tenant("globex").list_runs()
    assert len(everyone.for_tenant("acme").list_runs()) == 1


def test_it_is_pickled_with_its_tenant(url: str) -> None:
    copy = pickle.loads(pickle.dumps(ExportBundleStore(url).for_tenant("acme")))
    assert (copy.tenant_id, seen(copy)) == ("acme", only("acme"))
    engine = writable(url)
    with pytest.raises(ConfigError, match="^a store on an Engine cannot be sent to another process"):
        pickle.dumps(ExportBundleStore(engine).for_tenant("acme"))
    engine.dispose()


class Elsewhere:
    """A trace store of the caller's own."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    def get_trace_summary(self, run_id: str, tenant_id: str | None = None) -> TraceSummarySnapshot | None:
        self.asked.append(tenant_id)
        return TraceSummarySnapshot(**trace(tenant_id=tenant_id))

    def get_trace_steps(self, trace_id: str, tenant_id: str | None = None) -> SnapshotTable[TraceStepSnapshot]:
        self.asked.append(tenant_id)
        return SnapshotTable.empty(TraceStepSnapshot)


def test_a_trace_store_of_ones_own_is_told_the_tenant(url: str) -> None:
    elsewhere = Elsewhere()
    store = ExportBundleStore(url, trace_store=elsewhere).for_tenant("globex")
    assert store.trace_store is elsewhere
    bundle = store.get_export_bundle("i1")
    assert bundle is not None and bundle.trace is not None
    assert bundle.trace.tenant_id == "globex"
    store.get_trace_steps("t1")
    assert elsewhere.asked == ["globex"] * 3


def test_a_trace_store_on_another_database_becomes_the_tenants(url: str, tmp_path: Any) -> None:
    other = create_native(f"sqlite:///{tmp_path / 'other.sqlite'}", {})
    unscoped, scoped = SqlTraceStore(other), SqlTraceStore(other, tenant_id="acme")
    of_globex = ExportBundleStore(url, trace_store=unscoped).for_tenant("globex")
    assert repr(of_globex.trace_store).endswith("other.sqlite · layout auto · tenant 'globex'>")
    assert len(of_globex.get_trace_steps("t1")) == 0
    assert unscoped.reader.tenant_id is None
    with pytest.raises(TenantMismatch, match=OTHERS):
        ExportBundleStore(url, trace_store=scoped).for_tenant("globex")
