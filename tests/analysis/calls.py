"""Each analysis function as a call on one frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    step_tree,
    top_runs,
)

ONE: dict[str, Callable[[Any], Any]] = {
    "cost_by": lambda f: cost_by(f, "agent_id"),
    "cost_over_time": lambda f: cost_over_time(f, "365d", "agent_id"),
    "top_runs": lambda f: top_runs(f),
    "percentiles": lambda f: percentiles(f, "agent_id"),
    "reconcile_costs": lambda f: reconcile_costs(f, f),
    "baseline": lambda f: baseline(f),
    "anomalies": lambda f: anomalies(f, baseline(f)),
    "run_profiles": lambda f: run_profiles(f),
    "run_totals": lambda f: run_totals(f),
    "repeated_calls": lambda f: repeated_calls(f),
    "step_tree": lambda f: step_tree(f, parents="time"),
    "compare_runs": lambda f: compare_runs(f, f),
}
