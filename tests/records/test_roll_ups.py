"""Each cent once: which steps repeat the usage of their parts, and how much of each step's time is its own."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporttools.errors import InconsistentData
from exporttools.records.intervals import running_max, union_lengths
from exporttools.records.roll_ups import AMOUNTS, CONTAINER_TYPES, count_once, find_roll_ups
from exporttools.records.schema import TOKEN_KINDS
from exporttools.records.step_trees import build_tree
from tests.nested import own_usage

NOON = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)


def steps(*rows: tuple[int | None, str, int, float], **columns: list[Any]) -> pa.Table:
    """Steps as parent, type, tokens and US cents; each a second long, one after another, unless `columns` say otherwise."""
    count = len(rows)
    given = {
        "step_index": list(range(count)), "timestamp": [NOON + dt.timedelta(seconds=i) for i in range(count)],
        "duration_ms": [1000.0] * count,
    } | columns  # fmt: skip
    return pa.table(
        {
            "parent_step_index": pa.array([row[0] for row in rows], pa.int64()),
            "step_type": [row[1] for row in rows],
            "tokens": pa.array([row[2] for row in rows], pa.int64()),
            "cost_cents": pa.array([row[3] for row in rows], pa.float64()),
            **{
                name: pa.array(values, pa.timestamp("us", "UTC") if name == "timestamp" else None)
                for name, values in given.items()
            },
        }
    )


def judged(table: pa.Table) -> list[tuple[str | None, int, float]]:
    """The word, own tokens and own cost of each step."""
    found = find_roll_ups(table)
    assert found is not None
    own = count_once(table, found)
    return list(zip(found.words.to_pylist(), own["tokens"].to_pylist(), own["cost_cents"].to_pylist(), strict=True))


def test_steps_without_parents_are_left_alone() -> None:
    table = steps((None, "agent", 9, 1.0), (None, "llm_call", 9, 1.0))
    assert find_roll_ups(table) is None
    assert find_roll_ups(table.drop_columns(["parent_step_index"])) is None
    assert find_roll_ups(steps((7, "agent", 9, 1.0), (None, "llm_call", 9, 1.0))) is None  # its parent is not here
    assert find_roll_ups(table.slice(0, 0)) is None


def test_a_span_that_repeats_its_parts_counts_nothing() -> None:
    table = steps(
        (None, "agent", 900, 1.5), (0, "llm_call", 600, 1.0), (0, "llm_call", 300, 0.5), (0, "tool_call", 0, 0.0)
    )
    assert judged(table) == [("whole", 0, 0.0), (None, 600, 1.0), (None, 300, 0.5), (None, 0, 0.0)]


def test_every_level_may_repeat_the_one_below() -> None:
    table = steps(
        (None, "session", 900, 1.5), (0, "Agent ", 900, 1.5), (1, "chain", 900, 1.5), (2, "llm_call", 900, 1.5)
    )
    assert [word for word, *_ in judged(table)] == ["whole", "whole", "whole", None]
    assert sum(tokens for _, tokens, _ in judged(table)) == 900


def test_any_step_that_repeats_exactly_counts_nothing_whatever_its_type() -> None:
    assert judged(steps((None, "llm_call", 900, 1.5), (0, "llm_call", 900, 1.5)))[0] == ("whole", 0, 0.0)


@pytest.mark.parametrize(
    ("tokens", "word", "own"), [(980, "whole", 0), (1020, "whole", 0), (1021, "part", 21), (979, "ambiguous", 979)]
)
def test_a_container_may_be_two_percent_away(tokens: int, word: str, own: int) -> None:
    assert judged(steps((None, "workflow", tokens, 0.0), (0, "llm_call", 1000, 0.0)))[0][:2] == (word, own)


def test_a_container_that_has_more_than_its_parts_counts_the_rest_of_each_amount() -> None:
    table = steps((None, "agent", 1500, 4.0), (0, "llm_call", 1000, 3.0))
    assert judged(table)[0] == ("part", 500, 1.0)
    assert judged(steps((None, "agent", 1500, 2.0), (0, "llm_call", 1000, 3.0)))[0] == ("part", 500, 0.0)


@pytest.mark.parametrize(
    ("tokens", "word"), [(700, None), (979, None), (980, "ambiguous"), (1001, "ambiguous"), (5000, "ambiguous")]
)
def test_a_call_that_has_less_than_its_parts_has_usage_of_its_own(tokens: int, word: str | None) -> None:
    """A model's call that started a subagent; but what has as much as its parts, or more, may include theirs."""
    table = steps((None, "llm_call", tokens, 2.0), (0, "llm_call", 1000, 3.0))
    assert judged(table)[0] == (word, tokens, 2.0)
    found = find_roll_ups(table)
    assert found is not None
    assert (found.steps, found.ambiguous) == (0, word is not None)


def test_a_cost_that_only_the_container_has_is_not_lost() -> None:
    """Tokens on the calls and on the agent, the cost on the agent alone."""
    assert judged(steps((None, "agent", 900, 1.5), (0, "llm_call", 900, 0.0))) == [("whole", 0, 1.5), (None, 900, 0.0)]
    # And the other way round: tokens on the agent alone, costs on both.
    assert judged(steps((None, "agent", 900, 1.5), (0, "llm_call", 0, 1.5))) == [("whole", 900, 0.0), (None, 0, 1.5)]


