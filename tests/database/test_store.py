"""The store on both databases: lookups, lists, bundles, and the process-wide store."""

from __future__ import annotations

import datetime as dt
import pickle
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from exporttools import (
    ConfigError,
    ExportBundleStore,
    IncidentSnapshot,
    RunSnapshot,
    SqlTraceStore,
    TraceStepSnapshot,
    TraceSummarySnapshot,
    get_export_bundle_store,
)
from exporttools.database import store as store_module
from exporttools.records.snapshot_table import SnapshotTable
from tests.databases import NOON, create_native, incident, one_of_each, run, run_sql, step, trace, writable

SECOND = dt.timedelta(seconds=1)


def test_lookups_give_the_stored_rows(store: ExportBundleStore) -> None:
    assert store.get_incident("i1") == IncidentSnapshot(**incident())
    assert store.get_run_by_run_id("r1") == RunSnapshot(**run())
    assert store.get_trace_summary("r1", "acme") == TraceSummarySnapshot(**trace())
    expected = [step(0), step(1, status="error"), step(2)]
    fields = TraceStepSnapshot.RECORD_TYPE.names
    assert list(store.get_trace_steps("t1", "acme")) == [
        TraceStepSnapshot(*(row[f] for f in fields)) for row in expected
    ]


def test_times_are_utc_datetimes(store: ExportBundleStore) -> None:
    found = store.get_incident("i1")
    assert found is not None
    assert found.created_at.tzinfo is dt.UTC


def test_what_is_not_there_is_none_or_empty(store: ExportBundleStore) -> None:
    assert store.get_incident("nope") is None
    assert store.get_run_by_run_id("nope") is None
    assert store.get_trace_summary("nope", "acme") is None
    assert store.get_trace_steps("nope", "acme") == SnapshotTable.empty(TraceStepSnapshot)
    assert store.get_export_bundle("nope") is None
    assert store.get_export_bundle(run_id="nope") is None


def test_a_bundle_has_all_four_parts(store: ExportBundleStore, backend: str) -> None:
    bundle = store.get_export_bundle("i1")
    assert bundle is not None
    assert (bundle.incident, bundle.run) == (store.get_incident("i1"), store.get_run_by_run_id("r1"))
    assert bundle.trace == store.get_trace_summary("r1", "acme")
    assert bundle.steps == store.get_trace_steps("t1", "acme")
    assert bundle.missing == ()
    assert bundle.trace_count == 1
    assert bundle.source is not None
    assert (bundle.source.dialect, bundle.source.layout) == (backend, "native")
    assert bundle.totals == {"steps": 3, "failed": 1, "tokens": 303, "cost_cents": 1.5, "duration_ms": 2700.75}


def test_a_bundle_of_a_run_has_no_incident(store: ExportBundleStore) -> None:
    bundle = store.get_export_bundle(run_id="r1")
    assert bundle is not None
    assert bundle.missing == ("incident",)
    assert len(bundle.steps) == 3


@pytest.mark.parametrize(
    ("rows", "missing"),
    [
        ({"incidents": [incident(source_run_id=None)]}, ("run", "trace", "steps")),
        ({"runs": []}, ("run",)),
        ({"traces": []}, ("trace", "steps")),
        ({"trace_steps": []}, ("steps",)),
        ({"runs": [run(tenant_id="other")]}, ("run",)),
    ],
)
def test_a_bundle_says_what_is_missing(fresh_url: str, rows: dict[str, list[object]], missing: tuple[str, ...]) -> None:
    bundle = ExportBundleStore(create_native(fresh_url, one_of_each(**rows))).get_export_bundle("i1")  # type: ignore[arg-type]
    assert bundle is not None
    assert bundle.missing == missing


def test_exactly_one_of_incident_and_run_is_asked_for(store: ExportBundleStore) -> None:
    for arguments in ({}, {"incident_id": "i1", "run_id": "r1"}):
        with pytest.raises(ConfigError, match="^pass either incident_id or run_id$"):
            store.get_export_bundle(**arguments)


# Lists


