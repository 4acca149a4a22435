"""The steps of a block's attempts, drawn as columns: kind, tokens, duration, faults and their retries. No Arrow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import RandomState

from exporttools.sample.fleet import (
    AGENTS,
    CHECKS,
    DEARER_MODEL,
    EMBEDDING_MODEL,
    FAULTS,
    MODELS,
    NAMES,
    SMALL_MODEL,
    Status,
    StepType,
    model_number,
)
from exporttools.sample.runs import Attempts, Bools, Ints, Runs, pick, whole

NONE = -1
"""The code for NULL."""

_LLM, _TOOL, _RETRIEVAL, _GUARDRAIL, _PLAN, _MEMORY = StepType
_TOOL_FAULTS_PER_10000, _MODEL_FAULTS_PER_10000 = 160, 25
_TOOLS_EACH = 4
_TOOL_WEIGHTS = (40, 30, 18, 12)
_SMALL_MODEL_PERCENT = 12
_DEARER_TOKENS_PERCENT = 170
_CHECK_OFFSET = NAMES.index(CHECKS[0])
_CORPUS_OFFSET = _CHECK_OFFSET - len(AGENTS)
# Median and sigma of the durations of steps that call neither a tool nor a model.
_DURATION_MS = {_RETRIEVAL: (190.0, 0.5), _GUARDRAIL: (42.0, 0.35), _MEMORY: (16.0, 0.5)}
_MODEL_MEDIAN_MS, _MODEL_SIGMA = 380.0, 0.35


@dataclass(slots=True)
class Steps:
    """A block's steps, one array per column, in order of trace and step. Text columns hold codes; NONE is NULL."""

    trace: Ints
    index: Ints
    agent: Ints
    kind: Ints
    name: Ints
    model: Ints
    tokens_in: Ints
    tokens_out: Ints
    duration_us: Ints
    wait_us: Ints
    """Between the end of the previous step and this one's start."""
    status: Ints
    error: Ints
    digest: Ints
    """Equal numbers are equal content hashes."""

    def __len__(self) -> int:
        return len(self.trace)

    def span_of(self, trace: int) -> slice:
        """The slice of a trace's steps."""
        first, after = np.searchsorted(self.trace, (trace, trace + 1))
        return slice(int(first), int(after))


def draw_steps(random: RandomState, runs: Runs, attempts: Attempts) -> Steps:
    """Draw the ordinary steps of all attempts; :mod:`exporttools.sample.plants` writes over some of them."""
    trace = np.repeat(np.arange(len(attempts.steps)), attempts.steps)
    count = len(trace)
    agent = runs.agent[attempts.run][trace]
    index = np.arange(count) - np.repeat(np.cumsum(attempts.steps) - attempts.steps, attempts.steps)
    steps = Steps(
        trace=trace,
        index=index,
        agent=agent,
        kind=_draw_kinds(random, agent),
        name=np.full(count, NONE),
        model=np.full(count, NONE),
        tokens_in=np.zeros(count, np.int64),
        tokens_out=np.zeros(count, np.int64),
        duration_us=np.zeros(count, np.int64),
        wait_us=np.rint(9_000 * random.lognormal(0.0, 0.9, count)).astype(np.int64),
        status=np.full(count, int(Status.OK)),
        error=np.full(count, NONE),
        digest=np.arange(count),
    )
    to_end = attempts.steps[trace] - 1 - index
    _frame(steps, to_end, attempts)
    _draw_names(random, steps, to_end == 0)
    _draw_faults(random, steps, to_end, attempts)
    dearer = runs.dearer[attempts.run][trace]
    _draw_models(random, steps, dearer)
    _draw_tokens(random, steps, dearer)
    _draw_durations(random, steps)
    steps.digest[np.isin(steps.kind, (_GUARDRAIL, _PLAN, _MEMORY))] = NONE
    return steps


