"""What is usual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from exporttools.analysis import anomalies, baseline, repeated_calls, run_profiles, run_totals
from exporttools.errors import ConfigError
from tests.analysis.steps import every_kind, frame, local_kinds, step, with_column
from tests.frames import FrameKind, assert_same, rows

QUANTILES = ("median", "p90", "p95", "p99", "max")
TAIL = ("tail_start", "tail_end", "tail_share", "tail_spread", "tail_shape", "tail_count")


def test_a_baseline_is_numpy_s_order_statistics() -> None:
    random = np.random.default_rng(7)
    count = 400
    agent = random.integers(0, 3, count)
    values = random.lognormal(3.0, 1.0, count)
    values[random.integers(0, count, 20)] = np.nan
    values[random.integers(0, count, 20)] = 0.0
    table = pa.table({"agent_id": agent.astype(str), "step_type": ["x"] * count, "duration_ms": values})
    found = baseline(table, measures=["duration_ms"]).to_pylist()
    assert len(found) == 3
    for number, row in enumerate(found):
        mine = values[agent == number]
        known = mine[~np.isnan(mine)]
        expected = [len(mine), *np.percentile(known, [50, 90, 95, 99, 100])]
        assert [row[name] for name in ("count", *(f"duration_ms_{name}" for name in QUANTILES))] == pytest.approx(
            expected
        )
        above = np.sort(known[known > 0])[::-1]
        half, aside = len(above) // 2, 1 + len(above) // 100
        excess = np.log(np.minimum(above[:half], above[aside]) / above[half])
        tail = [row[f"duration_ms_{name}"] for name in TAIL]
        assert tail[:3] == pytest.approx([above[half], above[aside], half / len(known)])
        assert tail[3] == pytest.approx(excess.sum() / (half - aside))
        assert tail[5] == half - aside


def test_the_shape_of_an_exponential_tail_is_1_and_a_lognormal_one_s_is_less() -> None:
    random = np.random.default_rng(3)
    agents, each = 200, 60
    for values, expected in (
        (1 + random.pareto(2.0, agents * each), 1.0),
        (random.lognormal(0.0, 0.5, agents * each), 0.8),
    ):
        steps = pa.table(
            {"agent_id": np.repeat(np.arange(agents), each), "step_type": ["x"] * len(values), "tokens": values}
        )
        shapes = baseline(steps, measures=["tokens"])["tokens_tail_shape"].to_numpy()
        assert shapes.mean() == pytest.approx(expected, abs=0.05)


@local_kinds
def test_groups_without_any_value_have_a_count_and_nothing_else(kind: FrameKind) -> None:
    table = with_column(frame(step(), step(1)), "cost_cents", pa.nulls(2, pa.float64()))
    row = rows(baseline(kind.make(table))).to_pylist()[0]
    assert row["count"] == 2
    assert [row[f"cost_cents_{name}"] for name in (*QUANTILES, *TAIL)] == [None] * 11


def test_a_group_of_zeros_has_quantiles_and_no_tail() -> None:
    row = baseline(frame(*(step(i, cost_cents=0.0) for i in range(9)))).to_pylist()[0]
    assert [row[f"cost_cents_{name}"] for name in QUANTILES] == [0.0] * 5
    assert [row[f"cost_cents_{name}"] for name in TAIL] == [None] * 6


def named(*counts: tuple[str | None, int], **changes: Any) -> pa.Table:
    names = [name for name, count in counts for _ in range(count)]
    return frame(*(step(i, **changes) for i in range(len(names)))).append_column("name", pa.array(names, pa.string()))


@every_kind
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_rare_names_are_one_group(kind: FrameKind) -> None:
    table = named(("search", 20), ("fetch", 19), (None, 3), ("parse", 1))
    found = rows(baseline(kind.make(table)))
    assert found.column_names[:4] == ["agent_id", "step_type", "name", "count"]
    assert [(row["name"], row["count"]) for row in found.to_pylist()] == [("search", 20), (None, 23)]
    by_name = baseline(table, by=["agent_id", "name"])  # as asked
    assert sorted(by_name["count"].to_pylist()) == [1, 3, 19, 20]


def test_what_is_grouped_and_measured_by_default() -> None:
    steps = frame(*(step(i) for i in range(3)))
    assert baseline(steps).column_names[:3] == ["agent_id", "step_type", "count"]
    totals = baseline(run_totals(steps)).column_names
    assert totals[:2] == ["agent_id", "count"]
    measured = [name.removesuffix("_median") for name in totals if name.endswith("_median")]
    assert measured == ["cost_cents", "tokens", "elapsed_ms", "steps", "failed"]
    profiles = baseline(run_profiles(steps)).column_names
    assert profiles[:3] == ["agent_id", "step_type", "count"]
    measured = [name.removesuffix("_median") for name in profiles if name.endswith("_median")]
    assert measured == ["cost_cents", "tokens", "duration_ms", "cost_cents_per_1000_tokens"]


def test_many_small_groups_are_described_like_few_large_ones() -> None:
    random = np.random.default_rng(1)
    values, agent = random.lognormal(0, 1, 6000), np.arange(6000) % 1500
    table = pa.table({"agent_id": agent, "step_type": ["x"] * 6000, "tokens": values})
    found = baseline(table, measures=["tokens"])
    assert len(found) == 1500
    for number in (0, 77, 1499):
        alone = baseline(table.filter(pa.array(agent == number)), measures=["tokens"])
        assert_same(found.slice(number, 1), alone)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: anomalies(frame(step()), frame(step())), "baseline: no column count; found tenant_id, run_id"),
        (lambda: baseline(frame(step()), by="agent_id"), "by is 'agent_id'; expected a list of columns"),
        (lambda: baseline(frame(step()), measures=[]), r"measures is \[\]; expected a list of columns"),
        (lambda: baseline(frame(step()), measures=["status"]), "steps: column 'status' is String; expected numbers"),
        (lambda: repeated_calls(frame(step()), at_least=1), "at_least is 1; expected an integer >= 2"),
    ],
)
def test_arguments_that_cannot_be(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
