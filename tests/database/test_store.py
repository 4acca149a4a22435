"""The store on both databases: every lookup and list, what bad input gets, and that nothing is written."""

from __future__ import annotations

import datetime as dt
import pickle
import threading
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa

from exporttools import (
    ConfigError,
    ConnectionFailed,
    ExportBundleStore,
    IncidentSnapshot,
    InconsistentData,
    QueryTimeout,
    RunSnapshot,
    SchemaMismatch,
    SqlTraceStore,
    StoreError,
    TenantMismatch,
    TraceStepSnapshot,
    TraceSummarySnapshot,
    get_export_bundle_store,
)
from exporttools.database import store as store_module
from exporttools.records.snapshot_table import SnapshotTable
from tests.databases import NOON, create_native, incident, one_of_each, run, run_sql, step, trace, writable

SECOND = dt.timedelta(seconds=1)


@pytest.fixture
def url(fresh_url: str) -> str:
    """A database with one of each."""
    return create_native(fresh_url, one_of_each())


@pytest.fixture
def store(url: str) -> ExportBundleStore:
    return ExportBundleStore(url)


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
        with pytest.raises(ConfigError, match="give either incident_id or run_id"):
            store.get_export_bundle(**arguments)


# Which of a run's traces


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
    with pytest.raises(ConfigError, match="order is 'up'; accepted are 'newest' and 'oldest'"):
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


# Bad input


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
        (lambda: store.list_runs(limit=-1), "limit is -1; expected an integer of at least 0, or None"),
        (lambda: store.list_runs(limit=True), "limit is True; expected an integer"),
        (lambda: store.list_runs(limit=2.0), "limit is 2.0; expected an integer"),  # type: ignore[arg-type]
        (lambda: store.get_incident(7), "incident_id is 7; expected a str"),  # type: ignore[arg-type]
        (lambda: store.get_run_by_run_id("a\0b"), "without NUL and lone surrogates"),
        (lambda: store.get_run_by_run_id("a\ud800"), "without NUL and lone surrogates"),
        (lambda: store.list_incidents(severity=[1]), "severity is 1; expected a str"),  # type: ignore[list-item]
        (lambda: store.get_trace_summary("r1"), "traces are read for one tenant: pass tenant_id="),
        (lambda: store.get_trace_steps("t1"), "traces are read for one tenant: pass tenant_id="),
    ]
    for call, message in cases:
        with pytest.raises(ConfigError, match=message):
            call()


def test_a_pandas_timestamp_is_a_datetime(store: ExportBundleStore) -> None:
    import pandas as pd

    assert len(store.list_runs(since=pd.Timestamp(NOON))) == 1


FORBIDDEN = [
    ("trace_steps", step(1, tokens=None), "tokens", "NULL", "an? int64, never NULL"),
    ("trace_steps", step(1, tokens=-5), "tokens", "-5", "at least 0"),
    ("trace_steps", step(1, cost_cents=float("nan")), "cost_cents", "nan", "a finite number"),
    ("trace_steps", step(1, cost_cents=float("inf")), "cost_cents", "inf", "a finite number"),
    ("trace_steps", step(1, duration_ms=-0.5), "duration_ms", "-0.5", "at least 0"),
    ("trace_steps", step(1, status=None), "status", "NULL", "an? string, never NULL"),
    ("runs", run(total_cost_cents=-1), "total_cost_cents", "-1", "at least 0"),
    ("incidents", incident(created_at=None), "created_at", "NULL", "an? timestamp, never NULL"),
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
        with pytest.raises(TenantMismatch, match="scoped to tenant 'acme'; the call asks for 'globex'"):
            call()
    unscoped = ExportBundleStore(url)
    for call in (
        lambda: unscoped.get_incident("i1"),
        lambda: unscoped.get_run_by_run_id("r1"),
        lambda: unscoped.get_export_bundle("i1"),
    ):
        with pytest.raises(
            InconsistentData, match=r"stands in several rows, of tenants 'acme', 'globex'.*Name the tenant"
        ):
            call()
    assert [found.step_type for found in unscoped.get_trace_steps("t1", "globex")] == ["canary"]


def test_a_case_insensitive_collation_gives_no_other_tenants_rows(tmp_path: Path) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'nocase.sqlite'}", {})
    run_sql(
        url,
        "DROP TABLE runs",
        "CREATE TABLE runs (run_id TEXT, tenant_id TEXT COLLATE NOCASE)",
        "INSERT INTO runs VALUES ('r1', 'acme'), ('r2', 'ACME')",
    )
    with pytest.raises(TenantMismatch, match="case-insensitive collation"):
        ExportBundleStore(url, tenant_id="acme").list_runs()


# Opening


