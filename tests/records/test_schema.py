"""The columns as data: what DESIGN.md §4 says, held against dataclasses, Arrow and the rules for values."""

from __future__ import annotations

import dataclasses
import datetime as dt
import pickle
import types
import typing
from typing import Any

import pyarrow as pa
import pytest

from exporttools import (
    ConfigError,
    IncidentSnapshot,
    InconsistentData,
    RunSnapshot,
    SnapshotTable,
    TraceStepSnapshot,
    TraceSummarySnapshot,
)
from exporttools.records.schema import ARROW_TYPES, RECORD_TYPES, TRACE_STEPS, Column, RecordType, column_of
from exporttools.records.validity import Origin, require_valid

SNAPSHOTS = [IncidentSnapshot, RunSnapshot, TraceSummarySnapshot, TraceStepSnapshot]

# DESIGN.md §4, word for word.
DESIGNED = {
    "IncidentSnapshot": """id str | tenant_id str | source_run_id str? | severity str? | policy_id str? | policy_name str?
        | violation_type str? | created_at datetime""",
    "RunSnapshot": """run_id str | tenant_id str | agent_id str? | goal str? | policy_snapshot_id str? | started_at datetime?
        | completed_at datetime? | termination_reason str? | total_cost_cents int?""",
    "TraceSummarySnapshot": """trace_id str | run_id str | tenant_id str | violation_step_index int?
        | violation_timestamp datetime?""",
    "TraceStepSnapshot": """step_index int | timestamp datetime | step_type str | tokens int | cost_cents float
        | duration_ms float | status str | content_hash str?""",
}
COLUMN_TYPES = {"str": "string", "int": "int64", "float": "float64", "datetime": "timestamp"}
PYTHON_TYPES = {"string": str, "int64": int, "float64": float, "timestamp": dt.datetime}


def _fields(snapshot_type: type) -> list[tuple[str, str, bool]]:
    fields = (field.split() for field in DESIGNED[snapshot_type.__name__].split("|"))
    return [(name, COLUMN_TYPES[kind.rstrip("?")], kind.endswith("?")) for name, kind in fields]


@pytest.mark.parametrize("snapshot_type", SNAPSHOTS)
def test_the_records_are_those_of_the_design(snapshot_type: Any) -> None:
    assert [(c.name, c.type, c.nullable) for c in snapshot_type.RECORD_TYPE.columns] == _fields(snapshot_type)


@pytest.mark.parametrize("snapshot_type", SNAPSHOTS)
def test_a_dataclass_has_its_records_columns(snapshot_type: Any) -> None:
    record = snapshot_type.RECORD_TYPE
    assert tuple(field.name for field in dataclasses.fields(snapshot_type)) == record.names
    hints = typing.get_type_hints(snapshot_type)
    for column in record.columns:
        python_type: Any = PYTHON_TYPES[column.type]
        expected = types.UnionType if column.nullable else type
        assert hints[column.name] == (python_type | None if column.nullable else python_type), column.name
        assert isinstance(hints[column.name], expected)
    assert snapshot_type.__dataclass_params__.frozen
    assert set(snapshot_type.__slots__) == set(record.names)


def test_each_record_has_one_snapshot_class() -> None:
    assert {snapshot_type.RECORD_TYPE.table: snapshot_type.RECORD_TYPE for snapshot_type in SNAPSHOTS} == RECORD_TYPES  # type: ignore[attr-defined]
    assert list(RECORD_TYPES) == ["incidents", "runs", "traces", "trace_steps"]


@pytest.mark.parametrize("record", RECORD_TYPES.values(), ids=RECORD_TYPES)
def test_columns_are_sound(record: RecordType) -> None:
    columns = (*record.context, *record.columns, *record.extra)
    names = [column.name for column in columns]
    assert len(set(names)) == len(names)
    assert set(record.key) <= set(record.names)
    counts = {"step_index", "violation_step_index", "parent_step_index"}  # positions, which have no unit
    for column in columns:
        assert column.type in ARROW_TYPES
        assert column.doc
        assert "\n" not in column.doc
        if column.type in ("int64", "float64") and column.name not in counts:
            assert column.unit, column.name
        if column.type == "timestamp":
            assert column.unit == "UTC"
        if column.type == "string":
            assert (column.unit, column.minimum, column.additive) == (None, None, False)
        if column.additive:
            assert column.minimum == 0  # what sums rely on: no sum is less than its parts
    assert all(column.nullable for column in record.extra)


@pytest.mark.parametrize("record", RECORD_TYPES.values(), ids=RECORD_TYPES)
def test_arrow_fields_carry_unit_and_meaning(record: RecordType) -> None:
    schema = record.arrow_schema(record.extra)
    columns = (*record.columns, *record.extra)
    assert schema.names == [column.name for column in columns]
    for field, column in zip(schema, columns, strict=True):
        assert (field.type, field.nullable) == (ARROW_TYPES[column.type], column.nullable)
        expected = {b"doc": column.doc.encode()} | ({b"unit": column.unit.encode()} if column.unit else {})
        assert field.metadata == expected


def test_units_are_those_of_the_names() -> None:
    units = {column.name: column.unit for record in RECORD_TYPES.values() for column in record.columns if column.unit}
    assert units == {
        "created_at": "UTC", "started_at": "UTC", "completed_at": "UTC", "violation_timestamp": "UTC", "timestamp": "UTC",
        "total_cost_cents": "US cents", "cost_cents": "US cents", "duration_ms": "ms", "tokens": "tokens",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ARROW_TYPES)
