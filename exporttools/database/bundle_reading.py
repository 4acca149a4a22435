"""An incident or a run with everything that belongs to it, as an export bundle. The caller holds the point in time."""

from __future__ import annotations

import datetime as dt

from exporttools.database.scoped_reader import ScopedReader, require_id
from exporttools.database.trace_store import SqlTraceStore, TraceStore
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.snapshot_table import SnapshotTable
from exporttools.records.snapshots import IncidentSnapshot, RunSnapshot, SourceSnapshot, TraceSummarySnapshot


def read_export_bundle(
    reader: ScopedReader, trace_store: TraceStore, incident_id: str | None, run_id: str | None
) -> ExportBundle | None:
    """Read a bundle; see :meth:`exporttools.ExportBundleStore.get_export_bundle`."""
    incidents = SnapshotTable.empty(IncidentSnapshot)
    if incident_id is not None:
        incidents = reader.one(IncidentSnapshot, "id", require_id("incident_id", incident_id), reader.tenant_id)
        if not len(incidents):
            return None
        run_id = incidents[0].source_run_id
    tenant = incidents[0].tenant_id if len(incidents) else reader.tenant_id
    runs = SnapshotTable.empty(RunSnapshot)
    if run_id is not None:
        runs = reader.one(RunSnapshot, "run_id", require_id("run_id", run_id), tenant)
    if not len(incidents) and not len(runs):
        return None
    traces, trace_count = SnapshotTable.empty(TraceSummarySnapshot), 0
    if run_id is not None:
        traces, trace_count = _pick_trace(trace_store, run_id, tenant or runs[0].tenant_id)
    steps = None
    if len(traces):
        steps = trace_store.get_trace_steps(traces[0].trace_id, traces[0].tenant_id)
    return ExportBundle(incidents, runs, traces, steps, trace_count=trace_count, source=_source(reader))


def _pick_trace(trace_store: TraceStore, run_id: str, tenant: str) -> tuple[SnapshotTable[TraceSummarySnapshot], int]:
    """The run's trace and the number of its traces."""
    if isinstance(trace_store, SqlTraceStore):
        picked = trace_store.pick_trace(run_id, tenant)
        return SnapshotTable(TraceSummarySnapshot, picked.to_arrow()), picked.total or len(picked)
    summary = trace_store.get_trace_summary(run_id, tenant)
    traces = SnapshotTable.from_records(TraceSummarySnapshot, [] if summary is None else [summary])
    return traces, len(traces)


def _source(reader: ScopedReader) -> SourceSnapshot:
    database = reader.database
    with database.transaction() as connection:
        return SourceSnapshot(
            dialect=database.dialect,
            server_version=database.server_version(connection),
            layout=reader.bound(connection).name,
            snapshot_id=database.snapshot_id(connection),
            read_at=dt.datetime.now(dt.UTC),
        )
