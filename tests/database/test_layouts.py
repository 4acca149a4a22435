"""Layouts: the platform's own tables, older ones, a user's, and databases that fit no layout."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from exporttools import (
    AOS,
    NATIVE,
    ConfigError,
    Constant,
    ExportBundleStore,
    Field,
    Join,
    Layout,
    SchemaMismatch,
    Source,
)
from exporttools.records.schema import Column
from tests.databases import NOON, create_native, insert, one_of_each, run, run_sql, step, trace, writable

SECOND = dt.timedelta(seconds=1)

# The facts of the platform's tables; `later` columns came with a migration that older databases have not had.
_AOS: dict[str, dict[str, str]] = {
    "incidents": {
        "id": "varchar PRIMARY KEY", "tenant_id": "varchar(100) NOT NULL", "title": "varchar(255) NOT NULL",
        "severity": "varchar(20) NOT NULL", "trigger_type": "varchar(50) NOT NULL", "created_at": "timestamp NOT NULL",
        "source_run_id": "varchar",
    },
    "runs": {
        "id": "varchar PRIMARY KEY", "agent_id": "varchar NOT NULL", "goal": "varchar NOT NULL",
        "status": "varchar NOT NULL", "tenant_id": "varchar", "created_at": "timestamptz", "started_at": "timestamptz",
        "completed_at": "timestamptz", "duration_ms": "float8",
    },
    "aos_traces": {
        "id": "uuid PRIMARY KEY", "trace_id": "varchar(64) NOT NULL UNIQUE", "run_id": "varchar(64) NOT NULL",
        "tenant_id": "varchar(64) NOT NULL", "plan": "jsonb NOT NULL", "started_at": "timestamptz NOT NULL",
    },
    "aos_trace_steps": {
        "id": "uuid PRIMARY KEY", "trace_id": "varchar(64) NOT NULL", "step_index": "integer NOT NULL",
        "skill_name": "varchar(128) NOT NULL", "params": "jsonb NOT NULL", "status": "varchar(32) NOT NULL",
        "outcome_category": "varchar(64) NOT NULL", "outcome_code": "varchar(64)", "cost_cents": "float8 NOT NULL",
        "duration_ms": "float8 NOT NULL", "retry_count": "integer NOT NULL", "output_hash": "varchar(64)",
        '"timestamp"': "timestamptz NOT NULL",
    },
}  # fmt: skip
_LATER: dict[str, dict[str, str]] = {
    "runs": {
        "policy_snapshot_id": "varchar", "termination_reason": "varchar(32)", "violation_policy_id": "varchar(64)",
        "estimated_cost_usd": "numeric",
    },
    "aos_traces": {"archived_at": "timestamptz", "violation_step_index": "integer", "violation_timestamp": "timestamptz"},
    "aos_trace_steps": {"archived_at": "timestamptz"},
}  # fmt: skip


def create_aos(url: str, *, later: bool) -> str:
    engine = writable(url)
    with engine.begin() as connection:
        for table, columns in _AOS.items():
            ddl = columns | (_LATER.get(table, {}) if later else {})
            connection.exec_driver_sql(f"CREATE TABLE {table} ({', '.join(f'{n} {t}' for n, t in ddl.items())})")
        for table, rows in _aos_rows(later).items():
            for row in rows:
                insert(connection, table, row)
    engine.dispose()
    return url


def _aos_rows(later: bool) -> dict[str, list[dict[str, Any]]]:
    def with_later(row: dict[str, Any], **columns: Any) -> dict[str, Any]:
        return row | (columns if later else {})

    def trace_row(name: str, started: int, **columns: Any) -> dict[str, Any]:
        row = {"id": f"00000000-0000-0000-0000-00000000000{started}", "trace_id": name, "run_id": "r1", "tenant_id": "acme",
               "plan": "{}", "started_at": NOON + started * SECOND}  # fmt: skip
        return with_later(row, **columns)

    def step_row(number: int, name: str, index: int, **columns: Any) -> dict[str, Any]:
        row = {
            "id": f"00000000-0000-0000-0000-0000000000{number:02}", "trace_id": name, "step_index": index,
            "skill_name": "http_call", "params": "{}", "status": ["success", "failure", "retry", "skipped"][index],
            "outcome_category": "EXECUTION", "outcome_code": "HTTP_429", "cost_cents": 0.25, "duration_ms": 12.5,
            "retry_count": index, "output_hash": f"hash{index}", "timestamp": NOON + index * SECOND,
        }  # fmt: skip
        return with_later(row, **columns)

    incident = {"id": "i1", "tenant_id": "acme", "title": "over budget", "severity": "critical",
                "trigger_type": "budget_breach", "created_at": NOON.replace(tzinfo=None), "source_run_id": "r1"}  # fmt: skip
    run_row = {"id": "r1", "agent_id": "a1", "goal": "g", "status": "failed", "tenant_id": "acme", "created_at": NOON,
               "started_at": NOON, "completed_at": NOON + SECOND, "duration_ms": 1000.0}  # fmt: skip
    return {
        "incidents": [incident],
        "runs": [
            with_later(run_row, policy_snapshot_id="ps1", termination_reason="budget_exceeded", violation_policy_id="p9",
                       estimated_cost_usd=1.23456)
        ],
        "aos_traces": [
            trace_row("t1", 1),
            trace_row("t2", 2),
            *([trace_row("t3", 3, archived_at=NOON, violation_step_index=1)] if later else []),
        ],
        "aos_trace_steps": [
            *(step_row(i, "t2", i) for i in range(4)),
            step_row(10, "t1", 0),
            *([step_row(11, "t1", 1, archived_at=NOON), step_row(20, "t3", 0)] if later else []),
        ],
    }  # fmt: skip


@pytest.mark.parametrize("later", [True, False], ids=["migrated", "older"])
def test_aos(fresh_url: str, later: bool) -> None:
    store = ExportBundleStore(create_aos(fresh_url, later=later), tenant_id="acme")
    found = store.get_incident("i1")
    assert found is not None
    assert found.to_dict() == {
        "id": "i1", "tenant_id": "acme", "source_run_id": "r1", "severity": "critical",
        "policy_id": "p9" if later else None, "policy_name": None, "violation_type": "budget_breach", "created_at": NOON,
    }  # fmt: skip
    found_run = store.get_run_by_run_id("r1")
    assert found_run is not None
    assert found_run.to_dict() == {
        "run_id": "r1", "tenant_id": "acme", "agent_id": "a1", "goal": "g", "policy_snapshot_id": "ps1" if later else None,
        "started_at": NOON, "completed_at": NOON + SECOND, "termination_reason": "budget_exceeded" if later else None,
        "total_cost_cents": 123 if later else None,
    }  # fmt: skip
    summary = store.get_trace_summary("r1")
    assert summary is not None
    assert summary.trace_id == "t2"  # the last started; t3 is archived
    steps = store.get_trace_steps("t2")
    assert [found.status for found in steps] == ["success", "failure", "retry", "skipped"]
    assert steps[1].to_dict() == {
        "step_index": 1, "timestamp": NOON + SECOND, "step_type": "http_call", "tokens": 0, "cost_cents": 0.25,
        "duration_ms": 12.5, "status": "failure", "content_hash": "hash1",
    }  # fmt: skip
    assert steps.extra_columns == ("outcome_category", "outcome_code", "retry_count")
    assert len(store.get_trace_steps("t1")) == 1  # its other step is archived
    assert len(store.get_trace_steps("t3")) == 0
    assert [found.trace_id for found in store.list_traces(since=NOON, until=NOON + SECOND)] == ["t2", "t1"]
    assert len(store.list_incidents(since=NOON, until=NOON + SECOND)) == 1
    assert len(store.list_incidents(until=NOON)) == 0
    bundle = store.get_export_bundle("i1")
    assert bundle is not None
    assert bundle.source is not None
    assert (bundle.source.layout, bundle.trace_count, len(bundle.steps)) == ("aos", 2, 4)


def test_aos_reads_no_other_tenants_policy(fresh_url: str) -> None:
    url = create_aos(fresh_url, later=True)
    run_sql(url, "UPDATE runs SET tenant_id = 'globex', violation_policy_id = 'canary'")
    found = ExportBundleStore(url, tenant_id="acme").get_incident("i1")
    assert found is not None
    assert found.policy_id is None


def test_aos_from_the_platforms_own_ddl(fresh_postgres_url: str, real: Any) -> None:
    ddl = (real.parent / "aos-schema.sql").read_text()
    run_sql(fresh_postgres_url, ddl)
    for table, rows in _aos_rows(later=True).items():
        engine = writable(fresh_postgres_url)
        with engine.begin() as connection:
            for row in rows:
                insert(connection, table, row | _required_by(table))
        engine.dispose()
    store = ExportBundleStore(fresh_postgres_url)
    bundle = store.get_export_bundle("i1")
    assert bundle is not None
    assert bundle.missing == ()
    assert [found.status for found in bundle.steps] == ["success", "failure", "retry", "skipped"]
    assert bundle.incident and bundle.incident.policy_id == "p9"
    assert bundle.run and bundle.run.total_cost_cents == 123


def _required_by(table: str) -> dict[str, Any]:
    """What the platform's own DDL wants beyond what the records are made of."""
    return {
        "incidents": {
            "status": "open",
            "started_at": NOON.replace(tzinfo=None),
            "updated_at": NOON.replace(tzinfo=None),
        },
        "runs": {},
        "aos_traces": {"correlation_id": "c", "root_hash": "h", "schema_version": "1", "trace": "{}", "status": "done"},
        "aos_trace_steps": {"skill_id": "s", "replay_behavior": "execute"},
    }[table]


