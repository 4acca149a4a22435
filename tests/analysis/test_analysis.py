"""Analysis: the same answers on every kind of frame, the sample's planted causes found, and clear refusals."""

from __future__ import annotations

import datetime as dt
import math
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporttools import ExportBundle, ExportBundleStore, RunSnapshot, SnapshotTable
from exporttools.analysis import (
    anomalies,
    baseline,
    compare_runs,
    cost_by,
    cost_over_time,
    reconcile_costs,
    reconciliation_verdict,
    repeated_calls,
    run_profiles,
    top_runs,
    what_changed,
)
from exporttools.errors import ConfigError
from exporttools.records.snapshots import TraceStepSnapshot
from tests.frames import EAGER, KINDS, LAZY, FrameKind, assert_same, rows

# Dask and Spark deprecate things of their own and of each other's.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

every_kind = pytest.mark.parametrize("kind", KINDS, indirect=True)
local_kinds = pytest.mark.parametrize("kind", [*EAGER, *LAZY], indirect=True)
NOON = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)
FIRST_WEEK_END = dt.datetime(2026, 10, 12, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def bundles(sample_urls: dict[str, str]) -> dict[int, ExportBundle]:
    store = ExportBundleStore(sample_urls["sqlite"])
    return {number: store.get_export_bundle(f"inc-0000-{number}") for number in range(1, 9)}  # type: ignore[misc]


def step(index: int = 0, **changes: Any) -> dict[str, Any]:
    values = {
        "tenant_id": "acme", "run_id": "r1", "trace_id": "t1", "agent_id": "a", "step_index": index,
        "timestamp": NOON + dt.timedelta(seconds=index), "step_type": "llm_call", "tokens": 10, "cost_cents": 0.5,
        "duration_ms": 100.0, "status": "ok", "content_hash": None,
    }  # fmt: skip
    return values | changes


SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("tenant_id", "run_id", "trace_id", "agent_id")),
        ("step_index", pa.int64()), ("timestamp", pa.timestamp("us", "UTC")), ("step_type", pa.string()),
        ("tokens", pa.int64()), ("cost_cents", pa.float64()), ("duration_ms", pa.float64()), ("status", pa.string()),
        ("content_hash", pa.string()),
    ]
)  # fmt: skip


def frame(*steps: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(steps), schema=SCHEMA)


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


FUNCTIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "cost_by": lambda steps, runs, run: cost_by(steps, "agent_id", "step_type"),
    "cost_by nothing": lambda steps, runs, run: cost_by(steps),
    "cost_by model": lambda steps, runs, run: cost_by(steps, "model"),
    "cost_over_time": lambda steps, runs, run: cost_over_time(steps, "6h", "agent_id"),
    "top_runs": lambda steps, runs, run: top_runs(steps, 5),
    "reconcile_costs": lambda steps, runs, run: reconcile_costs(runs, steps),
    "baseline": lambda steps, runs, run: baseline(steps),
    "anomalies": lambda steps, runs, run: anomalies(steps, baseline(steps)),
    "run_profiles": lambda steps, runs, run: run_profiles(steps),
    "repeated_calls": lambda steps, runs, run: repeated_calls(steps),
    "compare_runs": lambda steps, runs, run: compare_runs(run, run),
    "what_changed": lambda steps, runs, run: what_changed(CHANGED["bundle"], steps),
}
CHANGED: dict[str, Any] = {}


@every_kind
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_kind_of_frame_gives_the_same_answer_and_stays_as_it_was(
    kind: FrameKind, name: str, ledger: pa.Table, sample: dict[str, pa.Table], bundles: dict[int, ExportBundle]
) -> None:
    CHANGED["bundle"] = bundles[5]
    tables = [ledger, sample["runs"], bundles[2].steps.to_arrow()]
    frames = [kind.make(table) for table in tables]
    before = [rows(given) for given in frames]
    answer = FUNCTIONS[name](*frames)
    assert type(answer) is type(frames[0])
    assert_same(answer, rows(FUNCTIONS[name](*tables)))
    assert [rows(given) for given in frames] == before


def test_reconciliation_verdict_on_every_kind(ledger: pa.Table, sample: dict[str, pa.Table]) -> None:
    found = reconcile_costs(sample["runs"], ledger)
    expected = (
        "2 of 300 runs differ from their steps, by -92.40 cents (recorded less steps); "
        "286 agree, 11 have no total, 1 has no steps"
    )
    for answer in (found, found.to_pandas(), pl.from_arrow(found).lazy(), duckdb.from_arrow(found)):  # type: ignore[union-attr]
        assert reconciliation_verdict(answer) == expected


