"""How much of its trace's time each step took, nested or not."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporttools.analysis.sequences import Sequences
from tests.analysis.steps import NOON


def table_of(*steps: tuple[int, float, int | None], trace: str = "t") -> pa.Table:
    """Steps as (start in ms, duration in ms, parent)."""
    return pa.table(
        {
            "trace_id": [trace] * len(steps),
            "step_index": pa.array(range(len(steps)), pa.int64()),
            "timestamp": pa.array([NOON + dt.timedelta(milliseconds=start) for start, _, _ in steps], pa.timestamp("us", "UTC")),
            "duration_ms": pa.array([float(length) for _, length, _ in steps], pa.float64()),
            "parent_step_index": pa.array([parent for _, _, parent in steps], pa.int64()),
        }
    )  # fmt: skip


def times(table: pa.Table) -> list[tuple[int, float, float]]:
    """Step, busy ms and waiting ms, in the order of the steps."""
    found = Sequences.of(table, ["trace_id"])
    return sorted(
        zip(found.table["step_index"].to_pylist(), found.busy_ms.tolist(), found.waiting_ms.tolist(), strict=True)
    )


def test_time_belongs_to_the_innermost_step() -> None:
    root, first, inner, second = (0, 100.0, None), (10, 20.0, 0), (12, 5.0, 1), (50, 30.0, 0)
    assert times(table_of(root, first, inner, second)) == [
        (0, 50.0, 0.0),
        (1, 15.0, 0.0),
        (2, 5.0, 0.0),
        (3, 30.0, 0.0),
    ]
    flat = table_of(root, first, inner, second).drop_columns(["parent_step_index"])
    assert times(flat) == [(0, 100.0, 0.0), (1, 0.0, 0.0), (2, 0.0, 0.0), (3, 0.0, 0.0)]


def test_parallel_steps_share_in_order_and_a_child_may_outlast_its_parent() -> None:
    assert times(table_of((0, 40.0, None), (10, 20.0, 0), (20, 20.0, 0), (35, 25.0, 0), (80, 10.0, None))) == [
        (0, 10.0, 0.0), (1, 20.0, 0.0), (2, 10.0, 0.0), (3, 20.0, 0.0), (4, 10.0, 20.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("parents", "busy"),
    [
        ((None, None), (100.0, 0.0)),
        ((None, 7), (100.0, 0.0)),  # an orphan
        ((None, 1), (100.0, 0.0)),  # its own parent
        ((1, 0), (80.0, 20.0)),  # a circle: the first is the root
        ((None, 0), (80.0, 20.0)),
    ],
)
def test_parents_that_are_none(parents: tuple[int | None, int | None], busy: tuple[float, float]) -> None:
    found = times(table_of((0, 100.0, parents[0]), (40, 20.0, parents[1])))
    assert tuple(step[1] for step in found) == busy


def test_a_parent_is_looked_for_in_its_own_trace() -> None:
    nested, other = table_of((0, 100.0, None), (10, 10.0, 0)), table_of((0, 5.0, 1), (2, 3.0, None), trace="u")
    found = Sequences.of(pa.concat_tables([other, nested]), ["trace_id"])
    both = zip(
        found.table["trace_id"].to_pylist(), found.table["step_index"].to_pylist(), found.busy_ms.tolist(), strict=True
    )
    assert sorted(both) == [("t", 0, 90.0), ("t", 1, 10.0), ("u", 0, 5.0), ("u", 1, 0.0)]


STEPS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9), st.none() | st.integers(0, 6)), max_size=7)


def depth_of(steps: list[Any], row: int) -> int:
    """By walking up, until a root or the smallest step of a circle."""
    seen = [row]
    while (parent := steps[seen[-1]][2]) is not None and parent < len(steps):
        if parent in seen:
            circle = seen[seen.index(parent) :]
            return seen.index(min(circle))
        seen.append(parent)
    return len(seen) - 1


@settings(deadline=None)
@given(STEPS)
@example([])
@example([(0, 8, None), (0, 4, 0), (0, 4, 1), (2, 9, 1)])
def test_busy_and_waiting_are_what_a_clock_counts(steps: list[Any]) -> None:
    expected = [[0.0, 0.0] for _ in steps]
    order = sorted(range(len(steps)), key=lambda row: (steps[row][0], row))
    first, last = (steps[order[0]][0], max(start + length for start, length, _ in steps)) if steps else (0, 0)
    for now in range(first, last):
        running = [row for row in order if steps[row][0] <= now < steps[row][0] + steps[row][1]]
        if running:
            expected[max(running, key=lambda row: (depth_of(steps, row), -order.index(row)))][0] += 1
        else:
            expected[next(row for row in order if steps[row][0] > now)][1] += 1
    assert times(table_of(*steps)) == [(row, *pair) for row, pair in enumerate(expected)]


def test_a_span_around_a_trace_changes_nothing() -> None:
    """An agent's span is no step that ran: between its parts it waits for the next."""
    flat = table_of((10, 20.0, None), (50, 30.0, None), (60, 10.0, None)).append_column(
        "step_type", pa.array(["llm_call"] * 3)
    )
    expected = [(row + 1, *pair) for row, *pair in times(flat)]
    around = table_of((0, 100.0, None), (10, 20.0, 0), (50, 30.0, 0), (60, 10.0, 0))
    around = around.append_column("step_type", pa.array(["agent", "llm_call", "llm_call", "llm_call"]))
    assert times(around) == [(0, 30.0, 0.0), *expected]  # 10 ms before the first and 20 ms after the last are its own
    tight = table_of((10, 70.0, None), (10, 70.0, 0), (10, 20.0, 1), (50, 30.0, 1), (60, 10.0, 1))
    tight = tight.append_column("step_type", pa.array(["session", "agent", "llm_call", "llm_call", "llm_call"]))
    assert times(tight) == [(0, 0.0, 0.0), (1, 0.0, 0.0), *((row + 1, *pair) for row, *pair in expected)]
    hollow = table_of((0, 100.0, None), (10, 20.0, 0)).append_column("step_type", pa.array(["session", "agent"]))
    assert times(hollow) == [(0, 80.0, 0.0), (1, 20.0, 0.0)]  # an agent of which no part is known is a step


def test_a_deep_and_a_long_trace() -> None:
    deep = table_of(*((i, 4001.0 - 2 * i, i - 1 if i else None) for i in range(2000)))
    assert {busy for _, busy, _ in times(deep)} == {2.0, 3.0}
    wide = table_of((0, 5000.0, None), *((i, 1.0, 0) for i in range(5000)))
    assert times(wide)[:2] == [(0, 0.0, 0.0), (1, 1.0, 0.0)]
    table = pa.concat_tables([deep, table_of(*((i, 1.0, None) for i in range(3)), trace="u")])
    found = Sequences.of(table, ["trace_id"])
    sums = np.bincount(found.trace, found.busy_ms + found.waiting_ms)
    assert sorted(sums.tolist()) == [3.0, 4001.0]
    assert all(a <= b for a, b in itertools.pairwise(found.trace.tolist()))
