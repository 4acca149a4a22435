"""The rules for values, and the error that names the row that breaks one."""

from __future__ import annotations

import dataclasses
import datetime as dt
import pickle

import pyarrow as pa
import pytest

from exporttools import InconsistentData, SnapshotTable, TraceStepSnapshot
from exporttools.records.schema import ARROW_TYPES, TRACE_STEPS, Column
from exporttools.records.validity import Origin, require_valid

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
        "Nothing was changed; fix the row at its source, or map the column in a layout."
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
