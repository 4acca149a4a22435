"""Costs by any column, over time and by run."""

from __future__ import annotations

import math
import sqlite3

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporttools import ExportBundle
from exporttools.analysis import (
    cost_by,
    top_runs,
)
from exporttools.errors import ConfigError
from exporttools.records.statuses import failed_steps
from tests.analysis.steps import frame, local_kinds, step, with_column
from tests.frames import FrameKind, rows


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
        step(1, cost_cents=1.0, tokens=0, step_type="tool_call", status="timeout"),
        step(2, cost_cents=0.0, tokens=500, run_id="r2", status="error"),
        step(3, cost_cents=0.0, tokens=0, run_id=None, step_type="tool_call", status=None),
        step(4, cost_cents=0.0, tokens=0, run_id="r1", tenant_id="other", step_type="tool_call", status="failed"),
    )
    assert cost_by(steps, "step_type").to_pylist() == [
        {"step_type": "llm_call", "cost_cents": 3.0, "share": 0.75, "tokens": 2000, "steps": 2, "failed": 1, "duration_ms": 200.0,
         "cost_cents_per_1000_tokens": 1.5, "runs": 2, "cost_cents_per_run": 1.5},
        {"step_type": "tool_call", "cost_cents": 1.0, "share": 0.25, "tokens": 0, "steps": 3, "failed": 2, "duration_ms": 300.0,
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
    with pytest.raises(ConfigError, match="by is 'price'; expected one of cost_cents, tokens, steps, duration_ms"):
        top_runs(ledger, by="price")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="limit is -1; expected an integer >= 0"):
        top_runs(ledger, -1)


@local_kinds
def test_failed_steps_are_counted_as_everywhere(kind: FrameKind, ledger: pa.Table) -> None:
    found = {row["step_type"]: row["failed"] for row in rows(cost_by(kind.make(ledger), "step_type")).to_pylist()}
    failed = ledger.filter(failed_steps(ledger["status"]))["step_type"].to_pylist()
    assert sum(found.values()) == len(failed) > 50
    assert found == {name: failed.count(name) for name in found}
    assert "failed" in top_runs(ledger).column_names


def test_failed_steps_are_not_guessed_from_other_statuses() -> None:
    table = frame(step())
    assert "failed" not in cost_by(table.drop_columns(["status"]), "step_type").column_names
    assert "failed" not in cost_by(with_column(table, "status", pa.array([500])), "step_type").column_names
    by_status = cost_by(frame(step(status="error"), step(1)), "status").to_pylist()
    assert [(row["status"], row["failed"]) for row in by_status] == [("error", 1), ("ok", 0)]


def test_the_sums_of_a_bundle_by_step_type_are_its_totals(bundles: dict[int, ExportBundle]) -> None:
    bundle = bundles[2]
    found = cost_by(bundle, "step_type")
    sums = {name: pc.sum(found[name]).as_py() for name in ("steps", "failed", "tokens", "cost_cents", "duration_ms")}
    assert sums == pytest.approx(dict(bundle.totals))
    assert sums["failed"] > 20


@local_kinds
def test_tokens_that_no_float_holds_exactly_are_divided_all_the_same(kind: FrameKind) -> None:
    for tokens in (2**53 + 1, 2**63 - 1):
        found = rows(cost_by(kind.make(frame(step(0, tokens=tokens), step(1, tokens=0))), "step_type")).to_pylist()
        assert found[0]["tokens"] == tokens
        assert found[0]["cost_cents_per_1000_tokens"] == pytest.approx(1000.0 * found[0]["cost_cents"] / tokens)


@pytest.mark.parametrize("kind", ["pandas", "polars"], indirect=True)
def test_categories_are_read_as_text(kind: FrameKind) -> None:
    table = frame(step(0, status="STATUS_CODE_ERROR"), step(1, status="ok"))
    native = kind.make(table)
    if kind.name == "pandas":
        native["status"] = native["status"].astype("category")
    else:
        native = native.with_columns(status=pl.col("status").cast(pl.Categorical))
    assert rows(cost_by(native))["failed"].to_pylist() == [1]


@local_kinds
def test_a_status_that_is_all_null_has_no_failed_steps(kind: FrameKind) -> None:
    nulls = frame(step(0)).drop_columns(["status"]).append_column("status", pa.nulls(1))
    assert rows(cost_by(kind.make(nulls)))["failed"].to_pylist() == [0]
