"""Keys of any type: compared in the column's own type, by its index, and by bytes whatever the collation."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exporttools import ExportBundleStore
from exporttools.database import trace_store
from tests.databases import create_native, incident, one_of_each, run, run_sql, step, trace, writable

RUN, TRACE = str(uuid.UUID(int=10)), str(uuid.UUID(int=20))

KEY_TYPES = {
    "uuid": (RUN, TRACE, str(uuid.UUID(int=11))),
    "bigint": ("10", "20", "11"),
    "integer": ("10", "20", "11"),
    "run_number": ("10", "20", "11"),
    "run_uuid": (RUN, TRACE, str(uuid.UUID(int=11))),
}


def _typed_keys(url: str, kind: str) -> ExportBundleStore:
    run_id, trace_id, _ = KEY_TYPES[kind]
    rows = {
        "incidents": [incident(source_run_id=run_id)],
        "runs": [run(run_id=run_id)],
        "traces": [trace(trace_id=trace_id, run_id=run_id)],
        "trace_steps": [step(i, trace_id=trace_id) for i in range(3)],
    }
    create_native(url, rows)
    columns = [("incidents", "source_run_id"), ("runs", "run_id"), ("traces", "trace_id"), ("traces", "run_id"),
               ("trace_steps", "trace_id")]  # fmt: skip
    base = {"run_number": "bigint", "run_uuid": "uuid"}.get(kind, kind)
    run_sql(
        url,
        "CREATE DOMAIN run_number0 AS bigint", "CREATE DOMAIN run_number AS run_number0 CHECK (VALUE > 0)",
        "CREATE DOMAIN run_uuid AS uuid",
        *(f"ALTER TABLE {t} ALTER {c} TYPE {base} USING CAST({c} AS {base})" for t, c in columns),
        *(f"ALTER TABLE {t} ALTER {c} TYPE {kind}" for t, c in columns),
        "CREATE UNIQUE INDEX runs_key ON runs (run_id)", "CREATE UNIQUE INDEX traces_key ON traces (trace_id)",
        "CREATE INDEX traces_run ON traces (run_id)",
        "CREATE UNIQUE INDEX steps_key ON trace_steps (trace_id, step_index)",
    )  # fmt: skip
    return ExportBundleStore(url, tenant_id="acme")


@contextmanager
def _index_scans(store: ExportBundleStore) -> Iterator[list[str]]:
    """The plans of the statements that read rows; small tables are read by an index only where it serves the condition."""
    plans: list[str] = []
    engine = store._reader.database.engine

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "acme" in str(parameters):
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute("EXPLAIN " + statement, parameters)
            plans.append("\n".join(row[0] for row in cursor.fetchall()))

    sa.event.listen(engine, "before_cursor_execute", explain)
    yield plans
    sa.event.remove(engine, "before_cursor_execute", explain)


def _of(column: str) -> re.Pattern[str]:
    """A plan that looks a column up in an index; a domain's is shown with the type beneath."""
    return re.compile(rf"Index Cond: \(\(?{column}\)?(::\w+)? = ")


@pytest.mark.parametrize("kind", KEY_TYPES)
def test_keys_of_other_types_are_found_by_their_index(fresh_postgres_url: str, kind: str) -> None:
    store = _typed_keys(fresh_postgres_url, kind)
    run_id, trace_id, other = KEY_TYPES[kind]
    assert store.scan_trace_steps(run_id=[run_id, other], columns=["tokens"]).read_all().num_rows == 3
    for read, condition in (
        (lambda: store.get_run_by_run_id(run_id), _of("run_id")),
        (lambda: list(store.get_trace_steps(trace_id)), _of("trace_id")),
        (lambda: store.get_trace_summary(run_id), _of("run_id")),
        (lambda: list(store.list_traces(run_id=run_id)), _of("run_id")),
    ):
        with _index_scans(store) as plans:
            assert read()
        assert any(condition.search(plan) for plan in plans), plans
    bundle = store.get_export_bundle("i1")
    assert bundle is not None
    assert bundle.missing == ()
    assert (bundle.run and bundle.run.run_id, bundle.trace and bundle.trace.trace_id) == (run_id, trace_id)
    table = store.scan_trace_steps().read_all()
    assert set(table["run_id"].to_pylist()) == {run_id}
    assert set(table["agent_id"].to_pylist()) == {"triage"}