def test_a_snapshot_table_gives_pyarrow_and_a_bundle_is_its_steps(bundles: dict[int, ExportBundle]) -> None:
    steps = bundles[1].steps
    answer = cost_by(steps, "step_type")
    assert isinstance(answer, pa.Table)
    assert "runs" not in answer.column_names
    assert answer.equals(cost_by(bundles[1], "step_type"))
    assert_same(cost_by(steps.to_pandas(), "step_type"), answer)


# Costs


def test_cost_sums_equal_those_of_sql(ledger: pa.Table, sample_urls: dict[str, str]) -> None:
    database = sqlite3.connect(sample_urls["sqlite"].removeprefix("sqlite:///"))
    expected = database.execute(
        """SELECT agent_id, step_type, sum(cost_cents), sum(tokens), count(*), sum(duration_ms), count(DISTINCT run_id)
        FROM trace_steps JOIN traces USING (tenant_id, trace_id) JOIN runs USING (tenant_id, run_id)
        GROUP BY agent_id, step_type ORDER BY 3 DESC, 1, 2"""
    ).fetchall()
    columns = ["agent_id", "step_type", "cost_cents", "tokens", "steps", "duration_ms", "runs"]
    found = cost_by(ledger, "agent_id", "step_type").select(columns)
    assert len(found) == len(expected) == 36
    for row, sql in zip(found.to_pylist(), expected, strict=True):
        assert list(row.values()) == [
            pytest.approx(value, rel=1e-12) if isinstance(value, float) else value for value in sql
        ]


def test_shares_and_ratios() -> None:
    steps = frame(
        step(0, cost_cents=3.0, tokens=1500),
        step(1, cost_cents=1.0, tokens=0, step_type="tool_call"),
        step(2, cost_cents=0.0, tokens=500, run_id="r2"),
        step(3, cost_cents=0.0, tokens=0, run_id=None, step_type="tool_call"),
        step(4, cost_cents=0.0, tokens=0, run_id="r1", tenant_id="other", step_type="tool_call"),
    )
    assert cost_by(steps, "step_type").to_pylist() == [
        {"step_type": "llm_call", "cost_cents": 3.0, "share": 0.75, "tokens": 2000, "steps": 2, "duration_ms": 200.0,
         "cost_cents_per_1000_tokens": 1.5, "runs": 2, "cost_cents_per_run": 1.5},
        {"step_type": "tool_call", "cost_cents": 1.0, "share": 0.25, "tokens": 0, "steps": 3, "duration_ms": 300.0,
         "cost_cents_per_1000_tokens": None, "runs": 2, "cost_cents_per_run": 0.5},
    ]  # fmt: skip


@local_kinds
def test_nothing_spent_has_no_share_and_no_rows_no_groups(kind: FrameKind) -> None:
    free = rows(cost_by(kind.make(frame(step(cost_cents=0.0, tokens=0))), "step_type")).to_pylist()
    assert [free[0][name] for name in ("cost_cents", "share", "cost_cents_per_1000_tokens", "runs")] == [
        0.0,
        None,
        None,
        1,
    ]
    assert len(rows(cost_by(kind.make(frame()), "step_type"))) == 0
    nothing = rows(cost_by(kind.make(frame()))).to_pylist()
    assert [nothing[0][name] for name in ("cost_cents", "share", "tokens", "steps", "runs")] == [0.0, None, 0, 0, 0]


@local_kinds
def test_null_and_nan_count_as_nothing_and_null_is_a_group(kind: FrameKind) -> None:
    steps = frame(step(cost_cents=math.nan), step(1, cost_cents=None, tokens=None), step(2, step_type=None))
    found = rows(cost_by(kind.make(steps), "step_type"))
    assert found.select(["step_type", "cost_cents", "tokens"]).to_pylist() == [
        {"step_type": None, "cost_cents": 0.5, "tokens": 10},
        {"step_type": "llm_call", "cost_cents": 0.0, "tokens": 10},
    ]


def test_top_runs(ledger: pa.Table) -> None:
    found = top_runs(ledger, 2)
    assert found["run_id"][0].as_py() == "run-0000-040"
    assert found["agent_id"][0].as_py() == "research-scout"
    assert len(found) == 2
    most = top_runs(ledger, 1, by="steps").to_pylist()[0]
    assert most["steps"] == pc.max(ledger.group_by("run_id").aggregate([([], "count_all")])["count_all"]).as_py()
    with pytest.raises(ConfigError, match="by is 'price'; accepted are cost_cents, tokens, steps, duration_ms"):
        top_runs(ledger, by="price")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="limit is -1; expected a whole number from 0 on"):
        top_runs(ledger, -1)


