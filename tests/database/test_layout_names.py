"""What a layout names must be in the database, or the message says what is most like it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from exporttools import AOS, NATIVE, ConfigError, ExportBundleStore, Field, Join, Layout, SchemaMismatch, Source
from exporttools.records.schema import Column
from tests.databases import NOON, create_native, one_of_each, run_sql, trace


def _is_null(column: Any) -> Any:
    return column.is_(None)


def _with(name: str, **sources: Source) -> Layout:
    return replace(NATIVE, name=name, **sources)


ROBOTS = Join("robots", on={"robot": "agent_id"})

TYPOS = [
    (
        _with("typo", runs=Source("runz")),
        "layout 'typo' reads runs from a table 'runz', which does not exist (did you mean 'runs'?)",
    ),
    (
        _with("typo", runs=Source("runs", {"goal": "gaol"})),
        "layout 'typo': table 'runs' has no column 'gaol', which runs.goal is read from (did you mean 'goal'?); "
        "columns found: run_id, tenant_id, agent_id, goal",
    ),
    (
        _with("typo", runs=Source("runs", {"goal": "GOAL"})),
        "table 'runs' has no column 'GOAL', which runs.goal is read from (did you mean 'goal'?)",
    ),
    (
        _with("typo", runs=Source("runs", {"goal": Field("zzz")})),
        "table 'runs' has no column 'zzz', which runs.goal is read from; columns found: run_id",
    ),
    (
        _with("typo", runs=Source("runs", {"goal": Field("labl", table="robots")}, joins=(ROBOTS,))),
        "table 'robots' has no column 'labl', which runs.goal is read from (did you mean 'label'?); "
        "columns found: robot, label",
    ),
    (
        _with("typo", runs=Source("runs", {"goal": Field("label", table="robot")}, joins=(ROBOTS,))),
        "layout 'typo': runs.goal is read from a table 'robot', which runs does not join (did you mean 'robots'?); "
        "tables read: runs, robots",
    ),
    (
        _with("typo", runs=Source("runs", joins=(Join("robotz", on={"robot": "agent_id"}),))),
        "layout 'typo' joins runs with a table 'robotz', which does not exist (did you mean 'robots'?)",
    ),
    (
        _with("typo", runs=Source("runs", joins=(Join("robots", on={"robt": "agent_id"}),))),
        "table 'robots' has no column 'robt', which the join of 'robots' to 'runs' needs (did you mean 'robot'?)",
    ),
    (
        _with("typo", runs=Source("runs", joins=(Join("robots", on={"robot": "agentid"}),))),
        "table 'runs' has no column 'agentid', which the join of 'robots' to 'runs' needs (did you mean 'agent_id'",
    ),
    (
        _with("typo", runs=Source("runs", where=(Field("archived", convert=_is_null),))),
        "table 'runs' has no column 'archived', which a condition on runs needs",
    ),
    (
        _with("typo", traces=Source("traces", started_at="startedat")),
        "table 'traces' has no column 'startedat', which traces.started_at is read from",
    ),
    (
        _with("typo", runs=Source("runs", {"region": "rgion"}, extra=(Column("region", "string", True, ""),))),
        "table 'runs' has no column 'rgion', which runs.region is read from",
    ),
    (
        _with("typo", runs=Source("runs", {"run_id": Field("runid", optional=True)})),
        "table 'runs' has no column 'runid', which runs.run_id is read from (did you mean 'run_id'?)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "message"), TYPOS)
def test_a_name_that_is_not_there_is_a_mismatch(fresh_url: str, layout: Layout, message: str) -> None:
    url = create_native(fresh_url, one_of_each())
    run_sql(url, "CREATE TABLE robots (robot varchar(9), label varchar(9))")
    with pytest.raises(SchemaMismatch) as caught:
        ExportBundleStore(url, layout=layout).list_runs()
    assert message in str(caught.value)


def test_optional_columns_may_be_missing(fresh_url: str) -> None:
    layout = _with(
        "older",
        runs=Source(
            "runs",
            {"goal": Field("purpose", optional=True), "region": Field("area", optional=True)},
            where=(Field("archived_at", convert=_is_null, optional=True),),
            extra=(Column("region", "string", True, "where it ran"),),
        ),
        traces=Source("traces", started_at=Field("started_at", optional=True)),
    )
    store = ExportBundleStore(create_native(fresh_url, one_of_each()), layout=layout)
    assert [(found.run_id, found.goal) for found in store.list_runs()] == [("r1", None)]
    assert store.list_runs().extra_columns == ()
    assert store.get_trace_summary("r1", "acme") is not None


def test_a_start_can_be_converted(fresh_url: str) -> None:
    clean = {"violation_step_index": None}
    rows = one_of_each(
        traces=[trace(trace_id=name, violation_timestamp=None, **clean) for name in ("t1", "t2")],
    )
    url = create_native(fresh_url, rows)
    kind = "timestamp" if "sqlite" in url else "timestamptz"
    run_sql(
        url,
        f"ALTER TABLE traces ADD begun {kind}",
        f"UPDATE traces SET begun = '{NOON:%Y-%m-%d %H:%M:%S}' WHERE trace_id = 't1'",
    )
    for begun, expected in ((Field("begun"), "t1"), (Field("begun", convert=lambda _: _null_time()), "t2")):
        store = ExportBundleStore(url, layout=_with("begun", traces=Source("traces", started_at=begun)))
        found = store.get_trace_summary("r1", "acme")
        assert found is not None
        assert found.trace_id == expected


def _null_time() -> Any:
    import sqlalchemy as sa

    return sa.cast(sa.null(), sa.TIMESTAMP(timezone=True))


def test_a_layout_says_each_thing_once() -> None:
    with pytest.raises(ConfigError) as caught:
        _with("self", runs=Source("runs", joins=(Join("runs", on={"run_id": "run_id"}),)))
    assert str(caught.value) == (
        "layout 'self': runs reads 'runs' twice; expected each table once. To join a table to itself, join a view of it"
    )
    with pytest.raises(ConfigError) as caught:
        _with("idle", runs=Source("runs", where=(Field("archived_at"),)))
    assert str(caught.value) == (
        "layout 'idle': the where of runs says nothing about 'archived_at'; expected a condition, such as "
        "Field('archived_at', convert=lambda column: column.is_(None))"
    )


def test_aos_marks_only_later_columns_optional(fresh_url: str) -> None:
    optional = {
        place.column
        for source in (AOS.incidents, AOS.runs, AOS.traces, AOS.trace_steps)
        for place in (*source.columns.values(), *source.where)
        if isinstance(place, Field) and place.optional
    }
    assert optional == {"violation_policy_id", "estimated_cost_usd", "archived_at"}
