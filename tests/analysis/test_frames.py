"""Whatever frames hold, and whatever is not a frame: results or clear errors."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import duckdb
import narwhals as nw
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporttools import ExportBundle, SnapshotTable
from exporttools.analysis import (
    anomalies,
    baseline,
    compare_runs,
    cost_by,
    cost_over_time,
    reconcile_costs,
    repeated_calls,
    what_changed,
)
from exporttools.errors import ConfigError
from exporttools.plots import timeline
from exporttools.records.snapshots import TraceStepSnapshot
from tests.analysis.calls import ONE
from tests.analysis.steps import NOON, SCHEMA, frame, local_kinds, step, with_column
from tests.frames import FrameKind, assert_same, rows

MANY = pa.concat_tables([frame(step(0))] * 10_000).combine_chunks()


SHAPES = {
    "empty": frame(),
    "one row": frame(step()),
    "all NULL": pa.table({name: pa.nulls(3, SCHEMA.field(name).type) if name not in ("step_index", "timestamp", "status", "step_type") else frame(step(), step(1), step(2))[name] for name in SCHEMA.names}),
    "NaN": frame(step(cost_cents=math.nan, duration_ms=math.nan), step(1, cost_cents=math.nan)),
    "years apart": frame(step(), step(1, timestamp=NOON.replace(year=9)), step(2, timestamp=NOON.replace(year=9999))),
    "great numbers": frame(step(tokens=2**52, cost_cents=1e300), step(1, tokens=1, cost_cents=1e300)),
}  # fmt: skip


def test_a_snapshot_table_gives_pyarrow_and_a_bundle_is_its_steps(bundles: dict[int, ExportBundle]) -> None:
    steps = bundles[1].steps
    answer = cost_by(steps, "step_type")
    assert isinstance(answer, pa.Table)
    assert "runs" not in answer.column_names
    of_bundle = cost_by(bundles[1], "step_type")
    assert of_bundle.select(answer.column_names).equals(answer)
    assert set(of_bundle["runs"].to_pylist()) == {1}
    assert cost_by(bundles[1], "tenant_id", "run_id", "trace_id", "agent_id").select(range(4)).to_pylist() == [
        {
            "tenant_id": "acme-retail",
            "run_id": "run-0000-040",
            "trace_id": "trc-0000-040-1",
            "agent_id": "research-scout",
        }
    ]
    assert_same(cost_by(steps.to_pandas(), "step_type"), answer)


@local_kinds
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ONE)
def test_odd_frames_have_answers(kind: FrameKind, name: str, shape: str) -> None:
    table = SHAPES[shape].append_column("total_cost_cents", pa.array([1] * len(SHAPES[shape]), pa.int64()))
    found = rows(ONE[name](kind.make(table)))
    assert found.num_columns > 3


@local_kinds
@pytest.mark.parametrize("name", ONE)
def test_a_frame_without_rows_has_a_result_without_rows(kind: FrameKind, name: str) -> None:
    table = frame().append_column("total_cost_cents", pa.array([], pa.int64()))
    assert len(rows(ONE[name](kind.make(table)))) == 0


@local_kinds
@pytest.mark.parametrize("name", [name for name in ONE if name != "compare_runs"])
def test_ten_thousand_agents(kind: FrameKind, name: str) -> None:
    agents = pa.array([f"agent {number}" for number in range(10_000)])
    table = with_column(with_column(MANY, "agent_id", agents), "run_id", agents)
    table = table.append_column("total_cost_cents", pa.array([1] * len(table), pa.int64()))
    expected = {"top_runs": 10, "repeated_calls": 0, "anomalies": 10_001}
    assert len(rows(ONE[name](kind.make(table)))) == expected.get(name, 10_000)


TWO: dict[str, Callable[[Any, Any, Any], Any]] = {
    "reconcile_costs": lambda a, b, bundle: reconcile_costs(a, b),
    "compare_runs": lambda a, b, bundle: compare_runs(a, b),
    "anomalies": lambda a, b, bundle: anomalies(a, baseline(b)),
    "what_changed": lambda a, b, bundle: what_changed(bundle, b),
}


@pytest.mark.parametrize("name", TWO)
def test_two_frames_may_be_of_two_duckdb_connections(
    name: str, ledger: pa.Table, bundles: dict[int, ExportBundle]
) -> None:
    first, second = ledger.filter(pc.equal(ledger["run_id"], "run-0000-000")), ledger
    if name == "compare_runs":
        second = ledger.filter(pc.equal(ledger["run_id"], "run-0000-001"))
    first = first.append_column("total_cost_cents", pa.array([1] * len(first), pa.int64()))
    with duckdb.connect() as one, duckdb.connect() as other:
        found = TWO[name](one.from_arrow(first), other.from_arrow(second), bundles[5])
        assert_same(found, rows(TWO[name](first, second, bundles[5])))


@pytest.mark.parametrize("data", [[1, 2], None, "steps", 7, pd.Series([1]), pl.Series([1]), pa.array([1])])
def test_what_is_not_a_frame_is_refused(data: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        cost_by(data, "x")
    assert str(caught.value) == (
        f"cannot read steps from {type(data).__name__}; expected a SnapshotTable, an ExportBundle or a frame that Narwhals "
        "knows (pandas, Polars, pyarrow, DuckDB, Dask, PySpark, ...)"
    )


TABLE = frame(step(), step(1)).select([*TraceStepSnapshot.RECORD_TYPE.names])
CUT = SnapshotTable(TraceStepSnapshot, TABLE, total=9)


def marked(**attributes: Any) -> pd.DataFrame:
    data = TABLE.to_pandas()
    data.attrs.update(attributes)
    return data


@pytest.mark.parametrize("data", [CUT, CUT.to_pandas()], ids=["table", "pandas"])
def test_a_cut_is_said(data: Any) -> None:
    message = "steps: a limit cut the rows to 2 of 9; the result covers only those"
    with pytest.warns(UserWarning, match=f"^{message}$"):
        cost_by(data, "step_type")


def test_a_frame_keeps_the_mark_of_its_cut() -> None:
    data = CUT.to_pandas()
    with pytest.warns(UserWarning, match="^run a: a limit cut the rows to 2 of 9;") as caught:
        compare_runs(data, TABLE)
    assert len(caught) == 1
    assert data.attrs == {"truncated": True, "total": 9}


def test_what_narwhals_says_of_a_frame_that_it_cannot_read_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise nw.exceptions.NarwhalsError("columns have levels")

    monkeypatch.setattr(nw, "from_native", refuse)
    with pytest.raises(ConfigError, match="^cannot read steps from DataFrame: columns have levels$"):
        cost_by(TABLE.to_pandas(), "step_type")


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"total": 9},
        {"truncated": False, "total": 9},
        {"truncated": True, "total": "9"},
        {"truncated": True, "total": 2},
    ],
)
def test_marks_of_another_meaning_are_not_taken_for_a_cut(attributes: dict[str, Any]) -> None:
    assert cost_by(marked(**attributes), "step_type")["steps"].tolist() == [
        2
    ]  # and no warning, which would be an error


@pytest.mark.parametrize("name", [name for name in ONE if name not in ("reconcile_costs", "compare_runs", "anomalies")])
def test_a_reader_is_read_only_once(name: str) -> None:
    table = frame(step(), step(1))
    assert ONE[name](table.to_reader()).equals(ONE[name](table))


def test_a_baseline_in_a_reader_is_read_only_once() -> None:
    usual = baseline(TABLE, by=["step_type"])
    assert anomalies(TABLE, usual.to_reader()).equals(anomalies(TABLE, usual))


def test_anything_with_an_arrow_stream_is_read() -> None:
    class Stream:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return frame(step()).__arrow_c_stream__(requested_schema)

    assert cost_by(Stream(), "step_type")["steps"].to_pylist() == [1]


def test_text_of_every_arrow_type_and_categories_are_read(ledger: pa.Table) -> None:
    expected = cost_by(ledger, "agent_id")
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        table = with_column(ledger, "agent_id", ledger["agent_id"].cast(kind))
        assert_same(cost_by(table, "agent_id"), expected)
    assert_same(cost_by(ledger.to_pandas().astype({"agent_id": "category"}), "agent_id"), expected)


def test_importing_the_analysis_loads_no_pandas_and_no_engine() -> None:
    code = "import exporttools.analysis, sys; print({'pandas', 'polars', 'duckdb', 'dask', 'pyspark', 'matplotlib', 'sqlalchemy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["answer", "result", "exporttools_unused"])
def test_a_table_of_the_users_own_is_not_taken_for_a_result(name: str) -> None:
    connection = duckdb.connect()
    connection.execute(f"CREATE TABLE {name} AS SELECT 'mine' AS step_type")
    found = baseline(connection.from_arrow(TABLE), by=["step_type"])
    assert_same(found, baseline(TABLE, by=["step_type"]))
    assert connection.table(name).fetchall() == [("mine",)]


def test_numbers_and_times_in_columns_without_a_type_are_read() -> None:
    typed = frame(step(0), step(1, tokens=7)).to_pandas()
    untyped = typed.astype({"timestamp": object, "tokens": object, "cost_cents": object})
    assert_same(cost_over_time(untyped), rows(cost_over_time(typed)))
    assert len(timeline(untyped).collections) == len(timeline(typed).collections)


@pytest.mark.parametrize("call", [repeated_calls, timeline])
def test_a_column_of_several_types_is_a_clear_error(call: Any) -> None:
    mixed = frame(step(0), step(1)).to_pandas().assign(status=["ok", 3])
    with pytest.raises(ConfigError, match=r"^cannot read steps from pandas.DataFrame: .*status"):
        call(mixed)
