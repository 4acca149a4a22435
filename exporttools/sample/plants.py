"""What goes wrong on purpose: written over ordinary steps, one set in every block. Only durations are random.

``data/README.md`` describes the causes; each can be found from the data alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import RandomState

from exporttools.sample.fleet import (
    CHECKS,
    DAY_US,
    FAULTS,
    MICROCENTS,
    MODELS,
    NAMES,
    RUN_BUDGET_CENTS,
    Status,
    StepType,
    model_number,
)
from exporttools.sample.runs import LEAD_STEPS, Attempts, Role, Runs
from exporttools.sample.steps import NONE, Steps
from exporttools.sample.timing import Clock, step_microcents

_SECOND_US = 1_000_000
_MINUTE_US = 60 * _SECOND_US

_STORM_ERROR = "HTTP 503 from post_ledger: service unavailable"
_REFUND_ERROR = "refused: a refund of 740.00 EUR is above the limit of 200.00 EUR"
_SLOW_ERROR = "fetch_logs gave no answer within 600 s"
_RATE_LIMIT_ERROR = "HTTP 429 from the model's provider: rate limit reached"
_BUDGET_ERROR = f"the run has spent more than its budget of {RUN_BUDGET_CENTS} cents"
ERRORS = (*FAULTS, _STORM_ERROR, _REFUND_ERROR, _SLOW_ERROR, _RATE_LIMIT_ERROR, _BUDGET_ERROR)
"""The values of ``error``; steps hold positions in this tuple."""

_STORM_WAITS_US = tuple(min(200_000 * 2**n, 8 * _SECOND_US) for n in range(40))
_RATE_LIMIT_WAITS_US = tuple((5 * 2**n) * _SECOND_US for n in range(8))
_SLOW_DURATIONS_US = tuple(seconds * _SECOND_US + 137_004 for seconds in (48, 95, 190, 371, 600))


@dataclass(frozen=True, slots=True)
class IncidentKind:
    """What the platform records about a planted incident."""

    role: Role | None
    severity: str
    violation_type: str
    policy: tuple[str, str] | None = None


_BUDGET_POLICY = ("pol-run-budget", "A research run may cost at most 10 USD")
_REFUND_POLICY = ("pol-refund-limit", "Refunds above 200 EUR need a person")
_SECRETS_POLICY = ("pol-no-secrets", "No credentials in prompts or answers")

INCIDENT_KINDS = (
    IncidentKind(Role.LOOP, "critical", "budget_exceeded", _BUDGET_POLICY),
    IncidentKind(Role.STORM, "high", "failure_spike"),
    IncidentKind(Role.POLICY_BLOCK, "high", "policy_violation", _REFUND_POLICY),
    IncidentKind(Role.SLOW_TOOL, "medium", "timeout"),
    IncidentKind(Role.COST_CREEP, "medium", "cost_anomaly"),
    IncidentKind(Role.RATE_LIMIT, "low", "rate_limit"),
    IncidentKind(None, "high", "credential_exposure", _SECRETS_POLICY),
    IncidentKind(Role.NO_TRACE, "low", "missing_trace"),
)
"""The eight incidents of a block, numbered from 1."""


def plant(random: RandomState, runs: Runs, attempts: Attempts, steps: Steps) -> dict[Role, int]:
    """Write what goes wrong over the block's steps.

    Returns
    -------
    dict
        For each role with a violation, the row of the first step that went wrong.
    """
    writers = {
        Role.LOOP: _loop,
        Role.STORM: _storm,
        Role.POLICY_BLOCK: _policy_block,
        Role.SLOW_TOOL: _slow_tool,
        Role.RATE_LIMIT: _rate_limit,
    }
    first_rows = {}
    for role, write in writers.items():
        span = _span(runs, attempts, steps, role)
        first = span.start + LEAD_STEPS[role]
        _end_lead(steps, first)
        write(random, steps, first, span.stop)
        first_rows[role] = first
    creep = _span(runs, attempts, steps, Role.COST_CREEP)
    first_rows[Role.COST_CREEP] = creep.start + int(np.argmax(steps.kind[creep] == StepType.LLM_CALL))
    _many_searches(steps, _span(runs, attempts, steps, Role.UNBILLED_TOOLS))
    return first_rows


def incident_times_us(random: RandomState, runs: Runs, clock: Clock) -> list[int]:
    """When each of the eight incidents is recorded: soon after its run, or for a cost anomaly the next morning."""
    times = []
    for kind in INCIDENT_KINDS:
        delay_us = int(random.randint(20 * _SECOND_US, 4 * _MINUTE_US, dtype=np.int64))
        if kind.role is None:
            # Somebody noticed, on a Thursday between nine and five.
            times.append(3 * DAY_US + int(random.randint(9 * 60 * _MINUTE_US, 17 * 60 * _MINUTE_US, dtype=np.int64)))
            continue
        ended_us = int(clock.run_end_us[runs.with_role(kind.role)])
        if kind.role is Role.COST_CREEP:
            ended_us = (ended_us // DAY_US + 1) * DAY_US + 6 * 60 * _MINUTE_US
        times.append(ended_us + delay_us)
    return times


def _span(runs: Runs, attempts: Attempts, steps: Steps, role: Role) -> slice:
    """The steps of the last attempt of the run with the role."""
    return steps.span_of(int(np.flatnonzero(attempts.run == runs.with_role(role))[-1]))


def _end_lead(steps: Steps, first: int) -> None:
    """Let the step before the trouble succeed, so that what follows is not a retry of it."""
    steps.status[first - 1] = Status.OK
    steps.error[first - 1] = NONE


def _write(steps: Steps, rows: Any, **columns: Any) -> None:
    """Write whole rows; a column that is not given gets the value that most steps have."""
    values = {"name": NONE, "model": NONE, "tokens_in": 0, "tokens_out": 0, "status": Status.OK, "error": NONE}
    for name, value in (values | columns).items():
        getattr(steps, name)[rows] = value


def _call(tool: str) -> dict[str, int]:
    return {"kind": StepType.TOOL_CALL, "name": NAMES.index(tool)}


def _loop(random: RandomState, steps: Steps, first: int, stop: int) -> None:
    """The run asks the model the same question and fetches the same page until a guardrail stops it at its budget."""
    last = stop - 1
    thinking, calling = np.arange(first, last, 2), np.arange(first + 1, last, 2)
    rounds, model = len(calling), model_number("heron-3")
    written = 180
    start = int(steps.span_of(int(steps.trace[first])).start)
    spent = int(step_microcents(steps)[start:first].sum())
    # The last round exceeds the budget: before it, half a round's cost is left.
    a_round = int((RUN_BUDGET_CENTS * MICROCENTS - spent) / (rounds - 0.5))
    read = (a_round - written * MODELS[model].output_cents_per_million) // MODELS[model].input_cents_per_million
    _write(steps, thinking, kind=StepType.LLM_CALL, model=model, tokens_in=read, tokens_out=written, digest=first)
    _write(steps, calling, **_call("fetch_page"), digest=first + 1)
    steps.duration_us[thinking] = np.rint(3_300_000 * random.lognormal(0.0, 0.12, rounds))
    steps.duration_us[calling] = np.rint(640_000 * random.lognormal(0.0, 0.25, rounds))
    blocked = {"status": Status.BLOCKED, "error": ERRORS.index(_BUDGET_ERROR), "digest": NONE}
    _write(steps, last, kind=StepType.GUARDRAIL, name=NAMES.index(CHECKS[2]), **blocked)
    steps.duration_us[last] = 38_211


def _storm(random: RandomState, steps: Steps, first: int, stop: int) -> None:
    """One tool call fails and is repeated, with waits that double up to eight seconds, until the run gives up."""
    attempts = stop - first
    failed = {"status": Status.ERROR, "error": ERRORS.index(_STORM_ERROR), "digest": first}
    _write(steps, slice(first, stop), **_call("post_ledger"), **failed)
    steps.duration_us[first:stop] = np.rint(95_000 * random.lognormal(0.0, 0.3, attempts))
    steps.wait_us[first + 1 : stop] = _STORM_WAITS_US[: attempts - 1]


def _policy_block(random: RandomState, steps: Steps, first: int, stop: int) -> None:  # noqa: ARG001
    """A guardrail refuses a refund above the limit; the run ends there."""
    refused = {"status": Status.BLOCKED, "error": ERRORS.index(_REFUND_ERROR), "digest": NONE}
    _write(steps, slice(first, stop), kind=StepType.GUARDRAIL, name=NAMES.index(CHECKS[2]), **refused)
    _write(steps, first - 1, kind=StepType.LLM_CALL, model=model_number("lark-mini-2"), tokens_in=3_918, tokens_out=88)
    steps.digest[first - 1] = first - 1
    steps.duration_us[first - 1 : stop] = (834_650, 51_370)


def _slow_tool(random: RandomState, steps: Steps, first: int, stop: int) -> None:  # noqa: ARG001
    """One tool answers more and more slowly, and finally not at all; each time the model decides to call it again."""
    calls, thinking = np.arange(first, stop, 2), np.arange(first + 1, stop, 2)
    _write(steps, calls, **_call("fetch_logs"), digest=calls)
    model = model_number("lark-2")
    _write(steps, thinking, kind=StepType.LLM_CALL, model=model, tokens_in=6_240, tokens_out=120, digest=thinking)
    steps.duration_us[calls] = _SLOW_DURATIONS_US
    steps.duration_us[thinking] = 1_412_377
    steps.status[calls[-1]] = Status.TIMEOUT
    steps.error[calls[-1]] = ERRORS.index(_SLOW_ERROR)


def _rate_limit(random: RandomState, steps: Steps, first: int, stop: int) -> None:
    """The model's provider refuses the same call again and again, however long the run waits."""
    attempts, model = stop - first, model_number("heron-3")
    refused = {"status": Status.ERROR, "error": ERRORS.index(_RATE_LIMIT_ERROR), "digest": first}
    _write(steps, slice(first, stop), kind=StepType.LLM_CALL, model=model, **refused)
    steps.duration_us[first:stop] = np.rint(120_000 * random.lognormal(0.0, 0.2, attempts))
    steps.wait_us[first + 1 : stop] = _RATE_LIMIT_WAITS_US[: attempts - 1]


def _many_searches(steps: Steps, span: slice) -> None:
    """Make every tool call of this run a paid one; its recorded total omits them."""
    calls = span.start + np.flatnonzero(steps.kind[span] == StepType.TOOL_CALL)
    steps.name[calls] = NAMES.index("web_search")