@pytest.mark.parametrize("kind", ["uuid", "bigint"])
def test_what_is_not_the_text_of_a_key_finds_nothing(fresh_postgres_url: str, kind: str) -> None:
    store = _typed_keys(fresh_postgres_url, kind)
    run_id = KEY_TYPES[kind][0]
    others = [
        "nope",
        "",
        "0" + run_id,
        " " + run_id,
        "9" * 30,
        "9" * 5000,
        "x" + run_id,
        run_id.replace("-", "") + "-",
        "+" + run_id,
    ]
    for value in others:
        assert store.get_run_by_run_id(value) is None
        assert store.get_trace_summary(value) is None
        assert len(store.get_trace_steps(value)) == 0
        assert store.scan_trace_steps(run_id=[value]).read_all().num_rows == 0
    assert store.scan_trace_steps(run_id=[*others, run_id]).read_all().num_rows == 3


def test_integers_of_sqlite_are_found_by_their_index(tmp_path: Path) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'typed.sqlite'}", {"traces": [trace(run_id="10")]})
    run_sql(
        url,
        "DROP TABLE runs",
        "CREATE TABLE runs (run_id INTEGER PRIMARY KEY, tenant_id TEXT)",
        "INSERT INTO runs VALUES (10, 'acme'), (11, 'acme')",
    )
    store = ExportBundleStore(url)
    plans = []
    engine = store._reader.database.engine

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if parameters and "10" in parameters:
            plans.extend(row[3] for row in cursor.execute("EXPLAIN QUERY PLAN " + statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", explain)
    assert store.get_run_by_run_id("10") is not None
    assert any("USING INTEGER PRIMARY KEY" in plan for plan in plans), plans
    for value in ("010", "10.0", " 10", "ten"):
        assert store.get_run_by_run_id(value) is None


def test_keys_of_two_types_are_joined_as_text(fresh_postgres_url: str) -> None:
    store = _typed_keys(fresh_postgres_url, "uuid")
    run_sql(fresh_postgres_url, "ALTER TABLE traces ALTER run_id TYPE text")
    assert set(store.scan_trace_steps().read_all()["agent_id"].to_pylist()) == {"triage"}


def test_a_real_reads_as_it_is_written_by_both_readers(
    fresh_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = [0.1, 0.3, 16777216.0, 1e-20]
    rows = one_of_each(trace_steps=[step(i, cost_cents=cost) for i, cost in enumerate(costs)])
    url = create_native(fresh_postgres_url, rows)
    run_sql(
        url,
        "CREATE DOMAIN price AS real",
        "ALTER TABLE trace_steps ALTER cost_cents TYPE price, ALTER duration_ms TYPE real",
    )
    by_rows = ExportBundleStore(url).get_trace_steps("t1", "acme").to_arrow()
    monkeypatch.setattr(trace_store, "BULK_ROWS", 1)
    in_bulk = ExportBundleStore(url).get_trace_steps("t1", "acme").to_arrow()
    assert in_bulk.equals(by_rows)
    assert by_rows["cost_cents"].to_pylist() == costs
    assert ExportBundleStore(url).scan_trace_steps().read_all()["cost_cents"].to_pylist() == costs


# Collations that ignore case


def _ignoring_case(url: str) -> ExportBundleStore:
    """Tenants, runs and traces whose names differ only by case, in columns that ignore it."""
    names = [("acme", "r1", "t1"), ("ACME", "r1", "t1"), ("acme", "R1", "T1")]
    create_native(
        url,
        {
            "incidents": [incident(id=f"i{i}", tenant_id=t, source_run_id=r, severity="high" if i else "HIGH")
                          for i, (t, r, _) in enumerate(names)],
            "runs": [run(tenant_id=t, run_id=r, goal=f"goal{i}", agent_id=r) for i, (t, r, _) in enumerate(names)],
            "traces": [trace(tenant_id=t, run_id=r, trace_id=n) for t, r, n in names],
            "trace_steps": [step(0, tenant_id=t, trace_id=n, step_type=f"type{i}") for i, (t, _, n) in enumerate(names)],
        },
    )  # fmt: skip
    texts = {"incidents": ["id", "tenant_id", "source_run_id", "severity"], "runs": ["tenant_id", "run_id", "agent_id"],
             "traces": ["tenant_id", "run_id", "trace_id"], "trace_steps": ["tenant_id", "trace_id"]}  # fmt: skip
    if "sqlite" in url:
        engine = writable(url)
        with engine.begin() as connection:
            for table, columns in texts.items():
                sql = connection.exec_driver_sql(f"SELECT sql FROM sqlite_schema WHERE name = '{table}'").scalar_one()
                for column in columns:
                    sql = sql.replace(f"{column} TEXT", f"{column} TEXT COLLATE NOCASE")
                connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO old")
                connection.exec_driver_sql(sql)
                connection.exec_driver_sql(f"INSERT INTO {table} SELECT * FROM old")
                connection.exec_driver_sql("DROP TABLE old")
        engine.dispose()
    else:
        run_sql(
            url,
            "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
            *(f"ALTER TABLE {t} ALTER {c} TYPE text COLLATE nocase" for t, cs in texts.items() for c in cs),
        )
    return ExportBundleStore(url)


def _require_icu(url: str) -> None:
    """Only ICU's collations ignore case; not every PostgreSQL is built with it."""
    engine = writable(url)
    with engine.connect() as connection:
        there = connection.exec_driver_sql("SELECT FROM pg_collation WHERE collname = 'und-x-icu'").first()
    engine.dispose()
    if there is None:
        pytest.skip("this PostgreSQL is built without ICU, and so without collations that ignore case")


def test_a_collation_that_ignores_case_gives_no_other_rows(fresh_url: str) -> None:
    if "sqlite" not in fresh_url:
        _require_icu(fresh_url)
    store = _ignoring_case(fresh_url)
    for tenant, run_id, trace_id, n in (("acme", "r1", "t1", 0), ("ACME", "r1", "t1", 1), ("acme", "R1", "T1", 2)):
        scoped = ExportBundleStore(fresh_url, tenant_id=tenant)
        assert {found.tenant_id for found in scoped.list_runs()} == {tenant}
        assert {found.tenant_id for found in store.list_incidents(tenant_id=tenant)} == {tenant}
        found_run = scoped.get_run_by_run_id(run_id)
        assert found_run is not None
        assert found_run.goal == f"goal{n}"
        summary = scoped.get_trace_summary(run_id)
        assert summary is not None
        assert (summary.tenant_id, summary.run_id, summary.trace_id) == (tenant, run_id, trace_id)
        assert [found.trace_id for found in scoped.list_traces(run_id=run_id)] == [trace_id]
        for steps in (scoped.get_trace_steps(trace_id), store.get_trace_steps(trace_id, tenant)):
            assert [found.step_type for found in steps] == [f"type{n}"]
        rows = scoped.scan_trace_steps(run_id=run_id).read_all().to_pylist()
        assert [(row["tenant_id"], row["run_id"], row["agent_id"], row["step_type"]) for row in rows] == [
            (tenant, run_id, run_id, f"type{n}")
        ]
        bundle = scoped.get_export_bundle(f"i{n}")
        assert bundle is not None
        assert (bundle.run and bundle.run.goal, bundle.trace_count, len(bundle.steps)) == (f"goal{n}", 1, 1)
    assert store.scan_trace_steps().read_all().num_rows == 3
    assert [found.id for found in store.list_incidents(severity="HIGH")] == ["i0"]
    assert len(store.list_runs(agent_id="R1")) == 1
    assert store.get_run_by_run_id("R1") is not None
    assert store.get_incident("I0") is None


def test_citext_compares_by_bytes(fresh_postgres_url: str) -> None:
    url = create_native(fresh_postgres_url, one_of_each(runs=[run(), run(tenant_id="ACME")]))
    engine = writable(url)
    with engine.connect() as connection:
        offered = connection.exec_driver_sql("SELECT FROM pg_available_extensions WHERE name = 'citext'").first()
    engine.dispose()
    if offered is None:
        pytest.skip("this server has no citext")
    run_sql(url, "CREATE EXTENSION citext", "ALTER TABLE runs ALTER tenant_id TYPE citext")
    assert {found.tenant_id for found in ExportBundleStore(url, tenant_id="acme").list_runs()} == {"acme"}
