"""SnapshotTable: a sequence of records, an Arrow table and a DataFrame, immutable and never silently short."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import math
import pickle
from collections.abc import Sequence
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporttools import (
    ConfigError,
    IncidentSnapshot,
    InconsistentData,
    RunSnapshot,
    SnapshotTable,
    TraceStepSnapshot,
    TraceSummarySnapshot,
)
from exporttools.records.validity import Origin
from tests.databases import NOON, incident, run
from tests.records.columns import COLUMNS, shown
from tests.steps import HOSTILE, Tags, a_step, steps_of, with_extra

SECOND = dt.timedelta(seconds=1)


@pytest.fixture
def records() -> list[TraceStepSnapshot]:
    return [a_step(i, content_hash=None if i % 2 else f"h{i}", cost_cents=0.1 * i) for i in range(5)]


@pytest.fixture
def steps(records: list[TraceStepSnapshot]) -> SnapshotTable[TraceStepSnapshot]:
    return steps_of(*records)


# A sequence


def test_it_is_a_sequence(steps: SnapshotTable[TraceStepSnapshot], records: list[TraceStepSnapshot]) -> None:
    # Not an instance of one: Polars would take it row by row, and lose time zones and extra columns.
    assert Sequence not in type(steps).__mro__
    assert {name for name, member in vars(Sequence).items() if callable(member)} <= set(dir(steps))
    assert len(steps) == 5
    assert list(steps) == records
    assert list(reversed(steps)) == records[::-1]
    assert [steps[i] for i in range(-5, 5)] == [records[i] for i in range(-5, 5)]
    assert records[3] in steps
    assert a_step(9) not in steps
    assert steps.index(records[3]) == 3
    assert steps.count(records[3]) == 1
    assert bool(steps)
    assert not SnapshotTable.empty(TraceStepSnapshot)
    assert type(steps[0]) is TraceStepSnapshot
    assert steps[0].timestamp.tzinfo is dt.UTC


@pytest.mark.parametrize("index", [5, -6, 2**70])
def test_an_index_out_of_range(steps: SnapshotTable[TraceStepSnapshot], index: int) -> None:
    with pytest.raises(IndexError) as caught:
        steps[index]
    assert str(caught.value) == f"index {index} is out of range for 5 steps"
    with pytest.raises(IndexError, match=f"^index {index} is out of range for 1 step$"):
        steps[:1][index]


def test_an_index_is_an_integer_or_a_slice(steps: SnapshotTable[TraceStepSnapshot]) -> None:
    for index in ("step_index", 1.0, None):
        with pytest.raises(TypeError):
            steps[index]  # type: ignore[call-overload]


ENDS = st.none() | st.integers(-9, 9)


@given(st.integers(0, 6), ENDS, ENDS, st.none() | st.integers(-4, 4).filter(bool))
def test_slices_are_those_of_a_list(rows: int, start: int | None, stop: int | None, stride: int | None) -> None:
    records = [a_step(i) for i in range(rows)]
    part = steps_of(*records)[start:stop:stride]
    assert type(part) is SnapshotTable
    assert list(part) == records[start:stop:stride]
    assert part == steps_of(*records[start:stop:stride])


def test_a_slice_of_step_zero(steps: SnapshotTable[TraceStepSnapshot]) -> None:
    with pytest.raises(ValueError, match="slice step cannot be zero"):
        steps[::0]


def test_iteration_goes_over_chunks_and_batches() -> None:
    records = [a_step(i) for i in range(3000)]
    whole = steps_of(*records)
    chunked = SnapshotTable(
        TraceStepSnapshot, pa.concat_tables([whole[:7].to_arrow(), whole[7:2000].to_arrow(), whole[2000:].to_arrow()])
    )
    assert chunked.to_arrow()["tokens"].num_chunks == 3
    assert list(chunked) == records
    assert chunked == whole


def test_it_cannot_be_changed(steps: SnapshotTable[TraceStepSnapshot]) -> None:
    with pytest.raises(TypeError):
        steps[0] = a_step(9)  # type: ignore[index]
    with pytest.raises(TypeError):
        del steps[0]  # type: ignore[attr-defined]
    for name in ("total", "truncated", "schema", "snapshot_type", "extra_columns"):
        with pytest.raises(AttributeError):
            setattr(steps, name, None)
    with pytest.raises(TypeError):
        steps.sums["tokens"] = 0  # type: ignore[index]
    with pytest.raises(TypeError, match="unhashable"):
        hash(steps)
    with pytest.raises(dataclasses.FrozenInstanceError):
        steps[0].tokens = 0  # type: ignore[misc]
    frame = steps.to_pandas()
    frame["tokens"] = 0
    assert steps[0].tokens == 100


def test_equality_is_by_value(steps: SnapshotTable[TraceStepSnapshot], records: list[TraceStepSnapshot]) -> None:
    assert steps == steps_of(*records)
    others: list[object] = [
        steps[:4], steps[::-1], steps_of(*records[:4], dataclasses.replace(records[4], tokens=1)),
        with_extra(steps, model=pa.array(["m"] * 5)), SnapshotTable(TraceStepSnapshot, steps.to_arrow(), total=9),
        records, None,
    ]  # fmt: skip
    for other in others:
        assert steps != other
    assert SnapshotTable.empty(RunSnapshot) != SnapshotTable.empty(IncidentSnapshot)


def test_it_pickles_and_copies(steps: SnapshotTable[TraceStepSnapshot]) -> None:
    cut = with_extra(steps, total=9, model=pa.array(["m"] * 5))
    for table in (steps, cut, cut[1:3], SnapshotTable.empty(RunSnapshot)):
        for other in (pickle.loads(pickle.dumps(table)), copy.copy(table), copy.deepcopy(table)):
            assert other == table
            assert other.total == table.total
            assert other.schema.equals(table.schema, check_metadata=True)


# Never silently short


def test_a_limit_that_cut_is_told(steps: SnapshotTable[TraceStepSnapshot]) -> None:
    assert (steps.truncated, steps.total) == (False, None)
    arrow = steps.to_arrow()
    whole = SnapshotTable(TraceStepSnapshot, arrow, total=5)
    assert (whole.truncated, whole.total) == (False, None)
    cut = SnapshotTable(TraceStepSnapshot, arrow, total=12_345)
    for part in (cut, cut[:2], cut[::2]):
        assert (part.truncated, part.total) == (True, 12_345)
        assert "of 12,345 steps (cut by a limit)" in repr(part)
        assert "of 12,345 steps (cut by a limit)" in part._repr_html_()
        assert part.to_pandas().attrs == {"truncated": True, "total": 12_345}
    assert steps.to_pandas().attrs == {}
    with pytest.raises(ConfigError, match="^total is 4, but there are 5 rows$"):
        SnapshotTable(TraceStepSnapshot, arrow, total=4)


def test_one_of_several_is_told_in_the_plural() -> None:
    one = SnapshotTable(TraceStepSnapshot, steps_of(a_step(0)).to_arrow(), total=2)
    assert one.describe() == "1 of 2 steps (cut by a limit) · 100 tokens · 0.5 US cents · 900.25 ms"
    assert one.to_arrow().num_rows == 1
    assert repr(steps_of(*(a_step(i) for i in range(4)))).endswith("\n  ... 1 more step")
    assert steps_of(a_step(0)).describe() == "1 step · 100 tokens · 0.5 US cents · 900.25 ms"
    assert SnapshotTable.empty(RunSnapshot).describe() == "0 runs"


def test_large_and_small_totals_have_no_exponents() -> None:
    said = steps_of(a_step(0, duration_ms=1_337_915.18, cost_cents=0.00004)).describe()
    assert said == "1 step · 100 tokens · 0.00004 US cents · 1,337,915.18 ms"


def test_a_cost_that_is_not_recorded_is_unknown_and_not_zero() -> None:
    costs = {(None, None): "US cents unknown", (0, None): "0 US cents, 1 unknown", (0, 12): "12 US cents"}
    for recorded, said in costs.items():
        runs = [RunSnapshot(f"r{i}", "acme", total_cost_cents=cents) for i, cents in enumerate(recorded)]
        table = SnapshotTable.from_records(RunSnapshot, runs)
        assert table.describe() == f"2 runs · {said}"
        assert f"<p>2 runs · {said}</p>" in table._repr_html_()
        assert repr(table).startswith(f"<SnapshotTable of 2 runs · {said}>")


# Frames


def test_the_columns_types_in_pandas() -> None:
    texts = ["run_id", "tenant_id", "agent_id", "goal", "policy_snapshot_id", "termination_reason"]
    times = ["started_at", "completed_at"]
    expected = {
        **dict.fromkeys(texts, "str"),
        **dict.fromkeys(times, "datetime64[us, UTC]"),
        "total_cost_cents": "Int64",
    }
    names = [
        "run_id", "tenant_id", "agent_id", "goal", "policy_snapshot_id", "started_at", "completed_at",
        "termination_reason", "total_cost_cents",
    ]  # fmt: skip
    whole, null = RunSnapshot(**run()), RunSnapshot("r2", "acme")
    for rows in ([], [whole], [null], [whole, null], [whole, whole]):
        frame = SnapshotTable.from_records(RunSnapshot, rows).to_pandas()
        assert {name: str(kind) for name, kind in frame.dtypes.items()} == expected
        assert list(frame.columns) == names
        assert frame.index.equals(pd.RangeIndex(len(rows)))
    step_types = {name: str(kind) for name, kind in steps_of(a_step()).to_pandas().dtypes.items()}
    assert step_types == {
        "step_index": "int64", "timestamp": "datetime64[us, UTC]", "step_type": "str", "tokens": "int64",
        "cost_cents": "float64", "duration_ms": "float64", "status": "str", "content_hash": "str",
    }  # fmt: skip


def test_integers_keep_all_their_digits_in_pandas() -> None:
    big = 2**63 - 1
    runs = [
        RunSnapshot("a", "t", total_cost_cents=big),
        RunSnapshot("b", "t"),
        RunSnapshot("c", "t", total_cost_cents=2**53 + 1),
    ]
    column = SnapshotTable.from_records(RunSnapshot, runs).to_pandas()["total_cost_cents"]
    assert (column[0], column[2]) == (big, 2**53 + 1)
    assert column[1] is pd.NA


def test_times_of_all_years_in_pandas() -> None:
    years = [dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)]
    column = steps_of(*(a_step(i, timestamp=year) for i, year in enumerate(years))).to_pandas()["timestamp"]
    assert [str(value) for value in column] == ["0001-01-01 00:00:00+00:00", "9999-12-31 23:59:59.999999+00:00"]


def _buffers(table: pa.Table) -> list[int]:
    chunks = [chunk for column in table.columns for chunk in column.chunks]
    return [buffer.address for chunk in chunks for buffer in chunk.buffers() if buffer is not None]


def test_arrow_copies_nothing(steps: SnapshotTable[TraceStepSnapshot]) -> None:
    arrow = steps.to_arrow()
    again = SnapshotTable(TraceStepSnapshot, arrow)
    addresses = _buffers(arrow)
    assert len(addresses) > len(arrow.columns)
    for other in (steps.to_arrow(), again.to_arrow(), steps[:].to_arrow(), steps[1:3].to_arrow(), pa.table(steps)):
        assert _buffers(other) == addresses


def test_pandas_polars_duckdb_and_arrow_agree(records: list[TraceStepSnapshot]) -> None:
    steps = with_extra(
        steps_of(*records),
        model=pa.array(["m", None, "", "é", "x"]),
        parent_step_index=pa.array([None, 0, 0, 2**53, None]),  # pandas' own from_arrow makes floats of these
    )
    expected = steps.to_arrow().to_pylist()
    frame = steps.to_pandas()
    assert [_plain(row) for row in frame.to_dict("records")] == expected
    polars = pl.DataFrame(steps)
    assert polars.columns == list(frame.columns)
    assert [_plain(row) for row in polars.to_dicts()] == expected
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("steps", steps)
        assert connection.sql("from steps").to_arrow_table().to_pylist() == expected
    summed = duckdb.sql("select sum(tokens) from steps")  # found by the variable's name
    assert summed is not None
    assert summed.fetchall() == [(sum(row["tokens"] for row in expected),)]
    table = pa.table(steps)
    assert table.schema.equals(steps.schema, check_metadata=True)
    assert table.to_pylist() == expected
    taken = pd.DataFrame.from_arrow(steps)  # type: ignore[attr-defined]
    assert [_plain(row) for row in taken.to_dict("records")] == expected
    assert pa.schema(steps).names == list(frame.columns)


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    return {name: None if value is None or value is pd.NA or value != value else value for name, value in row.items()}


def test_a_requested_schema_is_honoured(steps: SnapshotTable[TraceStepSnapshot]) -> None:
    wanted = pa.schema(
        [field.with_type(pa.large_string()) if field.type == pa.string() else field for field in steps.schema]
    )
    assert pa.table(steps, schema=wanted).schema.types == wanted.types


def test_extra_columns_ride_along(steps: SnapshotTable[TraceStepSnapshot]) -> None:
    assert steps.extra_columns == ()
    more = with_extra(
        steps, model=pa.array(["m"] * 5), weight=pa.array([1.5] * 5), parent_step_index=pa.array([None] * 5, pa.int64())
    )
    assert more.extra_columns == ("model", "weight", "parent_step_index")
    assert list(more) == list(steps)
    assert more[1:3].extra_columns == more.extra_columns
    assert str(more.to_pandas()["parent_step_index"].dtype) == "Int64"
    assert more.to_arrow().schema.field("model").metadata == {b"doc": b"the model that was called"}
    assert "<th style='text-align:right'>weight</th>" in more._repr_html_()


def test_columns_come_in_the_records_order(steps: SnapshotTable[TraceStepSnapshot]) -> None:
    names = steps.to_arrow().column_names
    shuffled = steps.to_arrow().append_column("model", pa.array(["m"] * 5)).select(["model", *reversed(names)])
    table = SnapshotTable(TraceStepSnapshot, shuffled)
    assert shown(table.schema) == [*COLUMNS["trace_steps"], "model: string"]
    assert list(table) == list(steps)


def test_context_columns_are_passed_over(steps: SnapshotTable[TraceStepSnapshot]) -> None:
    arrow = (
        steps.to_arrow().add_column(0, "tenant_id", pa.array(["a"] * 5)).add_column(0, "trace_id", pa.array(["t"] * 5))
    )
    assert SnapshotTable(TraceStepSnapshot, arrow) == steps


# What is refused


def test_tables_that_are_not_of_the_record(steps: SnapshotTable[TraceStepSnapshot]) -> None:
    arrow = steps.to_arrow()
    i = arrow.column_names.index("tokens")
    names = "step_index, timestamp, step_type, tokens, cost_cents, duration_ms, status, content_hash"
    cases = [
        (arrow.drop_columns(["tokens", "status"]), "trace_steps: no column tokens, status; "
         "found step_index, timestamp, step_type, cost_cents, duration_ms, content_hash"),
        (arrow.set_column(i, "tokens", arrow["tokens"].cast(pa.int32())), "trace_steps: column 'tokens' is of type int32; expected int64"),
        (arrow.append_column("model", pa.array([1] * 5)), "trace_steps: column 'model' is of type int64; expected string"),
        (arrow.append_column("flag", pa.array([True] * 5)),
         "column 'flag' is of type bool; expected one of string, int64, double, timestamp[us, tz=UTC]"),
        (arrow.append_column("status", arrow["status"]), f"trace_steps: duplicate column names in {names}, status"),
        (arrow.append_column("x", arrow["status"]).append_column("x", arrow["status"]),
         f"trace_steps: duplicate column names in {names}, x, x"),
    ]  # fmt: skip
    for table, message in cases:
        with pytest.raises(ConfigError) as caught:
            SnapshotTable(TraceStepSnapshot, table)
        assert str(caught.value) == message


def test_forbidden_values_name_the_origin(steps: SnapshotTable[TraceStepSnapshot]) -> None:
    bad = steps.to_arrow().append_column("weight", pa.array([0.0, 1.0, None, float("nan"), 1.0]))
    with pytest.raises(
        InconsistentData, match=r"aos_trace_steps: row trace_id='t1', step_index=3 has weight = nan; expected a finite"
    ):
        SnapshotTable(TraceStepSnapshot, bad, origin=Origin("aos_trace_steps", "trace_id='t1'"))
    with pytest.raises(
        InconsistentData, match=r"^trace_steps: row step_index=3 has parent_step_index = -1; expected at least 0"
    ):
        with_extra(steps, parent_step_index=pa.array([None, 0, 1, -1, 0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timestamp": dt.datetime(2026, 1, 2)},
         "timestamp is datetime.datetime(2026, 1, 2, 0, 0), a naive datetime; give it a time zone, such as tzinfo=datetime.UTC"),
        ({"timestamp": pd.NaT}, "timestamp is NaT, a naive datetime; give it a time zone, such as tzinfo=datetime.UTC"),
        ({"timestamp": dt.date(2026, 1, 2)}, "timestamp is datetime.date(2026, 1, 2); expected a timestamp"),
        ({"timestamp": "2026-01-02T00:00:00Z"}, "timestamp is '2026-01-02T00:00:00Z'; expected a timestamp"),
        ({"timestamp": 0}, "timestamp is 0; expected a timestamp"),
        ({"tokens": True}, "tokens is True; expected an int64"),
        ({"cost_cents": False}, "cost_cents is False; expected a float64"),
        ({"tokens": 1.0}, "tokens is 1.0; expected an int64"),
        ({"tokens": "1"}, "tokens is '1'; expected an int64"),
        ({"cost_cents": "1"}, "cost_cents is '1'; expected a float64"),
        ({"status": 1}, "status is 1; expected a string"),
        ({"status": b"ok"}, "status is b'ok'; expected a string"),
        ({"tokens": 2**63}, "tokens has a value that is not an int64: "),
        ({"cost_cents": 10**400}, "cost_cents has a value that is not a float64: "),
        ({"cost_cents": 2**53 + 1}, "cost_cents has a value that is not a float64: Integer value 9007199254740993"),
        ({"status": "a\ud800"}, "status has a value that is not a string: 'utf-8' codec can't encode character"),
        ({"status": ["x" * 2**20]}, "status is ['xxx"),
    ],
)  # fmt: skip
def test_records_with_values_of_other_types(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        steps_of(a_step(0), a_step(1, **changes))
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 300


def test_records_with_values_that_are_forbidden() -> None:
    with pytest.raises(InconsistentData, match="row step_index=1 has tokens = NULL; expected an int64, never NULL"):
        steps_of(a_step(0), a_step(1, tokens=None))
    early = dt.datetime(1, 1, 1, tzinfo=dt.timezone(5 * 3600 * SECOND))
    with pytest.raises(
        InconsistentData, match="timestamp = -62135614800000000 µs since 1970; expected a time in the years 1 to 9999"
    ):
        steps_of(a_step(0, timestamp=early))


def test_records_of_another_class_are_refused() -> None:
    with pytest.raises(ConfigError, match="^expected instances of TraceStepSnapshot; found RunSnapshot$"):
        SnapshotTable.from_records(TraceStepSnapshot, [RunSnapshot("r", "t")])


def test_other_zones_become_utc_and_whole_numbers_floats() -> None:
    zone = dt.timezone(-dt.timedelta(hours=3, minutes=30))
    found = steps_of(a_step(0, timestamp=NOON.astimezone(zone), cost_cents=2))[0]
    assert (found.timestamp, found.timestamp.tzinfo) == (NOON, dt.UTC)
    assert type(found.cost_cents) is float


# Sums


@given(st.lists(st.floats(0, 1e300), max_size=20), st.randoms())
def test_sums_do_not_depend_on_the_order(costs: list[float], random: Any) -> None:
    records = [a_step(i, cost_cents=cost) for i, cost in enumerate(costs)]
    first = steps_of(*records).sums
    random.shuffle(records)
    assert steps_of(*records).sums == first
    assert first["cost_cents"] == math.fsum(costs)


def test_sums_are_exact() -> None:
    assert steps_of(*(a_step(i, cost_cents=0.1, tokens=2**62) for i in range(10))).sums == {
        "tokens": 10 * 2**62, "cost_cents": 1.0, "duration_ms": 9002.5,
    }  # fmt: skip
    runs = SnapshotTable.from_records(RunSnapshot, [RunSnapshot("a", "t", total_cost_cents=3), RunSnapshot("b", "t")])
    assert runs.sums == {"total_cost_cents": 3}
    assert SnapshotTable.empty(TraceStepSnapshot).sums == {"tokens": 0, "cost_cents": 0.0, "duration_ms": 0.0}
    assert SnapshotTable.from_records(IncidentSnapshot, [IncidentSnapshot(**incident())]).sums == {}


def test_a_sum_that_no_float_can_hold_is_infinite() -> None:
    steps = steps_of(a_step(0, cost_cents=1.7e308), a_step(1, cost_cents=1.7e308))
    assert steps.sums["cost_cents"] == math.inf
    assert "inf US cents" in repr(steps)


# Seen


def test_html_is_inert() -> None:
    hostile = with_extra(steps_of(a_step(0, step_type=HOSTILE, status=HOSTILE)), **{HOSTILE: pa.array([HOSTILE])})
    runs = SnapshotTable.from_records(RunSnapshot, [RunSnapshot(HOSTILE, HOSTILE, HOSTILE, HOSTILE * 10_000)])
    for text in (hostile._repr_html_(), runs._repr_html_(), runs[0]._repr_html_()):
        seen = Tags(text)
        assert seen.tags <= {"table", "thead", "tbody", "tr", "th", "td", "p", "i"}
        assert seen.attributes == {"style"}
        assert "<script>alert('x')" in seen.text
        assert not {"\x1b", "\u202e", "\n"} & set(text)
        assert len(text) < 4000


def test_html_shows_the_first_rows_and_says_so(steps: SnapshotTable[TraceStepSnapshot]) -> None:
    assert "shown" not in steps._repr_html_()
    seen = Tags(steps._repr_html_()).text
    assert "5 steps · 510 tokens · 1 US cents · 4,501.25 ms" in seen
    assert "NULL" in seen
    many = steps_of(*(a_step(i, step_type=f"type{i}") for i in range(11)))
    text = Tags(many._repr_html_()).text
    assert text.endswith("the first 10 shown")
    assert "type9" in text
    assert "type10" not in text


def test_repr(steps: SnapshotTable[TraceStepSnapshot]) -> None:
    lines = repr(steps).splitlines()
    assert lines[0] == "<SnapshotTable of 5 steps · 510 tokens · 1 US cents · 4,501.25 ms>"
    assert [line.startswith("  TraceStepSnapshot(step_index=") for line in lines[1:]] == [True, True, True, False]
    assert lines[4] == "  ... 2 more steps"
    assert repr(SnapshotTable.empty(TraceSummarySnapshot)) == "<SnapshotTable of 0 traces>"
    hostile = repr(steps_of(a_step(0, status=HOSTILE * 1000, step_type="x" * 2**20)))
    assert len(hostile) < 300
    assert not {"\x1b", "\u202e"} & set(hostile)
    assert len(hostile.splitlines()) == 2


def test_a_goal_of_a_megabyte() -> None:
    runs = SnapshotTable.from_records(RunSnapshot, [RunSnapshot("r", "t", goal="g" * 2**20)])
    assert len(runs[0].goal or "") == 2**20
    assert runs.to_arrow()["goal"][0].as_py() == "g" * 2**20
    assert len(repr(runs)) < 300
    assert len(runs._repr_html_()) < 3000
    assert "…" in runs._repr_html_()


def test_an_empty_table_has_the_records_columns() -> None:
    tables = [
        SnapshotTable.empty(kind) for kind in (IncidentSnapshot, RunSnapshot, TraceSummarySnapshot, TraceStepSnapshot)
    ]
    assert {table.record_type.table: shown(table.schema) for table in tables} == COLUMNS
