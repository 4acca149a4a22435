"""The records' columns as data: the single source of names, types, nullability, units and meanings.

Dataclasses, Arrow and Parquet schemas, SQL tables and the data dictionary are derived from it or tested against it.
No database, no file and no rendering may come in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from exporttools.errors import ConfigError

ColumnType = Literal["string", "int64", "float64", "timestamp"]

ARROW_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
"""The four column types. Times are UTC with microseconds everywhere."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a record.

    Attributes
    ----------
    name : str
        Its name in dataclasses, frames, files and SQL.
    type : {"string", "int64", "float64", "timestamp"}
        See :data:`ARROW_TYPES`.
    nullable : bool
        Whether NULL is allowed.
    doc : str
        What it means, in one line.
    unit : str or None
        The unit of a number.
    minimum : int or None
        The smallest number allowed.
    additive : bool
        Whether a sum over rows is meaningful.
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
        """The column as an Arrow field, with its unit and meaning as metadata."""
        metadata = {"doc": self.doc} | ({"unit": self.unit} if self.unit else {})
        return pa.field(self.name, ARROW_TYPES[self.type], nullable=self.nullable, metadata=metadata)


@dataclass(frozen=True, slots=True)
class RecordType:
    """A kind of record, and the table that holds it.

    Attributes
    ----------
    table : str
        The native table's name; also the name in content digests.
    noun, plural : str
        The words for one record and for many.
    columns : tuple of Column
        The fields of the snapshot, in order.
    key : tuple of str
        The columns that identify and order rows.
    context : tuple of Column
        Columns of the stored table before the snapshot's own, which the snapshot does not have.
    extra : tuple of Column
        Well-known extra columns, which frames and Parquet files may have and snapshots never do.
    time : str or None
        The column that says when a row happened.
    """

    table: str
    noun: str
    plural: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    context: tuple[Column, ...] = ()
    extra: tuple[Column, ...] = ()
    time: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def stored_key(self) -> tuple[str, ...]:
        """The columns that identify a row within its tenant and order rows: a step's index counts within its trace.

        Examples
        --------
        >>> TRACE_STEPS.key, TRACE_STEPS.stored_key
        (('step_index',), ('trace_id', 'step_index'))
        """
        return (*(column.name for column in self.context if column.name != "tenant_id"), *self.key)

    def stored_columns(self, extra: Sequence[Column] = ()) -> tuple[Column, ...]:
        """Return the columns of a stored table or file: the context, the record's own, then `extra`."""
        return (*self.context, *self.columns, *extra)

    def extra_column(self, name: str, column_type: ColumnType) -> Column:
        """Return the well-known extra column of that name and type, or else a plain one without a meaning."""
        known = (column for column in self.extra if (column.name, column.type) == (name, column_type))
        return next(known, Column(name, column_type, True, ""))

    def arrow_schema(self, extra: Sequence[Column] = ()) -> pa.Schema:
        """Return the Arrow schema of the record's columns, then `extra`.

        Examples
        --------
        >>> TRACE_STEPS.arrow_schema().field("duration_ms").metadata[b"unit"]
        b'ms'
        """
        return arrow_schema((*self.columns, *extra))


INCIDENTS = RecordType(
    table="incidents",
    noun="incident",
    plural="incidents",
    key=("id",),
    time="created_at",
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

RUNS = RecordType(
    table="runs",
    noun="run",
    plural="runs",
    key=("run_id",),
    time="started_at",
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
    extra=(
        Column("source_format", "string", True, "the format that an imported run was written in: claude-code, codex, ..."),
        Column("agent_version", "string", True, "the agent's version"),
        Column("parent_run_id", "string", True, "the run that this one was forked or started from"),
        Column("project", "string", True, "the name of the directory that the agent worked in"),
        Column("cwd", "string", True, "that directory's path"),
        Column("git_branch", "string", True, "the branch that was checked out there"),
    ),
)  # fmt: skip

TRACES = RecordType(
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

TRACE_STEPS = RecordType(
    table="trace_steps",
    noun="step",
    plural="steps",
    key=("step_index",),
    time="timestamp",
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
        Column(
            "price_basis", "string", True, "the price list and its version, the model as it is named there, the tier"
        ),
        Column("input_tokens", "int64", True, "tokens in, caches included", unit="tokens", minimum=0, additive=True),
        Column(
            "output_tokens", "int64", True, "tokens out, reasoning included", unit="tokens", minimum=0, additive=True
        ),
        Column(
            "cache_read_tokens",
            "int64",
            True,
            "of the input: read from a cache",
            unit="tokens",
            minimum=0,
            additive=True,
        ),
        Column(
            "cache_write_tokens",
            "int64",
            True,
            "of the input: written to caches",
            unit="tokens",
            minimum=0,
            additive=True,
        ),
        Column(
            "cache_write_1h_tokens",
            "int64",
            True,
            "of those: kept for an hour",
            unit="tokens",
            minimum=0,
            additive=True,
        ),
        Column("reasoning_tokens", "int64", True, "of the output: reasoning", unit="tokens", minimum=0, additive=True),
        Column("subagent", "string", True, "the subagent that took the step; NULL: the run's own agent"),
        Column("project", "string", True, "the name of the directory that the agent worked in"),
    ),
)


TOKEN_KINDS: tuple[str, ...] = tuple(column.name for column in TRACE_STEPS.extra if column.unit == "tokens")
"""The extra columns that say of what kind a step's tokens were. Input and output add up to ``tokens``; the others are parts
of those two or of each other, and are never added to them.
"""

RECORD_TYPES: dict[str, RecordType] = {
    record_type.table: record_type for record_type in (INCIDENTS, RUNS, TRACES, TRACE_STEPS)
}
"""The four record types by table name, from incidents down to steps."""


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """Return the Arrow schema of the columns."""
    return pa.schema([column.arrow_field for column in columns])


def column_of(field: pa.Field) -> Column:
    """Return the column that an Arrow field describes; the inverse of `Column.arrow_field` for extra columns.

    Raises
    ------
    ConfigError
        The field is not of one of the four types.
    """
    for name, arrow_type in ARROW_TYPES.items():
        if field.type == arrow_type:
            metadata = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
            return Column(field.name, name, True, metadata.get("doc", ""), unit=metadata.get("unit"))  # type: ignore[arg-type]
    accepted = ", ".join(str(t) for t in ARROW_TYPES.values())
    raise ConfigError(f"column {field.name!r} is of type {field.type}; expected one of {accepted}")