# Over time


@local_kinds
def test_empty_periods_are_filled_for_every_group(kind: FrameKind) -> None:
    days = [dt.datetime(2026, 10, day, 23, 59, 59, 999_999, tzinfo=dt.UTC) for day in (5, 5, 8)]
    steps = frame(
        *(step(i, timestamp=day, agent_id=agent) for i, (day, agent) in enumerate(zip(days, "aba", strict=True)))
    )
    found = rows(cost_over_time(kind.make(steps), "1d", "agent_id"))
    assert [(row["period_start"].day, row["agent_id"], row["steps"], row["cost_cents"], row["runs"]) for row in found.to_pylist()] == [
        (5, "a", 1, 0.5, 1), (5, "b", 1, 0.5, 1), (6, "a", 0, 0.0, 0), (6, "b", 0, 0.0, 0),
        (7, "a", 0, 0.0, 0), (7, "b", 0, 0.0, 0), (8, "a", 1, 0.5, 1), (8, "b", 0, 0.0, 0),
    ]  # fmt: skip
    assert len(rows(cost_over_time(kind.make(frame()), "1d", "agent_id"))) == 0


def test_weeks_begin_on_mondays_and_times_before_1970_have_periods() -> None:
    times = [
        dt.datetime(1969, 12, 31, 23, tzinfo=dt.UTC),
        dt.datetime(1970, 1, 4, 23, tzinfo=dt.UTC),
        dt.datetime(1970, 1, 5, tzinfo=dt.UTC),
    ]
    found = cost_over_time(frame(*(step(i, timestamp=time) for i, time in enumerate(times))), "1w").to_pylist()
    assert [(row["period_start"].isoformat(), row["steps"]) for row in found] == [
        ("1969-12-29T00:00:00+00:00", 2), ("1970-01-05T00:00:00+00:00", 1),
    ]  # fmt: skip


def test_periods_add_up_to_the_whole(ledger: pa.Table) -> None:
    found = cost_over_time(ledger, "1h", "step_type")
    assert pc.sum(found["cost_cents"]).as_py() == pytest.approx(pc.sum(ledger["cost_cents"]).as_py())
    assert pc.sum(found["steps"]).as_py() == len(ledger)
    assert len(found) == 6 * len(found["period_start"].unique())


@pytest.mark.parametrize(
    ("every", "by", "message"),
    [
        ("1 day", None, "every is '1 day'; expected a length of time such as '30min', '6h', '1d' or '1w'"),
        ("0d", None, "every is '0d'; expected more than nothing"),
        ("1d", "period_start", "by has 'period_start', which the answer has besides"),
        ("1min", None, "every is '1min': 4,204,801 periods"),
    ],
)
def test_periods_that_cannot_be(every: str, by: str | None, message: str) -> None:
    later = NOON.replace(year=2034)
    table = frame(step(), step(1, timestamp=later)).append_column("period_start", pa.array(["x", "y"]))
    if every == "1min":
        message = "every is '1min': 4,207,681 periods"
        from exporttools.analysis import costs

        with pytest.MonkeyPatch.context() as patch, pytest.raises(ConfigError, match=message):
            patch.setattr(costs, "MAX_ROWS", 1000)
            cost_over_time(table, every, by)
        return
    with pytest.raises(ConfigError, match=message.replace("'", ".")):
        cost_over_time(table, every, by)


# Reconciliation


