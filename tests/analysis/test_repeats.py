"""Loops and retry storms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from exporttools import read_traces
from exporttools.analysis import (
    compare_runs,
    repeated_calls,
)
from exporttools.errors import ConfigError
from tests.analysis.steps import NOON, every_kind, frame, step, with_column
from tests.frames import EAGER, FrameKind, rows

# Dask and Spark deprecate things of their own and of each other's.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_the_planted_loop_and_storms_are_named_and_nothing_else(ledger: pa.Table) -> None:
    found = repeated_calls(ledger).to_pylist()
    assert [(row["run_id"], row["kind"], row["step_type"], row["name"], row["times"], row["failed"]) for row in found] == [
        ("run-0000-040", "loop", "llm_call", None, 191, 0), ("run-0000-040", "loop", "tool_call", "fetch_page", 191, 0),
        ("run-0000-065", "retry storm", "tool_call", "post_ledger", 26, 26),
        ("run-0000-008", "retry storm", "llm_call", None, 7, 7),
    ]  # fmt: skip
    assert found[0]["wasted_cost_cents"] > 950
    assert found[2]["waiting_ms"] > 150_000
    assert found[2]["reason"] == "tool_call post_ledger 26 times, 26 failed, steps 13 to 38 in 167.2 s"


def test_what_repeats_waste() -> None:
    steps = frame(
        step(0, content_hash="x", status="error", cost_cents=1.0), step(1, content_hash="x", cost_cents=2.0),
        step(2, content_hash="x", cost_cents=4.0), step(3, content_hash="y"), step(4, content_hash="y"),
        *(step(5 + i, content_hash=None) for i in range(4)), *(step(i, content_hash="x", trace_id="t2") for i in range(2)),
    )  # fmt: skip
    (found,) = repeated_calls(steps).to_pylist()
    assert (found["kind"], found["times"], found["failed"], found["first_step_index"], found["last_step_index"]) == (
        "loop",
        3,
        1,
        0,
        2,
    )
    assert (found["cost_cents"], found["wasted_cost_cents"], found["wasted_duration_ms"]) == (7.0, 5.0, 200.0)
    assert (found["elapsed_ms"], found["waiting_ms"]) == (2100.0, 1800.0)
    twice = repeated_calls(steps, at_least=2).to_pylist()
    assert [(row["trace_id"], row["content_hash"], row["kind"]) for row in twice] == [
        ("t1", "x", "loop"), ("t1", "y", "loop"), ("t2", "x", "loop"),
    ]  # fmt: skip
    assert len(repeated_calls(steps.drop_columns(["trace_id", "run_id", "tenant_id"]))) == 1


def named(table: pa.Table, *names: str | None) -> pa.Table:
    return table.append_column("name", pa.array(names, pa.string()))


def acts(*said: str) -> pa.Table:
    """A trace from words: ``run!`` is a call of the tool run that failed, ``edit:1`` one of edit with content 1, ``llm`` a call of the model."""
    steps, names = [], []
    for i, word in enumerate(said):
        call, failed = word.removesuffix("!"), word.endswith("!")
        names.append(call.partition(":")[0])
        steps.append(
            step(
                i, step_type="llm_call" if names[-1] == "llm" else "tool_call", status="error" if failed else "ok",
                content_hash=None if call.endswith("?") else f"prompt {i}" if call == "llm" else call,
            )
        )  # fmt: skip
    return named(frame(*steps), *names)


def told(table: pa.Table, **options: Any) -> list[tuple[Any, ...]]:
    columns = ("kind", "name", "times", "failed", "first_step_index", "last_step_index", "wasted_cost_cents")
    return [tuple(row[name] for name in columns) for row in repeated_calls(table, **options).to_pylist()]


FIXING = (
    "llm",
    "run!",
    "llm",
    "edit:1",
    "llm",
    "run!",
    "edit:2",
    "run!",
    "llm",
    "edit:3",
    "run",
    "llm",
    "edit:4",
    "run",
)


@pytest.mark.parametrize(
    "said",
    [
        FIXING,
        ("run", "edit:1", "run", "edit:2", "run", "edit:3", "run"),  # the tests ran, whatever they said
        ("run", "edit?", "run", "edit?", "run", "edit?", "run"),  # what was edited is not known
        ("list", "read:1", "list", "read:2", "list", "read:3", "list"),
        ("edit:1!", "look", "edit:1!", "look:2", "edit:1"),
    ],
)
def test_a_call_made_again_after_something_new_is_no_waste(said: tuple[str, ...]) -> None:
    assert told(acts(*said)) == []


@pytest.mark.parametrize(
    ("said", "found"),
    [
        # Nothing but thinking in between.
        (("llm", "run", "llm", "run", "llm", "run"), [("loop", "run", 3, 0, 1, 5, 1.0)]),
        # Nothing but what failed.
        (("run", "edit:1!", "run", "edit:2!", "run"), [("loop", "run", 3, 0, 0, 4, 1.0)]),
        # Two calls in turn are one loop from the first on.
        (
            ("look", "wait", "look", "wait", "look", "wait"),
            [("loop", "look", 3, 0, 0, 4, 1.0), ("loop", "wait", 3, 0, 1, 5, 1.0)],
        ),
        # The same thing done anew is nothing new.
        (("edit:1", "run", "edit:1", "run", "run"), [("loop", "run", 3, 0, 1, 4, 1.0)]),
        # The call that worked in the end is the one that was needed.
        (("run!", "run!", "run!", "run"), [("retry storm", "run", 4, 3, 0, 3, 1.5)]),
        (("run!", "run!", "run"), [("retry storm", "run", 3, 2, 0, 2, 1.0)]),
        # A loop, progress, and another loop.
        (
            ("run", "run", "run", "edit:1", "run", "run", "run", "run"),
            [("loop", "run", 4, 0, 4, 7, 1.5), ("loop", "run", 3, 0, 0, 2, 1.0)],
        ),
        (("run", "run", "edit:1", "run", "run"), []),
    ],
)
def test_a_call_made_again_with_nothing_new_in_between_is(said: tuple[str, ...], found: list[Any]) -> None:
    assert told(acts(*said)) == found


@pytest.mark.parametrize(
    "step_type", ["llm_call", "LLM", "Chat Model", "GENERATION", "guardrail", "AGENT", "CHAIN", "plan"]
)
def test_what_thinks_judges_or_contains_is_nothing_new(step_type: str) -> None:
    types = ["TOOL", step_type, "TOOL", step_type, "TOOL"]
    steps = frame(*(step(i, step_type=of, content_hash="x" if of == "TOOL" else f"{i}") for i, of in enumerate(types)))
    assert [(row["kind"], row["times"]) for row in repeated_calls(steps).to_pylist()] == [("loop", 3)]
    acting = with_column(steps, "step_type", pa.array(["TOOL", "RETRIEVER", "TOOL", "RETRIEVER", "TOOL"]))
    assert repeated_calls(acting).to_pylist() == []


def test_retries_whose_content_changes_are_told() -> None:
    tries = [word for i in range(5) for word in ("llm", f"query:{i}!")]
    assert told(acts(*tries, "llm", "query:5", "llm", "query:6")) == [
        ("retries with changes", "query", 6, 5, 1, 11, 2.5)
    ]
    (found,) = repeated_calls(acts(*tries)).to_pylist()
    assert (found["content_hash"], found["times"], found["failed"]) == (None, 5, 5)
    assert (
        found["reason"] == "tool_call query 5 times with changes, 5 failed, steps 1 to 9 in 8.1 s, 2.50 US cents wasted"
    )
    assert told(acts(*tries), at_least=6) == []
    assert told(acts(*tries[:-1], "other:1", tries[-1])) == []  # something else in between
    assert told(acts(*tries[:-2], "llm", "query:9", *tries[-2:])) == []  # it worked in between
    assert told(acts(*tries).drop_columns(["name"])) == []  # not known whether it is the same call
    assert told(acts(*(f"query:{i}!" for i in range(5)))) != []  # a trace that does not say when the model was called


def test_calls_of_one_answer_are_no_retries() -> None:
    assert told(acts("llm", *(f"read:{i}!" for i in range(8)), "llm")) == []
    at_once = acts(*(f"read:{i}!" for i in range(8)))
    assert told(with_column(at_once, "timestamp", pa.array([NOON] * 8, pa.timestamp("us", "UTC")))) == []


def test_a_model_that_refuses_again_and_again_is_a_storm() -> None:
    calls = [step(i, status="rate_limited") for i in range(5)]
    assert told(named(frame(*calls, step(5)), *[None] * 6)) == [("retry storm", None, 6, 5, 0, 5, 2.5)]
    assert told(named(frame(*calls, step(5, step_type="tool_call"), step(6)), *[None] * 7)) == [
        ("retry storm", None, 5, 5, 0, 4, 2.5)
    ]


def test_no_call_is_told_twice() -> None:
    found = told(acts(*["query:1!"] * 4, *(f"query:{i}!" for i in range(2, 7))))
    assert found == [("retries with changes", "query", 5, 5, 4, 8, 2.5), ("retry storm", "query", 4, 4, 0, 3, 2.0)]


@every_kind
def test_loops_and_retries_on_every_kind_of_frame(kind: FrameKind) -> None:
    traces = [
        ("t1", FIXING), ("t2", ("llm", "run", "llm", "run", "llm", "run")), (None, ("run",) * 4), ("t4", ("run", "edit:1", "llm")),
        ("t3", [word for i in range(5) for word in ("llm", f"query:{i}!")]),
    ]  # fmt: skip
    table = pa.concat_tables(
        with_column(acts(*said), "trace_id", pa.array([name] * len(said), pa.string())) for name, said in traces
    )
    native = kind.make(table)
    found = repeated_calls(native)
    assert type(found) is type(native)
    assert [(row["trace_id"], row["kind"], row["times"]) for row in rows(found).to_pylist()] == [
        ("t3", "retries with changes", 5), (None, "loop", 4), ("t2", "loop", 3),
    ]  # fmt: skip


NO_PLACE = (
    "steps: column 'timestamp' is NULL in 1 of 4 rows, so that those steps have no place in their trace. "
    "Drop those rows, or fill in the values"
)
LOOPING = frame(*(step(i, content_hash="x") for i in range(4)))
UNPLACED = with_column(LOOPING, "timestamp", pa.array([NOON, None, NOON, NOON], pa.timestamp("us", "UTC")))


@pytest.mark.parametrize("kind", [*EAGER, "duckdb"], indirect=True)
@pytest.mark.parametrize("call", [repeated_calls, lambda f: compare_runs(f, f)], ids=["repeated_calls", "compare_runs"])
def test_steps_without_a_place_are_refused(kind: FrameKind, call: Callable[[Any], Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        call(kind.make(UNPLACED))
    assert str(caught.value) == NO_PLACE


@pytest.mark.parametrize("kind", ["polars-lazy"], indirect=True)
def test_steps_without_a_place_are_refused_when_they_are_computed(kind: FrameKind) -> None:
    with pytest.raises(ConfigError, match=NO_PLACE[:40]):
        compare_runs(kind.make(UNPLACED), kind.make(UNPLACED))
    lazy = repeated_calls(kind.make(UNPLACED))
    with pytest.raises(Exception, match=NO_PLACE[:40]):  # Polars' own, around ours
        lazy.collect()


@pytest.mark.real
def test_real_sessions_that_got_nowhere_are_named_and_no_others(real: Path) -> None:
    sessions = [path for path in (real / "sessions").iterdir() if path.is_dir() and path.name != "licences"]
    found = repeated_calls(read_traces(sessions).trace_steps).to_pylist()
    assert [(row["kind"], row["name"], row["times"], row["failed"]) for row in found] == [
        ("loop", "exec_command", 20, 0),  # one command, again and again
        ("retry storm", None, 10, 10),  # a model whose rate limit was reached
        ("loop", "mark_task_complete", 4, 0),  # which was not accepted
    ]
