"""Incidents by rule: what in an imported run deserves a look, and at which step it began."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from exporttools.errors import ConfigError
from exporttools.importing.events import Step
from exporttools.records.statuses import means_failed
from exporttools.text.inert import one_line

LOOP_CALLS = 5
"""From how many calls with the same content on the rule ``loop`` finds a loop."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule has found in a run.

    Attributes
    ----------
    rule, severity : str
    step_index : int
        The first offending step.
    """

    rule: str
    severity: str
    step_index: int


@dataclass(frozen=True, slots=True)
class RunSteps:
    """A run as the rules see it: its steps in order, what each of them cost, why it ended, and what it may cost."""

    steps: Sequence[Step]
    costs_cents: Sequence[float]
    termination_reason: str | None
    budget_cents: float | None


def _step_error(run: RunSteps) -> Finding | None:
    """A step ended in an error; grave if the run did."""
    severity = "high" if run.termination_reason == "error" else "low"
    return next(
        (Finding("step_error", severity, i) for i, step in enumerate(run.steps) if means_failed(step.status)), None
    )


def _loop(run: RunSteps) -> Finding | None:
    """The same tool was called with the same input again and again; the first repetition is where it began."""
    seen: dict[str, list[int]] = {}
    for i, step in enumerate(run.steps):
        if step.step_type == "tool_call" and step.content_hash is not None:
            seen.setdefault(step.content_hash, []).append(i)
    looping = [calls[1] for calls in seen.values() if len(calls) >= LOOP_CALLS]
    return Finding("loop", "medium", min(looping)) if looping else None


def _budget_exceeded(run: RunSteps) -> Finding | None:
    """The run has cost more than the user allows."""
    spent_cents = 0.0
    for i, cost_cents in enumerate(run.costs_cents):
        spent_cents += cost_cents
        if run.budget_cents is not None and spent_cents > run.budget_cents:
            return Finding("budget_exceeded", "high", i)
    return None


INCIDENT_RULES: dict[str, Callable[[RunSteps], Finding | None]] = {
    "step_error": _step_error,
    "loop": _loop,
    "budget_exceeded": _budget_exceeded,
}
"""The rules by name. Each finds at most one incident in a run."""


def require_rules(names: Collection[str] | None) -> tuple[str, ...]:
    """Return the names of the rules to apply, all of them by default.

    Raises
    ------
    ConfigError
        There is no such rule.
    """
    if names is None:
        return tuple(INCIDENT_RULES)
    if unknown := [name for name in names if name not in INCIDENT_RULES]:
        raise ConfigError(
            f"there is no incident rule {', '.join(one_line(repr(name), 40) for name in unknown)}; "
            f"expected {', '.join(INCIDENT_RULES)}"
        )
    return tuple(name for name in INCIDENT_RULES if name in names)
