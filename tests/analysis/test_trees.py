"""Steps that are parts of others: the tree, and sums in which each cent counts once, on every kind of frame."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporttools import ExportBundleStore, SnapshotTable, TraceStepSnapshot
from exporttools.analysis import (
    cost_by,
    cost_over_time,
    percentiles,
    reconcile_costs,
    reprice,
    repricing_verdict,
    step_tree,
    top_runs,
)
from exporttools.analysis.columns import Kind
from exporttools.analysis.step_times import critical_ms
from exporttools.analysis.trees import read_own_amounts, with_own_amounts
from exporttools.errors import ColumnNotFound, ConfigError
from exporttools.records.step_trees import build_tree
from tests.analysis.steps import NOON, every_kind, frame, local_kinds, step
from tests.frames import FrameKind, assert_same, rows
from tests.nested import flat, wrapped

# Dask and Spark deprecate things of their own and of each other's.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def nested(*steps: dict[str, Any], parents: list[int | None]) -> pa.Table:
    return frame(*steps).append_column("parent_step_index", pa.array(parents, pa.int64()))


def at(ms: float) -> dt.datetime:
    return NOON + dt.timedelta(milliseconds=ms)


ROLLED_UP = nested(
    step(0, step_type="agent", tokens=900, cost_cents=1.5, timestamp=at(0), duration_ms=1000.0),
    step(1, tokens=600, cost_cents=1.0, timestamp=at(0), duration_ms=400.0),
    step(2, tokens=300, cost_cents=0.5, timestamp=at(300), duration_ms=400.0, status="ERROR"),
    parents=[None, 0, 0],
)


@every_kind
def test_cost_by_counts_each_cent_once_and_says_what_it_left_out(kind: FrameKind) -> None:
    found = rows(cost_by(kind.make(ROLLED_UP), "step_type")).to_pylist()
    assert [(row["step_type"], row["cost_cents"], row["tokens"], row["duration_ms"]) for row in found] == [
        ("llm_call", 1.5, 900, 800.0),
        ("agent", 0.0, 0, 300.0),
    ]
    assert [(row["failed"], row["roll_ups"], row["ambiguous"]) for row in found] == [(1, 0, 0), (0, 1, 0)]


@every_kind
def test_the_naive_sum_is_there_when_asked_for(kind: FrameKind) -> None:
    found = rows(cost_by(kind.make(ROLLED_UP), roll_ups="count"))
    assert found.select(["cost_cents", "tokens", "duration_ms"]).to_pylist() == [
        {"cost_cents": 3.0, "tokens": 1800, "duration_ms": 1800.0}
    ]
    assert not {"roll_ups", "ambiguous"} & set(found.column_names)


def test_what_roll_ups_may_be() -> None:
    for call in (lambda f: cost_by(f, roll_ups="both"), lambda f: top_runs(f, roll_ups="both")):  # type: ignore[call-overload]
        with pytest.raises(ConfigError, match="^roll_ups is 'both'; expected 'skip' or 'count'$"):
            call(ROLLED_UP)


@every_kind
def test_ambiguous_steps_count_whole_and_are_counted(kind: FrameKind) -> None:
    table = nested(step(0, tokens=1700, cost_cents=2.0), step(1, tokens=1000, cost_cents=3.0), parents=[None, 0])
    (found,) = rows(cost_by(kind.make(table))).to_pylist()
    assert (found["cost_cents"], found["tokens"], found["roll_ups"], found["ambiguous"]) == (5.0, 2700, 0, 1)


@every_kind
def test_tokens_may_be_fractions(kind: FrameKind) -> None:
    """As in a frame that somebody has averaged or scaled."""
    place = ROLLED_UP.column_names.index("tokens")
    steps = ROLLED_UP.set_column(place, "tokens", pa.array([900.0, 600.5, 299.5]))
    (found,) = rows(cost_by(kind.make(steps))).to_pylist()
    assert (found["cost_cents"], found["tokens"], found["roll_ups"]) == (1.5, 900, 1)


@every_kind
@pytest.mark.parametrize(
    "steps", [ROLLED_UP, flat(ROLLED_UP.drop(["parent_step_index"])), ROLLED_UP.drop(["parent_step_index"])]
)
def test_a_column_of_ones_own_may_be_called_roll_up(kind: FrameKind, steps: pa.Table) -> None:
    words = kind.make(steps.append_column("roll_up", pa.array([7, 8, 8])))
    found = {row["roll_up"]: row["steps"] for row in rows(cost_by(words, "roll_up")).to_pylist()}
    assert found == {7: 1, 8: 2}
    (found,) = rows(cost_by(words)).to_pylist()
    assert found["steps"] == 3


@every_kind
def test_a_tree_is_summed_by_what_it_says_of_roll_ups(kind: FrameKind) -> None:
    found = {row["roll_up"]: row for row in rows(cost_by(step_tree(kind.make(ROLLED_UP)), "roll_up")).to_pylist()}
    assert {word: (row["cost_cents"], row["roll_ups"]) for word, row in found.items()} == {
        None: (1.5, 0),
        "whole": (0.0, 1),
    }


@every_kind
def test_kinds_of_tokens_are_summed_apart_and_once(kind: FrameKind) -> None:
    table = ROLLED_UP.append_column("input_tokens", pa.array([800, 550, 250], pa.int64()))
    table = table.append_column("cache_read_tokens", pa.array([None, 50, None], pa.int64()))
    (found,) = rows(cost_by(kind.make(table))).to_pylist()
    assert (found["tokens"], found["input_tokens"], found["cache_read_tokens"]) == (900, 800, 50)


@local_kinds
def test_parents_that_are_all_null_change_nothing_but_the_counts(kind: FrameKind) -> None:
    table = frame(step(0), step(1, step_type="tool_call"))
    expected = rows(cost_by(kind.make(table), "step_type"))
    found = rows(cost_by(kind.make(flat(table)), "step_type"))
    assert_same(found.select(expected.column_names), expected)


@every_kind
def test_traces_are_told_apart(kind: FrameKind) -> None:
    """Two traces of a run, two runs, two tenants with the same ids: the same indices in each."""
    parts = [
        wrapped(frame(*(step(i, tenant_id=tenant, run_id=run, trace_id=trace) for i in range(3))))
        for tenant, run, trace in (("a", "r1", "t1"), ("a", "r1", "t2"), ("a", "r2", "t3"), ("b", "r1", "t1"))
    ]
    found = rows(top_runs(kind.make(pa.concat_tables(parts)))).to_pylist()
    assert {(row["tenant_id"], row["run_id"]): (row["cost_cents"], row["tokens"], row["roll_ups"]) for row in found} == {
        ("a", "r1"): (3.0, 60, 2), ("a", "r2"): (1.5, 30, 1), ("b", "r1"): (1.5, 30, 1),
    }  # fmt: skip


@local_kinds
def test_a_frame_that_cannot_tell_traces_apart_is_refused(kind: FrameKind) -> None:
    two = pa.concat_tables([ROLLED_UP, ROLLED_UP])
    with pytest.raises(
        ConfigError, match=r"^steps: two steps of a trace have step_index = 0.*Drop steps that are there twice"
    ):
        rows(cost_by(kind.make(two)))
    with pytest.raises(ConfigError, match=r"Keep the columns run_id, trace_id, which tell traces apart"):
        rows(cost_by(kind.make(two.drop_columns(["run_id", "trace_id"]))))
    with pytest.raises(
        ConfigError, match=r"^steps: without the column 'step_index' it is not clear which steps 'parent_step_index'"
    ):
        rows(cost_by(kind.make(ROLLED_UP.drop_columns(["step_index"]))))
    assert rows(cost_by(kind.make(two), roll_ups="count"))["tokens"].to_pylist() == [3600]


@every_kind
def test_sums_over_time_and_by_run_count_each_cent_once(kind: FrameKind) -> None:
    table = kind.make(ROLLED_UP)
    assert rows(cost_over_time(table, "1d"))["cost_cents"].to_pylist() == [1.5]
    assert rows(cost_over_time(table, "1d", roll_ups="count"))["cost_cents"].to_pylist() == [3.0]
    assert rows(top_runs(table))["tokens"].to_pylist() == [900]
    runs = pa.table({"tenant_id": ["acme"], "run_id": ["r1"], "total_cost_cents": pa.array([2], pa.int64())})
    found = rows(reconcile_costs(kind.make(runs), table)).to_pylist()[0]
    assert (found["step_cost_cents"], found["finding"]) == (1.5, "agrees")
    found = rows(reconcile_costs(kind.make(runs), table, roll_ups="count")).to_pylist()[0]
    assert (found["step_cost_cents"], found["finding"]) == (3.0, "differs")


def test_a_ledger_has_been_counted_already() -> None:
    """Frames from a dataset's ledger have each step's own amounts, and say what was left out."""
    own = pa.table(
        {
            **{name: ROLLED_UP[name] for name in ROLLED_UP.column_names},
            "cost_cents": [0.0, 1.0, 0.5], "tokens": [0, 600, 300], "duration_ms": [300.0, 400.0, 400.0],
            "roll_up": ["whole", None, None], "rolled_up_cost_cents": [1.5, 0.0, 0.0],
            "rolled_up_tokens": pa.array([900, 0, 0]), "rolled_up_duration_ms": [700.0, 0.0, 0.0],
        }
    )  # fmt: skip
    for roll_ups in ("skip", "count"):
        names = ["cost_cents", "tokens", "duration_ms", *(["roll_ups", "ambiguous"] if roll_ups == "skip" else [])]
        found, expected = (rows(cost_by(table, roll_ups=roll_ups)) for table in (own, ROLLED_UP))  # type: ignore[call-overload]
        assert_same(found.select(names), expected.select(names))
    assert_same(step_tree(own), rows(step_tree(ROLLED_UP)))


def test_a_ledger_has_what_it_leaves_out_of_the_kinds_of_tokens() -> None:
    kinds = ROLLED_UP.append_column("input_tokens", pa.array([700, 500, 200]))
    ledger = with_own_amounts(kinds)
    assert ledger["rolled_up_input_tokens"].to_pylist() == [700, 0, 0]
    for roll_ups in ("skip", "count"):
        assert_same(
            *(cost_by(steps, roll_ups=roll_ups).select(["tokens", "input_tokens"]) for steps in (ledger, kinds))
        )


@every_kind
def test_rows_may_be_cut_from_own_amounts(kind: FrameKind) -> None:
    ledger = rows(with_own_amounts(kind.make(ROLLED_UP)))
    root = kind.make(ledger.filter(pc.equal(ledger["step_index"], 0)))
    (found,) = rows(cost_by(root)).to_pylist()
    assert (found["cost_cents"], found["tokens"], found["duration_ms"], found["roll_ups"]) == (0, 0, 300, 1)
    flat_steps = ROLLED_UP.drop(["parent_step_index"])
    assert with_own_amounts(flat_steps) is flat_steps


@every_kind
def test_percentiles_are_of_own_costs_and_of_whole_durations(kind: FrameKind) -> None:
    found = percentiles(kind.make(ROLLED_UP), "step_type", percents=[50])
    assert rows(found).to_pylist() == [
        {"step_type": "agent", "count": 1, "cost_cents_p50": 0.0, "duration_ms_p50": 1000.0},
        {"step_type": "llm_call", "count": 2, "cost_cents_p50": 0.75, "duration_ms_p50": 400.0},
    ]
    found = percentiles(kind.make(ROLLED_UP), "step_type", percents=[50], roll_ups="count")
    assert rows(found)["cost_cents_p50"].to_pylist() == [1.5, 0.75]


@every_kind
def test_the_tree(kind: FrameKind) -> None:
    found = rows(step_tree(kind.make(ROLLED_UP))).sort_by("step_index").to_pylist()
    assert [
        {name: row[name] for name in ("parent_step_index", "depth", "descendants", "roll_up")} for row in found
    ] == [
        {"parent_step_index": None, "depth": 0, "descendants": 2, "roll_up": "whole"},
        {"parent_step_index": 0, "depth": 1, "descendants": 0, "roll_up": None},
        {"parent_step_index": 0, "depth": 1, "descendants": 0, "roll_up": None},
    ]
    assert [(row["cost_cents"], row["own_cost_cents"], row["own_tokens"], row["own_duration_ms"]) for row in found] == [
        (1.5, 0.0, 0, 300.0), (1.0, 1.0, 600, 400.0), (0.5, 0.5, 300, 400.0),
    ]  # fmt: skip
    # The call that ended last, at 700 ms, and then the agent alone. The first call had not ended when the second began.
    assert [row["critical_ms"] for row in found] == [600.0, 0.0, 400.0]


@every_kind
def test_cycles_and_orphans_have_a_defined_place(kind: FrameKind) -> None:
    table = nested(*(step(i) for i in range(4)), parents=[2, 9, 0, 3])
    found = rows(step_tree(kind.make(table))).sort_by("step_index").to_pylist()
    assert [(row["parent_step_index"], row["depth"], row["descendants"]) for row in found] == [
        (None, 0, 1), (None, 0, 0), (0, 1, 0), (None, 0, 0),
    ]  # fmt: skip


@every_kind
def test_parents_by_time_only_if_asked_for(kind: FrameKind) -> None:
    times = [(0, 1000), (0, 1000), (100, 500), (100, 200), (550, 100), (1000, 0), (2000, 10)]
    table = frame(*(step(i, timestamp=at(start), duration_ms=float(ms)) for i, (start, ms) in enumerate(times)))
    with pytest.raises(ColumnNotFound, match="parent_step_index"):
        step_tree(kind.make(table))
    found = rows(step_tree(kind.make(table), parents="time")).sort_by("step_index")
    # 0 and 1 run side by side; what lies in both belongs to the one that began last or, as here, to the later index.
    assert found["parent_step_index"].to_pylist() == [None, None, 1, 2, 1, 1, None]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=9))
def test_a_parent_by_time_is_the_last_that_contains_the_step(intervals: list[tuple[int, int]]) -> None:
    steps = frame(*(step(i, timestamp=at(begin), duration_ms=float(ms)) for i, (begin, ms) in enumerate(intervals)))
    ends = [(begin, begin + ms) for begin, ms in intervals]
    found = step_tree(steps, parents="time")["parent_step_index"].to_pylist()
    for (begin, end), parent in zip(ends, found, strict=True):
        containing = [(b, -e) for b, e in ends if b <= begin and e >= end and (b, e) != (begin, end)]
        assert (None if parent is None else (ends[parent][0], -ends[parent][1])) == max(containing, default=None)


def test_many_steps_of_one_moment_are_placed_at_once() -> None:
    """Platforms that keep whole seconds, and no durations: a step was compared with each before it."""
    steps = frame(*(step(i, timestamp=at(0), duration_ms=0.0) for i in range(30_000)))
    began = time.perf_counter()
    tree = step_tree(steps, parents="time")
    assert tree["parent_step_index"].null_count == len(tree)
    assert time.perf_counter() - began < 5  # 20 s where each was


@every_kind
def test_named_parents_are_believed_and_times_asked_only_where_none_is_named(kind: FrameKind) -> None:
    one = nested(*(step(i, timestamp=at(i), duration_ms=100.0 - 2 * i) for i in range(3)), parents=[None, 0, 0])
    two = nested(
        *(step(i, trace_id="t2", timestamp=at(i), duration_ms=100.0 - 2 * i) for i in range(3)), parents=[None] * 3
    )
    found = rows(step_tree(kind.make(pa.concat_tables([one, two])), parents="time"))
    found = found.sort_by([("trace_id", "ascending"), ("step_index", "ascending")])
    assert found["parent_step_index"].to_pylist() == [None, 0, 0, None, 0, 1]


def test_what_parents_may_be() -> None:
    with pytest.raises(ConfigError, match="^parents is 'guess'; expected 'recorded' or 'time'$"):
        step_tree(ROLLED_UP, parents="guess")  # type: ignore[call-overload]


def test_steps_without_a_place_are_refused() -> None:
    table = ROLLED_UP.set_column(
        ROLLED_UP.column_names.index("timestamp"), "timestamp", pa.nulls(3, pa.timestamp("us", "UTC"))
    )
    with pytest.raises(ConfigError, match="^steps: column 'timestamp' is NULL in 3 of 3 rows"):
        step_tree(table)


def test_no_steps() -> None:
    assert len(step_tree(ROLLED_UP.slice(0, 0))) == 0
    assert rows(cost_by(ROLLED_UP.slice(0, 0)))["cost_cents"].to_pylist() == [0.0]


def critical_by_hand(intervals: list[tuple[int | None, float, float]]) -> list[float]:
    """The critical time of each step, by walking back from the end; recursive."""
    own = [0.0] * len(intervals)

    def walk(children: list[tuple[int, float, float]]) -> float:
        """Choose among siblings, and return how much of their time was waited for."""
        reached, total = float("inf"), 0.0
        for row, begin, end in sorted(children, key=lambda each: (each[2], -each[1], -each[0]), reverse=True):
            if end <= reached:
                reached, total = begin, total + end - begin
                own[row] = end - begin - walk(cut(row, begin, end))
        return total

    def cut(parent: int | None, low: float, high: float) -> list[tuple[int, float, float]]:
        found = [(row, max(b, low), min(b + n, high)) for row, (p, b, n) in enumerate(intervals) if p == parent]
        return [each for each in found if each[2] > each[1]]

    walk(cut(None, float("-inf"), float("inf")))
    return own


@st.composite
def intervals(draw: st.DrawFn) -> list[tuple[int | None, float, float]]:
    count = draw(st.integers(1, 10))
    return [
        (draw(st.sampled_from([None, *range(i)])), float(draw(st.integers(0, 30))), float(draw(st.integers(0, 20))))
        for i in range(count)
    ]


@given(intervals())
def test_the_critical_path_walked_by_hand_is_the_same(given_: list[tuple[int | None, float, float]]) -> None:
    table = nested(
        *(step(i, timestamp=at(begin), duration_ms=length) for i, (_, begin, length) in enumerate(given_)),
        parents=[parent for parent, *_ in given_],
    )
    count = len(given_)
    tree = build_tree(
        np.zeros(count, np.int64), np.arange(count), np.array([p or 0 for p, *_ in given_]),
        np.array([p is not None for p, *_ in given_]),
    )  # fmt: skip
    found = critical_ms(table, np.zeros(count, np.intp), tree)
    assert found.tolist() == pytest.approx(critical_by_hand(given_))


def test_a_bundle_that_is_wrapped_in_a_root_span_has_the_same_totals(sample_urls: dict[str, str]) -> None:
    bundle = ExportBundleStore(sample_urls["sqlite"]).get_export_bundle("inc-0000-1")
    assert bundle is not None
    table = bundle.steps.to_arrow()
    steps = SnapshotTable(
        TraceStepSnapshot, wrapped(table.drop_columns([n for n in table.column_names if n == "parent_step_index"]))
    )
    assert steps.sums["tokens"] == bundle.totals["tokens"]
    assert steps.sums["cost_cents"] == pytest.approx(bundle.totals["cost_cents"])
    assert "1 roll-up left out" in steps.describe()
    assert pc.sum(steps.to_arrow()["tokens"]).as_py() == 2 * bundle.totals["tokens"]


@every_kind
def test_repriced_steps_are_counted_once(kind: FrameKind) -> None:
    pytest.importorskip("genai_prices", reason="the extra `prices` is not installed")
    calls = [
        step(i, tokens=1_100_000, cost_cents=750.0, status="ok") | {"agent_id": "a", "run_id": "r1"} for i in range(2)
    ]
    table = frame(*calls)
    for name, value in (("input_tokens", 1_000_000), ("output_tokens", 100_000)):
        table = table.append_column(name, pa.array([value] * 2, pa.int64()))
    nested_ = wrapped(table)
    for name in ("input_tokens", "output_tokens"):
        sums = pa.array([pc.sum(table[name]).as_py(), *table[name].to_pylist()], pa.int64())
        nested_ = nested_.set_column(nested_.column_names.index(name), name, sums)
    found = []
    for each in (table, nested_):
        repriced = reprice(kind.make(each), "claude-haiku-4-5", at=dt.datetime(2026, 6, 1, tzinfo=dt.UTC))
        assert repricing_verdict(repriced).startswith(
            "2 of 2 model calls would have cost 300.00 US cents instead of 1,500.00 US cents"
        )
        (row,) = rows(cost_by(repriced)).to_pylist()
        found.append((row["cost_cents"], row["tokens"]))
    assert found[0] == found[1] == (300.0, 2_200_000)


@local_kinds
def test_own_amounts_beside_every_column_are_not_counted_again(kind: FrameKind) -> None:
    """A container that has more than its parts keeps the rest, however often it is counted."""
    table = nested(
        step(0, step_type="agent", tokens=2500, cost_cents=4.0), step(1, tokens=1000, cost_cents=3.0), parents=[None, 0]
    )
    once = read_own_amounts(kind.make(table), {"tokens": Kind.NUMBER}, every_column=True).data.to_native()
    (row,) = rows(cost_by(once)).to_pylist()
    assert (row["tokens"], row["cost_cents"], row["roll_ups"]) == (2500, 4.0, 1)
    (row,) = rows(cost_by(once, roll_ups="count")).to_pylist()
    assert (row["tokens"], row["cost_cents"]) == (3500, 7.0)
