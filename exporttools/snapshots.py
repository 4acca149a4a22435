"""The frozen records: what the store hands out, the analysis takes in and a bundle holds. No database, no file.

Fields and their order are those of :mod:`exporttools.schema`; a test holds them against it.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from exporttools.errors import ConfigError
from exporttools.hashing import combined_digest, table_digest
from exporttools.inert import html_text, one_line
from exporttools.schema import ERROR_STATUSES, INCIDENTS, RUNS, TRACE_STEPS, TRACES, Record
from exporttools.snapshot_table import SnapshotTable, SnapshotType, html_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

S = TypeVar("S", bound=SnapshotType)


class _Snapshot:
    """What the four snapshots share."""

    __slots__ = ()
    RECORD: ClassVar[Record]

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, in order."""
        return {name: getattr(self, name) for name in self.RECORD.names}

    def to_arrow(self) -> pa.Table:
        """One row, with the record's declared schema."""
        return SnapshotTable.from_records(type(self), [self]).to_arrow()

    def to_pandas(self) -> pd.DataFrame:
        """One row; types as in :meth:`SnapshotTable.to_pandas`."""
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

    RECORD: ClassVar[Record] = INCIDENTS


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

    RECORD: ClassVar[Record] = RUNS


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

    RECORD: ClassVar[Record] = TRACES


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

    RECORD: ClassVar[Record] = TRACE_STEPS


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """Where and as of when a bundle was read. Names no host, user or database: a bundle goes to strangers.

    Attributes
    ----------
    dialect, server_version : str
        The kind and version of the database.
    layout : str
        The layout it was read by.
    snapshot_id : str or None
        The database's own name of the point in time (PostgreSQL: ``pg_current_snapshot()``), where it has one.
    read_at : datetime.datetime
        The reader's clock when the snapshot was taken.
    """

    dialect: str
    server_version: str
    layout: str
    snapshot_id: str | None
    read_at: dt.datetime


