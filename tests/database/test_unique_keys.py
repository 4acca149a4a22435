"""Keys that several rows have: every read that would count such rows twice refuses them, and pays nothing where an index does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from exporttools import NATIVE, ExportBundleStore, Field, InconsistentData, Join, Source
from tests.databases import create_native, incident, one_of_each, run, run_sql, step, trace

TWICE = (
    " is in several rows of tenant 'acme'; expected each key once. Sums would count it several times: remove the repeated "
    "rows, or name a table or view without them in a layout"
)

READS: list[tuple[str, Callable[[ExportBundleStore], Any]]] = [
    ("runs: run_id='r1'", lambda store: store.list_runs(limit=1)),
    ("runs: run_id='r1'", lambda store: store.list_traces(limit=1)),
    ("runs: run_id='r1'", lambda store: store.scan_trace_steps(columns=["cost_cents"])),
    ("runs: run_id='r1'", lambda store: store.load_trace_steps(columns=["cost_cents"])),
    ("runs: run_id='r1'", lambda store: store.get_run_by_run_id("r1")),
    ("runs: run_id='r1'", lambda store: store.get_export_bundle("i1")),
]


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_a_run_inserted_twice_is_counted_by_no_read(fresh_url: str, tenant: str | None) -> None:
    url = create_native(fresh_url, one_of_each(runs=[run(), run()]))
    for key, read in READS:
        with pytest.raises(InconsistentData) as caught:
            read(ExportBundleStore(url, tenant_id=tenant))
        assert str(caught.value) == key + TWICE
        assert (caught.value.table, caught.value.key, caught.value.column) == ("runs", "run_id='r1'", "run_id")


def test_any_record_may_be_there_twice(fresh_url: str) -> None:
    url = create_native(
        fresh_url,
        one_of_each(incidents=[incident(), incident()], traces=[trace(), trace()], trace_steps=[step(0), step(0)]),
    )
    store = ExportBundleStore(url, tenant_id="acme")
    for message, read in (
        ("incidents: id='i1'", store.list_incidents),
        ("traces: trace_id='t1'", store.list_traces),
        ("traces: trace_id='t1'", lambda: store.get_trace_summary("r1")),
        ("trace_steps: trace_id='t1', step_index=0", store.scan_trace_steps),
    ):
        with pytest.raises(InconsistentData) as caught:
            read()
        assert str(caught.value) == message + TWICE


def test_one_key_of_two_tenants_is_two_keys(fresh_url: str) -> None:
    rows = one_of_each(
        runs=[run(), run(tenant_id="globex")], traces=[trace(), trace(tenant_id="globex")],
        trace_steps=[step(0), step(0, tenant_id="globex")],
    )  # fmt: skip
    store = ExportBundleStore(create_native(fresh_url, rows))
    assert len(store.list_runs()) == len(store.list_traces()) == store.scan_trace_steps().read_all().num_rows == 2


def test_another_tenants_keys_neither_stop_a_read_nor_appear_in_it(fresh_url: str) -> None:
    rows = one_of_each(runs=[run(), run(run_id="canary", tenant_id="globex"), run(run_id="canary", tenant_id="globex")])
    url = create_native(fresh_url, rows)
    assert len(ExportBundleStore(url, tenant_id="acme").list_runs()) == 1
    assert len(ExportBundleStore(url).list_runs(tenant_id="acme")) == 1
    with pytest.raises(InconsistentData, match="run_id='canary' is in several rows of tenant 'globex'"):
        ExportBundleStore(url).list_runs()


def test_a_layout_over_one_table_of_calls_does_not_multiply(fresh_url: str) -> None:
    url = create_native(fresh_url, one_of_each(trace_steps=[step(i, cost_cents=59.0) for i in range(3)]))
    calls = replace(
        NATIVE,
        name="calls",
        runs=Source("trace_steps", {"run_id": "trace_id", "started_at": "timestamp"}),
        traces=Source("trace_steps", {"run_id": "trace_id"}),
    )
    store = ExportBundleStore(url, layout=calls)
    for read in (store.scan_trace_steps, store.list_traces, store.list_runs):
        with pytest.raises(
            InconsistentData, match="^trace_steps: (trace|run)_id='t1' is in several rows of tenant 'acme'"
        ):
            read()


ROBOTS = replace(
    NATIVE,
    name="robots",
    runs=Source("runs", {"goal": Field("label", table="robots")}, joins=(Join("robots", on={"robot": "agent_id"}),)),
)


def test_a_join_that_multiplies_is_refused(fresh_url: str) -> None:
    url = create_native(fresh_url, one_of_each())
    run_sql(
        url,
        "CREATE TABLE robots (robot varchar(9), label varchar(9))",
        "INSERT INTO robots VALUES ('triage', 'a'), ('triage', 'b'), ('idle', 'c'), ('idle', 'd')",
    )
    for read in ("list_runs", "list_traces", "scan_trace_steps"):
        with pytest.raises(InconsistentData) as caught:
            getattr(ExportBundleStore(url, layout=ROBOTS), read)()
        assert str(caught.value).startswith(
            "runs: run_id='r1' is in several rows of tenant 'acme'; expected each key once, or a join (robots) that "
            "matches at most one row. Sums"
        )
    run_sql(url, "DELETE FROM robots WHERE label = 'b'")
    assert [found.goal for found in ExportBundleStore(url, layout=ROBOTS).list_runs()] == ["a"]


# What an index says need not be counted


class _Statements:
    """The statements that a store sends."""

    def __init__(self, store: ExportBundleStore) -> None:
        self.texts: list[str] = []
        engine = store._reader.database.engine
        sa.event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        self.texts.append(statement)

    @property
    def counts(self) -> int:
        return sum("HAVING" in text for text in self.texts)


def _read_all(store: ExportBundleStore) -> int:
    sent = _Statements(store)
    for _ in range(2):
        store.list_incidents()
        store.list_traces()
        store.scan_trace_steps().read_all()
    return sent.counts


def test_keys_are_counted_once_and_not_at_all_where_they_are_primary_keys(fresh_url: str, sample_url: str) -> None:
    assert _read_all(ExportBundleStore(sample_url)) == 0
    url = create_native(fresh_url, one_of_each())
    assert _read_all(ExportBundleStore(url)) == 4
    assert _read_all(ExportBundleStore(url, tenant_id="acme")) == 4


INDEXES = [
    ("CREATE UNIQUE INDEX one ON runs (run_id)", 0),
    ("CREATE UNIQUE INDEX one ON runs (run_id, tenant_id)", 0),
    ("CREATE INDEX one ON runs (run_id, tenant_id)", 1),
    ("CREATE UNIQUE INDEX one ON runs (run_id) WHERE goal IS NULL", 1),
    ("CREATE UNIQUE INDEX one ON runs (lower(run_id))", 1),
    ("CREATE UNIQUE INDEX one ON runs (run_id, tenant_id, started_at)", 1),
]


@pytest.mark.parametrize(("index", "counts"), INDEXES)
def test_only_an_index_that_proves_it_saves_the_count(fresh_url: str, index: str, counts: int) -> None:
    url = create_native(fresh_url, one_of_each())
    run_sql(url, index)
    store = ExportBundleStore(url)
    sent = _Statements(store)
    store.list_runs()
    assert sent.counts == counts


def test_a_joined_tables_key_is_proved_too(fresh_url: str) -> None:
    url = create_native(fresh_url, one_of_each())
    run_sql(
        url, "CREATE UNIQUE INDEX one ON runs (run_id)", "CREATE TABLE robots (robot varchar(9), label varchar(9))",
    )  # fmt: skip
    store = ExportBundleStore(url, layout=ROBOTS)
    sent = _Statements(store)
    store.list_runs()
    assert sent.counts == 1
    run_sql(url, "CREATE UNIQUE INDEX two ON robots (robot)")
    store = ExportBundleStore(url, layout=ROBOTS)
    sent = _Statements(store)
    store.list_runs()
    assert sent.counts == 0


def test_a_parents_index_says_nothing_of_its_children(fresh_postgres_url: str) -> None:
    url = create_native(fresh_postgres_url, one_of_each())
    run_sql(
        url,
        "CREATE UNIQUE INDEX one ON runs (run_id)",
        "CREATE TABLE old_runs () INHERITS (runs)",
        "INSERT INTO old_runs SELECT * FROM runs",
    )
    with pytest.raises(InconsistentData, match="^runs: run_id='r1' is in several rows of tenant 'acme'"):
        ExportBundleStore(url).list_runs()
    covering = "CREATE UNIQUE INDEX two ON traces (trace_id) INCLUDE (run_id, violation_step_index)"
    run_sql(url, "DROP TABLE old_runs", 'ALTER TABLE runs RENAME TO "Runs"', covering)
    layout = replace(NATIVE, name="quoted", runs=Source("public.Runs"))
    store = ExportBundleStore(url, layout=layout)
    sent = _Statements(store)
    store.list_traces()
    assert sent.counts == 1  # of the table that once had children; PostgreSQL forgets them at the next VACUUM
