"""What is usual, and what is not."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporttools.analysis import (
    anomalies,
    baseline,
    repeated_calls,
    run_profiles,
)
from exporttools.errors import ConfigError
from tests.analysis.steps import frame, local_kinds, step, with_column
from tests.frames import FrameKind, assert_same, rows

FIRST_WEEK_END = dt.datetime(2026, 10, 12, tzinfo=dt.UTC)


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
    assert slow[0]["reason"] == "600,137 ms, 1,448 times the usual 414.3 ms of ops-responder · tool_call"

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
        (0, "cost_cents", "2.5 US cents; a · llm_call has none in the baseline"),
        (1, "duration_ms", "9,000 ms, 89 times the usual 101 ms of a · llm_call"),
        (None, None, "not judged: too few rows in the baseline (1 of b · llm_call, 10 needed)"),
        (None, None, "not judged: too few rows in the baseline (0 of c · llm_call, 10 needed)"),
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
        (lambda: repeated_calls(frame(step()), at_least=1), "at_least is 1; expected an integer >= 2"),
    ],
)
def test_arguments_that_cannot_be(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