def test_every_finding_of_a_reconciliation() -> None:
    runs = pa.table(
        {
            "run_id": ["r1", "r2", "r3", "r4", "r5", "r5"],
            "total_cost_cents": pa.array([3, 9, None, 4, 1, 1], pa.int64()),
        }
    )
    costs = {"r1": (1.25, 1.25), "r2": (4.0,), "r3": (1.0,), "r5": (2.0,), "r6": (0.75,), None: (0.25,)}
    steps = frame(
        *(
            step(i, run_id=run, cost_cents=cents)
            for i, (run, all_cents) in enumerate(costs.items())
            for cents in all_cents
        )
    )
    found = reconcile_costs(runs, steps.drop_columns(["tenant_id"]))
    assert [(row["run_id"], row["recorded_cost_cents"], row["step_cost_cents"], row["difference_cents"], row["finding"]) for row in found.to_pylist()] == [
        ("r2", 9.0, 4.0, 5.0, "differs"), ("r6", None, 0.75, None, "no run"), (None, None, 0.25, None, "no run"),
        ("r5", 2.0, 2.0, None, "listed twice"), ("r3", None, 1.0, None, "no total"), ("r4", 4.0, None, None, "no steps"),
        ("r1", 3.0, 2.5, 0.5, "agrees"),
    ]  # fmt: skip
    assert reconciliation_verdict(found) == (
        "1 of 7 runs differs from its steps, by +5.00 cents (recorded less steps); 1 agrees, 1 has no total, "
        "1 has no steps, 2 have steps but are not among the runs, 1 is listed twice"
    )
    assert reconcile_costs(runs, steps, tolerance_cents=10)["finding"].to_pylist().count("differs") == 0
    assert reconciliation_verdict(found.slice(4, 1)) == "of 1 run none could be compared; 1 has no total"
    assert reconciliation_verdict(found.slice(6, 1)) == "no total of 1 run differs from its steps; 1 agrees"
    assert reconciliation_verdict(found.slice(0, 0)) == "no runs and no steps: nothing to reconcile"


def test_the_planted_differences_and_no_others(ledger: pa.Table, sample: dict[str, pa.Table]) -> None:
    found = reconcile_costs(sample["runs"], ledger)
    differing = found.filter(pc.equal(found["finding"], "differs")).to_pylist()
    assert [(row["run_id"], round(row["difference_cents"], 2)) for row in differing] == [
        ("run-0000-032", -71.94), ("run-0000-230", -20.46),
    ]  # fmt: skip


@pytest.mark.real
def test_the_real_agents_agree_but_for_totals_that_are_missing(real: Path) -> None:
    store = ExportBundleStore(real / "agents.sqlite")
    runs, steps = store.list_runs(), store.scan_trace_steps().read_all()
    found = reconcile_costs(runs, steps)
    assert reconciliation_verdict(found) == "no total of 264 runs differs from its steps; 20 agree, 244 have no total"
    database = sqlite3.connect(f"file:{real / 'agents.sqlite'}?mode=ro", uri=True)
    expected = dict(database.execute("SELECT tenant_id, sum(cost_cents) FROM trace_steps GROUP BY 1").fetchall())
    assert {row["tenant_id"]: row["cost_cents"] for row in cost_by(steps, "tenant_id").to_pylist()} == pytest.approx(
        expected
    )


def test_runs_and_steps_are_of_one_kind(ledger: pa.Table, sample: dict[str, pa.Table]) -> None:
    with pytest.raises(
        ConfigError, match=r"runs are in pandas.DataFrame, steps in pyarrow.Table; expected frames of one kind"
    ):
        reconcile_costs(sample["runs"].to_pandas(), ledger)
    with pytest.raises(ConfigError, match="tolerance_cents is nan; expected a number from 0 on"):
        reconcile_costs(sample["runs"], ledger, tolerance_cents=math.nan)


# Baselines and anomalies


def test_a_baseline_is_numpy_s_order_statistics() -> None:
    random = np.random.default_rng(7)
    count = 400
    agent = random.integers(0, 3, count)
    values = random.lognormal(3.0, 1.0, count)
    values[random.integers(0, count, 20)] = np.nan
    table = pa.table({"agent_id": agent.astype(str), "step_type": ["x"] * count, "duration_ms": values})
    found = baseline(table, measures=["duration_ms"]).to_pylist()
    for number, row in enumerate(found):
        mine = values[agent == number]
        known = mine[~np.isnan(mine)]
        median = np.median(known)
        expected = (len(mine), median, np.median(np.abs(known - median)), np.percentile(known, 95), known.max())
        names = ("count", *(f"duration_ms_{name}" for name in ("median", "mad", "p95", "max")))
        assert [row[name] for name in names] == pytest.approx(expected)
        spread = 1.4826 * np.median(np.abs(np.log((known + median / 100) / (1.01 * median))))
        assert row["duration_ms_spread"] == pytest.approx(spread)
        assert 0.5 < spread < 2


@local_kinds
def test_groups_without_any_value_have_a_count_and_nothing_else(kind: FrameKind) -> None:
    table = with_column(frame(step(), step(1)), "cost_cents", pa.nulls(2, pa.float64()))
    row = rows(baseline(kind.make(table))).to_pylist()[0]
    assert row["count"] == 2
    assert [row[f"cost_cents_{name}"] for name in ("median", "mad", "p95", "max", "spread")] == [None] * 5