def test_an_absent_nullable_column_reads_null(fresh_url: str) -> None:
    url = create_native(
        fresh_url,
        {"runs": [{"run_id": "r1", "tenant_id": "acme", "started_at": NOON, "completed_at": NOON, "goal": "g",
                   "policy_snapshot_id": None, "termination_reason": None, "total_cost_cents": None}]},
        drop={"runs": ["agent_id"]},
    )  # fmt: skip
    store = ExportBundleStore(url)
    found = store.get_run_by_run_id("r1")
    assert found is not None
    assert found.agent_id is None
    assert len(store.list_runs(agent_id="a1")) == 0


def test_an_absent_required_column_is_named(fresh_url: str) -> None:
    url = create_native(fresh_url, {}, drop={"trace_steps": ["cost_cents"]})
    with pytest.raises(SchemaMismatch) as caught:
        ExportBundleStore(url, layout="native").list_runs()
    assert (
        "layout 'native': table 'trace_steps' has no column 'cost_cents', which trace_steps.cost_cents is read from"
        in str(caught.value)
    )
    assert "columns found: tenant_id, trace_id, step_index, timestamp" in str(caught.value)


def test_a_database_of_neither_layout(fresh_url: str) -> None:
    run_sql(fresh_url, "CREATE TABLE customers (id integer)")
    with pytest.raises(SchemaMismatch) as caught:
        ExportBundleStore(fresh_url).list_incidents()
    message = str(caught.value)
    assert "layout 'native' reads incidents from a table 'incidents', which does not exist" in message
    assert "layout 'aos' reads incidents from a table 'incidents', which does not exist" in message
    assert message.endswith("Tables found: customers")


