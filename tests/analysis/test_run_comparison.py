"""Two runs side by side."""

from __future__ import annotations

import pyarrow.compute as pc
import pytest

from exporttools import ExportBundle
from exporttools.analysis import compare_runs, cost_by
from exporttools.errors import ConfigError, InconsistentData
from tests.analysis.steps import frame, local_kinds, step
from tests.frames import FrameKind, rows


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
        ConfigError, match=r"run b has 2 values of trace_id \(t1, t2, ...\); expected the steps of one trace"
    ):
        compare_runs(a, frame(step(), step(1, trace_id="t2")))


@local_kinds
def test_sums_by_step_type(kind: FrameKind) -> None:
    a = frame(step(0), step(1, step_type="tool_call", status="error"), step(2, cost_cents=1.0))
    b = frame(
        step(0, cost_cents=2.0, tokens=7), step(1, step_type="tool_call"), step(2, step_type="plan", duration_ms=50.0)
    )
    found = compare_runs(kind.make(a), kind.make(b), by="step_type")
    assert type(found) is type(kind.make(a))
    columns = ["step_type", "steps_a", "steps_b", "status_changes"]
    columns += [
        f"{measure}_{end}" for measure in ("cost_cents", "tokens", "duration_ms") for end in ("a", "b", "difference")
    ]
    table = rows(found)
    assert table.column_names == columns
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("llm_call", 2, 1, 0, 1.5, 2.0, 0.5, 20, 7, -13, 200.0, 100.0, -100.0),
        ("plan", 0, 1, 0, 0.0, 0.5, 0.5, 0, 10, 10, 0.0, 50.0, 50.0),
        ("tool_call", 1, 1, 1, 0.5, 0.5, 0.0, 10, 10, 0, 100.0, 100.0, 0.0),
    ]


def test_sums_by_step_type_are_those_of_the_steps(bundles: dict[int, ExportBundle]) -> None:
    runs = {"a": bundles[4], "b": bundles[6]}
    found = compare_runs(*runs.values(), by="step_type")
    for side, bundle in runs.items():
        expected = {row["step_type"]: row for row in cost_by(bundle, "step_type").to_pylist()}
        for row in found.filter(pc.greater(found[f"steps_{side}"], 0)).to_pylist():
            own = expected.pop(row["step_type"])
            assert row[f"steps_{side}"] == own["steps"]
            assert row[f"cost_cents_{side}"] == pytest.approx(own["cost_cents"])
        assert expected == {}


def test_sums_of_odd_runs() -> None:
    assert len(compare_runs(frame(), frame(), by="step_type")) == 0
    unknown = compare_runs(frame(step(step_type=None, cost_cents=None)), frame(step(step_type=None)), by="step_type")
    assert unknown.select(["step_type", "steps_a", "steps_b", "cost_cents_a", "cost_cents_difference"]).to_pylist() == [
        {"step_type": None, "steps_a": 1, "steps_b": 1, "cost_cents_a": 0.0, "cost_cents_difference": 0.5}
    ]
    with pytest.raises(ConfigError, match="^by is 'agent'; expected 'step' or 'step_type'$"):
        compare_runs(frame(), frame(), by="agent")  # type: ignore[call-overload]


def test_sums_that_no_integer_holds_are_refused() -> None:
    huge = frame(*(step(i, tokens=2**62) for i in range(3)))
    with pytest.raises(InconsistentData) as caught:
        compare_runs(huge, frame(step(0)), by="step_type")
    assert str(caught.value) == ("tokens_a adds up to 13,835,058,055,282,163,712, more than a 64-bit integer holds")
