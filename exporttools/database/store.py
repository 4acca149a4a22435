"""The store: reads incidents, runs and traces from a database as immutable snapshots. Writes nothing."""

from __future__ import annotations

import datetime as dt
import os
import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import Engine

from exporttools.connections.urls import DatabaseLike
from exporttools.database.bundle_reading import read_export_bundle
from exporttools.database.duckdb_steps import load_steps
from exporttools.database.embedded import TENANT_VARIABLE, URL_VARIABLE, default_database_url, default_tenant_id
from exporttools.database.forks import renew_after_fork
from exporttools.database.layouts import Layout
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
from exporttools.records.schema import INCIDENTS, RUNS, TRACE_STEPS, TRACES, Column
from exporttools.records.snapshot_table import SnapshotTable
from exporttools.records.snapshots import (
    IncidentSnapshot,
    RunSnapshot,
    TraceStepSnapshot,
    TraceSummarySnapshot,
)

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

__all__ = ["ExportBundleStore", "SqlTraceStore", "TraceStore", "get_export_bundle_store"]


class ExportBundleStore:
    """Reads incidents, runs and traces from a database. Safe to share between threads.

    Parameters
    ----------
    database : str, path, sqlalchemy.URL or sqlalchemy.Engine, optional
        ``postgresql://...``, ``sqlite:///file``, the path of an SQLite file, or an Engine. By default the database that
        the environment variable ``EXPORTTOOLS_DATABASE_URL`` names, or else the embedded sample, with a warning.
    trace_store : TraceStore, optional
        Where traces are stored, if not in the same database.
    tenant_id : str, optional
        The tenant that every read is limited to. By default the one that the environment variable
        ``EXPORTTOOLS_TENANT_ID`` names, or else all tenants.
    layout : Layout or {"auto", "native", "aos"}
        Which tables and columns hold the records; ``auto`` looks at the database.
    statement_timeout : float, optional
        Seconds that one statement may run.
    rls_setting : str, optional
        For PostgreSQL: the setting, such as ``app.tenant_id``, from which row-level security policies learn the tenant.
        Every transaction sets it with SET LOCAL to the tenant that it reads, on whichever connection; a read without a
        tenant is an error.

    Raises
    ------
    ConfigError
        An argument has another type or value.

    Notes
    -----
    The store connects at its first read. Every read may raise :class:`ConnectionFailed`, :class:`SchemaMismatch`,
    :class:`QueryTimeout` or :class:`InconsistentData`; a lookup that finds nothing returns None or an empty table.

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
        rls_setting: str | None = None,
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
        self._default_tenant = tenant_id is None
        tenant_id = default_tenant_id() if tenant_id is None else tenant_id
        self._arguments = {
            "database": database,
            "tenant_id": tenant_id,
            "layout": layout,
            "statement_timeout": statement_timeout,
            "rls_setting": rls_setting,
        }
        records = (INCIDENTS, RUNS) if trace_store is not None else (INCIDENTS, RUNS, TRACES, TRACE_STEPS)
        self._reader = ScopedReader(
            database,
            tenant_id=tenant_id,
            layout=layout,
            tables=tuple(record_type.table for record_type in records),
            statement_timeout=statement_timeout,
            rls_setting=rls_setting,
            label=label,
        )
        self._trace_store = SqlTraceStore.over(self._reader) if trace_store is None else trace_store

    def __repr__(self) -> str:
        by = f" by {TENANT_VARIABLE}" if self._default_tenant and self.tenant_id is not None else ""
        return f"<ExportBundleStore {self._reader.description}{by}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments that the store was made from, for worker processes, but never a password."""
        database = self._arguments["database"]
        if not self._has_own_traces():
            raise ConfigError("a store with a trace_store of its own cannot be sent to another process")
        if isinstance(database, Engine):
            raise ConfigError(
                "a store on an Engine cannot be sent to another process; make it from a path, from 'env:NAME', or from a "
                "function that returns the URL"
            )
        named = callable(database) or (isinstance(database, str) and database.startswith("env:"))
        if self._reader.database.has_password and not named:
            raise ConfigError(
                "the store's URL holds a password, or may hold one, which would be sent to other processes; make the store from 'env:NAME', "
                "where the environment variable NAME holds the URL there, or from a function that returns it"
            )
        if isinstance(database, os.PathLike):
            database = Path(database).absolute()
        return _remade, ({**self._arguments, "database": database},)

    @property
    def tenant_id(self) -> str | None:
        """The tenant that every read is limited to, or None for all tenants."""
        return self._reader.tenant_id

    def for_tenant(self, tenant_id: str) -> Self:
        """Return a store that reads one tenant's rows through the connections of this one.

        It costs no connection and no look at the database, so that a service can make one for each request. Inside a
        :meth:`snapshot` of this store, its reads in the same thread see that snapshot.

        Parameters
        ----------
        tenant_id : str

        Returns
        -------
        ExportBundleStore
            With this store's layout, settings and `trace_store`, which is told the tenant in each call.

        Raises
        ------
        TenantMismatch
            This store, or its `trace_store`, is scoped to another tenant.

        Examples
        --------
        >>> from exporttools.database.embedded import embedded_database
        >>> everyone = ExportBundleStore(embedded_database())
        >>> {run.tenant_id for run in everyone.for_tenant("acme-retail").list_runs()}
        {'acme-retail'}
        """
        store = object.__new__(type(self))  # copy.copy would ask __reduce__, and make new connections
        vars(store).update(vars(self))
        store._reader = self._reader.for_tenant(tenant_id)
        if self._has_own_traces():
            store._trace_store = SqlTraceStore.over(store._reader)
        elif isinstance(self._trace_store, SqlTraceStore):
            store._trace_store = self._trace_store.for_tenant(tenant_id)
        store._arguments = {**self._arguments, "tenant_id": tenant_id}
        store._default_tenant = False
        return store

    def scope(self, tenant_id: str | None) -> str | None:
        """Return the tenant that a call is limited to, by its own argument or by the store, or None for all tenants.

        Raises
        ------
        TenantMismatch
            `tenant_id` is not the store's tenant.
        """
        return self._reader.tenant(tenant_id)

    def _has_own_traces(self) -> bool:
        """Whether traces are read by the store's own reader, and so in the same snapshot."""
        return isinstance(self._trace_store, SqlTraceStore) and self._trace_store.reader is self._reader

    @contextmanager
    def window_snapshot(self) -> Iterator[WindowSnapshot]:
        """Read windows of the fleet in one snapshot; see :mod:`exporttools.database.window_reader`.

        Raises
        ------
        ConfigError
            Traces are stored in another database, so that no snapshot covers both.
        """
        if not self._has_own_traces():
            raise ConfigError(
                "an export reads runs and their traces in one snapshot; both must be in the same database"
            )
        with WindowReader(self._reader).snapshot() as snapshot:
            yield snapshot

    @property
    def trace_store(self) -> TraceStore:
        """The store that traces are read from: the one given, or one on the same database."""
        return self._trace_store

    def get_incident(self, incident_id: str) -> IncidentSnapshot | None:
        """Return the incident with this id, or None.

        Raises
        ------
        InconsistentData
            Several tenants have an incident with this id, and the store is not scoped to one of them.
        """
        rows = self._reader.one(IncidentSnapshot, "id", require_id("incident_id", incident_id), self.tenant_id)
        return next(iter(rows), None)

    def get_run_by_run_id(self, run_id: str) -> RunSnapshot | None:
        """Return the run with this id, or None.

        Raises
        ------
        InconsistentData
            Several tenants have a run with this id, and the store is not scoped to one of them.
        """
        rows = self._reader.one(RunSnapshot, "run_id", require_id("run_id", run_id), self.tenant_id)
        return next(iter(rows), None)

    def get_trace_summary(self, run_id: str, tenant_id: str | None = None) -> TraceSummarySnapshot | None:
        """Return the run's trace, or None; see :meth:`SqlTraceStore.get_trace_summary`."""
        return self.trace_store.get_trace_summary(run_id, self.scope(tenant_id))

    def get_trace_steps(self, trace_id: str, tenant_id: str | None = None) -> SnapshotTable[TraceStepSnapshot]:
        """Return all steps of a trace by ``step_index``; see :meth:`SqlTraceStore.get_trace_steps`."""
        return self.trace_store.get_trace_steps(trace_id, self.scope(tenant_id))

    def get_columns(self, table: str) -> tuple[Column, ...]:
        """Return the columns that can be read of a table: a record's own, and the extra ones that this database has.

        Parameters
        ----------
        table : {"incidents", "runs", "traces", "trace_steps"}

        Raises
        ------
        ConfigError
            There is no such table; or its rows are in a `trace_store` that cannot say.
        SchemaMismatch
            The layout does not fit the database.

        Examples
        --------
        >>> from exporttools.database.embedded import embedded_database
        >>> [column.name for column in ExportBundleStore(embedded_database()).get_columns("trace_steps")][-3:]
        ['name', 'model', 'error']
        """
        if table not in ("traces", "trace_steps") or self._has_own_traces():
            return self._reader.columns(table)
        trace_store = self.trace_store
        if not isinstance(trace_store, SqlTraceStore):
            raise ConfigError(f"a {type(trace_store).__name__} cannot say what columns it has; SqlTraceStore can")
        return trace_store.get_columns(table)

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
        """List incidents by ``created_at``, then by id.

        Parameters
        ----------
        tenant_id : str, optional
        since, until : datetime.datetime, optional
            With a time zone; half-open, [since, until), over ``created_at``. Incidents without one are then left out.
        severity : str or collection of str, optional
        limit : int, optional
            The most rows to return. If there are more, the table is ``truncated`` and its ``total`` counts them all.
        order : {"newest", "oldest"}

        Raises
        ------
        ConfigError
            A datetime is naive, `since` is not before `until`, or `limit` is negative.
        TenantMismatch
            `tenant_id` is not the store's tenant.
        InconsistentData
            A ``created_at`` that SQLite stores is not a time.

        Examples
        --------
        >>> from exporttools.database.embedded import embedded_database
        >>> newest = ExportBundleStore(embedded_database()).list_incidents(limit=2)
        >>> len(newest), newest.total
        (2, 8)
        """
        start, end = require_period(since, until)
        limit, severities, tenant = require_limit(limit), choices("severity", severity), self.scope(tenant_id)
        with self._reader.transaction(tenant) as connection:
            incidents = self._reader.bound(connection).sources["incidents"]
            where = [] if severities is None else [incidents.among("severity", severities)]
            created = self._reader.time(connection, incidents, "created_at", tenant, *where)
            where += created.within(start, end)
            by = self._reader.ordered(order, created.moment, incidents["id"])
            return self._reader.rows(connection, IncidentSnapshot, where, tenant, read="list", order=by, limit=limit)

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
        """List runs by ``started_at``, then by run_id; runs without a start come last.

        Parameters
        ----------
        tenant_id : str, optional
        since, until : datetime.datetime, optional
            With a time zone; half-open, [since, until), over ``started_at``. Runs without a start are then left out.
        agent_id, termination_reason : str or collection of str, optional
        limit : int, optional
            The most rows to return. If there are more, the table is ``truncated`` and its ``total`` counts them all.
        order : {"newest", "oldest"}

        Raises
        ------
        ConfigError
            A datetime is naive, `since` is not before `until`, or `limit` is negative.
        TenantMismatch
            `tenant_id` is not the store's tenant.
        InconsistentData
            A ``started_at`` that SQLite stores is not a time.

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
        with self._reader.transaction(tenant) as connection:
            runs = self._reader.bound(connection).sources["runs"]
            where = [runs.among(column, values) for column, values in filters.items() if values is not None]
            started = self._reader.time(connection, runs, "started_at", tenant, *where)
            where += started.within(start, end)
            by = self._reader.ordered(order, started.moment, runs["run_id"])
            return self._reader.rows(connection, RunSnapshot, where, tenant, read="list", order=by, limit=limit)

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
        """List traces by their run's ``started_at``, then by trace_id; traces of runs without a start come last.

        Parameters
        ----------
        tenant_id : str, optional
        run_id : str, optional
            The traces of one run.
        since, until : datetime.datetime, optional
            With a time zone; half-open, [since, until), over the run's ``started_at``. Traces of runs without a start,
            and those whose run is unknown, are then left out.
        agent_id : str or collection of str, optional
            The run's agent.
        limit : int, optional
            The most rows to return. If there are more, the table is ``truncated`` and its ``total`` counts them all.
        order : {"newest", "oldest"}

        Raises
        ------
        ConfigError
            A datetime is naive, `since` is not before `until`, or `limit` is negative; or the `trace_store` cannot list.
        TenantMismatch
            `tenant_id` is not the store's tenant.
        InconsistentData
            A ``started_at`` that SQLite stores is not a time.
        """
        trace_store = self.trace_store
        if not isinstance(trace_store, SqlTraceStore):
            raise ConfigError(f"a {type(trace_store).__name__} cannot list traces; SqlTraceStore can")
        return trace_store.list_traces(
            tenant_id=self.scope(tenant_id),
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
        run_columns: Collection[str] | None = None,
    ) -> pa.RecordBatchReader:
        """Read the steps of many traces batch by batch; see :meth:`SqlTraceStore.scan_trace_steps`.

        Raises
        ------
        ConfigError
            As there; or a `trace_store` that cannot scan.
        """
        return self._scanning_store().scan_trace_steps(
            tenant_id=self.scope(tenant_id),
            since=since,
            until=until,
            agent_id=agent_id,
            run_id=run_id,
            columns=columns,
            run_columns=run_columns,
        )

    def load_trace_steps(
        self,
        *,
        tenant_id: str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        agent_id: str | Collection[str] | None = None,
        run_id: str | Collection[str] | None = None,
        columns: Collection[str] | None = None,
        run_columns: Collection[str] | None = None,
        table: str = "trace_steps",
        connection: duckdb.DuckDBPyConnection | None = None,
    ) -> duckdb.DuckDBPyRelation:
        """Load the steps of many traces into DuckDB, to be queried again and again.

        Parameters
        ----------
        tenant_id, since, until, agent_id, run_id, columns, run_columns
            See :meth:`SqlTraceStore.scan_trace_steps`.
        table : str
            The name of the temporary table to create.
        connection : duckdb.DuckDBPyConnection, optional
            Where to create it; its settings stay as they are. By default a new in-memory database in the time zone UTC.

        Returns
        -------
        duckdb.DuckDBPyRelation
            The table, with the rows and columns of :meth:`SqlTraceStore.scan_trace_steps` in its order. It lives as long
            as the connection. Where memory ends, DuckDB spills to its ``temp_directory``.

        Raises
        ------
        ConfigError
            As there; or the connection already has a table of that name.
        TenantMismatch
            `tenant_id` is not the store's tenant.
        StoreError
            The database failed, or DuckDB did, at any row. No table is left behind.

        Examples
        --------
        >>> from exporttools.database.embedded import embedded_database
        >>> steps = ExportBundleStore(embedded_database()).load_trace_steps(columns=["agent_id", "cost_cents"])
        >>> steps.aggregate("agent_id, round(sum(cost_cents)) AS cost_cents").order("cost_cents DESC").limit(1).fetchall()
        [('code-assistant', 9185.0)]
        """
        schema, batches = self._scanning_store().step_batches(
            tenant_id=self.scope(tenant_id),
            since=since,
            until=until,
            agent_id=agent_id,
            run_id=run_id,
            columns=columns,
            run_columns=run_columns,
        )
        with closing(batches):
            return load_steps(schema, batches, table, connection)

    def get_export_bundle(self, incident_id: str | None = None, *, run_id: str | None = None) -> ExportBundle | None:
        """Read an incident with its run, trace and steps, or a run with its trace and steps, in one snapshot.

        Parameters
        ----------
        incident_id : str, optional
        run_id : str, optional
            For a run without an incident. Pass one of the two.

        Returns
        -------
        ExportBundle or None
            None if there is no such incident or run. The bundle of an incident without a run, or of a run without a
            trace, says what is missing.

        Raises
        ------
        ConfigError
            Neither or both are given.

        Notes
        -----
        A `trace_store` on another database is read right afterwards, in a snapshot of its own.

        Examples
        --------
        >>> from exporttools.database.embedded import embedded_database
        >>> store = ExportBundleStore(embedded_database())
        >>> store.get_export_bundle("no such incident") is None
        True
        """
        if (incident_id is None) == (run_id is None):
            raise ConfigError("pass either incident_id or run_id")
        with self.snapshot():
            return read_export_bundle(self._reader, self.trace_store, incident_id, run_id)

    @contextmanager
    def snapshot(self) -> Iterator[ExportBundleStore]:
        """Read at one point in time: inside the block, all of this thread's reads through this store see one snapshot.

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

    def _scanning_store(self) -> SqlTraceStore:
        trace_store = self.trace_store
        if not isinstance(trace_store, SqlTraceStore):
            raise ConfigError(f"a {type(trace_store).__name__} cannot scan steps; SqlTraceStore can")
        return trace_store


def _remade(arguments: dict[str, Any]) -> ExportBundleStore:
    return ExportBundleStore(**arguments)


_singleton: ExportBundleStore | None = None
_singleton_lock = threading.Lock()


def get_export_bundle_store() -> ExportBundleStore:
    """Return the process-wide store, on ``EXPORTTOOLS_DATABASE_URL`` or else, with a warning, on the embedded sample.

    Returns
    -------
    ExportBundleStore
        The same object at every call, from any thread. The environment is read at the first call.
    """
    global _singleton
    with _singleton_lock:
        if _singleton is None:
            _singleton = ExportBundleStore()
        return _singleton


def _renew_singleton_lock(_: object) -> None:
    global _singleton_lock
    _singleton_lock = threading.Lock()


renew_after_fork(get_export_bundle_store, _renew_singleton_lock)