def test_an_extra_column_is_read_back_from_its_field(kind: Any) -> None:
    column = Column("x", kind, True, "what it means", unit="s")
    assert column_of(column.arrow_field) == column
    assert column_of(pa.field("x", ARROW_TYPES[kind], nullable=False)) == Column("x", kind, True, "")


@pytest.mark.parametrize(
    "kind", [pa.int32(), pa.large_string(), pa.timestamp("us"), pa.timestamp("ns", "UTC"), pa.list_(pa.int64())]
)
def test_other_types_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(ConfigError) as caught:
        column_of(pa.field("x", kind))
    assert (
        str(caught.value) == f"column 'x' is of type {kind}; accepted are string, int64, double, timestamp[us, tz=UTC]"
    )


# Values

YEAR_1 = dt.datetime(1, 1, 1, tzinfo=dt.UTC)
YEAR_9999 = dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
FIRST_MICROSECOND = (YEAR_1 - EPOCH) // dt.timedelta(microseconds=1)
LAST_MICROSECOND = (YEAR_9999 - EPOCH) // dt.timedelta(microseconds=1)


def _check(column: Column, values: pa.Array) -> None:
    table = pa.table({"k": pa.array([f"row{i}" for i in range(len(values))]), column.name: values})
    require_valid(table, [column], origin=Origin("things", "tenant_id='a'"), key=("k", "not there"))


TIME = Column("x", "timestamp", True, "")
FLOAT = Column("x", "float64", True, "", minimum=0)
INTEGER = Column("x", "int64", True, "", minimum=0)
MICROSECONDS = ARROW_TYPES["timestamp"]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (TIME, pa.array([YEAR_1, None, YEAR_9999], MICROSECONDS)),
        (TIME, pa.array([None, None], MICROSECONDS)),
        (TIME, pa.array([], MICROSECONDS)),
        (FLOAT, pa.array([0.0, -0.0, None, 5e-324, 1.7976931348623157e308])),
        (FLOAT, pa.array([None], pa.float64())),
        (INTEGER, pa.array([0, None, 2**63 - 1])),
        (dataclasses.replace(INTEGER, minimum=None), pa.array([-(2**63)])),
        (Column("x", "string", False, ""), pa.array(["", "\0", "x" * 2**20])),
        (Column("x", "string", False, ""), pa.array([], pa.string())),
    ],
)
def test_values_that_are_allowed(column: Column, values: pa.Array) -> None:
    _check(column, values)


@pytest.mark.parametrize(
    ("column", "values", "found", "expected"),
    [
        (dataclasses.replace(TIME, nullable=False), pa.array([YEAR_1, None], MICROSECONDS), "NULL", "a timestamp, never NULL"),
        (Column("x", "string", False, ""), pa.array(["", None]), "NULL", "a string, never NULL"),
        (dataclasses.replace(FLOAT, nullable=False), pa.array([None, None], pa.float64()), "NULL", "a float64, never NULL"),
        (dataclasses.replace(INTEGER, nullable=False), pa.array([1, None]), "NULL", "an int64, never NULL"),
        (FLOAT, pa.array([None, float("nan")]), "nan", "a finite number"),
        (FLOAT, pa.array([1.0, float("inf")]), "inf", "a finite number"),
        (FLOAT, pa.array([1.0, float("-inf")]), "-inf", "a finite number"),
        (FLOAT, pa.array([None, -5e-324]), "-5e-324", "at least 0"),
        (INTEGER, pa.array([None, -1]), "-1", "at least 0"),
        (dataclasses.replace(INTEGER, minimum=3), pa.array([3, 2]), "2", "at least 3"),
        (TIME, pa.array([None, FIRST_MICROSECOND - 1]).cast(pa.int64()).view(MICROSECONDS),
         f"{FIRST_MICROSECOND - 1} µs since 1970", "a time in the years 1 to 9999"),
        (TIME, pa.array([0, LAST_MICROSECOND + 1]).view(MICROSECONDS),
         f"{LAST_MICROSECOND + 1} µs since 1970", "a time in the years 1 to 9999"),
        (TIME, pa.array([0, -(2**63)]).view(MICROSECONDS), f"{-(2**63)} µs since 1970", "a time in the years 1 to 9999"),
    ],
)  # fmt: skip
def test_values_that_are_forbidden(column: Column, values: pa.Array, found: str, expected: str) -> None:
    row = 0 if values.null_count == len(values) else 1
    with pytest.raises(InconsistentData) as caught:
        _check(column, values)
    assert str(caught.value) == (
        f"things: row tenant_id='a', k='row{row}' has x = {found}; expected {expected}. "
        "Nothing was changed; mend the row at its source, or map the column in a layout."
    )
    error = caught.value
    assert (error.table, error.key, error.column) == ("things", f"tenant_id='a', k='row{row}'", "x")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.table, copy.key, copy.column) == (str(error), error.table, error.key, error.column)


def test_the_row_is_found_across_chunks() -> None:
    table = pa.table(
        {"k": pa.chunked_array([[1, 2], [3, 4]]), "x": pa.chunked_array([[0.5], [1.5, 2.5, float("nan")]])}
    )
    with pytest.raises(InconsistentData, match="row k=4 has x = nan"):
        require_valid(table, [FLOAT], origin=Origin("things"), key=("k",))


def test_the_first_forbidden_column_is_named() -> None:
    steps = pa.table({name: pa.array([None], field.type) for name, field in
                      zip(TRACE_STEPS.names, TRACE_STEPS.arrow_schema(), strict=True)})  # fmt: skip
    with pytest.raises(InconsistentData, match="trace_steps: row step_index=None has step_index = NULL"):
        SnapshotTable(TraceStepSnapshot, steps)