def test_the_planted_slow_tool_and_the_creep_are_found(ledger: pa.Table) -> None:
    usual = ledger.filter(pc.less(ledger["timestamp"], pa.scalar(FIRST_WEEK_END)))
    found = anomalies(ledger, baseline(usual)).to_pylist()
    slow = [row for row in found if row["run_id"] == "run-0000-269"]
    assert found[0] == slow[0]
    assert [row["step_index"] for row in sorted(slow, key=lambda row: row["step_index"])][-2:] == [25, 27]
    assert slow[0]["reason"].startswith("600,137 ms, 1,")
    assert (
        slow[0]["reason"].endswith(" times the usual 458.8 ms of ops-responder · tool_call")
        or "usual" in slow[0]["reason"]
    )

    profiles = run_profiles(ledger, at_least=5)
    judged = anomalies(profiles, baseline(run_profiles(usual, at_least=5))).to_pylist()
    since = pa.scalar(dt.datetime(2026, 10, 13, tzinfo=dt.UTC))
    dearer = pc.field("agent_id") == "data-analyst"
    dearer &= (pc.field("tenant_id") == "borealis-bank") & (pc.field("timestamp") >= since)
    creeping = set(ledger.filter(dearer)["run_id"].to_pylist())
    named = {row["run_id"] for row in judged if row["z"] is not None}
    assert "run-0000-223" in creeping & named
    assert len(creeping & named) >= 0.9 * len(creeping)
    assert len(named - creeping) <= 4


def test_what_no_one_had_before_comes_first_and_small_groups_say_so() -> None:
    usual = frame(*(step(i, cost_cents=0.0, duration_ms=100.0 + i % 3) for i in range(40)), step(41, agent_id="b"))
    now = frame(
        step(0, cost_cents=2.5),
        step(1, duration_ms=9000.0, cost_cents=0.0),
        step(2, agent_id="b"),
        step(3, agent_id="c"),
    )
    found = anomalies(now, baseline(usual)).to_pylist()
    assert [(row["step_index"], row["measure"], row["reason"]) for row in found] == [
        (0, "cost_cents", "2.5 cents, where a · llm_call had none before"),
        (1, "duration_ms", "9,000 ms, 89 times the usual 101 ms of a · llm_call"),
        (None, None, "too few: 1 of b · llm_call in the baseline, 10 needed"),
        (None, None, "too few: 0 of c · llm_call in the baseline, 10 needed"),
    ]
    assert found[0]["z"] is None
    assert found[1]["z"] > 5
    assert [row["step_index"] for row in anomalies(now, baseline(usual), 1e9).to_pylist()] == [0, None, None]


