"""The same result on every kind of frame, which stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporttools import ExportBundle
from exporttools.analysis import (
    anomalies,
    baseline,
    compare_runs,
    cost_by,
    cost_over_time,
    percentiles,
    reconcile_costs,
    repeated_calls,
    run_profiles,
    run_totals,
    top_runs,
    what_changed,
)
from exporttools.records.statuses import failed_steps
from tests.analysis.steps import every_kind, frame, step
from tests.frames import FrameKind, assert_same, rows

# Dask and Spark deprecate things of their own and of each other's.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


FUNCTIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "cost_by": lambda steps, runs, run: cost_by(steps, "agent_id", "step_type"),
    "cost_by nothing": lambda steps, runs, run: cost_by(steps),
    "cost_by model": lambda steps, runs, run: cost_by(steps, "model"),
    "cost_over_time": lambda steps, runs, run: cost_over_time(steps, "6h", "agent_id"),
    "cost_over_time by several": lambda steps, runs, run: cost_over_time(steps, "1d", ["agent_id", "model"]),
    "top_runs": lambda steps, runs, run: top_runs(steps, 5),
    "percentiles": lambda steps, runs, run: percentiles(steps, "agent_id", "model"),
    "percentiles of all": lambda steps, runs, run: percentiles(steps, measures=["tokens"]),
    "reconcile_costs": lambda steps, runs, run: reconcile_costs(runs, steps),
    "baseline": lambda steps, runs, run: baseline(steps),
    "anomalies": lambda steps, runs, run: anomalies(steps, baseline(steps)),
    "anomalies of totals": lambda steps, runs, run: anomalies(run_totals(steps), baseline(run_totals(steps))),
    "anomalies of profiles": lambda steps, runs, run: anomalies(run_profiles(steps), baseline(run_profiles(steps))),
    "run_profiles": lambda steps, runs, run: run_profiles(steps),
    "run_totals": lambda steps, runs, run: run_totals(steps),
    "repeated_calls": lambda steps, runs, run: repeated_calls(steps),
    "compare_runs": lambda steps, runs, run: compare_runs(run, run),
    "compare_runs by step type": lambda steps, runs, run: compare_runs(run, run, by="step_type"),
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


@every_kind
def test_statuses_are_read_by_the_one_rule(kind: FrameKind) -> None:
    spelled = [
        "ERROR",
        "STATUS_CODE_ERROR",
        "status-code-failed",
        " Rate limited\t",
        "Timed-Out",
        "CANCELED",
        "exception",
    ]
    others = ["ok", "errors", "blocked", "STATUS_CODE_OK", "", None]
    table = frame(*(step(i, status=status) for i, status in enumerate([*spelled, *others])))
    assert (
        rows(cost_by(kind.make(table)))["failed"].to_pylist()
        == [len(spelled)]
        == [pc.sum(failed_steps(table["status"])).as_py()]
    )