def test_an_empty_database_has_no_tables(fresh_postgres_url: str) -> None:
    with pytest.raises(SchemaMismatch, match="which does not exist. Tables found: none$"):
        ExportBundleStore(fresh_postgres_url, layout="native").list_incidents()


def test_there_is_no_such_layout(fresh_url: str) -> None:
    with pytest.raises(ConfigError, match="^there is no layout 'mine'; expected 'auto', 'native', 'aos' or a Layout$"):
        ExportBundleStore(create_native(fresh_url, {}), layout="mine").list_runs()


def test_a_layout_maps_what_there_is() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^layout 'odd': runs has no column cost to map; expected agent_id, .* \(declare further columns in extra=\)$",
    ):
        replace(NATIVE, name="odd", runs=Source("runs", {"cost": "price"}))


MINE = Layout(
    name="mine",
    incidents=Source("alerts", {"id": "alert_id", "tenant_id": Constant("only"), "created_at": "at"}),
    runs=Source(
        "jobs",
        {
            "run_id": "job",
            "tenant_id": Constant("only"),
            "agent_id": Field("label", table="robots"),
            "total_cost_cents": Field("usd", convert=lambda usd: sa.cast(sa.func.round(usd * 100), sa.BigInteger())),
        },
        joins=(Join("robots", on={"robot": "robot"}),),
        extra=(Column("region", "string", True, "where it ran"),),
    ),
    traces=NATIVE.traces,
    trace_steps=NATIVE.trace_steps,
)


