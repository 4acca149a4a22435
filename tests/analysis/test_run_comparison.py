"""Two runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporttools import ExportBundle, ExportBundleStore
from exporttools.analysis import compare_runs, cost_by
from exporttools.analysis.run_comparison import only_in
from exporttools.errors import ConfigError, InconsistentData
from tests.analysis.steps import every_kind, frame, local_kinds, step, with_column
from tests.frames import FrameKind, rows

# Dask and Spark deprecate things of their own and of each other's.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def run(*said: str) -> pa.Table:
    """A run from words: ``llm`` is a call of the model with a prompt of its own, ``read:1`` one of the tool read, ``test!`` one that failed."""
    steps, names = [], []
    for i, word in enumerate(said):
        call = word.removesuffix("!")
        name = call.partition(":")[0]
        names.append(None if name == "llm" else name)
        steps.append(
            step(
                i, step_type="llm_call" if name == "llm" else "tool_call", status="error" if word.endswith("!") else "ok",
                content_hash=f"{said} {i}" if call == "llm" else call,
            )
        )  # fmt: skip
    return frame(*steps).append_column("name", pa.array(names, pa.string()))


def diff(found: Any) -> list[tuple[Any, ...]]:
    columns = ("name", "step_index_a", "step_index_b", "change")
    return [tuple(row[name] for name in columns) for row in rows(found).to_pylist()]


SUCCEEDED = run("llm", "search_docs", "llm", "read:1", "llm", "edit:1", "run_tests", "llm", "finish")
FAILED = run("llm", "read:1", "llm", "edit:2", "llm", "finish!")


@every_kind
def test_what_one_run_never_did_is_only_in_the_other(kind: FrameKind) -> None:
    a, b = kind.make(SUCCEEDED), kind.make(FAILED)
    found = compare_runs(a, b)
    assert type(found) is type(a)
    assert diff(found) == [
        (None, 0, 0, "content"), ("search_docs", 1, None, "only in a"), (None, 2, None, "only in a"), ("read", 3, 1, "same"),
        (None, 4, 2, "content"), ("edit", 5, 3, "content"), ("run_tests", 6, None, "only in a"), (None, 7, 4, "content"),
        ("finish", 8, 5, "status"),
    ]  # fmt: skip
    assert rows(found).column_names == [
        *("step_type", "name", "step_index_a", "step_index_b", "status_a", "status_b"),
        *(f"{m}_{end}" for m in ("cost_cents", "tokens", "duration_ms") for end in ("a", "b", "difference")), "change",
    ]  # fmt: skip
    assert [row[-1] for row in diff(compare_runs(b, a))].count("only in b") == 3


def test_the_same_contents_are_kept_together_whatever_is_in_between() -> None:
    a, b = run("read:1", "read:2", "read:3"), run("look", "read:2", "read:3", "read:4")
    assert diff(compare_runs(a, b)) == [
        ("read", 0, None, "only in a"), ("look", None, 0, "only in b"), ("read", 1, 1, "same"), ("read", 2, 2, "same"),
        ("read", None, 3, "only in b"),
    ]  # fmt: skip


def test_only_what_both_frames_have_counts() -> None:
    a, b = run("read:1", "edit:1"), run("edit:1", "read:2")
    assert [row[1:] for row in diff(compare_runs(a, b))] == [
        (0, None, "only in a"),
        (1, 0, "same"),
        (None, 1, "only in b"),
    ]
    unnamed = rows(compare_runs(a, b.drop_columns(["name", "content_hash"])))
    assert "name" not in unnamed.column_names
    assert unnamed["change"].to_pylist() == ["same", "same"]


def test_a_content_that_is_not_known_has_not_changed() -> None:
    a, b = (run("read:1", "read:2", "read:3") for _ in range(2))
    hashes = [["x", None, None], ["x", None, "z"]]
    a, b = (
        with_column(run, "content_hash", pa.array(values, pa.string()))
        for run, values in zip((a, b), hashes, strict=True)
    )
    assert [row[-1] for row in diff(compare_runs(a, b))] == ["same", "same", "same"]


def test_what_only_one_run_did_in_words() -> None:
    found = compare_runs(SUCCEEDED, FAILED)
    assert only_in(found, "a") == "run_tests (1), search_docs (1), llm_call (1 of 4)"
    assert only_in(found, "b") == ""
    assert only_in(found, "a", limit=1) == "run_tests (1), 2 others"
    assert only_in(found.drop_columns(["name"]), "a") == "tool_call (2 of 5), llm_call (1 of 4)"
    hostile = compare_runs(run("\x1b[31mred\n:1", *["read:1"] * 3), run("read:1"))
    assert only_in(hostile, "a") == "red (1), read (2 of 3)"


def test_differences_and_what_is_refused() -> None:
    a = frame(step(0), step(1, step_type="tool_call", status="error"), step(2, cost_cents=1.0))
    b = frame(step(0, cost_cents=2.0), step(1, step_type="tool_call"), step(2, step_type="plan"))
    found = compare_runs(a, b).to_pylist()
    columns = ("step_type", "step_index_a", "step_index_b", "cost_cents_difference", "change")
    assert [tuple(row[name] for name in columns) for row in found] == [
        ("llm_call", 0, 0, 1.5, "same"), ("tool_call", 1, 1, 0.0, "status"), ("llm_call", 2, None, -1.0, "only in a"),
        ("plan", None, 2, 0.5, "only in b"),
    ]  # fmt: skip
    assert sum(row["tokens_difference"] for row in found) == 0
    assert len(compare_runs(frame(), frame())) == 0
    assert [row["change"] for row in compare_runs(frame(), a).to_pylist()] == ["only in b"] * 3
    with pytest.raises(
        ConfigError, match=r"run b has 2 values of trace_id \(t1, t2, ...\); expected the steps of one trace"
    ):
        compare_runs(a, frame(step(), step(1, trace_id="t2")))


@settings(deadline=None)
@given(*[st.lists(st.sampled_from(["llm", "read:1", "read:2", "edit:1", "edit:2!"]), max_size=9)] * 2)
def test_every_step_is_in_one_row_and_in_its_place(a: list[str], b: list[str]) -> None:
    found = diff(compare_runs(run(*a), run(*b)))
    for side, said in ((1, a), (2, b)):
        assert [row[side] for row in found if row[side] is not None] == list(range(len(said)))
    changes = [row[-1] for row in found]
    assert changes.count("only in a") == len(a) - (len(found) - changes.count("only in a") - changes.count("only in b"))
    assert [row[-1] for row in diff(compare_runs(run(*a), run(*a)))] == ["same"] * len(a)


@local_kinds
def test_sums_by_step_type(kind: FrameKind) -> None:
    a = frame(step(0), step(1, step_type="tool_call", status="error"), step(2, cost_cents=1.0))
    b = frame(
        step(0, cost_cents=2.0, tokens=7), step(1, step_type="tool_call"), step(2, step_type="plan", duration_ms=50.0)
    )
    found = compare_runs(kind.make(a), kind.make(b), by="step_type")
    assert type(found) is type(kind.make(a))
    columns = ["step_type", "steps_a", "steps_b", "status_changes"]
    columns += [
        f"{measure}_{end}" for measure in ("cost_cents", "tokens", "duration_ms") for end in ("a", "b", "difference")
    ]
    table = rows(found)
    assert table.column_names == columns
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("llm_call", 2, 1, 0, 1.5, 2.0, 0.5, 20, 7, -13, 200.0, 100.0, -100.0),
        ("plan", 0, 1, 0, 0.0, 0.5, 0.5, 0, 10, 10, 0.0, 50.0, 50.0),
        ("tool_call", 1, 1, 1, 0.5, 0.5, 0.0, 10, 10, 0, 100.0, 100.0, 0.0),
    ]


def test_sums_by_step_type_are_those_of_the_steps(bundles: dict[int, ExportBundle]) -> None:
    runs = {"a": bundles[4], "b": bundles[6]}
    found = compare_runs(*runs.values(), by="step_type")
    for side, bundle in runs.items():
        expected = {row["step_type"]: row for row in cost_by(bundle, "step_type").to_pylist()}
        for row in found.filter(pc.greater(found[f"steps_{side}"], 0)).to_pylist():
            own = expected.pop(row["step_type"])
            assert row[f"steps_{side}"] == own["steps"]
            assert row[f"cost_cents_{side}"] == pytest.approx(own["cost_cents"])
        assert expected == {}


def test_sums_of_odd_runs() -> None:
    assert len(compare_runs(frame(), frame(), by="step_type")) == 0
    unknown = compare_runs(frame(step(step_type=None, cost_cents=None)), frame(step(step_type=None)), by="step_type")
    assert unknown.select(["step_type", "steps_a", "steps_b", "cost_cents_a", "cost_cents_difference"]).to_pylist() == [
        {"step_type": None, "steps_a": 1, "steps_b": 1, "cost_cents_a": 0.0, "cost_cents_difference": 0.5}
    ]
    with pytest.raises(ConfigError, match="^by is 'agent'; expected 'step' or 'step_type'$"):
        compare_runs(frame(), frame(), by="agent")  # type: ignore[call-overload]


def test_sums_that_no_integer_holds_are_refused() -> None:
    huge = frame(*(step(i, tokens=2**62) for i in range(3)))
    with pytest.raises(InconsistentData) as caught:
        compare_runs(huge, frame(step(0)), by="step_type")
    assert str(caught.value) == ("tokens_a adds up to 13,835,058,055,282,163,712, more than a 64-bit integer holds")


@pytest.mark.real
def test_real_runs_read_like_a_diff(real: Path) -> None:
    store = ExportBundleStore(f"sqlite:///{real / 'agents.sqlite'}")
    a, b = (store.get_export_bundle(run_id=f"openhands:ponylang__ponyc-{number}") for number in (4588, 4595))
    found = compare_runs(a, b)
    for side, count in (("a", 103), ("b", 49)):
        assert found[f"step_index_{side}"].drop_null().to_pylist() == list(range(count))
    assert only_in(found, "b") == (
        "action:finish (1), action:think (1), observation:think (1), action:read (1 of 6), observation:read (1 of 6)"
    )