def test_a_baseline_of_one_kind_judges_frames_of_another(ledger: pa.Table) -> None:
    expected = anomalies(ledger, baseline(ledger))
    assert_same(anomalies(ledger.to_pandas(), baseline(pl.from_arrow(ledger).lazy())), rows(expected))  # type: ignore[union-attr]
    by_tool = baseline(ledger, by=["agent_id", "name"], measures=["duration_ms"])
    assert by_tool.column_names[:3] == ["agent_id", "name", "count"]
    assert set(anomalies(ledger, by_tool)["measure"].to_pylist()) == {"duration_ms"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: anomalies(frame(step()), frame(step())), "baseline: no column count; found tenant_id, run_id"),
        (lambda: anomalies(frame(step()), baseline(frame(step())), 0), "threshold is 0; expected a number above 0"),
        (lambda: baseline(frame(step()), by="agent_id"), "by is 'agent_id'; expected a list of columns"),
        (lambda: baseline(frame(step()), measures=[]), r"measures is \[\]; expected a list of columns"),
        (lambda: baseline(frame(step()), measures=["status"]), "steps: column 'status' is String; expected numbers"),
        (lambda: repeated_calls(frame(step()), at_least=1), "at_least is 1; expected a whole number from 2 on"),
    ],
)
def test_arguments_that_cannot_be(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


# Repeated calls


def test_the_planted_loop_and_storms_are_named_and_nothing_else(ledger: pa.Table) -> None:
    found = repeated_calls(ledger).to_pylist()
    assert [(row["run_id"], row["kind"], row["step_type"], row["name"], row["times"], row["failed"]) for row in found] == [
        ("run-0000-040", "loop", "llm_call", None, 191, 0), ("run-0000-040", "loop", "tool_call", "fetch_page", 191, 0),
        ("run-0000-065", "retry storm", "tool_call", "post_ledger", 26, 26),
        ("run-0000-008", "retry storm", "llm_call", None, 7, 7),
    ]  # fmt: skip
    assert found[0]["wasted_cost_cents"] > 950
    assert found[2]["waiting_ms"] > 150_000
    assert found[2]["reason"] == "tool_call post_ledger 26 times, 26 failed, steps 13 to 38 in 167.2 s"


def test_what_repeats_waste() -> None:
    steps = frame(
        step(0, content_hash="x", status="error", cost_cents=1.0), step(1, content_hash="x", cost_cents=2.0),
        step(2, content_hash="x", cost_cents=4.0), step(3, content_hash="y"), step(4, content_hash="y"),
        *(step(5 + i, content_hash=None) for i in range(4)), *(step(i, content_hash="x", trace_id="t2") for i in range(2)),
    )  # fmt: skip
    (found,) = repeated_calls(steps).to_pylist()
    assert (found["kind"], found["times"], found["failed"], found["first_step_index"], found["last_step_index"]) == (
        "loop",
        3,
        1,
        0,
        2,
    )
    assert (found["cost_cents"], found["wasted_cost_cents"], found["wasted_duration_ms"]) == (7.0, 5.0, 200.0)
    assert (found["elapsed_ms"], found["waiting_ms"]) == (2100.0, 1800.0)
    twice = repeated_calls(steps, at_least=2).to_pylist()
    assert [(row["trace_id"], row["content_hash"], row["kind"]) for row in twice] == [
        ("t1", "x", "loop"), ("t1", "y", "loop"), ("t2", "x", "loop"),
    ]  # fmt: skip
    assert len(repeated_calls(steps.drop_columns(["trace_id", "run_id", "tenant_id"]))) == 1


# Comparisons


def test_runs_are_aligned_by_step_type_and_order() -> None:
    a = frame(step(0), step(1, step_type="tool_call", status="error"), step(2, cost_cents=1.0))
    b = frame(step(0, cost_cents=2.0), step(1, step_type="tool_call"), step(2, step_type="plan"))
    found = compare_runs(a, b).to_pylist()
    columns = ("step_type", "occurrence", "step_index_a", "step_index_b", "cost_cents_difference", "change")
    assert [tuple(row[name] for name in columns) for row in found] == [
        ("llm_call", 0, 0, 0, 1.5, "same"), ("tool_call", 0, 1, 1, 0.0, "status"),
        ("plan", 0, None, 2, 0.5, "only in b"), ("llm_call", 1, 2, None, -1.0, "only in a"),
    ]  # fmt: skip
    assert sum(row["tokens_difference"] for row in found) == 0
    assert len(compare_runs(frame(), frame())) == 0
    with pytest.raises(
        ConfigError, match=r"run b has 2 values of trace_id \(t1, t2, ...\); expected one trace's steps"
    ):
        compare_runs(a, frame(step(), step(1, trace_id="t2")))


CAUSES = {
    1: ("repeated calls", "llm_call", None),
    2: ("repeated calls", "tool_call", "post_ledger"),
    3: ("ended early", "guardrail", "check_policy"),
    4: ("slower calls", "tool_call", "fetch_logs"),
    5: ("dearer tokens", "llm_call", None),
    6: ("repeated calls", "llm_call", None),
}


@pytest.mark.parametrize("number", CAUSES)
def test_the_planted_cause_is_ranked_first_and_contributions_add_up(
    number: int, ledger: pa.Table, bundles: dict[int, ExportBundle]
) -> None:
    bundle = bundles[number]
    found = what_changed(bundle, ledger)
    first = found.to_pylist()[0]
    assert (first["cause"], first["step_type"], first["name"]) == CAUSES[number]
    assert bundle.run is not None
    # The mean over the agent's other traces, counted here by hand; none of theirs is left out as unusual in these.
    others = ledger.filter(
        pc.and_(pc.equal(ledger["agent_id"], bundle.run.agent_id), pc.not_equal(ledger["run_id"], bundle.run.run_id))
    ).to_pandas()
    ends = others.assign(end=others["timestamp"] + pd.to_timedelta(others["duration_ms"].round(3) * 1000, unit="us"))
    traces = ends.groupby("trace_id").agg(cents=("cost_cents", "sum"), start=("timestamp", "min"), end=("end", "max"))
    steps = bundle.steps.to_pandas()
    elapsed_ms = (
        (steps["timestamp"] + pd.to_timedelta(steps["duration_ms"].round(3) * 1000, unit="us")).max()
        - steps["timestamp"].min()
    ) / pd.Timedelta(milliseconds=1)
    trace_ms = (traces["end"] - traces["start"]) / pd.Timedelta(milliseconds=1)
    if number in (1, 3, 4, 6):
        assert pc.sum(found["cost_cents"]).as_py() == pytest.approx(steps["cost_cents"].sum() - traces["cents"].mean())
        assert pc.sum(found["duration_ms"]).as_py() == pytest.approx(elapsed_ms - trace_ms.mean())


def test_the_words_of_a_changed_model(ledger: pa.Table, bundles: dict[int, ExportBundle]) -> None:
    assert what_changed(bundles[5], ledger)["reason"][0].as_py().endswith("(heron-3 instead of lark-2)")


def test_bundles_that_cannot_be_explained(ledger: pa.Table, bundles: dict[int, ExportBundle]) -> None:
    with pytest.raises(
        ConfigError, match="what changed needs a run and its steps; this bundle is missing run, trace, steps"
    ):
        what_changed(bundles[7], ledger)
    with pytest.raises(ConfigError, match="this bundle is missing trace, steps"):
        what_changed(bundles[8], ledger)
    with pytest.raises(ConfigError, match="baseline: 0 normal traces of agent 'research-scout'; at least 5 are needed"):
        what_changed(bundles[1], ledger.slice(0, 0))
    with pytest.raises(ConfigError, match="expected an ExportBundle; found Table"):
        what_changed(ledger, ledger)  # type: ignore[arg-type]
    unnamed = ExportBundle(run=RunSnapshot("r9", "acme"))
    with pytest.raises(ConfigError, match="this bundle is missing incident, trace, steps"):
        what_changed(unnamed, ledger)


# Whatever frames hold

ONE = {
    "cost_by": lambda f: cost_by(f, "agent_id"),
    "cost_over_time": lambda f: cost_over_time(f, "365d", "agent_id"),
    "top_runs": lambda f: top_runs(f),
    "reconcile_costs": lambda f: reconcile_costs(f, f),
    "baseline": lambda f: baseline(f),
    "anomalies": lambda f: anomalies(f, baseline(f)),
    "run_profiles": lambda f: run_profiles(f),
    "repeated_calls": lambda f: repeated_calls(f),
    "compare_runs": lambda f: compare_runs(f, f),
}
MANY = pa.concat_tables([frame(step(0))] * 10_000).combine_chunks()
SHAPES = {
    "empty": frame(),
    "one row": frame(step()),
    "all NULL": pa.table({name: pa.nulls(3, SCHEMA.field(name).type) if name not in ("step_index", "timestamp", "status", "step_type") else frame(step(), step(1), step(2))[name] for name in SCHEMA.names}),
    "NaN": frame(step(cost_cents=math.nan, duration_ms=math.nan), step(1, cost_cents=math.nan)),
    "years apart": frame(step(), step(1, timestamp=NOON.replace(year=9)), step(2, timestamp=NOON.replace(year=9999))),
    "great numbers": frame(step(tokens=2**52, cost_cents=1e300), step(1, tokens=1, cost_cents=1e300)),
}  # fmt: skip


@local_kinds
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ONE)
def test_odd_frames_have_answers(kind: FrameKind, name: str, shape: str) -> None:
    table = SHAPES[shape].append_column("total_cost_cents", pa.array([1] * len(SHAPES[shape]), pa.int64()))
    found = rows(ONE[name](kind.make(table)))
    assert found.num_columns > 3
    if shape == "empty":
        assert len(found) == 0


