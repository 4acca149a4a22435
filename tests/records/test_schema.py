"""The columns as data: what DESIGN.md §4 says, compared with dataclasses and Arrow schemas."""

from __future__ import annotations

import dataclasses
import datetime as dt
import types
import typing
from itertools import chain
from typing import Any

import pyarrow as pa
import pytest

from exporttools import (
    ConfigError,
    IncidentSnapshot,
    RunSnapshot,
    TraceStepSnapshot,
    TraceSummarySnapshot,
)
from exporttools.records.schema import (
    ARROW_TYPES,
    RECORD_TYPES,
    RUNS,
    TOKEN_KINDS,
    TRACE_STEPS,
    Column,
    RecordType,
    arrow_schema,
    column_of,
)
from tests.records.columns import COLUMNS, EXTRA_COLUMNS, shown

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
    names = tuple(name for name, _, _ in _fields(snapshot_type))
    assert tuple(field.name for field in dataclasses.fields(snapshot_type)) == snapshot_type.RECORD_TYPE.names == names
    hints = typing.get_type_hints(snapshot_type)
    for name, column_type, nullable in _fields(snapshot_type):
        python_type: Any = PYTHON_TYPES[column_type]
        assert hints[name] == (python_type | None if nullable else python_type), name
        assert isinstance(hints[name], types.UnionType if nullable else type)
    assert snapshot_type.__dataclass_params__.frozen
    assert set(snapshot_type.__slots__) == set(names)


def test_each_record_has_one_snapshot_class() -> None:
    assert {snapshot_type.RECORD_TYPE.table: snapshot_type.RECORD_TYPE for snapshot_type in SNAPSHOTS} == RECORD_TYPES  # type: ignore[attr-defined]
    assert list(RECORD_TYPES) == ["incidents", "runs", "traces", "trace_steps"]


@pytest.mark.parametrize("record_type", RECORD_TYPES.values(), ids=RECORD_TYPES)
def test_columns_are_sound(record_type: RecordType) -> None:
    columns = (*record_type.context, *record_type.columns, *record_type.extra)
    names = [column.name for column in columns]
    assert len(set(names)) == len(names)
    assert set(record_type.key) <= set(record_type.names)
    assert {column.type for column in columns} <= set(ARROW_TYPES)
    assert all(column.doc for column in columns)
    assert not any("\n" in column.doc for column in columns)
    numbers = [column for column in columns if column.type in ("int64", "float64")]
    positions = {"step_index", "violation_step_index", "parent_step_index"}
    assert {column.name for column in numbers if column.unit is None} <= positions
    assert {column.unit for column in columns if column.type == "timestamp"} <= {"UTC"}
    texts = [column for column in columns if column.type == "string"]
    assert {(column.unit, column.minimum, column.additive) for column in texts} == {(None, None, False)}
    assert {column.minimum for column in columns if column.additive} <= {0}  # so that no sum is less than its parts
    assert all(column.nullable for column in record_type.extra)


@pytest.mark.parametrize("record_type", RECORD_TYPES.values(), ids=RECORD_TYPES)
def test_arrow_fields_have_type_unit_and_meaning(record_type: RecordType) -> None:
    assert shown(record_type.arrow_schema()) == COLUMNS[record_type.table]
    schema = record_type.arrow_schema(record_type.extra)
    assert shown(schema) == COLUMNS[record_type.table] + EXTRA_COLUMNS.get(record_type.table, [])
    columns = (*record_type.columns, *record_type.extra)
    assert [field.metadata[b"doc"].decode() for field in schema] == [column.doc for column in columns]
    assert set(chain(*(field.metadata for field in schema))) <= {b"doc", b"unit"}


def test_the_four_types_in_arrow() -> None:
    assert {name: str(arrow_type) for name, arrow_type in ARROW_TYPES.items()} == {
        "string": "string", "int64": "int64", "float64": "double", "timestamp": "timestamp[us, tz=UTC]",
    }  # fmt: skip


def test_keys_and_stored_columns() -> None:
    assert {name: record_type.key for name, record_type in RECORD_TYPES.items()} == {
        "incidents": ("id",), "runs": ("run_id",), "traces": ("trace_id",), "trace_steps": ("step_index",),
    }  # fmt: skip
    assert {name: record_type.stored_key for name, record_type in RECORD_TYPES.items()} == {
        "incidents": ("id",), "runs": ("run_id",), "traces": ("trace_id",), "trace_steps": ("trace_id", "step_index"),
    }  # fmt: skip
    note = Column("note", "string", True, "")
    assert shown(arrow_schema(TRACE_STEPS.stored_columns([note]))) == [
        "tenant_id: string not null", "trace_id: string not null", *COLUMNS["trace_steps"], "note: string",
    ]  # fmt: skip
    assert shown(arrow_schema(RUNS.stored_columns())) == COLUMNS["runs"]
    times = {name: record_type.time for name, record_type in RECORD_TYPES.items()}
    assert times == {"incidents": "created_at", "runs": "started_at", "traces": None, "trace_steps": "timestamp"}


def test_a_well_known_extra_column_keeps_its_meaning() -> None:
    model = Column("model", "string", True, "the model that was called")
    assert TRACE_STEPS.extra_column("model", "string") == model
    assert TRACE_STEPS.extra_column("model", "int64") == Column("model", "int64", True, "")
    assert RUNS.extra_column("model", "string") == Column("model", "string", True, "")


def test_units_are_those_of_the_names() -> None:
    units = {
        column.name: column.unit
        for record_type in RECORD_TYPES.values()
        for column in record_type.columns
        if column.unit
    }
    assert units == {
        "created_at": "UTC", "started_at": "UTC", "completed_at": "UTC", "violation_timestamp": "UTC", "timestamp": "UTC",
        "total_cost_cents": "US cents", "cost_cents": "US cents", "duration_ms": "ms", "tokens": "tokens",
    }  # fmt: skip


def test_the_kinds_of_tokens() -> None:
    assert TOKEN_KINDS == (
        "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens", "reasoning_tokens",
    )  # fmt: skip


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
        str(caught.value)
        == f"column 'x' is of type {kind}; expected one of string, int64, double, timestamp[us, tz=UTC]"
    )
