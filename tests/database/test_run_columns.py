"""Columns of a step's run, read with the step where they are asked for."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest

from exporttools import ConfigError, ExportBundleStore, SqlTraceStore
from exporttools.database import readers
from exporttools.database.layouts import NATIVE
from exporttools.records.schema import TOKEN_KINDS, TRACE_STEPS
from tests.database.test_layouts import create_aos
from tests.databases import NOON, create_native, one_of_each, run, run_sql, step, trace

WANTED = ["total_cost_cents", "termination_reason", "completed_at"]


@pytest.fixture
def url(fresh_url: str) -> str:
    """Two tenants whose keys are the same, a trace without its run, a step without its trace, and an extra column of runs."""
    rows = one_of_each(
        runs=[
            run(),
            run(tenant_id="globex", termination_reason="CANARY", total_cost_cents=918),
            run(run_id="r2", termination_reason=None, total_cost_cents=None, completed_at=None),
        ],
        traces=[
            trace(),
            trace(tenant_id="globex"),
            trace(trace_id="t2", run_id="r2"),
            trace(trace_id="t3", run_id="gone"),
        ],
        trace_steps=[
            step(0),
            step(1),
            step(0, trace_id="t2"),
            step(0, trace_id="t3"),
            step(0, trace_id="t4"),
            step(0, tenant_id="globex"),
        ],
    )
    create_native(fresh_url, rows)
    run_sql(fresh_url, "ALTER TABLE runs ADD COLUMN project text", "UPDATE runs SET project = 'p-' || run_id")
    return fresh_url


DONE = NOON + dt.timedelta(minutes=3)
OURS = [
    ("t1", 0, "budget_exceeded", 12, DONE), ("t1", 1, "budget_exceeded", 12, DONE), ("t2", 0, None, None, None),
    ("t3", 0, None, None, None), ("t4", 0, None, None, None),
]  # fmt: skip


def tuples(table: pa.Table) -> list[tuple[Any, ...]]:
    names = ["trace_id", "step_index", "termination_reason", "total_cost_cents", "completed_at"]
    return [tuple(row[name] for name in names) for row in table.to_pylist()]


def test_a_run_s_columns_come_with_its_steps(url: str) -> None:
    for store in (ExportBundleStore(url, tenant_id="acme"), SqlTraceStore(url, tenant_id="acme")):
        found = store.scan_trace_steps(columns=["trace_id", "step_index"], run_columns=WANTED).read_all()
        assert found.column_names == [
            "trace_id",
            "step_index",
            "completed_at",
            "termination_reason",
            "total_cost_cents",
        ]
        assert tuples(found) == OURS
        assert [field.nullable for field in found.schema][2:] == [True] * 3
        assert found.schema.field("total_cost_cents").metadata[b"unit"] == b"US cents"
    everybody = ExportBundleStore(url).scan_trace_steps(run_columns=WANTED).read_all()
    assert {(row["tenant_id"], row["termination_reason"]) for row in everybody.to_pylist() if row["trace_id"] == "t1"} == {
        ("acme", "budget_exceeded"), ("globex", "CANARY"),
    }  # fmt: skip


def test_all_columns_come_before_them(url: str) -> None:
    store = ExportBundleStore(url)
    plain = store.scan_trace_steps().read_all()
    more = store.scan_trace_steps(run_columns=["project", "goal"]).read_all()
    assert more.column_names == [*plain.column_names, "goal", "project"]
    assert more.select(plain.column_names).equals(plain)
    assert set(more["project"].to_pylist()) == {"p-r1", "p-r2", None}
    assert store.scan_trace_steps(run_columns=[]).read_all().equals(plain)


def test_they_are_loaded_into_duckdb(url: str) -> None:
    steps = ExportBundleStore(url, tenant_id="acme").load_trace_steps(
        columns=["tokens"], run_columns={"termination_reason"}
    )
    assert steps.columns == ["tokens", "termination_reason"]
    assert steps.aggregate("termination_reason, count(*)", "termination_reason").order("ALL").fetchall() == [
        ("budget_exceeded", 2), (None, 3),
    ]  # fmt: skip


def test_filters_are_those_of_a_scan(url: str) -> None:
    store = ExportBundleStore(url, tenant_id="acme")
    wanted: dict[str, Any] = {"columns": ["trace_id", "step_index"], "run_columns": WANTED}
    assert (
        tuples(store.scan_trace_steps(run_id="r1", since=NOON + dt.timedelta(seconds=1), **wanted).read_all())
        == OURS[1:2]
    )
    assert tuples(store.scan_trace_steps(agent_id="triage", **wanted).read_all()) == OURS[:3]


def test_rows_and_bulk_read_the_same(fresh_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = one_of_each(runs=[run(completed_at=dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC))])
    store = ExportBundleStore(create_native(fresh_postgres_url, rows))
    in_bulk = store.scan_trace_steps(run_columns=WANTED).read_all()
    monkeypatch.setattr(readers.BulkReader, "_joined", lambda *_: None)
    by_rows = ExportBundleStore(fresh_postgres_url).scan_trace_steps(run_columns=WANTED).read_all()
    assert in_bulk.equals(by_rows, check_metadata=True)


def test_of_the_platform_s_own_layout(fresh_url: str) -> None:
    store = ExportBundleStore(create_aos(fresh_url, later=True), tenant_id="acme")
    found = store.scan_trace_steps(
        columns=["trace_id"], run_columns=["termination_reason", "total_cost_cents"]
    ).read_all()
    assert found.to_pylist()[0] == {"trace_id": "t1", "termination_reason": "budget_exceeded", "total_cost_cents": 123}


def test_of_a_trace_store_of_another_database(url: str) -> None:
    store = ExportBundleStore("sqlite:///nowhere.sqlite", trace_store=SqlTraceStore(url), tenant_id="acme")
    found = store.scan_trace_steps(columns=["trace_id", "step_index"], run_columns=WANTED).read_all()
    assert tuples(found) == OURS


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["termination"], "runs have no column 'termination'; found goal, policy_snapshot_id, started_at, completed_at, termination_reason, total_cost_cents, project"),
        (["goal", "agent_id"], "run_columns has 'agent_id', which steps have themselves; read it as a column of theirs"),
        (["goal", "status"], "run_columns has 'status', which steps have themselves; read it as a column of theirs"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(url: str, asked: list[str], message: str) -> None:
    store = ExportBundleStore(url)
    for read in (store.scan_trace_steps, store.load_trace_steps, SqlTraceStore(url).scan_trace_steps):
        with pytest.raises(ConfigError) as caught:
            read(run_columns=asked)
        assert str(caught.value) == message


def test_a_single_name_is_no_list_of_columns(url: str) -> None:
    store = ExportBundleStore(url)
    for read in (store.scan_trace_steps, store.load_trace_steps):
        for parameter in ("columns", "run_columns"):
            with pytest.raises(ConfigError, match=f"^{parameter} is 'goal'; expected a list of columns$"):
                read(**{parameter: "goal"})  # type: ignore[arg-type]


def test_an_extra_column_that_both_have_is_the_step_s(url: str) -> None:
    run_sql(url, "ALTER TABLE trace_steps ADD COLUMN project text")
    with pytest.raises(ConfigError, match="run_columns has 'project', which steps have themselves"):
        ExportBundleStore(url).scan_trace_steps(run_columns=["project"])


def test_the_columns_that_can_be_read(url: str) -> None:
    store = ExportBundleStore(url)
    for stores in (store, store.trace_store):
        assert [column.name for column in stores.get_columns("runs")][-2:] == ["total_cost_cents", "project"]  # type: ignore[union-attr]
        assert [column.name for column in stores.get_columns("trace_steps")] == [
            c.name for c in TRACE_STEPS.stored_columns()
        ]  # type: ignore[union-attr]
    assert store.get_columns("incidents")[0].name == "id"
    with pytest.raises(ConfigError, match="table is 'spans'; expected one of incidents, runs, traces, trace_steps"):
        store.get_columns("spans")
    elsewhere = ExportBundleStore("sqlite:///nowhere.sqlite", trace_store=SqlTraceStore(url))
    assert elsewhere.get_columns("trace_steps") == store.get_columns("trace_steps")


def test_a_trace_store_that_cannot_say(url: str) -> None:
    class Remote:
        def get_trace_summary(self, run_id: str, tenant_id: str | None = None) -> None: ...

        def get_trace_steps(self, trace_id: str, tenant_id: str | None = None) -> None: ...

    store = ExportBundleStore(url, trace_store=Remote())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="^a Remote cannot say what columns it has; SqlTraceStore can$"):
        store.get_columns("trace_steps")
    with pytest.raises(ConfigError, match="^a Remote cannot scan steps; SqlTraceStore can$"):
        store.scan_trace_steps(run_columns=["goal"])


def test_tokens_by_kind_ride_along(fresh_url: str) -> None:
    kinds = {name: 10 * number for number, name in enumerate(TOKEN_KINDS, start=1)}
    rows = one_of_each(trace_steps=[step(0, **kinds), step(1)])
    store = ExportBundleStore(create_native(fresh_url, rows, extra=dict.fromkeys(TOKEN_KINDS, "int64")), layout=NATIVE)
    found = store.scan_trace_steps().read_all()
    assert found.select(TOKEN_KINDS).to_pylist() == [kinds, dict.fromkeys(TOKEN_KINDS)]
    assert {found.schema.field(name).metadata[b"unit"] for name in TOKEN_KINDS} == {b"tokens"}
    steps = store.get_trace_steps("t1", "acme")
    assert steps.extra_columns == TOKEN_KINDS
    assert found["tokens"].to_pylist() == [100, 101]  # the platform's own, to which none is added
