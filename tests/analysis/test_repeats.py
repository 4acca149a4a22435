"""Loops and retry storms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from exporttools.analysis import (
    compare_runs,
    repeated_calls,
)
from exporttools.errors import ConfigError
from tests.analysis.steps import NOON, frame, step, with_column
from tests.frames import EAGER, FrameKind


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


NO_PLACE = (
    "steps: column 'timestamp' is NULL in 1 of 2 rows, so that those steps have no place in their trace. "
    "Drop those rows, or fill in the values"
)
UNPLACED = with_column(frame(step(), step(1)), "timestamp", pa.array([NOON, None], pa.timestamp("us", "UTC")))


@pytest.mark.parametrize("kind", [*EAGER, "duckdb"], indirect=True)
@pytest.mark.parametrize("call", [repeated_calls, lambda f: compare_runs(f, f)], ids=["repeated_calls", "compare_runs"])
def test_steps_without_a_place_are_refused(kind: FrameKind, call: Callable[[Any], Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        call(kind.make(UNPLACED))
    assert str(caught.value) == NO_PLACE


@pytest.mark.parametrize("kind", ["polars-lazy"], indirect=True)
def test_steps_without_a_place_are_refused_when_they_are_computed(kind: FrameKind) -> None:
    with pytest.raises(ConfigError, match=NO_PLACE[:40]):
        compare_runs(kind.make(UNPLACED), kind.make(UNPLACED))
    lazy = repeated_calls(kind.make(UNPLACED))
    with pytest.raises(Exception, match=NO_PLACE[:40]):  # Polars' own, around ours
        lazy.collect()
