"""The records' columns as data: the one place where names, types, nullability, units and meanings stand.

Dataclasses, Arrow and Parquet schemas, SQL tables and the data dictionary are derived from these tables or tested
against them. No database, no file and no rendering may come in here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from exporttools.errors import ConfigError, InconsistentData

ColumnType = Literal["string", "int64", "float64", "timestamp"]

ARROW_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
"""The four column types there are. Times are UTC with microseconds everywhere."""

ERROR_STATUSES: frozenset[str] = frozenset({"error", "failed", "failure", "timeout"})
"""The stored values of a step's ``status`` that mean it went wrong."""

_EARLIEST = dt.datetime(1, 1, 1, tzinfo=dt.UTC)
_LATEST = dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a record.

    Attributes
    ----------
    name : str
        The field's, column's and attribute's name everywhere.
    type : {"string", "int64", "float64", "timestamp"}
        See :data:`ARROW_TYPES`.
    nullable : bool
        Whether NULL is a value.
    doc : str
        What it means, in one line.
    unit : str or None
        The unit of a number.
    minimum : int or None
        The least number allowed.
    additive : bool
        Whether a sum over rows means something.
    """

    name: str
    type: ColumnType
    nullable: bool
    doc: str
    unit: str | None = None
    minimum: int | None = None
    additive: bool = False

    @property
    def described(self) -> str:
        """The type with its article, for messages."""
        return f"{'an' if self.type == 'int64' else 'a'} {self.type}"

    @property
    def arrow_field(self) -> pa.Field:
        """The column as an Arrow field; unit and meaning ride along as metadata."""
        metadata = {"doc": self.doc} | ({"unit": self.unit} if self.unit else {})
        return pa.field(self.name, ARROW_TYPES[self.type], nullable=self.nullable, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Record:
    """One kind of record and the table that holds it.

    Attributes
    ----------
    table : str
        The native table's name; also the name in content digests.
    noun, plural : str
        What people call one and many of them.
    columns : tuple of Column
        The fields of the snapshot, in order.
    key : tuple of str
        The columns of a row's key, which also orders rows.
    context : tuple of Column
        Columns that the table has before the snapshot's own and the snapshot does not have.
    extra : tuple of Column
        Well-known further columns: they ride along in frames and Parquet, never in the snapshots.
    """

    table: str
    noun: str
    plural: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    context: tuple[Column, ...] = ()
    extra: tuple[Column, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return tuple(column.name for column in self.columns)

    def arrow_schema(self, extra: Sequence[Column] = ()) -> pa.Schema:
        """The Arrow schema of the record's columns, then `extra` ones.

        Examples
        --------
        >>> TRACE_STEPS.arrow_schema().field("duration_ms").metadata[b"unit"]
        b'ms'
        """
        return pa.schema([column.arrow_field for column in (*self.columns, *extra)])


INCIDENTS = Record(
    table="incidents",
    noun="incident",
    plural="incidents",
    key=("id",),
    columns=(
        Column("id", "string", False, "identifies the incident within its tenant"),
        Column("tenant_id", "string", False, "whose data it is"),
        Column("source_run_id", "string", True, "the run in which it happened, where one is known"),
        Column("severity", "string", True, "how bad it is, in the platform's own words"),
        Column("policy_id", "string", True, "the policy that was violated"),
        Column("policy_name", "string", True, "that policy's name"),
        Column("violation_type", "string", True, "what kind of violation or failure it was"),
        Column("created_at", "timestamp", False, "when it was recorded", unit="UTC"),
    ),
)

RUNS = Record(
    table="runs",
    noun="run",
    plural="runs",
    key=("run_id",),
    columns=(
        Column("run_id", "string", False, "identifies the run within its tenant"),
        Column("tenant_id", "string", False, "whose data it is"),
        Column("agent_id", "string", True, "the agent that ran"),
        Column("goal", "string", True, "what it was asked to do"),
        Column("policy_snapshot_id", "string", True, "the policies in force, as they were when it ran"),
        Column("started_at", "timestamp", True, "when it started; NULL: not yet, or never recorded", unit="UTC"),
        Column("completed_at", "timestamp", True, "when it ended; NULL: still open, or never recorded", unit="UTC"),
        Column("termination_reason", "string", True, "why it ended; NULL: still open, or never recorded"),
        Column(
            "total_cost_cents", "int64", True, "the cost the platform recorded for the whole run",
            unit="US cents", minimum=0, additive=True,
        ),
    ),
)  # fmt: skip

TRACES = Record(
    table="traces",
    noun="trace",
    plural="traces",
    key=("trace_id",),
    columns=(
        Column("trace_id", "string", False, "identifies the trace within its tenant"),
        Column("run_id", "string", False, "the run it recorded; a run may have several, from retries or replays"),
        Column("tenant_id", "string", False, "whose data it is"),
        Column("violation_step_index", "int64", True, "the first step at which it went wrong", minimum=0),
        Column("violation_timestamp", "timestamp", True, "when that was", unit="UTC"),
    ),
)

TRACE_STEPS = Record(
    table="trace_steps",
    noun="step",
    plural="steps",
    key=("step_index",),
    context=(
        Column("tenant_id", "string", False, "whose data it is"),
        Column("trace_id", "string", False, "the trace the step belongs to"),
    ),
    columns=(
        Column("step_index", "int64", False, "position within the trace, from 0", minimum=0),
        Column("timestamp", "timestamp", False, "when the step started", unit="UTC"),
        Column("step_type", "string", False, "what kind of step it was: llm_call, tool_call, ..."),
        Column("tokens", "int64", False, "tokens in and out", unit="tokens", minimum=0, additive=True),
        Column("cost_cents", "float64", False, "what the step cost", unit="US cents", minimum=0, additive=True),
        Column("duration_ms", "float64", False, "how long it took", unit="ms", minimum=0, additive=True),
        Column("status", "string", False, "how it ended, in the platform's own words: ok, error, ..."),
        Column("content_hash", "string", True, "digest of what the step did; equal digests are repeated calls"),
    ),
    extra=(
        Column("name", "string", True, "the tool's, span's or function's name"),
        Column("model", "string", True, "the model that was called"),
        Column("error", "string", True, "what went wrong, in words"),
        Column("parent_step_index", "int64", True, "the step that this one is part of", minimum=0),
        Column("cost_source", "string", True, "where the cost comes from: reported, priced, none"),
    ),
)


@dataclass(frozen=True, slots=True)
class Origin:
    """What error messages call rows.

    Attributes
    ----------
    table : str
        The stored table's name.
    within : str
        What all the rows have in common and a row's own key leaves out, such as ``trace_id='t1'``.
    """

    table: str
    within: str = ""

    def fault(self, key: str, column: str, found: str, expected: str) -> InconsistentData:
        """The error that a row holds a value which its column forbids."""
        where = ", ".join(part for part in (self.within, key) if part)
        return InconsistentData(
            f"{self.table}: row {where} has {column} = {found}; expected {expected}. "
            f"Nothing was changed; mend the row at its source, or map the column in a layout.",
            table=self.table, key=where, column=column,
        )  # fmt: skip


RECORDS: dict[str, Record] = {record.table: record for record in (INCIDENTS, RUNS, TRACES, TRACE_STEPS)}
"""The four records by table name, in the order in which they refer to each other."""


def column_of(field: pa.Field) -> Column:
    """The column that an Arrow field of one of the four types describes: how extra columns are read back.

    Raises
    ------
    ConfigError
        The field is of another type.
    """
    for name, arrow_type in ARROW_TYPES.items():
        if field.type == arrow_type:
            metadata = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
            return Column(field.name, name, True, metadata.get("doc", ""), unit=metadata.get("unit"))  # type: ignore[arg-type]
    accepted = ", ".join(str(t) for t in ARROW_TYPES.values())
    raise ConfigError(f"column {field.name!r} is of type {field.type}; accepted are {accepted}")


def require_valid(table: pa.Table, columns: Sequence[Column], *, origin: Origin, key: Sequence[str]) -> None:
    """Raise at the first value that its column forbids.

    Forbidden are NULL where the column is not nullable, NaN and infinity, numbers below the column's minimum, and
    times outside the years 1 to 9999 (what :class:`datetime.datetime` can hold).

    Parameters
    ----------
    table : pyarrow.Table
        Has at least `columns`, of their types.
    columns : sequence of Column
    origin : Origin
        What the message calls the rows.
    key : sequence of str
        The columns that identify a row, in order; those that the table lacks are passed over.

    Raises
    ------
    InconsistentData
        Names the table, the row's key and the column.
    """
    for column in columns:
        values = table[column.name]
        for rule, broken in _broken_rules(column, values):
            row = pc.index(broken, pa.scalar(True)).as_py()
            where = ", ".join(f"{name}={table[name][row].as_py()!r}" for name in key if name in table.column_names)
            raise origin.fault(where, column.name, _found(values, row), rule)


def _broken_rules(column: Column, values: pa.ChunkedArray) -> Iterator[tuple[str, Any]]:
    """The rules that some value breaks, each with a mask of the rows that do. Cheap checks on the whole come first."""
    if not column.nullable and values.null_count:
        yield f"{column.described}, never NULL", pc.is_null(values)
    if len(values) == values.null_count:
        return
    if column.type == "float64" and not pc.all(pc.is_finite(values)).as_py():
        yield "a finite number", pc.invert(pc.fill_null(pc.is_finite(values), True))
    if column.type == "timestamp":
        extent = pc.min_max(values.cast(pa.int64()))
        low, high = (pa.scalar(t, ARROW_TYPES["timestamp"]).cast(pa.int64()) for t in (_EARLIEST, _LATEST))
        if extent["min"].as_py() < low.as_py() or extent["max"].as_py() > high.as_py():
            integers = values.cast(pa.int64())
            outside = pc.or_(pc.less(integers, low), pc.greater(integers, high))
            yield "a time in the years 1 to 9999", pc.fill_null(outside, False)
    if column.minimum is not None and pc.min(values).as_py() < column.minimum:
        yield f"at least {column.minimum}", pc.fill_null(pc.less(values, column.minimum), False)


def _found(values: pa.ChunkedArray, row: int) -> str:
    scalar = values[row]
    if not scalar.is_valid:
        return "NULL"
    try:
        return repr(scalar.as_py()) if not pa.types.is_timestamp(values.type) else str(scalar.as_py())
    except (ValueError, OverflowError):  # a time that no datetime can hold
        return f"{scalar.cast(pa.int64()).as_py()} µs since 1970"
