"""A block's runs and their attempts, drawn as columns: who, when, how long, how it ended. No steps, no Arrow.

``numpy.random.RandomState`` is used throughout: its streams are frozen (NEP 19), unlike Generator's, so a seed makes the
same fleet with every version of numpy. Logarithms and powers of whole columns are avoided: numpy's results differ in the
last bit between processors.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from exporttools.sample.fleet import (
    AGENTS,
    DAY_US,
    DAYS,
    HOUR_US,
    MODEL_CHANGE_DAY,
    TENANTS,
    Reason,
    agent_number,
    hour_weights,
)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FEWEST_STEPS = 6
_MEDIAN_PAUSE_US = 6_000_000


class Role(IntEnum):
    """A run's purpose in the sample. Values from 1 to 8 are the number of the run's incident."""

    ORDINARY = 0
    LOOP = 1
    STORM = 2
    POLICY_BLOCK = 3
    SLOW_TOOL = 4
    COST_CREEP = 5
    RATE_LIMIT = 6
    NO_TRACE = 8
    UNBILLED_ATTEMPT = 9
    UNBILLED_TOOLS = 10


class State(IntEnum):
    """Which of a run's times are recorded."""

    ENDED = 0
    OPEN = 1
    QUEUED = 2
    UNDATED = 3


@dataclass(frozen=True, slots=True)
class Slot:
    """A run with a role: its agent and tenant, its earliest day, how it ends, and how many steps it has."""

    role: Role
    tenant: str
    agent: str
    reason: Reason
    steps: range
    first_day: int = 0


LEAD_STEPS = {Role.LOOP: 24, Role.STORM: 13, Role.POLICY_BLOCK: 15, Role.SLOW_TOOL: 19, Role.RATE_LIMIT: 46}
"""How many ordinary steps precede the first one that goes wrong."""

SLOTS = (
    Slot(Role.LOOP, "acme-retail", "research-scout", Reason.BUDGET_EXCEEDED, range(329, 411, 2)),
    Slot(Role.STORM, "borealis-bank", "invoice-clerk", Reason.SYSTEM_FAILURE, range(35, 42)),
    Slot(Role.POLICY_BLOCK, "acme-retail", "support-triage", Reason.POLICY_BLOCK, range(16, 17)),
    Slot(Role.SLOW_TOOL, "cobalt-health", "ops-responder", Reason.TIMEOUT, range(28, 29)),
    Slot(Role.COST_CREEP, "borealis-bank", "data-analyst", Reason.COMPLETED, range(64, 90), MODEL_CHANGE_DAY),
    Slot(Role.RATE_LIMIT, "cobalt-health", "code-assistant", Reason.RATE_LIMITED, range(53, 54)),
    Slot(Role.NO_TRACE, "acme-retail", "ops-responder", Reason.SYSTEM_FAILURE, range(6, 7)),
    Slot(Role.UNBILLED_ATTEMPT, "acme-retail", "code-assistant", Reason.COMPLETED, range(60, 90)),
    Slot(Role.UNBILLED_TOOLS, "cobalt-health", "research-scout", Reason.COMPLETED, range(80, 120)),
)
"""The runs that every block has, whatever its size."""

FEWEST_RUNS = 50
MOST_RUNS = 300


@dataclass(slots=True)
class Runs:
    """A block's runs, one array per column, in order of their start."""

    tenant: Ints
    agent: Ints
    start_us: Ints
    """Microseconds after the first day's midnight."""
    steps: Ints
    """In the last attempt."""
    role: Ints
    state: Ints
    reason: Ints
    retried: Bools

    def __len__(self) -> int:
        return len(self.role)

    @property
    def dearer(self) -> Bools:
        """The runs after the model change: of one agent, in one tenant."""
        creep = next(slot for slot in SLOTS if slot.role is Role.COST_CREEP)
        who = (self.tenant == TENANTS.index(creep.tenant)) & (self.agent == agent_number(creep.agent))
        dearer: Bools = who & (self.start_us >= MODEL_CHANGE_DAY * DAY_US)
        return dearer

    def with_role(self, role: Role) -> int:
        """The number of the run that has the role."""
        return int(np.flatnonzero(self.role == role)[0])


@dataclass(slots=True)
class Attempts:
    """The traces: each run's attempts, one array per column, in order of run and attempt."""

    run: Ints
    number: Ints
    """1, or 2 for a retry."""
    steps: Ints
    pause_us: Ints
    """Between the end of the previous attempt, or the run's start, and the first step."""
    fails: Bools
    """Whether the last step failed."""
    closes: Bools
    """Whether it ends with an answer and a check of it."""