@local_kinds
@pytest.mark.parametrize("name", [name for name in ONE if name != "compare_runs"])
def test_ten_thousand_agents(kind: FrameKind, name: str) -> None:
    agents = pa.array([f"agent {number}" for number in range(10_000)])
    table = with_column(with_column(MANY, "agent_id", agents), "run_id", agents)
    table = table.append_column("total_cost_cents", pa.array([1] * len(table), pa.int64()))
    expected = {"top_runs": 10, "repeated_calls": 0}
    assert len(rows(ONE[name](kind.make(table)))) == expected.get(name, 10_000)


@local_kinds
@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("cost_by", "cost_cents"), ("cost_over_time", "timestamp"), ("top_runs", "run_id"), ("baseline", "tokens"),
        ("reconcile_costs", "cost_cents"), ("run_profiles", "agent_id"), ("repeated_calls", "content_hash"),
        ("compare_runs", "status"),
    ],
)  # fmt: skip
def test_a_missing_column_is_named_with_those_there_are(kind: FrameKind, name: str, column: str) -> None:
    table = frame(step()).append_column("total_cost_cents", pa.array([1], pa.int64())).drop_columns([column])
    with pytest.raises(ConfigError, match=f"no column {column}; found tenant_id, ") as raised:
        ONE[name](kind.make(table))
    assert all(other in str(raised.value) for other in table.column_names)


