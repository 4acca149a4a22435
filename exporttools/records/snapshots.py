"""The frozen records that the store returns and a bundle holds. No database, no file.

A test checks that their fields are those of :mod:`exporttools.records.schema`, in the same order.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from exporttools.records.schema import INCIDENTS, RUNS, TRACE_STEPS, TRACES, RecordType
from exporttools.records.snapshot_table import SnapshotTable, html_value

if TYPE_CHECKING:
    import pandas as pd


class _Snapshot:
    """What the four snapshots share."""

    __slots__ = ()
    RECORD_TYPE: ClassVar[RecordType]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, in order."""
        return {name: getattr(self, name) for name in self.RECORD_TYPE.names}

    def to_arrow(self) -> pa.Table:
        """Return one row, with the schema of the record type."""
        return SnapshotTable.from_records(type(self), [self]).to_arrow()

    def to_pandas(self) -> pd.DataFrame:
        """Return one row, with types as in :meth:`SnapshotTable.to_pandas`."""
        return SnapshotTable.from_records(type(self), [self]).to_pandas()

    def __repr__(self) -> str:
        shown = (f"{f.name}={_short(getattr(self, f.name))}" for f in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{html_value(value)}</td></tr>"
            for name, value in self.to_dict().items()
        )
        return f"<table><tbody>{rows}</tbody></table>"


def _short(value: object) -> str:
    text = repr(value[:201]) if isinstance(value, str) else repr(value)
    return text if len(text) <= 200 else text[:199] + "…"


@dataclass(frozen=True, slots=True, repr=False)
class IncidentSnapshot(_Snapshot):
    """Something that went wrong, as the platform recorded it.

    Examples
    --------
    >>> import datetime as dt
    >>> noon = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)
    >>> IncidentSnapshot("inc-1", "acme", "r1", "high", None, None, "budget_exceeded", created_at=noon).severity
    'high'
    """

    id: str
    tenant_id: str
    source_run_id: str | None
    severity: str | None
    policy_id: str | None
    policy_name: str | None
    violation_type: str | None
    created_at: dt.datetime

    RECORD_TYPE: ClassVar[RecordType] = INCIDENTS


@dataclass(frozen=True, slots=True, repr=False)
class RunSnapshot(_Snapshot):
    """One run of an agent. ``total_cost_cents`` is what the platform recorded, in US cents.

    Examples
    --------
    >>> RunSnapshot(run_id="r1", tenant_id="acme", total_cost_cents=12).to_pandas()["total_cost_cents"].dtype
    Int64Dtype()
    """

    run_id: str
    tenant_id: str
    agent_id: str | None = None
    goal: str | None = None
    policy_snapshot_id: str | None = None
    started_at: dt.datetime | None = None
    completed_at: dt.datetime | None = None
    termination_reason: str | None = None
    total_cost_cents: int | None = None

    RECORD_TYPE: ClassVar[RecordType] = RUNS


@dataclass(frozen=True, slots=True, repr=False)
class TraceSummarySnapshot(_Snapshot):
    """Where one recorded trace of a run went wrong, if it did.

    Examples
    --------
    >>> TraceSummarySnapshot(trace_id="t1", run_id="r1", tenant_id="acme").violation_step_index is None
    True
    """

    trace_id: str
    run_id: str
    tenant_id: str
    violation_step_index: int | None = None
    violation_timestamp: dt.datetime | None = None

    RECORD_TYPE: ClassVar[RecordType] = TRACES


@dataclass(frozen=True, slots=True, repr=False)
class TraceStepSnapshot(_Snapshot):
    """One step of a trace: ``cost_cents`` in US cents, ``duration_ms`` in milliseconds.

    Examples
    --------
    >>> import datetime as dt
    >>> noon = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)
    >>> step = TraceStepSnapshot(0, noon, "llm_call", tokens=900, cost_cents=0.45, duration_ms=1200.0, status="ok")
    >>> step.to_arrow().num_rows
    1
    """

    step_index: int
    timestamp: dt.datetime
    step_type: str
    tokens: int
    cost_cents: float
    duration_ms: float
    status: str
    content_hash: str | None = None

    RECORD_TYPE: ClassVar[RecordType] = TRACE_STEPS


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """Where and when a bundle was read. Names no host, user or database: a bundle goes to strangers.

    Attributes
    ----------
    dialect, server_version : str
        The kind and version of the database.
    layout : str
        The layout that the database was read with.
    snapshot_id : str or None
        The database's own name for the point in time (PostgreSQL: ``pg_current_snapshot()``), or None.
    read_at : datetime.datetime
        The reader's clock when the snapshot was taken.
    """

    dialect: str
    server_version: str
    layout: str
    snapshot_id: str | None
    read_at: dt.datetime