def test_costs_decide_where_there_are_no_tokens() -> None:
    assert judged(steps((None, "agent", 0, 1.5), (0, "llm_call", 0, 1.5)))[0] == ("whole", 0, 0.0)
    assert judged(steps((None, "agent", 0, 1.5), (0, "llm_call", 900, 0.7)))[0] == ("part", 0, 0.8)


def test_a_container_that_has_the_cost_of_its_parts_but_other_tokens_repeats_them() -> None:
    """Such as an agent's span with the tokens of its last call."""
    calls = [(0, "llm_call", 600, 1.0), (0, "llm_call", 300, 0.5)]
    assert judged(steps((None, "agent", 300, 1.5), *calls))[0] == ("whole", 0, 0.0)
    assert judged(steps((None, "agent", 1200, 1.5), *calls))[0] == (
        "whole",
        300,
        0.0,
    )  # the rest of the tokens is its own
    assert judged(steps((None, "llm_call", 1200, 1.5), *calls))[0] == ("ambiguous", 1200, 1.5)


def test_kinds_of_tokens_follow_their_step() -> None:
    table = steps((None, "agent", 900, 1.5), (0, "llm_call", 900, 1.5))
    for name in TOKEN_KINDS:
        table = table.append_column(name, pa.array([800, 750], pa.int64()))
    found = find_roll_ups(table)
    assert found is not None
    assert {name: found.left_out[name].tolist() for name in TOKEN_KINDS} == {key: [750, 0] for key in TOKEN_KINDS}
    assert set(AMOUNTS) == {"tokens", "cost_cents", "duration_ms", *TOKEN_KINDS}


def test_a_step_without_amounts_or_a_type_is_no_reason_to_fail() -> None:
    table = steps((None, "agent", 900, 1.5), (0, "llm_call", 900, 1.5))
    nulls = table.set_column(table.column_names.index("tokens"), "tokens", pa.nulls(2, pa.int64()))
    assert judged(nulls)[0] == ("whole", None, 0.0)  # by its cost; NULL stays NULL
    assert find_roll_ups(table.select(["step_index", "parent_step_index", "tokens"])).left_out["tokens"].tolist() == [
        900,
        0,
    ]  # type: ignore[union-attr]


def test_amounts_beyond_every_sum_do_no_harm() -> None:
    rows = [(None, "agent", 2**62, 1e308)] + [(0, "llm_call", 2**62, 1e308)] * 3
    table = steps(*rows)
    own = judged(table)
    assert all(tokens >= 0 and cost >= 0 for _, tokens, cost in own)


# Time.


def own_ms(table: pa.Table) -> list[float]:
    found = find_roll_ups(table)
    assert found is not None
    own: list[float] = count_once(table, found)["duration_ms"].to_pylist()
    return own


def timed(*rows: tuple[int | None, float, float]) -> pa.Table:
    """Steps as parent, start and duration in ms."""
    return steps(
        *((parent, "agent", 0, 0.0) for parent, *_ in rows),
        timestamp=[NOON + dt.timedelta(milliseconds=start) for _, start, _ in rows],
        duration_ms=[duration for *_, duration in rows],
    )


def test_a_steps_own_time_is_what_no_child_covers() -> None:
    assert own_ms(timed((None, 0, 1000), (0, 100, 200), (0, 500, 300))) == [500, 200, 300]


def test_children_side_by_side_cover_a_parent_once() -> None:
    assert own_ms(timed((None, 0, 1000), (0, 100, 400), (0, 200, 400), (0, 250, 50))) == [500, 400, 400, 50]


def test_a_child_covers_no_time_outside_its_parent() -> None:
    assert own_ms(timed((None, 0, 1000), (0, 900, 5000), (0, -500, 600), (0, 4000, 10))) == [800, 5000, 600, 10]


def test_grandchildren_cover_their_parent_alone() -> None:
    assert own_ms(timed((None, 0, 1000), (0, 0, 1000), (1, 0, 900))) == [0, 100, 900]


def test_a_trace_of_dates_far_apart_loses_no_millisecond() -> None:
    assert own_ms(timed((None, -6e13, 6.1e13), (0, 0, 0.25)))[1] == 0.25
    assert own_ms(timed((None, 0, 1000.5), (0, 0, 0.25)))[0] == 1000.25


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(0, 50)), max_size=30))
def test_the_length_of_a_union(intervals: list[tuple[int, int, int]]) -> None:
    intervals.sort(key=lambda each: each[0])
    of, begin, length = (np.array([each[k] for each in intervals], np.int64) for k in range(3))
    first, lengths = union_lengths(of, begin.astype(float), (begin + length).astype(float))
    groups = of[first]
    covered = {
        group: len({at for g, b, n in intervals if g == group for at in range(b, b + n)}) for group in set(of.tolist())
    }
    assert dict(zip(groups.tolist(), lengths.tolist(), strict=True)) == covered


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), max_size=30).map(sorted))
def test_the_greatest_so_far(rows: list[tuple[int, int]]) -> None:
    rows.sort(key=lambda row: row[0])
    found = running_max(np.array([g for g, _ in rows]), np.array([float(v) for _, v in rows]))
    assert found.tolist() == [max(v for g, v in rows[: i + 1] if g == rows[i][0]) for i in range(len(rows))]


