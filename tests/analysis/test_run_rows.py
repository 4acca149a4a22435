"""Runs as rows."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import pyarrow as pa
import pytest

from exporttools.analysis import cost_by, run_profiles, run_totals
from exporttools.errors import ConfigError
from tests.analysis.steps import NOON, every_kind, frame, local_kinds, step
from tests.frames import FrameKind, assert_same, rows

LEAST = dt.timedelta(microseconds=1)


@every_kind
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_a_run_took_as_a_whole(kind: FrameKind) -> None:
    steps = frame(
        step(0, duration_ms=2000.0, cost_cents=1.0, status="ok"),
        step(1, duration_ms=500.0, cost_cents=None, tokens=None, status="timeout"),
        step(9, trace_id="t2", duration_ms=None, status="error"),
        step(3, run_id="r2", agent_id="b"),
        step(4, tenant_id="other", duration_ms=8.0),
        step(5, run_id=None),
    )
    found = rows(run_totals(kind.make(steps)))
    assert found.column_names == [
        *("tenant_id", "run_id", "agent_id", "steps", "failed", "cost_cents", "tokens", "duration_ms", "elapsed_ms")
    ]
    assert [list(row.values()) for row in found.to_pylist()] == [
        ["acme", "r1", "a", 3, 2, 1.5, 20, 2500.0, 9000.0],
        ["acme", "r2", "b", 1, 0, 0.5, 10, 100.0, 100.0],
        ["other", "r1", "a", 1, 0, 0.5, 10, 8.0, 8.0],
    ]


@local_kinds
def test_a_run_without_times_has_no_elapsed_time(kind: FrameKind) -> None:
    steps = frame(step(0, timestamp=None), step(1, run_id="r2", timestamp=NOON + LEAST, duration_ms=0.25))
    assert rows(run_totals(kind.make(steps)))["elapsed_ms"].to_pylist() == [None, pytest.approx(0.25, abs=1e-3)]


def test_totals_add_up_to_what_the_steps_cost(ledger: pa.Table) -> None:
    totals = run_totals(ledger, by=["agent_id"])
    by_agent = {row["agent_id"]: row for row in cost_by(totals, "agent_id").to_pylist()}
    of_runs = ledger.filter(ledger["run_id"].is_valid())
    for row in cost_by(of_runs, "agent_id").to_pylist():
        assert by_agent[row["agent_id"]]["cost_cents"] == pytest.approx(row["cost_cents"])
        assert by_agent[row["agent_id"]]["tokens"] == row["tokens"]
        assert by_agent[row["agent_id"]]["runs"] == row["runs"]


def test_without_a_status_nothing_is_said_of_failures() -> None:
    assert "failed" not in run_totals(frame(step()).drop_columns(["status"])).column_names


@local_kinds
def test_the_mean_step_has_a_price(kind: FrameKind) -> None:
    steps = frame(
        step(0, cost_cents=1.0, tokens=100), step(1, cost_cents=2.0, tokens=400), step(2, run_id="r2", tokens=0)
    )
    expected = pa.table(
        {"tenant_id": ["acme"] * 2, "run_id": ["r1", "r2"], "agent_id": ["a"] * 2, "step_type": ["llm_call"] * 2,
         "steps": [2, 1], "cost_cents": [1.5, 0.5], "tokens": [250.0, 0.0], "duration_ms": [100.0, 100.0],
         "cost_cents_per_1000_tokens": [6.0, None]}
    )  # fmt: skip
    assert_same(run_profiles(kind.make(steps)), expected)


def test_a_key_that_the_result_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot group by 'steps': the result has a column of that name"):
        run_totals(frame(step()), by=["steps"])


@pytest.mark.parametrize("at_least", ["5", None, 2.5, -1, True])
def test_at_least_is_an_integer(at_least: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"at_least is {at_least!r}; expected an integer >= 0")):
        run_profiles(frame(step()), at_least=at_least)