def whole(random: RandomState, low: int, high: int, count: int) -> Ints:
    """Draw whole numbers in [low, high). The type is explicit because its default differs between platforms."""
    return random.randint(low, high, count, np.int64)


def pick(random: RandomState, weights: Any, count: int) -> Ints:
    """Draw positions with whole-number weights; exact on every machine."""
    bounds = np.cumsum(weights)
    return np.searchsorted(bounds, whole(random, 0, int(bounds[-1]), count), side="right")


def draw_runs(random: RandomState, count: int) -> Runs:
    """Draw `count` runs, the :data:`SLOTS` among them."""
    share = np.array([agent.share for agent in AGENTS], np.int64)
    agent, tenant = np.divmod(pick(random, share.ravel(), count), len(TENANTS))
    median, sigma, most = (
        np.array([getattr(agent, name) for agent in AGENTS]) for name in ("steps_median", "steps_sigma", "steps_most")
    )
    steps = np.rint(median[agent] * random.lognormal(0.0, sigma[agent])).astype(np.int64)
    role = np.zeros(count, np.int64)
    runs = Runs(
        tenant=tenant,
        agent=agent,
        start_us=_draw_starts(random, agent),
        steps=np.clip(steps, FEWEST_STEPS, most[agent]),
        role=role,
        state=pick(random, (965, 20, 8, 7), count),
        reason=np.array([Reason.COMPLETED, Reason.USER_ABORT, Reason.SYSTEM_FAILURE])[pick(random, (94, 4, 2), count)],
        retried=random.random_sample(count) < 0.03,
    )
    # Not left to chance, since every sample should show them: two open runs, one queued, one without a start.
    runs.state[-4:] = (State.OPEN, State.OPEN, State.QUEUED, State.UNDATED)
    for number, slot in enumerate(SLOTS):
        _fill_slot(random, runs, number, slot)
    order = np.argsort(runs.start_us, kind="stable")
    return Runs(**{name: getattr(runs, name)[order] for name in Runs.__slots__})


def _draw_starts(random: RandomState, agent: Ints) -> Ints:
    hour = np.zeros(len(agent), np.int64)
    for number, character in enumerate(AGENTS):
        mine = agent == number
        hour[mine] = pick(random, hour_weights(character.rhythm), int(mine.sum()))
    return hour * HOUR_US + whole(random, 0, HOUR_US, len(agent))


def _fill_slot(random: RandomState, runs: Runs, number: int, slot: Slot) -> None:
    runs.tenant[number] = TENANTS.index(slot.tenant)
    runs.agent[number] = agent_number(slot.agent)
    working_days = [day for day in range(slot.first_day, DAYS) if day % 7 < 5]
    day, steps = (choices[int(whole(random, 0, len(choices), 1)[0])] for choices in (working_days, slot.steps))
    runs.start_us[number] = day * DAY_US + whole(random, 8 * HOUR_US, 17 * HOUR_US, 1)[0]
    runs.steps[number] = steps
    runs.role[number] = slot.role
    runs.state[number] = State.ENDED
    runs.reason[number] = slot.reason
    runs.retried[number] = slot.role is Role.UNBILLED_ATTEMPT


def draw_attempts(random: RandomState, runs: Runs) -> Attempts:
    """Draw the attempts of every run that has a trace: one, or two if the first failed and was retried."""
    count = np.where(runs.retried, 2, 1)
    count[(runs.role == Role.NO_TRACE) | (runs.state == State.QUEUED)] = 0
    run = np.repeat(np.arange(len(runs)), count)
    number = 1 + np.arange(len(run)) - np.repeat(np.cumsum(count) - count, count)
    first_of_two = (number == 1) & (count[run] == 2)
    shorter = np.maximum(FEWEST_STEPS, runs.steps * whole(random, 25, 70, len(runs)) // 100)
    pause_us = np.rint(_MEDIAN_PAUSE_US * random.lognormal(0.0, 0.8, len(run))).astype(np.int64)
    ended = runs.state[run] != State.OPEN
    return Attempts(
        run=run,
        number=number,
        steps=np.where(first_of_two, shorter[run], runs.steps[run]),
        pause_us=np.where(number == 1, pause_us // 40, pause_us),
        fails=first_of_two | (ended & (runs.reason[run] == Reason.SYSTEM_FAILURE)),
        closes=~first_of_two & ended & (runs.reason[run] == Reason.COMPLETED),
    )
