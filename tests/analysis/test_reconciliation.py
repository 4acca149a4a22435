"""Recorded totals compared with the steps."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporttools import ExportBundleStore
from exporttools.analysis import (
    cost_by,
    reconcile_costs,
    reconciliation_verdict,
)
from exporttools.errors import ConfigError
from tests.analysis.steps import frame, step
from tests.frames import assert_same


def test_reconciliation_verdict_on_every_kind(ledger: pa.Table, sample: dict[str, pa.Table]) -> None:
    found = reconcile_costs(sample["runs"], ledger)
    expected = (
        "2 of 300 runs differ from their steps, by -92.40 US cents (recorded minus steps); "
        "286 agree, 11 have no total, 1 has no steps"
    )
    for answer in (found, found.to_pandas(), pl.from_arrow(found).lazy(), duckdb.from_arrow(found)):  # type: ignore[union-attr]
        assert reconciliation_verdict(answer) == expected


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
        "1 of 7 runs differs from its steps, by +5.00 US cents (recorded minus steps); 1 agrees, 1 has no total, "
        "1 has no steps, 2 have steps but are not among the runs, 1 is listed twice"
    )
    assert reconcile_costs(runs, steps, tolerance_cents=10)["finding"].to_pylist().count("differs") == 0
    assert reconciliation_verdict(found.slice(4, 1)) == "the one run could not be compared; it has no total"
    assert reconciliation_verdict(found.slice(6, 1)) == "the one recorded total agrees with its steps"
    assert reconciliation_verdict(found.slice(0, 0)) == "no runs and no steps: nothing to reconcile"


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ({"agrees": 2}, "all 2 recorded totals agree with their steps"),
        (
            {"agrees": 20, "no total": 1244},
            "all 20 recorded totals agree with their steps; 1,244 of 1,264 runs have no total",
        ),
        ({"agrees": 1, "no total": 1}, "the one recorded total agrees with its steps; 1 of 2 runs has no total"),
        (
            {"agrees": 3, "no total": 2, "no run": 1},
            "all 3 recorded totals agree with their steps; 2 of 6 runs have no total, 1 has steps but is not among the runs",
        ),
        # These two have a total that was not compared.
        (
            {"agrees": 3, "no steps": 1},
            "all 3 recorded totals that could be compared agree with their steps; 1 of 4 runs has no steps",
        ),
        (
            {"agrees": 1, "listed twice": 2},
            "the one recorded total that could be compared agrees with its steps; 2 of 3 runs are listed twice",
        ),
        ({"no total": 2, "no steps": 1}, "none of 3 runs could be compared; 2 have no total, 1 has no steps"),
        ({"no steps": 1}, "the one run could not be compared; it has no steps"),
        ({"no run": 1}, "the one run could not be compared; it has steps but is not among the runs"),
        ({"listed twice": 1}, "the one run could not be compared; it is listed twice"),
        ({"differs": 1}, "1 of 1 run differs from its steps, by +2.50 US cents (recorded minus steps)"),
        (
            {"agrees": 1, "differs": 2, "no run": 2},
            "2 of 5 runs differ from their steps, by +5.00 US cents (recorded minus steps); 1 agrees, "
            "2 have steps but are not among the runs",
        ),
    ],
)
def test_the_verdict_claims_no_more_than_was_compared(counts: dict[str, int], verdict: str) -> None:
    findings = [name for name, count in counts.items() for _ in range(count)]
    differences = [2.5 if name == "differs" else None for name in findings]
    found = pa.table({"finding": findings, "difference_cents": pa.array(differences, pa.float64())})
    assert reconciliation_verdict(found) == verdict


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
    assert (
        reconciliation_verdict(found) == "all 20 recorded totals agree with their steps; 244 of 264 runs have no total"
    )
    database = sqlite3.connect(f"file:{real / 'agents.sqlite'}?mode=ro", uri=True)
    expected = dict(database.execute("SELECT tenant_id, sum(cost_cents) FROM trace_steps GROUP BY 1").fetchall())
    assert {row["tenant_id"]: row["cost_cents"] for row in cost_by(steps, "tenant_id").to_pylist()} == pytest.approx(
        expected
    )


def test_runs_and_steps_of_two_duckdb_connections(ledger: pa.Table, sample: dict[str, pa.Table]) -> None:
    with duckdb.connect() as of_runs, duckdb.connect() as of_steps:
        steps = of_steps.from_arrow(ledger)
        found = reconcile_costs(of_runs.from_arrow(sample["runs"]), steps)
        assert_same(found, reconcile_costs(sample["runs"], ledger))
        assert len(found.union(found)) == 600
        joined = found.set_alias("found").join(steps.set_alias("steps"), "found.run_id = steps.run_id")
        assert joined.count("*").fetchall() == [(len(ledger),)]


def test_runs_and_steps_are_of_one_kind(ledger: pa.Table, sample: dict[str, pa.Table]) -> None:
    with pytest.raises(
        ConfigError, match=r"runs are in pandas.DataFrame, steps in pyarrow.Table; expected frames of one kind"
    ):
        reconcile_costs(sample["runs"].to_pandas(), ledger)
    with pytest.raises(ConfigError, match="tolerance_cents is nan; expected a number >= 0"):
        reconcile_costs(sample["runs"], ledger, tolerance_cents=math.nan)