def _draw_kinds(random: RandomState, agent: Ints) -> Ints:
    """Turns: an LLM call, then one to three other steps."""
    count = len(agent)
    kind = 1 + _pick_each(random, [character.actions for character in AGENTS], agent)
    turn_steps = 2 + pick(random, (72, 20, 8), count // 2 + 1)
    turns = np.cumsum(turn_steps) - turn_steps
    kind[turns[turns < count]] = _LLM
    return kind


def _frame(steps: Steps, to_end: Ints, attempts: Attempts) -> None:
    """An attempt starts with a check, a plan and an LLM call; a complete one ends with an answer and its check."""
    for position, kind in enumerate((_GUARDRAIL, _PLAN, _LLM)):
        steps.kind[steps.index == position] = kind
    closes, fails = attempts.closes[steps.trace], attempts.fails[steps.trace]
    steps.kind[closes & (to_end == 1)] = _LLM
    steps.kind[closes & (to_end == 0)] = _GUARDRAIL
    steps.kind[fails & (to_end == 0)] = _TOOL


def _draw_names(random: RandomState, steps: Steps, last: Bools) -> None:
    tool = steps.agent * _TOOLS_EACH + pick(random, _TOOL_WEIGHTS, len(steps))
    check = np.where(steps.index == 0, 0, np.where(last, 1, 2)) + _CHECK_OFFSET
    steps.name = np.select(
        [steps.kind == _TOOL, steps.kind == _RETRIEVAL, steps.kind == _GUARDRAIL],
        [tool, steps.agent + _CORPUS_OFFSET, check],
        NONE,
    )


def _draw_faults(random: RandomState, steps: Steps, to_end: Ints, attempts: Attempts) -> None:
    """Let a few tool and LLM calls fail. The step after a failure repeats the call, which then succeeds."""
    draw = whole(random, 0, 10_000, len(steps))
    is_tool, is_llm = steps.kind == _TOOL, steps.kind == _LLM
    fault = (is_tool & (draw < _TOOL_FAULTS_PER_10000)) | (is_llm & (draw < _MODEL_FAULTS_PER_10000))
    fault &= (steps.index > 2) & (to_end > 2)
    fault[1:] &= ~fault[:-1]
    failed = np.flatnonzero(fault)
    for column in (steps.kind, steps.name, steps.digest):
        column[failed + 1] = column[failed]
    fault |= attempts.fails[steps.trace] & (to_end == 0)
    steps.status[fault] = Status.ERROR
    kinds_of_fault = whole(random, 0, len(FAULTS) - 1, len(steps))
    steps.error[fault] = np.where(steps.kind == _LLM, len(FAULTS) - 1, kinds_of_fault)[fault]


def _draw_models(random: RandomState, steps: Steps, dearer: Bools) -> None:
    main = np.array([model_number(agent.model) for agent in AGENTS])[steps.agent]
    planner = np.array([model_number(agent.planner) for agent in AGENTS])[steps.agent]
    main[dearer] = planner[dearer] = model_number(DEARER_MODEL)
    small = whole(random, 0, 100, len(steps)) < _SMALL_MODEL_PERCENT
    called = np.where(small, model_number(SMALL_MODEL), main)
    steps.model = np.select(
        [steps.kind == _LLM, steps.kind == _PLAN, steps.kind == _RETRIEVAL],
        [called, planner, np.full(len(steps), model_number(EMBEDDING_MODEL))],
        NONE,
    )
    # A retry is the same call: to the same model.
    failed = np.flatnonzero((steps.kind == _LLM) & (steps.status == Status.ERROR))
    steps.model[failed + 1] = steps.model[failed]


def _draw_tokens(random: RandomState, steps: Steps, dearer: Bools) -> None:
    """An LLM call reads the prompt and the context, which grows until it is compacted; a failed call uses no tokens."""
    prompt, turn_tokens, window, answer = (
        np.array([getattr(agent, name) for agent in AGENTS])[steps.agent]
        for name in ("prompt_tokens", "turn_tokens", "window_tokens", "answer_tokens")
    )
    is_llm = steps.kind == _LLM
    turn = np.cumsum(is_llm)
    turn -= turn[steps.index == 0][steps.trace]
    read = prompt + (turn * turn_tokens) % window
    read = np.where(dearer, read * _DEARER_TOKENS_PERCENT // 100, read)
    read = np.rint(read * random.lognormal(0.0, 0.12, len(steps))).astype(np.int64)
    written = 1 + np.rint(answer * random.lognormal(0.0, 0.7, len(steps))).astype(np.int64)
    asked = 8 + np.rint(46 * random.lognormal(0.0, 0.6, len(steps))).astype(np.int64)
    paid = steps.status == Status.OK
    kinds = [is_llm & paid, steps.kind == _PLAN, steps.kind == _RETRIEVAL]
    steps.tokens_in = np.select(kinds, [read, prompt, asked], 0)
    steps.tokens_out = np.select(kinds, [written, written * 2, np.zeros_like(written)], 0)


def _draw_durations(random: RandomState, steps: Steps) -> None:
    tools = [tool for agent in AGENTS for tool in agent.tools]
    is_tool = steps.kind == _TOOL
    tool = np.where(is_tool, steps.name, 0)
    speed = np.array([model.ms_per_output_token for model in MODELS])[steps.model]
    by_kind = {kind: (np.full(len(steps), median), sigma) for kind, (median, sigma) in _DURATION_MS.items()}
    by_model = _MODEL_MEDIAN_MS + steps.tokens_out * speed + steps.tokens_in / 50
    by_kind[_LLM] = by_kind[_PLAN] = (by_model, _MODEL_SIGMA)
    kinds = [steps.kind == kind for kind in by_kind]
    median = np.select(kinds, [median for median, _ in by_kind.values()], np.array([t.median_ms for t in tools])[tool])
    sigma = np.select(kinds, [sigma for _, sigma in by_kind.values()], np.array([t.sigma for t in tools])[tool])
    steps.duration_us = np.rint(1000 * median * random.lognormal(0.0, sigma)).astype(np.int64)


def _pick_each(random: RandomState, weights: Any, row: Ints) -> Ints:
    """Draw a position for each element by the weights of its row; every row's weights have the same sum."""
    bounds = np.cumsum(np.array(weights, np.int64), axis=1)
    draw = whole(random, 0, int(bounds[0, -1]), len(row))
    picked: Ints = (draw[:, None] >= bounds[row]).sum(axis=1)
    return picked
