"""The store: incidents, runs and traces out of a database, as immutable snapshots. Writes nothing."""

from __future__ import annotations

import datetime as dt
import os
import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from exporttools.connections.urls import DatabaseLike
from exporttools.database.embedded import URL_VARIABLE, default_database_url
from exporttools.database.layouts import Layout
from exporttools.database.readers import BulkReader
from exporttools.database.scoped_reader import (
    Order,
    ScopedReader,
    choices,
    require_id,
    require_limit,
    require_period,
)
from exporttools.database.trace_store import SqlTraceStore, TraceStore
from exporttools.database.window_reader import WindowReader, WindowSnapshot
from exporttools.errors import ConfigError
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.schema import INCIDENTS, RUNS, TRACE_STEPS, TRACES
from exporttools.records.snapshot_table import SnapshotTable
from exporttools.records.snapshots import (
    IncidentSnapshot,
    RunSnapshot,
    SourceSnapshot,
    TraceStepSnapshot,
    TraceSummarySnapshot,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ExportBundleStore", "SqlTraceStore", "TraceStore", "get_export_bundle_store"]


class ExportBundleStore:
    """Reads incidents, runs and traces from a database. Safe to share between threads.

    Parameters
    ----------
    database : str, path, sqlalchemy.URL or sqlalchemy.Engine, optional
        ``postgresql://...``, ``sqlite:///file``, the path of an SQLite file, or an Engine. None: the environment
        variable ``EXPORTTOOLS_DATABASE_URL``, or else the embedded sample, with a warning that it is one.
    trace_store : TraceStore, optional
        Where traces are kept, if not in the same database.
    tenant_id : str, optional
        The tenant that every read is limited to.
    layout : Layout or {"auto", "native", "aos"}
        How the database keeps the records; ``auto`` looks.
    statement_timeout : float, optional
        Seconds that one statement may run.

    Raises
    ------
    ConfigError
        An argument is not one of those.

    Notes
    -----
    Nothing is connected to before the first read. Every read may raise :class:`ConnectionFailed`,
    :class:`SchemaMismatch`, :class:`QueryTimeout` or :class:`InconsistentData`; what is not found is ``None`` or empty.

    Examples
    --------
    >>> from exporttools.database.embedded import embedded_database
    >>> store = ExportBundleStore(embedded_database())
    >>> worst = store.list_incidents(severity="critical")[0]
    >>> bundle = store.get_export_bundle(worst.id)
    >>> bundle.run.termination_reason
    'budget_exceeded'
    """

    def __init__(
        self,
        database: DatabaseLike | None = None,
        *,
        trace_store: TraceStore | None = None,
        tenant_id: str | None = None,
        layout: Layout | str = "auto",
        statement_timeout: float | None = None,
    ) -> None:
        label = None
        if database is None:
            database, embedded = default_database_url()
            if not embedded:
                database = f"env:{URL_VARIABLE}"
            else:
                label = "the embedded sample"
                warnings.warn(
                    "EXPORTTOOLS_DATABASE_URL is not set: reading the embedded sample, a made-up fleet",
                    stacklevel=2,
                )
        self._arguments = {
            "database": database,
            "tenant_id": tenant_id,
            "layout": layout,
            "statement_timeout": statement_timeout,
        }
        records = (INCIDENTS, RUNS) if trace_store is not None else (INCIDENTS, RUNS, TRACES, TRACE_STEPS)
        self._reader = ScopedReader(
            database,
            tenant_id=tenant_id,
            layout=layout,
            tables=tuple(record_type.table for record_type in records),
            statement_timeout=statement_timeout,
            label=label,
        )
        self._trace_store = trace_store
        self._windows: WindowReader | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<ExportBundleStore {self._reader.description}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """How worker processes get a store of their own: by what it was made from, never with a password."""
        database = self._arguments["database"]
        if not self._has_own_traces():
            raise ConfigError("a store with a trace_store of its own cannot be sent to another process")
        if isinstance(database, Engine):
            raise ConfigError(
                "a store on an Engine cannot be sent to another process; make it from a path, from 'env:NAME', or from a "
                "function that gives the URL"
            )
        named = callable(database) or (isinstance(database, str) and database.startswith("env:"))
        if self._reader.database.has_password and not named:
            raise ConfigError(
                "the store's URL holds a password, which would travel to other processes; make the store from 'env:NAME', "
                "where NAME is an environment variable that holds the URL there, or from a function that gives it"
            )
        if isinstance(database, os.PathLike):
            database = Path(database).absolute()
        return _remade, ({**self._arguments, "database": database},)

    @property
    def tenant_id(self) -> str | None:
        """The tenant that every read is limited to; None: all."""
        return self._reader.tenant_id

    def scope(self, tenant_id: str | None) -> str | None:
        """The tenant that a call is limited to, by the store or by itself; None: all.

        Raises
        ------
        TenantMismatch
            The call names another tenant than the store's.
        """
        return self._reader.tenant(tenant_id)

    def _has_own_traces(self) -> bool:
        """Whether traces are read by the store's own reader, and so at its points in time."""
        traces = self._trace_store
        return traces is None or (isinstance(traces, SqlTraceStore) and traces.reader is self._reader)

    @contextmanager
    def window_snapshot(self) -> Iterator[WindowSnapshot]:
        """One point in time, to read windows of the fleet at; see :mod:`exporttools.database.window_reader`.

        Raises
        ------
        ConfigError
            Traces are kept elsewhere, so that there is no one point in time.
        """
        if not self._has_own_traces():
            raise ConfigError("an export reads traces at the point in time of their runs; they must be in one database")
        with self._lock:
            if self._windows is None:
                self._windows = WindowReader(self._reader, BulkReader(self._reader.database))
        with self._windows.snapshot() as snapshot:
            yield snapshot

    @property
    def trace_store(self) -> TraceStore:
        """Where traces are read: the one given, else one on the same database, made on first use."""
        with self._lock:
            if self._trace_store is None:
                self._trace_store = SqlTraceStore.over(self._reader)
            return self._trace_store

    def get_incident(self, incident_id: str) -> IncidentSnapshot | None:
        """An incident by its id; None: there is none.

        Raises
        ------
        InconsistentData
            Several tenants have an incident of that id, and the store is not scoped to one.
        """
        rows = self._reader.one(IncidentSnapshot, "id", require_id("incident_id", incident_id), self.tenant_id)
        return next(iter(rows), None)

    def get_run_by_run_id(self, run_id: str) -> RunSnapshot | None:
        """A run by its id; None: there is none.

        Raises
        ------
        InconsistentData
            Several tenants have a run of that id, and the store is not scoped to one.
        """
        rows = self._reader.one(RunSnapshot, "run_id", require_id("run_id", run_id), self.tenant_id)
        return next(iter(rows), None)

    def get_trace_summary(self, run_id: str, tenant_id: str | None = None) -> TraceSummarySnapshot | None:
        """The run's trace; see :meth:`SqlTraceStore.get_trace_summary`."""
        return self.trace_store.get_trace_summary(run_id, self._trace_tenant(tenant_id))

    def get_trace_steps(self, trace_id: str, tenant_id: str | None = None) -> SnapshotTable[TraceStepSnapshot]:
        """All steps of a trace by ``step_index``; see :meth:`SqlTraceStore.get_trace_steps`."""
        return self.trace_store.get_trace_steps(trace_id, self._trace_tenant(tenant_id))

    def list_incidents(
        self,
        *,
        tenant_id: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        severity: str | Collection[str] | None = None,
        limit: int | None = None,
        order: Order = "newest",
    ) -> SnapshotTable[IncidentSnapshot]:
        """Incidents by ``created_at``, ties by id.

        Parameters
        ----------
        tenant_id : str, optional
        since, until : datetime.datetime, optional
            With a time zone; half-open, [since, until), over ``created_at``.
        severity : str or collection of str, optional
        limit : int, optional
            At most so many; the table then says ``truncated`` and the ``total`` there are.
        order : {"newest", "oldest"}

        Raises
        ------
        ConfigError
            A naive datetime, `since` not before `until`, a negative limit.
        TenantMismatch
            Another tenant than the store's.

        Examples
        --------
        >>> from exporttools.database.embedded import embedded_database
        >>> newest = ExportBundleStore(embedded_database()).list_incidents(limit=2)
        >>> len(newest), newest.total
        (2, 8)
        """
        start, end = require_period(since, until)
        limit, severities, tenant = require_limit(limit), choices("severity", severity), self._reader.tenant(tenant_id)
        with self._reader.database.transaction() as connection:
            incidents = self._reader.bound(connection).sources["incidents"]
            where = incidents.within("created_at", start, end)
            if severities is not None:
                where.append(incidents["severity"].in_(severities))
            by = self._reader.ordered(order, incidents.moment("created_at"), incidents["id"])
            return self._reader.rows(connection, IncidentSnapshot, where, tenant, order=by, limit=limit)

    def list_runs(
        self,
        *,
        tenant_id: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        agent_id: str | Collection[str] | None = None,
        termination_reason: str | Collection[str] | None = None,
        limit: int | None = None,
        order: Order = "newest",
    ) -> SnapshotTable[RunSnapshot]:
        """Runs by ``started_at``, those without one last, ties by run_id.

        Parameters
        ----------
        tenant_id : str, optional
        since, until : datetime.datetime, optional
            With a time zone; half-open, [since, until), over ``started_at``. Runs without one are then left out.
        agent_id, termination_reason : str or collection of str, optional
        limit : int, optional
            At most so many; the table then says ``truncated`` and the ``total`` there are.
        order : {"newest", "oldest"}

        Raises
        ------
        ConfigError
            A naive datetime, `since` not before `until`, a negative limit.
        TenantMismatch
            Another tenant than the store's.

        Examples
        --------
        >>> from exporttools.database.embedded import embedded_database
        >>> runs = ExportBundleStore(embedded_database()).list_runs(termination_reason="budget_exceeded")
        >>> {run.termination_reason for run in runs}
        {'budget_exceeded'}
        """
        start, end = require_period(since, until)
        limit, tenant = require_limit(limit), self._reader.tenant(tenant_id)
        filters = {
            "agent_id": choices("agent_id", agent_id),
            "termination_reason": choices("termination_reason", termination_reason),
        }
        with self._reader.database.transaction() as connection:
            runs = self._reader.bound(connection).sources["runs"]
            where = runs.within("started_at", start, end)
            where += [runs[column].in_(values) for column, values in filters.items() if values is not None]
            by = self._reader.ordered(order, runs.moment("started_at"), runs["run_id"])
            return self._reader.rows(connection, RunSnapshot, where, tenant, order=by, limit=limit)

    def list_traces(
        self,
        *,
        tenant_id: str | None = None,
        run_id: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        agent_id: str | Collection[str] | None = None,
        limit: int | None = None,
        order: Order = "newest",
    ) -> SnapshotTable[TraceSummarySnapshot]:
        """Traces by their run's ``started_at``, those without one last, ties by trace_id.

        Parameters
        ----------
        tenant_id : str, optional
        run_id : str, optional
            The traces of one run.
        since, until : datetime.datetime, optional
            With a time zone; half-open, [since, until), over the run's ``started_at``. Traces of runs without one, or
            of no known run, are then left out.
        agent_id : str or collection of str, optional
            The run's agent.
        limit : int, optional
            At most so many; the table then says ``truncated`` and the ``total`` there are.
        order : {"newest", "oldest"}

        Raises
        ------
        ConfigError
            A naive datetime, `since` not before `until`, a negative limit; or a `trace_store` that cannot list.
        TenantMismatch
            Another tenant than the store's.
        """
        trace_store = self.trace_store
        if not isinstance(trace_store, SqlTraceStore):
            raise ConfigError(f"a {type(trace_store).__name__} cannot list traces; SqlTraceStore can")
        return trace_store.list_traces(
            tenant_id=self._trace_tenant(tenant_id),
            run_id=run_id,
            since=since,
            until=until,
            agent_id=agent_id,
            limit=limit,
            order=order,
        )

    def scan_trace_steps(
        self,
        *,
        tenant_id: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        agent_id: str | Collection[str] | None = None,
        run_id: str | Collection[str] | None = None,
        columns: Collection[str] | None = None,
    ) -> pa.RecordBatchReader:
        """Steps of many traces, batch by batch; see :meth:`SqlTraceStore.scan_trace_steps`.

        Raises
        ------
        ConfigError
            As there; or a `trace_store` that cannot scan.
        """
        trace_store = self.trace_store
        if not isinstance(trace_store, SqlTraceStore):
            raise ConfigError(f"a {type(trace_store).__name__} cannot scan steps; SqlTraceStore can")
        return trace_store.scan_trace_steps(
            tenant_id=self._trace_tenant(tenant_id),
            since=since,
            until=until,
            agent_id=agent_id,
            run_id=run_id,
            columns=columns,
        )

    def get_export_bundle(self, incident_id: str | None = None, *, run_id: str | None = None) -> ExportBundle | None:
        """An incident with its run, its trace and the trace's steps, or a run with its own: all as of one point in time.

        Parameters
        ----------
        incident_id : str, optional
        run_id : str, optional
            For a run without an incident. Give one of the two.

        Returns
        -------
        ExportBundle or None
            None: there is no such incident or run. An incident without a run, or whose run has no trace, makes a
            bundle that says what is missing.

        Raises
        ------
        ConfigError
            Neither or both are given.

        Notes
        -----
        With a `trace_store` on another database, its trace is read at a point in time of its own, right after.

        Examples
        --------
        >>> from exporttools.database.embedded import embedded_database
        >>> store = ExportBundleStore(embedded_database())
        >>> store.get_export_bundle("no such incident") is None
        True
        """
        if (incident_id is None) == (run_id is None):
            raise ConfigError("give either incident_id or run_id")
        with self.snapshot():
            incidents = SnapshotTable.empty(IncidentSnapshot)
            if incident_id is not None:
                incidents = self._reader.one(
                    IncidentSnapshot, "id", require_id("incident_id", incident_id), self.tenant_id
                )
                if not len(incidents):
                    return None
                run_id = incidents[0].source_run_id
            tenant = incidents[0].tenant_id if len(incidents) else self.tenant_id
            runs = SnapshotTable.empty(RunSnapshot)
            if run_id is not None:
                runs = self._reader.one(RunSnapshot, "run_id", require_id("run_id", run_id), tenant)
            if not len(incidents) and not len(runs):
                return None
            traces, trace_count = SnapshotTable.empty(TraceSummarySnapshot), 0
            if run_id is not None:
                traces, trace_count = self._pick_trace(run_id, tenant or runs[0].tenant_id)
            steps = None
            if len(traces):
                steps = self.trace_store.get_trace_steps(traces[0].trace_id, traces[0].tenant_id)
            return ExportBundle(incidents, runs, traces, steps, trace_count=trace_count, source=self._source())

    @contextmanager
    def snapshot(self) -> Iterator[ExportBundleStore]:
        """One point in time: every read of this thread through this store inside the block sees it.

        Yields
        ------
        ExportBundleStore
            This store.

        Examples
        --------
        >>> from exporttools.database.embedded import embedded_database
        >>> with ExportBundleStore(embedded_database()).snapshot() as store:
        ...     len(store.list_incidents()) == len(store.list_incidents())
        True
        """
        with ExitStack() as stack:
            stack.enter_context(self._reader.database.snapshot())
            trace_store = self.trace_store
            if isinstance(trace_store, SqlTraceStore):
                stack.enter_context(trace_store.reader.database.snapshot())
            yield self

    def _trace_tenant(self, tenant_id: str | None) -> str | None:
        """The tenant to ask a trace store for, which may not know the store's own."""
        return self._reader.tenant(tenant_id)

    def _pick_trace(self, run_id: str, tenant: str) -> tuple[SnapshotTable[TraceSummarySnapshot], int]:
        trace_store = self.trace_store
        if isinstance(trace_store, SqlTraceStore):
            picked = trace_store.pick_trace(run_id, tenant)
            return SnapshotTable(TraceSummarySnapshot, picked.to_arrow()), picked.total or len(picked)
        summary = trace_store.get_trace_summary(run_id, tenant)
        traces = SnapshotTable.from_records(TraceSummarySnapshot, [] if summary is None else [summary])
        return traces, len(traces)

    def _source(self) -> SourceSnapshot:
        database = self._reader.database
        with database.transaction() as connection:
            return SourceSnapshot(
                dialect=database.dialect,
                server_version=database.server_version(connection),
                layout=self._reader.bound(connection).name,
                snapshot_id=database.snapshot_id(connection),
                read_at=dt.datetime.now(dt.UTC),
            )


def _remade(arguments: dict[str, Any]) -> ExportBundleStore:
    return ExportBundleStore(**arguments)


_singleton: ExportBundleStore | None = None
_singleton_lock = threading.Lock()


def get_export_bundle_store() -> ExportBundleStore:
    """The process-wide store: on ``EXPORTTOOLS_DATABASE_URL``, else on the embedded sample, saying so.

    Returns
    -------
    ExportBundleStore
        The same one at every call, from any thread. The environment is looked at once, at the first.
    """
    global _singleton
    with _singleton_lock:
        if _singleton is None:
            _singleton = ExportBundleStore()
        return _singleton
