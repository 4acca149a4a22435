"""Turns a block's drawn columns into the four Arrow tables. A block is a pure function of its seed, number and size."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.random import RandomState

from exporttools.records.schema import ARROW_TYPES, RECORD_TYPES, Column, arrow_schema
from exporttools.sample.fleet import (
    AGENTS,
    DAY_US,
    FIRST_DAY,
    MICROCENTS,
    MODELS,
    NAMES,
    TENANTS,
    Reason,
    Status,
    StepType,
)
from exporttools.sample.plants import ERRORS, INCIDENT_KINDS, incident_times_us, plant
from exporttools.sample.runs import Attempts, Ints, Role, Runs, State, draw_attempts, draw_runs, whole
from exporttools.sample.steps import NONE, Steps, draw_steps
from exporttools.sample.timing import Clock, recorded_microcents, set_clock, step_microcents

_DIGEST_BYTES = 16
_EPOCH_US = int(FIRST_DAY.timestamp()) * 1_000_000

STEP_EXTRA: tuple[Column, ...] = tuple(
    column for column in RECORD_TYPES["trace_steps"].extra if column.name in ("name", "model", "error")
)
"""The extra columns of the sample's steps."""


def table_schema(table: str) -> pa.Schema:
    """The Arrow schema of one of the sample's tables."""
    record_type = RECORD_TYPES[table]
    return arrow_schema(record_type.stored_columns(STEP_EXTRA if table == "trace_steps" else ()))


def draw_block(seed: int, block: int, runs: int) -> dict[str, pa.Table]:
    """Draw a block; return its four tables, rows in key order."""
    random = RandomState([seed, block])
    drawn = draw_runs(random, runs)
    attempts = draw_attempts(random, drawn)
    steps = draw_steps(random, drawn, attempts)
    first_rows = plant(random, drawn, attempts, steps)
    clock = set_clock(drawn, attempts, steps)
    incident_us = incident_times_us(random, drawn, clock)
    digests = random.bytes(len(steps) * _DIGEST_BYTES)
    orders = whole(random, 10_000, 1_000_000, runs)
    run_ids = [f"run-{block:04d}-{number:03d}" for number in range(runs)]
    numbers = zip(attempts.run, attempts.number, strict=True)
    trace_ids = [f"trc-{block:04d}-{run:03d}-{number}" for run, number in numbers]
    microcents = step_microcents(steps)
    recorded = recorded_microcents(drawn, attempts, steps, microcents)
    return {
        "incidents": _incident_table(block, drawn, run_ids, incident_us),
        "runs": _run_table(drawn, run_ids, orders, clock, recorded),
        "traces": _trace_table(drawn, attempts, steps, clock, first_rows, run_ids, trace_ids),
        "trace_steps": _step_table(drawn, attempts, steps, clock, microcents, digests, trace_ids),
    }


def _incident_table(block: int, runs: Runs, run_ids: list[str], times_us: list[int]) -> pa.Table:
    source = [None if kind.role is None else runs.with_role(kind.role) for kind in INCIDENT_KINDS]
    # The incident without a run is the first tenant's: someone there reported it.
    tenants = [TENANTS[0 if run is None else runs.tenant[run]] for run in source]
    policies = [kind.policy or (None, None) for kind in INCIDENT_KINDS]
    return _table(
        "incidents",
        id=[f"inc-{block:04d}-{number}" for number in range(1, len(INCIDENT_KINDS) + 1)],
        tenant_id=tenants,
        source_run_id=[None if run is None else run_ids[run] for run in source],
        severity=[kind.severity for kind in INCIDENT_KINDS],
        policy_id=[policy_id for policy_id, _ in policies],
        policy_name=[policy_name for _, policy_name in policies],
        violation_type=[kind.violation_type for kind in INCIDENT_KINDS],
        created_at=_times(np.array(times_us)),
    )