class ExportBundle:
    """An incident (or a run), its run, its trace and the trace's steps, as of one point in time. Immutable.

    Parameters
    ----------
    incident, run, trace : snapshot, one-row SnapshotTable or None
        A table may carry extra columns, which then are in the bundle's Parquet files.
    steps : SnapshotTable of TraceStepSnapshot, optional
        All steps of the trace, by ``step_index``.
    trace_count : int, optional
        How many traces the run has; `trace` is one of them.
    source : SourceSnapshot, optional
        Where they were read.

    Raises
    ------
    ConfigError
        The parts do not belong together, or the steps were cut by a limit.

    Notes
    -----
    Two bundles are equal where they hold the same rows and count of traces, wherever and whenever they were read.

    Examples
    --------
    >>> run = RunSnapshot(run_id="r1", tenant_id="acme", total_cost_cents=12)
    >>> bundle = ExportBundle(run=run)
    >>> bundle.missing
    ('incident', 'trace', 'steps')
    """

    __slots__ = ("_digest", "_tables", "source", "trace_count")

    trace_count: int
    source: SourceSnapshot | None

    def __init__(
        self,
        incident: IncidentSnapshot | SnapshotTable[IncidentSnapshot] | None = None,
        run: RunSnapshot | SnapshotTable[RunSnapshot] | None = None,
        trace: TraceSummarySnapshot | SnapshotTable[TraceSummarySnapshot] | None = None,
        steps: SnapshotTable[TraceStepSnapshot] | None = None,
        *,
        trace_count: int | None = None,
        source: SourceSnapshot | None = None,
    ) -> None:
        if steps is not None and not (isinstance(steps, SnapshotTable) and steps.snapshot_type is TraceStepSnapshot):
            found = steps.describe() if isinstance(steps, SnapshotTable) else type(steps).__name__
            raise ConfigError(f"expected a SnapshotTable of TraceStepSnapshot or None; found {found}")
        tables: dict[str, SnapshotTable[Any]] = {
            "incident": _at_most_one(IncidentSnapshot, incident),
            "run": _at_most_one(RunSnapshot, run),
            "trace": _at_most_one(TraceSummarySnapshot, trace),
            "steps": SnapshotTable.empty(TraceStepSnapshot) if steps is None else steps,
        }
        object.__setattr__(self, "_tables", tables)
        object.__setattr__(self, "_digest", None)
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "trace_count", len(tables["trace"]) if trace_count is None else trace_count)
        self._require_belonging_together()

    def _require_belonging_together(self) -> None:
        tenants = {part.tenant_id for part in (self.incident, self.run, self.trace) if part is not None}
        if len(tenants) > 1:
            raise ConfigError(
                f"the parts of a bundle belong to one tenant; found {', '.join(sorted(map(repr, tenants)))}"
            )
        run_ids = {self.incident.source_run_id} if self.incident else set()
        run_ids |= {part.run_id for part in (self.run, self.trace) if part is not None}
        if len(run_ids) > 1:
            found = ", ".join(sorted(map(repr, run_ids)))
            raise ConfigError(f"incident, run and trace of a bundle name one run_id; found {found}")
        if len(self.steps) and self.trace is None:
            raise ConfigError(f"a bundle with {len(self.steps)} steps needs the trace that they belong to")
        if self.steps.truncated:
            raise ConfigError(
                f"a bundle needs all {self.steps.total} steps of its trace; a limit cut them to {len(self.steps)}"
            )
        if not isinstance(self.trace_count, int) or isinstance(self.trace_count, bool):
            raise ConfigError(f"trace_count is {one_line(repr(self.trace_count))}; expected an int")
        if self.trace_count < len(self._tables["trace"]):
            expected = len(self._tables["trace"])
            raise ConfigError(
                f"trace_count is {self.trace_count}; expected at least {expected}, as many as the bundle has"
            )

    _tables: dict[str, SnapshotTable[Any]]
    _digest: str | None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an ExportBundle is immutable; build a new one to change {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"an ExportBundle is immutable; build a new one without {name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_bundle, (tuple(self._tables.values()), self.trace_count, self.source)

    @property
    def incident(self) -> IncidentSnapshot | None:
        """The incident, or None: the bundle is of a run alone."""
        return next(iter(self._tables["incident"]), None)

    @property
    def run(self) -> RunSnapshot | None:
        """The run, or None where the incident has none or it is gone."""
        return next(iter(self._tables["run"]), None)

    @property
    def trace(self) -> TraceSummarySnapshot | None:
        """The trace, or None where the run has none."""
        return next(iter(self._tables["trace"]), None)

    @property
    def steps(self) -> SnapshotTable[TraceStepSnapshot]:
        """All steps of the trace, by ``step_index``; empty where there are none."""
        return self._tables["steps"]

    @property
    def tables(self) -> dict[str, SnapshotTable[Any]]:
        """``incident``, ``run``, ``trace`` and ``steps`` as tables of at most one, one, one and any number of rows."""
        return dict(self._tables)

    @property
    def tenant_id(self) -> str | None:
        """Whose data it is; None in an empty bundle."""
        return next((part.tenant_id for part in (self.incident, self.run, self.trace) if part is not None), None)

    @property
    def name(self) -> str:
        """The id of the incident, or else of the run, or else of the trace."""
        ids = (self.incident and self.incident.id, self.run and self.run.run_id, self.trace and self.trace.trace_id)
        return next((name for name in ids if name), "empty bundle")

    @property
    def file_name(self) -> str:
        """The name, made fit to name a file: an id may hold anything, slashes and dots at its start too."""
        plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in self.name)
        return plain.lstrip(".")[:100] or "bundle"

    @property
    def missing(self) -> tuple[str, ...]:
        """Which of the four parts the bundle does not have."""
        return tuple(part for part, table in self._tables.items() if not len(table))

    @property
    def totals(self) -> Mapping[str, int | float]:
        """``steps``, ``errors`` (steps whose status is an error), ``tokens``, ``cost_cents`` and ``duration_ms``, over the steps."""
        status = self.steps.to_arrow()["status"]
        errors = pc.sum(pc.is_in(status, pa.array(sorted(ERROR_STATUSES)))).as_py() or 0
        return {"steps": len(self.steps), "errors": errors, **self.steps.sums}

    @property
    def time_range(self) -> tuple[dt.datetime, dt.datetime] | None:
        """The first and the last step's start; None without steps."""
        if not len(self.steps):
            return None
        extent = pc.min_max(self.steps.to_arrow()["timestamp"])
        return extent["min"].as_py().replace(tzinfo=dt.UTC), extent["max"].as_py().replace(tzinfo=dt.UTC)

    @property
    def content_digest(self) -> str:
        """SHA-256 over the rows (see :mod:`exporttools.hashing`): equal for equal rows, whatever database they came from."""
        if self._digest is None:
            object.__setattr__(self, "_digest", combined_digest(self.table_digests.values()))
        return self._digest  # type: ignore[return-value]

    @property
    def table_digests(self) -> dict[str, str]:
        """The content digest of each table, by its record's table name."""
        records = {part: table.snapshot_type.RECORD.table for part, table in self._tables.items()}
        return {records[part]: table_digest(records[part], table.to_arrow()) for part, table in self._tables.items()}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExportBundle):
            return NotImplemented
        return self._tables == other._tables and self.trace_count == other.trace_count

    __hash__ = None  # type: ignore[assignment]  # equal by value, and hashing would read every row

    def __repr__(self) -> str:
        missing = f", missing {', '.join(self.missing)}" if self.missing else ""
        return f"<ExportBundle {one_line(self.name, 80)!r} of {one_line(self.tenant_id, 40)!r}: {self.steps.describe()}{missing}>"

    def _repr_html_(self) -> str:
        parts = "".join(
            f"<h4 style='margin:0.4em 0'>{part}</h4>{table[0]._repr_html_()}"
            for part, table in self._tables.items()
            if part != "steps" and len(table)
        )
        missing = f"<p>missing: {', '.join(self.missing)}</p>" if self.missing else ""
        others = f"<p>one of the run's {self.trace_count} traces</p>" if self.trace_count > 1 else ""
        return (
            f"<h3 style='margin:0.4em 0'>{html_text(self.name, 120)}</h3>{parts}{others}{missing}"
            f"<h4 style='margin:0.4em 0'>steps</h4>{self.steps._repr_html_()}"
        )


def _at_most_one(snapshot_type: type[S], part: S | SnapshotTable[S] | None) -> SnapshotTable[S]:
    if isinstance(part, SnapshotTable):
        if part.snapshot_type is not snapshot_type or len(part) > 1:
            raise ConfigError(f"expected at most one {snapshot_type.__name__}; found {part.describe()}")
        return part
    if part is not None and not isinstance(part, snapshot_type):
        raise ConfigError(f"expected {snapshot_type.__name__} or None; found {type(part).__name__}")
    return SnapshotTable.from_records(snapshot_type, [] if part is None else [part])


def _restore_bundle(
    tables: tuple[SnapshotTable[Any], ...], trace_count: int, source: SourceSnapshot | None
) -> ExportBundle:
    return ExportBundle(*tables, trace_count=trace_count, source=source)