@local_kinds
def test_a_column_of_another_kind_is_refused(kind: FrameKind) -> None:
    naive = with_column(frame(step()), "timestamp", frame(step())["timestamp"].cast(pa.timestamp("us")))
    with pytest.raises(ConfigError, match="steps: column 'timestamp' is Datetime.*; expected times with a time zone"):
        cost_over_time(kind.make(naive))
    words = with_column(frame(step()), "cost_cents", pa.array(["much"]))
    with pytest.raises(ConfigError, match="steps: column 'cost_cents' is String; expected numbers"):
        cost_by(kind.make(words), "agent_id")
    lists = frame(step()).append_column("tags", pa.array([["x"]]))
    if kind.name != "pandas":  # whose lists are objects like any other
        with pytest.raises(ConfigError, match="steps: column 'tags' is List.*; expected values to group by"):
            cost_by(kind.make(lists), "tags")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f: cost_by(f, "tokens"),
            "keys has 'tokens', which the answer has besides; rename that column to group by",
        ),
        (lambda f: cost_by(f, ["agent_id"]), r"keys has \['agent_id'\]; expected names of columns"),
        (lambda f: cost_over_time(f, by="steps"), "by has 'steps', which the answer has besides"),
        (lambda f: baseline(f, by=["count"]), "by has 'count', which the answer has besides"),
        (lambda f: run_profiles(f, by=["cost_cents"]), "by has 'cost_cents', which the answer has besides"),
        (lambda f: anomalies(f, baseline(f), "high"), "threshold is 'high'; expected a number above 0"),
        (lambda f: cost_by(f, "cost"), "steps: no column cost; found tenant_id, "),
    ],
)
def test_keys_that_cannot_be(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call(frame(step()))


@local_kinds
def test_steps_without_a_place_are_refused(kind: FrameKind) -> None:
    table = with_column(frame(step(), step(1)), "timestamp", pa.array([NOON, None], pa.timestamp("us", "UTC")))
    message = "steps: column 'timestamp' is NULL in 1 of 2 rows; a step without it has no place in its trace"
    for call in (repeated_calls, lambda f: compare_runs(f, f)):
        if kind.name == "polars-lazy" and call is repeated_calls:
            with pytest.raises(Exception, match=message):  # Polars' own, around ours, when it is collected
                call(kind.make(table)).collect()
            continue
        with pytest.raises(ConfigError, match=message):
            call(kind.make(table))


def test_a_frame_that_narwhals_cannot_read() -> None:
    twice = pd.DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(ConfigError, match="steps: the frame cannot be read: "):
        cost_by(twice, "a")


def test_names_that_one_side_lacks_tell_nothing_apart(ledger: pa.Table, bundles: dict[int, ExportBundle]) -> None:
    found = what_changed(bundles[4], ledger.drop_columns(["name", "model"])).to_pylist()
    assert (found[0]["cause"], found[0]["step_type"], found[0]["name"]) == ("slower calls", "tool_call", None)


def test_what_is_no_frame_is_refused_and_what_is_cut_is_said() -> None:
    with pytest.raises(ConfigError, match="cannot read steps from list; accepted are a SnapshotTable and a frame that"):
        cost_by([1, 2], "x")
    table = frame(step(), step(1)).select([*TraceStepSnapshot.RECORD_TYPE.names])
    cut = SnapshotTable(TraceStepSnapshot, table, total=9)
    for data in (cut, cut.to_pandas()):
        with pytest.warns(UserWarning, match="a limit cut these steps to 2 of 9; the answer is about those alone"):
            cost_by(data, "step_type")


def test_anything_with_an_arrow_stream_is_read() -> None:
    class Stream:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return frame(step()).__arrow_c_stream__(requested_schema)

    assert cost_by(Stream(), "step_type")["steps"].to_pylist() == [1]


def test_text_of_every_arrow_type_and_categories_are_read(ledger: pa.Table) -> None:
    expected = cost_by(ledger, "agent_id")
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        table = with_column(ledger, "agent_id", ledger["agent_id"].cast(kind))
        assert_same(cost_by(table, "agent_id"), expected)
    assert_same(cost_by(ledger.to_pandas().astype({"agent_id": "category"}), "agent_id"), expected)


def test_importing_the_analysis_loads_no_pandas_and_no_engine() -> None:
    code = "import exporttools.analysis, sys; print({'pandas', 'polars', 'duckdb', 'dask', 'pyspark', 'matplotlib', 'sqlalchemy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