def test_periods_are_half_open(fresh_url: str) -> None:
    moments = [NOON + i * SECOND for i in range(3)]
    rows = one_of_each(
        incidents=[incident(id=f"i{i}", created_at=moment) for i, moment in enumerate(moments)],
        runs=[run(run_id=f"r{i}", started_at=moment) for i, moment in enumerate(moments)],
        traces=[trace(trace_id=f"t{i}", run_id=f"r{i}") for i in range(3)],
    )
    store = ExportBundleStore(create_native(fresh_url, rows))
    period = {"since": moments[0], "until": moments[2], "order": "oldest"}
    assert [found.id for found in store.list_incidents(**period)] == ["i0", "i1"]  # type: ignore[arg-type]
    assert [found.run_id for found in store.list_runs(**period)] == ["r0", "r1"]  # type: ignore[arg-type]
    assert [found.trace_id for found in store.list_traces(**period)] == ["t0", "t1"]  # type: ignore[arg-type]
    elsewhere = {name: moment.astimezone(dt.timezone(dt.timedelta(hours=5, minutes=45))) for name, moment in
                 (("since", moments[1]), ("until", moments[2]))}  # fmt: skip
    assert [found.id for found in store.list_incidents(**elsewhere)] == ["i1"]  # type: ignore[arg-type]


def test_order_is_total_and_undated_runs_come_last(fresh_url: str) -> None:
    rows = one_of_each(
        runs=[
            run(run_id="b"),
            run(run_id="a"),
            run(run_id="B"),
            run(run_id="u", started_at=None),
            run(run_id="n", started_at=NOON + SECOND),
        ],
    )
    store = ExportBundleStore(create_native(fresh_url, rows))
    assert [found.run_id for found in store.list_runs()] == ["n", "b", "a", "B", "u"]
    assert [found.run_id for found in store.list_runs(order="oldest")] == ["B", "a", "b", "n", "u"]
    assert [found.run_id for found in store.list_runs(since=NOON + SECOND)] == ["n"]
    with pytest.raises(ConfigError, match="^order is 'up'; expected 'newest' or 'oldest'$"):
        store.list_runs(order="up")  # type: ignore[arg-type]


def test_a_limit_says_what_it_cut(fresh_url: str) -> None:
    store = ExportBundleStore(create_native(fresh_url, one_of_each(runs=[run(run_id=f"r{i}") for i in range(5)])))
    cut = store.list_runs(limit=2)
    assert (len(cut), cut.total, cut.truncated) == (2, 5, True)
    for whole in (store.list_runs(limit=5), store.list_runs()):
        assert (len(whole), whole.total, whole.truncated) == (5, None, False)
    nothing = store.list_runs(limit=0)
    assert (len(nothing), nothing.total) == (0, 5)
    assert store.list_runs(limit=2, agent_id="nobody").total is None


def test_filters(sample_url: str, sample: dict[str, pa.Table]) -> None:
    store = ExportBundleStore(sample_url)
    for column in ("agent_id", "termination_reason"):
        values = sample["runs"][column].drop_null().unique().to_pylist()
        for wanted in (values[0], values[:2]):
            expected = [
                row["run_id"]
                for row in sample["runs"].to_pylist()
                if row[column] in (wanted if isinstance(wanted, list) else [wanted])
            ]
            assert expected
            assert sorted(found.run_id for found in store.list_runs(**{column: wanted})) == sorted(expected)
    assert {found.severity for found in store.list_incidents(severity=["critical", "high"])} == {"critical", "high"}
    agent = store.list_runs(termination_reason="budget_exceeded")[0].agent_id
    runs = {found.run_id for found in store.list_runs(agent_id=agent)}
    assert runs >= {found.run_id for found in store.list_traces(agent_id=agent)} != set()
    assert len(store.list_incidents(severity=[])) == 0


def test_lists_equal_the_sample(sample_url: str, sample: dict[str, pa.Table]) -> None:
    store = ExportBundleStore(sample_url)
    for table, found in (
        ("incidents", store.list_incidents()),
        ("runs", store.list_runs()),
        ("traces", store.list_traces()),
    ):
        key = found.record_type.key[0]
        assert found.to_arrow().sort_by(key).equals(sample[table].sort_by(key).cast(found.schema))


def test_every_trace_equals_the_sample(sample_url: str, sample: dict[str, pa.Table]) -> None:
    store = ExportBundleStore(sample_url)
    tables = [store.get_trace_steps(found.trace_id, found.tenant_id).to_arrow() for found in store.list_traces()]
    assert sum(map(len, tables)) == sample["trace_steps"].num_rows
    biggest = max(tables, key=len)
    assert "model" in biggest.column_names
    total = pa.concat_tables(tables)["tokens"].to_pandas().sum()
    assert total == sample["trace_steps"]["tokens"].to_pandas().sum()


