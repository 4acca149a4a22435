"""What is unusual, and what is not."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporttools.analysis import anomalies, baseline, run_profiles, run_totals
from exporttools.analysis.judging import unusual
from exporttools.errors import ConfigError
from tests.analysis.steps import every_kind, frame, local_kinds, step
from tests.frames import FrameKind, assert_same, rows

FIRST_WEEK_END = dt.datetime(2026, 10, 12, tzinfo=dt.UTC)
OFF: dict[str, Any] = {"at_least_cents": 0, "at_least_ms": 0, "at_least_tokens": 0}


def said(found: Any) -> list[tuple[Any, ...]]:
    return [(row.get("step_index"), row["measure"], row["reason"]) for row in rows(found).to_pylist()]


def steps_of(values: Any, measure: str = "duration_ms") -> pa.Table:
    columns = {"cost_cents": 0.0, "tokens": 0, "duration_ms": 0.0}
    return frame(*(step(i, **(columns | {measure: value})) for i, value in enumerate(values)))


def test_the_planted_slow_tool_and_the_creep_are_found(ledger: pa.Table) -> None:
    usual = ledger.filter(pc.less(ledger["timestamp"], pa.scalar(FIRST_WEEK_END)))
    found = anomalies(ledger, baseline(usual)).to_pylist()
    slow = [row for row in found if row["run_id"] == "run-0000-269"]
    assert found[0] == slow[0]
    assert slow[0]["reason"].startswith("600,137 ms, ")
    assert (
        slow[0]["reason"].endswith(" ms of ops-responder · tool_call, of rare or no name")
        or "fetch_logs" in slow[0]["reason"]
    )

    profiles = run_profiles(ledger, at_least=5)
    judged = anomalies(profiles, baseline(run_profiles(usual, at_least=5))).to_pylist()
    since = pa.scalar(dt.datetime(2026, 10, 13, tzinfo=dt.UTC))
    dearer = pc.field("agent_id") == "data-analyst"
    dearer &= (pc.field("tenant_id") == "borealis-bank") & (pc.field("timestamp") >= since)
    creeping = set(ledger.filter(dearer)["run_id"].to_pylist())
    named = {row["run_id"] for row in judged if row["measure"] is not None}
    assert len(creeping & named) >= 0.9 * len(creeping)
    assert named - creeping <= {"run-0000-269"}
    assert judged[0]["reason"].endswith(" US cents per 1,000 tokens of data-analyst · llm_call")


def test_the_worst_incident_is_found_by_what_it_took_as_a_whole(ledger: pa.Table) -> None:
    totals = run_totals(ledger)
    found = [row for row in anomalies(totals, baseline(totals)).to_pylist() if row["run_id"] == "run-0000-040"]
    assert {row["measure"]: row["reason"] for row in found} == {
        "cost_cents": "1,003 US cents, 15 times the usual 66.79 US cents of research-scout",
        "tokens": "3,199,567 tokens, 17 times the usual 186,388 tokens of research-scout",
        "steps": "407 steps, 6.5 times the usual 62.5 steps of research-scout",
    }


@local_kinds
def test_a_run_whose_steps_are_all_3_times_dearer_is_found(kind: FrameKind, ledger: pa.Table) -> None:
    """In the first week, in which nothing crept in yet: each tenth run in turn."""
    usual = ledger.filter(pc.less(ledger["timestamp"], pa.scalar(FIRST_WEEK_END)))
    profiles = rows(run_profiles(kind.make(usual), at_least=5))
    known = baseline(profiles)
    judged = {(row["agent_id"], row["step_type"]) for row in known.to_pylist() if row["count"] >= 20}
    dearer = pc.field("cost_cents") * 3 - pc.field("cost_cents") >= 0.5
    named: list[bool] = []
    for row in profiles.filter(dearer & (pc.field("step_type") == "llm_call")).to_pylist()[::4]:
        if (row["agent_id"], row["step_type"]) in judged:
            changed = row | {name: 3 * row[name] for name in ("cost_cents", "cost_cents_per_1000_tokens")}
            found = anomalies(pa.Table.from_pylist([changed], schema=profiles.schema), known)
            named.append(found["measure"][0].as_py() is not None)
    assert len(named) > 10
    assert np.mean(named) >= 0.8


@every_kind
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_no_one_had_before_and_what_is_not_judged_are_said(kind: FrameKind) -> None:
    usual = frame(*(step(i, cost_cents=0.0, duration_ms=100.0 + i % 3) for i in range(40)), step(41, agent_id="b"))
    now = frame(
        step(0, cost_cents=2.5),
        step(1, duration_ms=9000.0, cost_cents=0.0),
        step(2, agent_id="b"),
        step(3, agent_id="c"),
        step(4, cost_cents=0.05),
    )
    assert said(anomalies(kind.make(now), kind.make(baseline(usual)))) == [
        (1, "duration_ms", "9,000 ms, 89 times the usual 101 ms of a · llm_call"),
        (0, "cost_cents", "2.5 US cents; a · llm_call has only zeros in the baseline"),
        (None, None, "not judged: too few rows in the baseline (1 of b · llm_call, 20 needed)"),
        (None, None, "not judged: too few rows in the baseline (0 of c · llm_call, 20 needed)"),
        (
            None,
            None,
            "judged 3 rows by 3 measures: expect at most 0.003 false alarms, not counting 1 value where the baseline has only zeros",
        ),
    ]


def test_what_is_rare_and_was_never_in_the_baseline_is_not_counted_among_the_false_alarms() -> None:
    """Each twentieth row costs something: of 20 rows, a third of baselines have none."""
    random = np.random.default_rng(4)
    known, now = (random.random(count) < 0.05 for count in (20, 1000))
    assert not known.any()
    found = anomalies(steps_of(now * 5.0, "cost_cents"), baseline(steps_of(known * 5.0, "cost_cents")))
    assert len(found) - 1 == now.sum()
    assert found["reason"][-1].as_py() == (
        f"judged 1,000 rows by 3 measures: expect at most 1 false alarm, not counting {now.sum()} values where the baseline has only zeros"
    )


def test_a_dear_call_in_a_group_of_mostly_zeros_is_found() -> None:
    """It has no usual to be a multiple of."""
    random = np.random.default_rng(2)
    usual = steps_of([0.0] * 60 + random.lognormal(0, 0.3, 40).tolist(), "cost_cents")
    found = rows(anomalies(steps_of([5000.0, 2.0, 0.0], "cost_cents"), baseline(usual))).to_pylist()
    assert [row["step_index"] for row in found] == [0, None]
    assert found[0]["times_usual"] is None
    assert found[0]["reason"].startswith("5,000 US cents; 95 in 100 rows of a · llm_call have at most 1.")


def test_a_long_stall_comes_before_many_rows_that_cost_next_to_nothing() -> None:
    cheap = [step(i, cost_cents=0.0001 if i < 49 else 0.0, duration_ms=100.0 + i % 7) for i in range(200)]
    found = rows(
        anomalies(frame(*cheap, step(200, cost_cents=0.0, duration_ms=900_000.0)), baseline(frame(*cheap)))
    ).to_pylist()
    assert [(row["step_index"], row["measure"]) for row in found] == [(200, "duration_ms"), (None, None)]
    all_zeros = baseline(frame(*(step(i, cost_cents=0.0) for i in range(200))))
    assert [row["step_index"] for row in anomalies(frame(*cheap), all_zeros).to_pylist()] == [None]


@pytest.mark.parametrize("times", [1.3, 1.61, 1.9])
@pytest.mark.parametrize("size", [30, 100, 1000])
def test_a_group_of_equal_values_has_room(times: float, size: int) -> None:
    random = np.random.default_rng(1)
    others = [step(i, agent_id=f"b{i % 9}", duration_ms=value) for i, value in enumerate(random.lognormal(9, 0.2, 900))]
    usual = baseline(frame(*(step(i, duration_ms=10_000.0) for i in range(size)), *others), measures=["duration_ms"])
    assert len(anomalies(steps_of([10_000.0 * times]), usual)) == 1
    assert len(anomalies(steps_of([40_000.0]), usual)) == 2


@pytest.mark.parametrize("measure", ["cost_cents", "duration_ms", "tokens"])
def test_nobody_is_woken_for_less(measure: str) -> None:
    least = {"cost_cents": 0.1, "duration_ms": 1000.0, "tokens": 1000.0}[measure]
    usual = baseline(steps_of([0.05 * least + i % 2 * 0.01 * least for i in range(50)], measure))
    now = steps_of([1.0 * least, 1.1 * least], measure)
    assert [row["step_index"] for row in anomalies(now, usual).to_pylist()] == [1, None]
    assert len(anomalies(now, usual, **OFF)) == 3
    name = {"cost_cents": "at_least_cents", "duration_ms": "at_least_ms", "tokens": "at_least_tokens"}[measure]
    assert len(anomalies(now, usual, **{name: 2 * least})) == 1


def test_what_the_mean_step_of_a_run_is_dearer_counts_for_all_its_steps() -> None:
    def profile(run: str, steps: int, cost_cents: float) -> dict[str, Any]:
        return {"run_id": run, "agent_id": "a", "step_type": "llm_call", "steps": steps, "cost_cents": cost_cents,
                "tokens": 100.0, "duration_ms": 1.0, "cost_cents_per_1000_tokens": cost_cents * 10}  # fmt: skip

    usual = baseline(pa.Table.from_pylist([profile(f"u{i}", 10, 0.002 + i % 2 * 0.0001) for i in range(50)]))
    now = pa.Table.from_pylist([profile("short", 3, 0.02), profile("long", 30, 0.02)])
    found = anomalies(now, usual).to_pylist()
    assert {row["run_id"] for row in found if row["measure"]} == {"long"}
    assert {row["reason"] for row in found if row["measure"]} == {
        "0.02 US cents a step, 9.8 times the usual 0.00205 US cents of a · llm_call",
        "0.2 US cents per 1,000 tokens, 9.8 times the usual 0.0205 US cents per 1,000 tokens of a · llm_call",
    }


def test_fast_and_slow_tools_of_one_type_are_told_apart_by_name() -> None:
    random = np.random.default_rng(4)
    fast, slow = random.lognormal(4, 0.3, 200), random.lognormal(10, 0.3, 30)
    names = pa.array(["fast"] * 200 + ["slow"] * 30)
    usual = steps_of([*fast, *slow]).append_column("name", names)
    assert len(anomalies(usual, baseline(usual))) == 1
    now = steps_of([40_000.0, 40_000.0]).append_column("name", pa.array(["fast", "slow"]))
    assert [row["step_index"] for row in anomalies(now, baseline(usual)).to_pylist()] == [0, None]


@local_kinds
def test_a_name_of_its_own_for_each_step_is_judged_with_the_others(kind: FrameKind) -> None:
    random = np.random.default_rng(5)
    usual = steps_of(random.lognormal(6, 0.3, 200)).append_column("name", pa.array([f"call {i}" for i in range(200)]))
    now = steps_of([400.0, 90_000.0]).append_column("name", pa.array(["new 1", "new 2"]))
    found = rows(anomalies(kind.make(now), kind.make(baseline(usual)))).to_pylist()
    assert [(row["step_index"], row["name"]) for row in found] == [(1, "new 2"), (None, None)]
    assert found[0]["reason"].endswith(" ms of a · llm_call")
    assert found[1]["reason"].startswith("judged 2 rows")
    unjudged = rows(anomalies(kind.make(now), kind.make(baseline(usual.slice(0, 5))))).to_pylist()
    assert [row["reason"] for row in unjudged] == [
        "not judged: too few rows in the baseline (5 of a · llm_call, 20 needed)",
        "judged 0 rows by 3 measures: expect at most 0 false alarms",
    ]


def test_a_rare_name_beside_frequent_ones_is_called_rare() -> None:
    names = pa.array(["often"] * 30 + [f"rare {i}" for i in range(25)])
    usual = steps_of([100.0 + i % 5 for i in range(55)]).append_column("name", names)
    now = steps_of([9000.0]).append_column("name", pa.array(["rare 3"]))
    reason = anomalies(now, baseline(usual))["reason"][0].as_py()
    assert reason == "9,000 ms, 88 times the usual 102 ms of a · llm_call, of rare or no name"


def test_a_baseline_of_one_kind_judges_frames_of_another(ledger: pa.Table) -> None:
    expected = anomalies(ledger, baseline(ledger))
    assert_same(anomalies(ledger.to_pandas(), baseline(pl.from_arrow(ledger).lazy())), rows(expected))  # type: ignore[union-attr]
    by_tool = baseline(ledger, by=["agent_id", "name"], measures=["duration_ms"])
    assert by_tool.column_names[:3] == ["agent_id", "name", "count"]
    assert set(anomalies(ledger, by_tool)["measure"].to_pylist()) == {"duration_ms", None}


DRAWS: dict[str, Callable[[np.random.Generator, Any], Any]] = {
    "lognormal 0.3": lambda random, shape: random.lognormal(3, 0.3, shape),
    "lognormal 1.2": lambda random, shape: random.lognormal(3, 1.2, shape),
    "Pareto 1": lambda random, shape: 20 * (1 + random.pareto(1, shape)),
    "Pareto 3": lambda random, shape: 20 * (1 + random.pareto(3, shape)),
    "60 % zeros": lambda random, shape: random.lognormal(3, 0.6, shape) * (random.random(shape) > 0.6),
    "fast and slow": lambda random, shape: (
        random.lognormal(3, 0.3, shape) * np.where(random.random(shape) < 0.3, 50, 1)
    ),
}


@pytest.mark.parametrize("size", [30, 100])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_at_most_1_normal_row_in_1000_is_reported(draw: Callable[..., Any], size: int) -> None:
    """Here of one measure, so that it is less; `benchmarks/bench_unusual.py` has all the cases."""
    random = np.random.default_rng(11)
    alarms, agents = 0, 10
    for _ in range(8):
        known, now = draw(random, (agents, size)), draw(random, (agents, 1000))
        tables = [
            pa.table({"agent_id": np.repeat(np.arange(agents), values.shape[1]), "step_type": ["x"] * values.size,
                      "tokens": values.ravel()}) for values in (known, now)
        ]  # fmt: skip
        alarms += len(anomalies(tables[1], baseline(tables[0], measures=["tokens"]), at_least_tokens=0)) - 1
    assert alarms <= 1.3 * 80  # of 80,000, and what chance adds to that


def test_more_false_alarms_may_be_asked_for() -> None:
    random = np.random.default_rng(6)
    usual, now = steps_of(random.lognormal(9, 0.5, 500)), steps_of(random.lognormal(9, 0.5, 500))
    counts = [len(anomalies(now, baseline(usual), false_alarms=share)) - 1 for share in (0.001, 0.05, 0.3)]
    assert counts[0] <= 2 < counts[1] <= 25
    assert counts[1] < counts[2] <= 150
    assert anomalies(now, baseline(usual), false_alarms=0.3)["reason"][-1].as_py() == (
        "judged 500 rows by 3 measures: expect at most 150 false alarms"
    )


def test_an_anomaly_in_the_baseline_itself_is_found() -> None:
    random = np.random.default_rng(8)
    values = random.lognormal(7, 0.2, 60).tolist()
    values[17] = 90_000.0
    steps = steps_of(values)
    assert [row["step_index"] for row in anomalies(steps, baseline(steps)).to_pylist()] == [17, None]
    assert np.flatnonzero(unusual(np.array(values))).tolist() == [17]


@pytest.mark.parametrize("values", [[], [5.0], [0.0, 0.0], [1.0, 2.0], [float("inf"), 1.0, 1.0]])
def test_few_or_odd_values_are_judged_without_a_warning(values: list[float]) -> None:
    assert not unusual(np.array(values, np.float64)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"false_alarms": 0}, "false_alarms is 0; expected a number above 0, at most 1"),
        ({"false_alarms": "few"}, "false_alarms is 'few'; expected a number above 0, at most 1"),
        ({"false_alarms": 1.5}, "false_alarms is 1.5; expected a number above 0, at most 1"),
        ({"at_least": "20"}, "at_least is '20'; expected an integer >= 0"),
        ({"at_least": None}, "at_least is None; expected an integer >= 0"),
        ({"at_least_cents": True}, "at_least_cents is True; expected a number >= 0"),
        ({"at_least_cents": -1}, "at_least_cents is -1; expected a number >= 0"),
        ({"at_least_ms": float("nan")}, "at_least_ms is nan; expected a number >= 0"),
        ({"at_least_tokens": "all"}, "at_least_tokens is 'all'; expected a number >= 0"),
    ],
)
def test_arguments_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        anomalies(frame(step()), baseline(frame(step())), **options)