def test_nothing_is_written(store: ExportBundleStore, backend: str) -> None:
    assert store.get_incident("i1")
    message = {"sqlite": "attempt to write a readonly database", "postgresql": "25006|read-only transaction"}[backend]
    with store._reader.database.transaction() as connection, pytest.raises(sa.exc.DBAPIError, match=message):
        connection.execute(sa.text("DELETE FROM incidents"))
    engine = writable(_url_of(store))
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM incidents")).scalar_one() == 1
    engine.dispose()


def _url_of(store: ExportBundleStore) -> str:
    return store._reader.database._url.render_as_string(hide_password=False)


def test_a_missing_sqlite_file_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "no.sqlite"
    for database in (path, str(path), f"sqlite:///{path}"):
        with pytest.raises(ConnectionFailed, match=r"no such file; expected an SQLite database"):
            ExportBundleStore(database).list_incidents()
    with pytest.raises(ConnectionFailed, match="a directory is there"):
        ExportBundleStore(tmp_path / ".").list_incidents()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("this is no database, however long the text may be" * 100)
    with pytest.raises(ConnectionFailed, match="the file is no SQLite database"):
        ExportBundleStore(tmp_path / "text.sqlite").list_incidents()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "not a database URL"),
        ("nonsense", "not a database URL: 'nonsense'; accepted are postgresql://"),
        ("postgresql:/host/db", "not a database URL"),
        ("mysql://root:secret@host/db", "the dialect 'mysql' is not supported; accepted are postgresql://"),
        ("postgresql+psycopg2://host/db", "the driver 'psycopg2' is not used here; write postgresql://"),
        ("postgresql://host:port/db", "the URL that starts with 'postgresql':// cannot be read"),
        ("postgresql://host/db?options=-c%20x", "the URL has options="),
        ("sqlite://", "an in-memory SQLite database opened here would be empty"),
        ("sqlite:///x.db?mode=rw", "options in an SQLite URL are not accepted"),
        (7, "not as int"),
    ],
)
def test_urls_that_are_none(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ExportBundleStore(url)
    assert "secret" not in str(caught.value)


def test_an_unreachable_server_is_named_without_the_password(postgres_server: str) -> None:
    refused = ExportBundleStore("postgresql://reader:s3cret@127.0.0.1:9/agents?connect_timeout=2")
    no_database = ExportBundleStore(sa.make_url(postgres_server).set(database="nowhere"))
    for store, name in ((refused, r"postgresql://127.0.0.1:9/agents"), (no_database, "/nowhere")):
        with pytest.raises(ConnectionFailed, match=name) as caught:
            store.get_incident("i1")
        text = str(caught.value) + repr(store) + str(caught.value.__cause__)
        assert "s3cret" not in text


def test_a_statement_timeout(url: str, backend: str) -> None:
    store = ExportBundleStore(url, statement_timeout=0.05)
    if backend == "sqlite":
        slow = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000) SELECT max(i) FROM n"
        )
    else:
        slow = "SELECT pg_sleep(20)"
    database = store._reader.database
    with (
        pytest.raises(QueryTimeout, match="statement_timeout"),
        database.transaction() as connection,
        database.translated_errors(),
    ):
        connection.execute(sa.text(slow)).all()
    assert store.get_incident("i1")
    for bad in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match="statement_timeout is .*; expected seconds"):
            ExportBundleStore(url, statement_timeout=bad)


def test_an_engine_is_used_as_it_is(url: str, backend: str) -> None:
    engine = writable(url)
    store = ExportBundleStore(engine)
    assert store.get_export_bundle("i1") == ExportBundleStore(url).get_export_bundle("i1")
    with engine.begin() as connection:  # its connections write as before
        connection.execute(sa.text("DELETE FROM incidents"))
    assert store.get_incident("i1") is None
    engine.dispose()


def test_an_in_memory_engine() -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alerts (id TEXT)")
    with pytest.raises(SchemaMismatch, match=r"Tables found: alerts"):
        ExportBundleStore(engine).list_incidents()
    with engine.connect() as connection:
        connection.execute(sa.text("INSERT INTO alerts VALUES ('open')"))
        with pytest.raises(StoreError, match="has an open transaction"):
            ExportBundleStore(engine).list_incidents()
    engine.dispose()


def test_engines_of_other_databases_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"an Engine of mysql\+pymysql is not supported"):
        ExportBundleStore(sa.create_engine("mysql+pymysql://h/d", module=__import__("sqlite3")))


# The process-wide store


def test_the_singleton_says_that_it_reads_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_singleton", None)
    with pytest.warns(UserWarning, match="EXPORTTOOLS_DATABASE_URL is not set: reading the embedded sample"):
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
