"""Incidents by rule: which runs deserve a look, and from which step on."""

from __future__ import annotations

import pytest

from exporttools import ConfigError
from exporttools.importing.events import Step
from exporttools.importing.incident_rules import INCIDENT_RULES, LOOP_CALLS, Finding, RunSteps, require_rules


def step(step_type: str = "tool_call", status: str = "ok", content_hash: str | None = None) -> Step:
    return Step(1, "k", "s", step_type, 0, status=status, content_hash=content_hash)


def found(rule: str, *steps: Step, costs: list[float] | None = None, reason: str | None = None, budget: float | None = None) -> Finding | None:  # fmt: skip
    return INCIDENT_RULES[rule](RunSteps(steps, costs or [0.0] * len(steps), reason, budget))


def test_a_failed_step_is_an_incident_and_grave_if_the_run_ended_so() -> None:
    steps = [step(), step(status="error"), step(status="error")]
    assert found("step_error", *steps) == Finding("step_error", "low", 1)
    assert found("step_error", *steps, reason="error") == Finding("step_error", "high", 1)
    assert found("step_error", *steps, reason="user_abort") == Finding("step_error", "low", 1)
    assert found("step_error", step(), step(status="unfinished"), reason="error") is None
    assert found("step_error") is None


def test_a_loop_is_the_same_call_of_a_tool_five_times() -> None:
    same, other = step(content_hash="a"), step(content_hash="b")
    assert LOOP_CALLS == 5
    assert found("loop", *[same, other] * 4) is None
    assert found("loop", *[same, other] * 4, same) == Finding("loop", "medium", 2)
    assert found("loop", other, *[same] * 9, *[other] * 9) == Finding("loop", "medium", 2)
    assert found("loop", *[step(content_hash=None)] * 9) is None
    assert found("loop", *[step("llm_call", content_hash="a")] * 9, *[step("agent", content_hash="a")] * 9) is None


def test_a_budget_is_exceeded_by_the_step_that_costs_more_than_is_left() -> None:
    steps, costs = [step()] * 4, [2.0, 3.0, 0.0, 0.5]
    assert found("budget_exceeded", *steps, costs=costs) is None
    assert found("budget_exceeded", *steps, costs=costs, budget=5.5) is None
    assert found("budget_exceeded", *steps, costs=costs, budget=5.0) == Finding("budget_exceeded", "high", 3)
    assert found("budget_exceeded", *steps, costs=costs, budget=0) == Finding("budget_exceeded", "high", 0)
    assert found("budget_exceeded", *steps, budget=0) is None


def test_rules_by_name() -> None:
    assert require_rules(None) == ("step_error", "loop", "budget_exceeded")
    assert require_rules(["loop", "step_error", "loop"]) == ("step_error", "loop")
    assert require_rules([]) == ()
    message = r"there is no incident rule 'nope', '.x07'; expected step_error, loop, budget_exceeded"
    with pytest.raises(ConfigError, match=message):
        require_rules(["loop", "nope", "\x07"])
