"""When every step, trace and run starts and ends, and what it costs: whole microseconds and microcents. No Arrow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exporttools.sample.fleet import AGENTS, MODELS, Status, StepType
from exporttools.sample.runs import Attempts, Ints, Role, Runs
from exporttools.sample.steps import Steps


@dataclass(frozen=True, slots=True)
class Clock:
    """Starts and ends, in microseconds after midnight of the first day."""

    step_start_us: Ints
    run_end_us: Ints


def set_clock(runs: Runs, attempts: Attempts, steps: Steps) -> Clock:
    """Place a trace's steps one after the other with their waits, a second attempt after the first, and runs around both."""
    first_rows = np.searchsorted(steps.trace, np.arange(len(attempts.run)))
    taken_us = steps.wait_us + steps.duration_us
    after_us = np.cumsum(taken_us)
    trace_us = np.add.reduceat(taken_us, first_rows)
    start_us = runs.start_us[attempts.run] + attempts.pause_us
    second = np.flatnonzero(attempts.number == 2)
    start_us[second] += attempts.pause_us[second - 1] + trace_us[second - 1]
    before_trace_us = (after_us - taken_us)[first_rows]
    step_start_us = (after_us - steps.duration_us - before_trace_us[steps.trace]) + start_us[steps.trace]
    # A run without a trace ended a moment after it started.
    run_end_us = runs.start_us + 2_400_017
    run_end_us[attempts.run] = start_us + trace_us + 4_211
    return Clock(step_start_us, run_end_us)


def step_microcents(steps: Steps) -> Ints:
    """What each step costs: its tokens at its model's prices and its tool's fee. Failed calls are free."""
    read_price = np.array([*(model.input_cents_per_million for model in MODELS), 0])
    write_price = np.array([*(model.output_cents_per_million for model in MODELS), 0])
    fees = np.array([tool.call_microcents for agent in AGENTS for tool in agent.tools])
    charged = (steps.kind == StepType.TOOL_CALL) & (steps.status == Status.OK)
    fee = np.where(charged, fees[np.where(charged, steps.name, 0)], 0)
    total: Ints = steps.tokens_in * read_price[steps.model] + steps.tokens_out * write_price[steps.model] + fee
    return total


def recorded_microcents(runs: Runs, attempts: Attempts, steps: Steps, microcents: Ints) -> Ints:
    """What the platform recorded for each run: its full cost, except for the two planted runs."""
    run, number = attempts.run[steps.trace], attempts.number[steps.trace]
    role = runs.role[run]
    missed = (role == Role.UNBILLED_ATTEMPT) & (number == 1)
    missed |= (role == Role.UNBILLED_TOOLS) & (steps.kind == StepType.TOOL_CALL)
    return np.bincount(run, np.where(missed, 0, microcents), len(runs)).astype(np.int64)