def test_a_layout_of_ones_own(fresh_url: str) -> None:
    url = create_native(
        fresh_url, {"traces": [trace(run_id="7", tenant_id="only")], "trace_steps": [step(tenant_id="only")]}
    )
    at = "timestamp" if "sqlite" in url else "timestamptz"
    run_sql(
        url,
        f"CREATE TABLE alerts (alert_id varchar(9), at {at}, source_run_id varchar(9))",
        "CREATE TABLE jobs (job varchar(9), robot integer, usd float, region varchar(9))",
        "CREATE TABLE robots (robot integer, label varchar(9))",
        "INSERT INTO alerts VALUES ('a1', '2026-10-05 12:00:00.000000', '7')",
        "INSERT INTO jobs VALUES ('7', 1, 0.5, 'eu')",
        "INSERT INTO robots VALUES (1, 'sorter')",
    )
    store = ExportBundleStore(url, layout=MINE)
    bundle = store.get_export_bundle("a1")
    assert bundle is not None
    assert bundle.missing == ()
    assert bundle.run is not None
    assert (bundle.run.agent_id, bundle.run.total_cost_cents, bundle.run.goal) == ("sorter", 50, None)
    assert bundle.tables["run"].to_arrow()["region"].to_pylist() == ["eu"]
    assert store.list_runs().extra_columns == ("region",)
    assert "mine" in repr(store)


def test_extra_columns_ride_along_where_they_are(fresh_url: str) -> None:
    rows = one_of_each(
        trace_steps=[step(0, model="m1", parent_step_index=None), step(1, model=None, parent_step_index=0)]
    )
    url = create_native(fresh_url, rows, extra={"model": "string", "parent_step_index": "int64"})
    steps = ExportBundleStore(url).get_trace_steps("t1", "acme")
    assert steps.extra_columns == ("model", "parent_step_index")
    assert steps.to_pandas()["parent_step_index"].dtype == "Int64"
    assert steps.to_arrow()["model"].to_pylist() == ["m1", None]
    assert not hasattr(steps[0], "model")


def test_postgresql_types_are_read_only_where_nothing_is_lost(fresh_postgres_url: str) -> None:
    url = create_native(fresh_postgres_url, {"runs": [], "trace_steps": [step(0)]})
    run_sql(
        url,
        "ALTER TABLE trace_steps ALTER cost_cents TYPE numeric, ALTER step_index TYPE smallint, ALTER timestamp TYPE timestamp",
        "ALTER TABLE trace_steps ALTER trace_id TYPE varchar(20), ALTER duration_ms TYPE real, ALTER content_hash TYPE uuid USING NULL",
    )
    steps = ExportBundleStore(url).get_trace_steps("t1", "acme")
    assert [found.to_dict() for found in steps] == [
        {name: value for name, value in step(0).items() if name not in ("tenant_id", "trace_id")}
    ]
    run_sql(url, "ALTER TABLE trace_steps ALTER tokens TYPE numeric")
    with pytest.raises(
        SchemaMismatch,
        match=r"table 'trace_steps': column 'tokens' is of type NUMERIC; tokens is an int64. "
        r"Convert it in a layout of your own: Field\('tokens', convert=...\)",
    ):
        ExportBundleStore(url).get_trace_steps("t1", "acme")


def test_a_schema_can_be_named(fresh_postgres_url: str) -> None:
    url = create_native(fresh_postgres_url, one_of_each())
    run_sql(url, "CREATE SCHEMA audit", "ALTER TABLE runs SET SCHEMA audit")
    layout = replace(NATIVE, name="split", runs=Source("audit.runs"))
    assert len(ExportBundleStore(url, layout=layout).list_runs()) == 1


def test_views_do(fresh_url: str) -> None:
    url = create_native(fresh_url, one_of_each(runs=[run(), run(run_id="r2")]))
    run_sql(
        url, "ALTER TABLE runs RENAME TO runs_raw", "CREATE VIEW runs AS SELECT * FROM runs_raw WHERE run_id = 'r1'"
    )
    assert [found.run_id for found in ExportBundleStore(url).list_runs()] == ["r1"]


def test_aos_is_data() -> None:
    assert AOS.trace_steps.columns["tokens"] == Constant(0)