def _run_table(runs: Runs, run_ids: list[str], orders: Ints, clock: Clock, recorded: Ints) -> pa.Table:
    unfinished = (runs.state == State.OPEN) | (runs.state == State.QUEUED)
    undated = (runs.state == State.UNDATED) | (runs.state == State.QUEUED)
    goals_of = [AGENTS[agent].goals for agent in runs.agent]
    goals = [goals[order % len(goals)].format(n=order) for goals, order in zip(goals_of, orders, strict=True)]
    second_week = runs.start_us >= 7 * DAY_US
    return _table(
        "runs",
        run_id=run_ids,
        tenant_id=_texts(runs.tenant, TENANTS),
        agent_id=_texts(runs.agent, [agent.name for agent in AGENTS]),
        goal=goals,
        policy_snapshot_id=_texts(second_week.astype(np.int64), ("policies-2026-10-01", "policies-2026-10-12")),
        started_at=_times(runs.start_us, undated),
        completed_at=_times(clock.run_end_us, unfinished),
        termination_reason=_texts(np.where(unfinished, NONE, runs.reason), _lower(Reason)),
        total_cost_cents=pa.array(np.rint(recorded / MICROCENTS).astype(np.int64), mask=unfinished),
    )


def _trace_table(
    runs: Runs,
    attempts: Attempts,
    steps: Steps,
    clock: Clock,
    first_rows: dict[Role, int],
    run_ids: list[str],
    trace_ids: list[str],
) -> pa.Table:
    rows = np.array(list(first_rows.values()))
    violated = steps.trace[rows]
    index, time_us = np.zeros(len(trace_ids), np.int64), np.zeros(len(trace_ids), np.int64)
    index[violated], time_us[violated] = steps.index[rows], clock.step_start_us[rows]
    none = np.ones(len(trace_ids), np.bool_)
    none[violated] = False
    return _table(
        "traces",
        trace_id=trace_ids,
        run_id=_texts(attempts.run, run_ids),
        tenant_id=_texts(runs.tenant[attempts.run], TENANTS),
        violation_step_index=pa.array(index, mask=none),
        violation_timestamp=_times(time_us, none),
    )


def _step_table(
    runs: Runs, attempts: Attempts, steps: Steps, clock: Clock, microcents: Ints, digests: bytes, trace_ids: list[str]
) -> pa.Table:
    return _table(
        "trace_steps",
        tenant_id=_texts(runs.tenant[attempts.run][steps.trace], TENANTS),
        trace_id=_texts(steps.trace, trace_ids),
        step_index=steps.index,
        timestamp=_times(clock.step_start_us),
        step_type=_texts(steps.kind, _lower(StepType)),
        tokens=steps.tokens_in + steps.tokens_out,
        # One division of whole numbers: the nearest float to the cost in six decimals, the same everywhere.
        cost_cents=microcents / MICROCENTS,
        duration_ms=steps.duration_us / 1000,
        status=_texts(steps.status, _lower(Status)),
        content_hash=_hashes(steps.digest, digests),
        name=_texts(steps.name, NAMES),
        model=_texts(steps.model, [model.name for model in MODELS]),
        error=_texts(steps.error, ERRORS),
    )


def _table(table: str, **columns: Any) -> pa.Table:
    return pa.table(columns, schema=table_schema(table))


def _lower(codes: type[IntEnum]) -> list[str]:
    return [code.name.lower() for code in codes]


def _texts(codes: Ints, texts: Sequence[str]) -> pa.Array:
    """Each code's text; NONE becomes NULL."""
    return pa.array(texts, pa.string()).take(pa.array(codes, mask=codes == NONE))


def _times(after_first_day_us: Ints, missing: Any = None) -> pa.Array:
    return pa.array(after_first_day_us + _EPOCH_US, pa.int64(), mask=missing).cast(ARROW_TYPES["timestamp"])


def _hashes(numbers: Ints, digests: bytes) -> pa.Array:
    """Each number's digest as lower-case hexadecimal; NONE becomes NULL."""
    present = numbers != NONE
    chosen = np.frombuffer(digests, np.uint8).reshape(-1, _DIGEST_BYTES)[numbers[present]]
    text = binascii.hexlify(chosen.tobytes())
    ends = np.cumsum(present) * (2 * _DIGEST_BYTES)
    offsets = np.concatenate(([0], ends)).astype(np.int32)
    validity = pa.array(present).buffers()[1]
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(text), validity)
