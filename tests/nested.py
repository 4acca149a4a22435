"""Steps that are parts of others: flat traces wrapped in spans that repeat their usage, and the rule said anew in plain Python."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from exporttools.records.roll_ups import CONTAINER_TYPES

TRACE = ("tenant_id", "run_id", "trace_id")


def wrapped(steps: pa.Table, *, usage: bool = True, step_type: str = "agent") -> pa.Table:
    """Each trace inside a root span of its own, over the trace's whole time; with `usage`, the root repeats the trace's.

    The steps move down by one, and name the root as their parent. All other columns of the root are NULL or those of the first
    step.
    """
    keys = [name for name in TRACE if name in steps.column_names]
    parts = []
    traces = steps.select(keys).group_by(keys).aggregate([]).to_pylist() if keys else [{}]
    for trace in traces:
        own = steps
        for name, value in trace.items():
            own = own.filter(pc.equal(own[name], value))
        own = own.sort_by("step_index")
        start_us = own["timestamp"].cast(pa.int64())
        end_ms = pc.max(pc.add(pc.divide(start_us.cast(pa.float64()), 1000.0), own["duration_ms"])).as_py()
        root = dict.fromkeys(own.column_names) | {
            name: own[name][0].as_py()
            for name in ("tenant_id", "run_id", "trace_id", "agent_id")
            if name in own.column_names
        }
        root |= {
            "step_index": 0, "timestamp": pc.min(own["timestamp"]).as_py(), "step_type": step_type, "status": "ok",
            "tokens": pc.sum(own["tokens"]).as_py() if usage else 0,
            "cost_cents": pc.sum(own["cost_cents"]).as_py() if usage else 0.0,
            "duration_ms": end_ms - pc.min(start_us).as_py() / 1000,
        }  # fmt: skip
        own = own.set_column(own.column_names.index("step_index"), "step_index", pc.add(own["step_index"], 1))
        whole = pa.concat_tables([pa.Table.from_pylist([root], schema=own.schema), own])
        parents = pa.array([None] + [0] * len(own), pa.int64())
        parts.append(whole.append_column("parent_step_index", parents))
    return pa.concat_tables(parts)


def flat(steps: pa.Table) -> pa.Table:
    """The same steps with a column ``parent_step_index`` in which nothing stands."""
    return steps.append_column("parent_step_index", pa.nulls(len(steps), pa.int64()))


def own_usage(steps: list[dict[str, Any]]) -> dict[int, tuple[str | None, float, float]]:
    """By step_index: the word for its roll-up, and its own tokens and cost. Of one trace without cycles; recursive and slow."""
    index = {step["step_index"]: step for step in steps}
    children: dict[int, list[int]] = {}
    for step in steps:
        if step["parent_step_index"] in index:
            children.setdefault(step["parent_step_index"], []).append(step["step_index"])
    found: dict[int, tuple[str | None, float, float]] = {}

    def below(number: int) -> tuple[float, float]:
        """Judge a step, and return the tokens and cost counted of it and all below."""
        parts = [below(child) for child in children.get(number, [])]
        more = sum(tokens for tokens, _ in parts), sum(cost for _, cost in parts)
        step = index[number]
        usage = step["tokens"], step["cost_cents"]
        mine, theirs = next(((a, b) for a, b in zip(usage, more, strict=True) if a > 0 and b > 0), (0, 0))
        container = step["step_type"].strip().casefold() in CONTAINER_TYPES
        word: str | None = None
        if mine:
            away = abs(mine - theirs) / theirs
            by_cost = container and usage[1] > 0 and abs(usage[1] - more[1]) <= 0.02 * more[1]
            if away <= (0.02 if container else 1e-6) or by_cost:
                word = "whole"
            elif container and mine > theirs:
                word = "part"
            elif container or mine >= theirs * 0.98:
                word = "ambiguous"
        own = usage
        if word in ("whole", "part"):
            own = tuple(a if not b else 0 if a <= b * 1.02 else a - b for a, b in zip(usage, more, strict=True))  # type: ignore[assignment]
        found[number] = word, *own
        return own[0] + more[0], own[1] + more[1]

    for step in steps:
        if step["parent_step_index"] not in index:
            below(step["step_index"])
    return found


def wrapped_tables(tables: dict[str, pa.Table], *, usage: bool = True, step_type: str = "agent") -> dict[str, pa.Table]:
    """The four tables with each trace's steps inside a root span; violations move down with their steps."""
    traces = tables["traces"]
    place = traces.column_names.index("violation_step_index")
    moved = pc.add(traces["violation_step_index"], 1)
    return tables | {
        "traces": traces.set_column(place, traces.schema.field(place), moved),
        "trace_steps": wrapped(tables["trace_steps"], usage=usage, step_type=step_type),
    }