# The tree.


def parents_of(parents: list[int | None], indices: list[int] | None = None, traces: list[int] | None = None) -> Any:
    count = len(parents)
    return build_tree(
        np.array(traces or [0] * count),
        np.array(indices or range(count)),
        np.array([-1 if parent is None else parent for parent in parents]),
        np.array([parent is not None for parent in parents]),
    )


def test_rows_in_any_order_and_several_traces() -> None:
    tree = parents_of([2, None, None, 5, 2], indices=[7, 5, 2, 2, 5], traces=[0, 0, 0, 1, 1])
    assert tree.parent.tolist() == [2, -1, -1, 4, 3][:3] + tree.parent.tolist()[3:]
    # In trace 1, steps 2 and 5 are parts of each other: the one with the smaller index is the root.
    assert tree.parent.tolist() == [2, -1, -1, -1, 3]
    assert (tree.depth.tolist(), tree.broken, tree.orphans) == ([1, 0, 0, 0, 1], 1, 0)
    assert tree.descendants.tolist() == [0, 0, 1, 1, 0]


def test_a_parent_that_is_not_there_makes_a_root() -> None:
    tree = parents_of([9, 0])
    assert (tree.parent.tolist(), tree.orphans) == ([-1, 0], 1)


def test_a_step_that_is_part_of_itself_is_a_root() -> None:
    tree = parents_of([0, 0])
    assert (tree.parent.tolist(), tree.broken) == ([-1, 0], 1)


def test_what_hangs_on_a_cycle_stays_on_it() -> None:
    tree = parents_of([1, 2, 3, 1, 3])  # 1, 2, 3 in a circle; 0 hangs on 1, 4 on 3
    assert (tree.parent.tolist(), tree.broken) == ([1, -1, 3, 1, 3], 1)
    assert tree.depth.tolist() == [1, 0, 2, 1, 2]


def test_two_steps_of_one_index_are_refused_where_parents_are_named() -> None:
    with pytest.raises(InconsistentData, match="^two steps of a trace have step_index = 3, so that it is not clear"):
        parents_of([None, 3, 3], indices=[1, 3, 3])


def test_indices_of_any_size() -> None:
    big = 2**62
    assert parents_of([None, big, big + 1], indices=[big, big + 1, 5]).parent.tolist() == [-1, 0, 1]


def test_a_chain_of_ten_thousand_steps() -> None:
    tree = parents_of([None, *range(9_999)])
    assert tree.depth.tolist() == list(range(10_000))
    assert tree.descendants.tolist() == list(range(9_999, -1, -1))


@st.composite
def traces_of_steps(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A tree in any order, with usage that often repeats."""
    count = draw(st.integers(1, 12))
    types = st.sampled_from(["agent", "llm_call", "chain", "tool_call"])
    rows = [
        {
            "step_index": i, "parent_step_index": draw(st.sampled_from([None, 99, *range(i)])), "step_type": draw(types),
            "tokens": draw(st.sampled_from([0, 0, 100, 200, 203])), "cost_cents": draw(st.sampled_from([0.0, 0.5, 1.0])),
        }
        for i in range(count)
    ]  # fmt: skip
    for row in reversed(rows):  # some repeat what is below them
        if draw(st.booleans()):
            children = [other for other in rows if other["parent_step_index"] == row["step_index"]]
            row["tokens"], row["cost_cents"] = (
                sum(each[name] for each in children) for name in ("tokens", "cost_cents")
            )
    return draw(st.permutations(rows))


@given(traces_of_steps())
def test_the_rule_said_in_plain_python_says_the_same(rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(
        rows,
        schema=pa.schema(
            [
                ("step_index", pa.int64()), ("parent_step_index", pa.int64()), ("step_type", pa.string()),
                ("tokens", pa.int64()), ("cost_cents", pa.float64()),
            ]
        ),
    )  # fmt: skip
    expected = own_usage(rows)
    found = find_roll_ups(table)
    if found is None:
        assert all(word is None for word, *_ in expected.values())
        return
    own = count_once(table, found)
    for step, word, tokens, cost in zip(
        own["step_index"].to_pylist(), found.words.to_pylist(), own["tokens"].to_pylist(), own["cost_cents"].to_pylist(),
        strict=True,
    ):  # fmt: skip
        assert (word, tokens, pytest.approx(cost, abs=1e-9)) == expected[step], step


def test_container_types_are_spelled_as_they_are_compared() -> None:
    assert {name.strip().casefold() for name in CONTAINER_TYPES} == set(CONTAINER_TYPES)
    assert not pc.any(
        pc.is_in(
            pa.array(["llm_call", "tool_call", "llm", "generation", "tool", "retriever"]),
            pa.array(sorted(CONTAINER_TYPES)),
        )
    ).as_py()
