"""Columns that are missing, duplicated or of another type, and keys that cannot be grouped by."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest

from exporttools import ExportBundle
from exporttools.analysis import (
    anomalies,
    baseline,
    compare_runs,
    cost_by,
    cost_over_time,
    reconcile_costs,
    reconciliation_verdict,
    repeated_calls,
    run_profiles,
    what_changed,
)
from exporttools.errors import ColumnNotFound, ColumnTypeMismatch, ConfigError, DuplicateColumn
from tests.analysis.calls import ONE
from tests.analysis.steps import doubled, frame, local_kinds, step, with_column
from tests.frames import ENGINES, LAZY, FrameKind


@local_kinds
@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("cost_by", "cost_cents"), ("cost_over_time", "timestamp"), ("top_runs", "run_id"), ("baseline", "tokens"),
        ("reconcile_costs", "cost_cents"), ("run_profiles", "agent_id"), ("repeated_calls", "content_hash"),
        ("compare_runs", "status"),
    ],
)  # fmt: skip
def test_a_missing_column_is_named_with_those_there_are(kind: FrameKind, name: str, column: str) -> None:
    table = frame(step()).append_column("total_cost_cents", pa.array([1], pa.int64())).drop_columns([column])
    with pytest.raises(ColumnNotFound, match=f"no column {column}; found tenant_id, ") as raised:
        ONE[name](kind.make(table))
    assert all(other in str(raised.value) for other in table.column_names)
    assert (raised.value.missing, raised.value.available) == ((column,), tuple(table.column_names))


@local_kinds
@pytest.mark.parametrize(
    ("column", "values", "found", "expected"),
    [
        (
            "timestamp",
            frame(step())["timestamp"].cast(pa.timestamp("us")),
            "Datetime",
            "times with a time zone, such as UTC",
        ),
        ("cost_cents", pa.array(["much"]), "String", "numbers"),
        ("tokens", pa.array([True]), "Boolean", "numbers"),
        ("agent_id", pa.array([0.5]), "Float64", "values to group by"),
    ],
)
def test_a_column_of_another_type_is_refused(
    kind: FrameKind, column: str, values: Any, found: str, expected: str
) -> None:
    data = kind.make(with_column(frame(step()), column, values))
    with pytest.raises(
        ColumnTypeMismatch, match=f"^steps: column '{column}' is {found}.*; expected {expected}$"
    ) as raised:
        cost_over_time(data, by="agent_id")
    assert (raised.value.column, raised.value.expected) == (column, expected)
    assert raised.value.found.startswith(found)


@pytest.mark.parametrize("kind", ["polars", "pyarrow", *LAZY], indirect=True)  # in pandas, lists are objects
def test_a_column_of_lists_is_not_grouped_by(kind: FrameKind) -> None:
    lists = frame(step()).append_column("tags", pa.array([["x"]]))
    with pytest.raises(ColumnTypeMismatch, match="steps: column 'tags' is List.*; expected values to group by"):
        cost_by(kind.make(lists), "tags")


def test_a_value_that_does_not_fit_is_refused() -> None:
    table = with_column(frame(step()), "step_index", pa.array([0.5]))
    with pytest.raises(ColumnTypeMismatch) as raised:
        repeated_calls(table)
    assert str(raised.value) == (
        "steps: column 'step_index' is double; expected int64: Float value 0.500000 was truncated converting to int64"
    )
    assert (raised.value.column, raised.value.found, raised.value.expected) == ("step_index", "double", "int64")


STEPS = frame(step(), step(1))
RUNS = pa.table({"run_id": ["r1"], "total_cost_cents": [1]})

DOUBLED: dict[str, Callable[[pa.Table, str], Any]] = {
    "pandas": lambda table, name: pd.concat([table.to_pandas(), table.to_pandas()[[name]]], axis=1),
    "pyarrow": doubled,
    "record batch": lambda table, name: doubled(table, name).to_batches()[0],
    "reader": lambda table, name: doubled(table, name).to_reader(),
    "duckdb": lambda table, name: duckdb.from_arrow(table).project(f"*, {name}"),
}


@pytest.mark.parametrize("kind", DOUBLED)
@pytest.mark.parametrize("name", [name for name in ONE if name != "anomalies"])
def test_two_columns_of_one_name_are_refused(name: str, kind: str) -> None:
    table = frame(step(), step(1)).append_column("total_cost_cents", pa.array([1, 1], pa.int64()))
    with pytest.raises(DuplicateColumn) as raised:
        ONE[name](DOUBLED[kind](table, "tokens"))
    what = {"reconcile_costs": "runs", "compare_runs": "run a"}.get(name, "steps")
    assert str(raised.value) == f"{what}: more than one column is named tokens; rename or drop all but one"
    assert raised.value.duplicates == ("tokens",)
    assert raised.value.available == (*table.column_names, "tokens")


@pytest.mark.parametrize("kind", DOUBLED)
@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("steps", lambda f, bundle: anomalies(f(STEPS, "tokens"), baseline(STEPS))),
        ("baseline", lambda f, bundle: anomalies(STEPS, f(baseline(STEPS), "count"))),
        ("run b", lambda f, bundle: compare_runs(STEPS, f(STEPS, "tokens"))),
        ("steps", lambda f, bundle: reconcile_costs(RUNS, f(STEPS, "tokens"))),
        ("reconciliation", lambda f, bundle: reconciliation_verdict(f(reconcile_costs(RUNS, STEPS), "finding"))),
        ("fleet", lambda f, bundle: what_changed(bundle, f(STEPS, "tokens"))),
    ],
    ids=["anomalies", "baseline", "run b", "reconcile steps", "verdict", "fleet"],
)
def test_two_columns_of_one_name_are_refused_in_any_frame(
    what: str, call: Callable[..., Any], kind: str, bundles: dict[int, ExportBundle]
) -> None:
    with pytest.raises(DuplicateColumn, match=f"^{what}: more than one column is named "):
        call(DOUBLED[kind], bundles[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", ENGINES, indirect=True)
def test_two_columns_of_one_name_are_refused_by_engines(kind: FrameKind) -> None:
    data = kind.make(STEPS)
    twice = data.select("*", "tokens") if kind.name == "pyspark" else data[[*data.columns, "tokens"]]
    with pytest.raises(DuplicateColumn, match="^steps: more than one column is named tokens;"):
        cost_by(twice, "agent_id")


@pytest.mark.parametrize(
    "error",
    [
        ColumnNotFound("steps: no column a; found b", missing=("a",), available=("b",)),
        DuplicateColumn("steps: more than one column is named a", duplicates=("a",), available=("a", "a")),
        ColumnTypeMismatch("steps: column 'a' is String", column="a", found="String", expected="numbers"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_reach_another_process_whole(error: ConfigError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert isinstance(copy, (ConfigError, ValueError))
    assert (str(copy), vars(copy)) == (str(error), vars(error))
    assert len(vars(copy)) >= 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f: cost_by(f, "tokens"),
            "cannot group by 'tokens': the result has a column of that name",
        ),
        (lambda f: cost_by(f, ["agent_id"]), r"keys has \['agent_id'\]; expected column names"),  # type: ignore[call-overload]
        (lambda f: cost_over_time(f, by="steps"), "cannot group by 'steps': the result has a column of that name"),
        (lambda f: baseline(f, by=["count"]), "cannot group by 'count': the result has a column of that name"),
        (
            lambda f: run_profiles(f, by=["cost_cents"]),
            "cannot group by 'cost_cents': the result has a column of that name",
        ),
        (
            lambda f: anomalies(f, baseline(f), false_alarms="high"),
            "false_alarms is 'high'; expected a number above 0, at most 1",
        ),  # type: ignore[call-overload]
        (lambda f: cost_by(f, "cost"), "steps: no column cost; found tenant_id, "),
    ],
)
def test_keys_that_cannot_be(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        call(frame(step()))