# The process-wide store


def test_the_singleton_says_that_it_reads_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_singleton", None)
    with pytest.warns(
        UserWarning, match="^EXPORTTOOLS_DATABASE_URL is not set: reading the embedded sample, a made-up fleet$"
    ):
        first = get_export_bundle_store()
    assert get_export_bundle_store() is first
    assert len(first.list_incidents()) == 8


def test_the_singleton_is_one_for_all_threads(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("EXPORTTOOLS_DATABASE_URL", url)
    monkeypatch.setattr(store_module, "_singleton", None)
    found = []
    threads = [threading.Thread(target=lambda: found.append(get_export_bundle_store())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_threads_share_a_store(sample_url: str) -> None:
    store = ExportBundleStore(sample_url)
    ids = [found.id for found in store.list_incidents()]
    expected = {name: store.get_export_bundle(name) for name in ids}
    got: dict[str, object] = {}

    def read(name: str) -> None:
        got[name] = store.get_export_bundle(name)

    threads = [threading.Thread(target=read, args=(name,)) for name in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == expected


def test_traces_may_live_in_another_database(backend: str, fresh_url: str, tmp_path: Path) -> None:
    others = create_native(f"sqlite:///{tmp_path / 'traces.sqlite'}", one_of_each(incidents=[], runs=[]))
    here = create_native(fresh_url, one_of_each(traces=[], trace_steps=[]))
    run_sql(here, "DROP TABLE traces", "DROP TABLE trace_steps")
    store = ExportBundleStore(here, trace_store=SqlTraceStore(others))
    bundle = store.get_export_bundle("i1")
    assert bundle is not None
    assert bundle.missing == ()
    assert len(store.list_traces(tenant_id="acme")) == 1

    class Remote:
        def get_trace_summary(self, run_id: str, tenant_id: str | None = None) -> TraceSummarySnapshot | None:
            return TraceSummarySnapshot(**trace(run_id=run_id, tenant_id=tenant_id))

        def get_trace_steps(self, trace_id: str, tenant_id: str | None = None) -> SnapshotTable[TraceStepSnapshot]:
            return SnapshotTable.empty(TraceStepSnapshot)

    remote = ExportBundleStore(here, trace_store=Remote())
    bundle = remote.get_export_bundle("i1")
    assert bundle is not None
    assert (bundle.trace, bundle.missing) == (TraceSummarySnapshot(**trace()), ("steps",))
    with pytest.raises(ConfigError, match="a Remote cannot list traces; SqlTraceStore can"):
        remote.list_traces()


def test_repr_says_where_it_reads(store: ExportBundleStore, backend: str) -> None:
    assert f"<ExportBundleStore {backend}://" in repr(store)
    assert "layout auto · all tenants" in repr(store)
    store.list_runs()
    assert "layout native" in repr(store)
    assert "SqlTraceStore" in repr(store.trace_store)


# Worker processes


def test_a_store_is_pickled_by_what_it_was_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'agents.sqlite'}", one_of_each())
    monkeypatch.setenv("AGENTS_DB", url)
    for database in (url, "env:AGENTS_DB", tmp_path / "agents.sqlite"):
        copy = pickle.loads(pickle.dumps(ExportBundleStore(database, tenant_id="acme")))
        assert copy.tenant_id == "acme"
        assert len(copy.list_runs()) == 1
    monkeypatch.chdir(tmp_path)
    relative = pickle.dumps(ExportBundleStore(Path("agents.sqlite")))
    monkeypatch.chdir(tmp_path.parent)
    assert len(pickle.loads(relative).list_runs()) == 1


def test_a_store_that_cannot_be_pickled_says_why(url: str) -> None:
    engine = writable(url)
    password = "postgresql://reader:s3cret@db.internal/agents"
    for store, message in (
        (
            ExportBundleStore(url, trace_store=SqlTraceStore(url)),
            "a store with a trace_store of its own cannot be sent to another process",
        ),
        (
            ExportBundleStore(engine),
            "a store on an Engine cannot be sent to another process; make it from a path, from 'env:NAME', or from a "
            "function that returns the URL",
        ),
        (
            ExportBundleStore(password),
            "the store's URL holds a password, or may hold one, which would be sent to other processes; make the store from 'env:NAME', "
            "where the environment variable NAME holds the URL there, or from a function that returns it",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            pickle.dumps(store)
        assert str(caught.value) == message
    engine.dispose()
