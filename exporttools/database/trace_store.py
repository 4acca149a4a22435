"""Traces and their steps: the interface, which users may implement, and its implementation in SQL."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Collection, Generator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.sql import ColumnElement

from exporttools.connections.urls import DatabaseLike
from exporttools.database.binding import BoundSource
from exporttools.database.layouts import Layout
from exporttools.database.readers import BULK_ROWS, count_rows, read_table, stream_rows
from exporttools.database.scan_reader import ScanReader
from exporttools.database.scoped_reader import (
    Order,
    ScopedReader,
    choices,
    require_id,
    require_limit,
    require_period,
)
from exporttools.errors import ConfigError
from exporttools.records.schema import Column
from exporttools.records.snapshot_table import SnapshotTable
from exporttools.records.snapshots import TraceStepSnapshot, TraceSummarySnapshot
from exporttools.records.validity import Origin, require_valid
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select


@runtime_checkable
class TraceStore(Protocol):
    """Where traces are stored. Implement it to read them from elsewhere than the database of incidents and runs."""

    def get_trace_summary(self, run_id: str, tenant_id: str | None = None) -> TraceSummarySnapshot | None:
        """Return the run's trace: one with a violation, else the last started, else the greatest ``trace_id``; or None."""

    def get_trace_steps(self, trace_id: str, tenant_id: str | None = None) -> SnapshotTable[TraceStepSnapshot]:
        """Return all steps of a trace by ``step_index``; empty if there are none."""


class SqlTraceStore:
    """Reads traces from a database. Safe to share between threads.

    Parameters
    ----------
    database : str, path, sqlalchemy.URL or sqlalchemy.Engine
        See :class:`ExportBundleStore`.
    tenant_id : str, optional
        The tenant that every read is limited to.
    layout : Layout or {"auto", "native", "aos"}
    statement_timeout : float, optional
        Seconds that one statement may run.
    rls_setting : str, optional
        See :class:`ExportBundleStore`.

    Examples
    --------
    >>> from exporttools import SqlTraceStore
    >>> from exporttools.database.embedded import embedded_database
    >>> traces = SqlTraceStore(embedded_database(), tenant_id="nobody")
    >>> len(traces.get_trace_steps("no such trace"))
    0
    """

    def __init__(
        self,
        database: DatabaseLike,
        *,
        tenant_id: str | None = None,
        layout: Layout | str = "auto",
        statement_timeout: float | None = None,
        rls_setting: str | None = None,
    ) -> None:
        self._use(
            ScopedReader(
                database,
                tenant_id=tenant_id,
                layout=layout,
                tables=("runs", "traces", "trace_steps"),
                statement_timeout=statement_timeout,
                rls_setting=rls_setting,
            )
        )

    @classmethod
    def over(cls, reader: ScopedReader) -> SqlTraceStore:
        """Create a store that shares a reader, and so its snapshots."""
        store = cls.__new__(cls)
        store._use(reader)  # noqa: SLF001
        return store

    def _use(self, reader: ScopedReader) -> None:
        self.reader = reader
        self._bulk = reader.bulk

    def __repr__(self) -> str:
        return f"<SqlTraceStore {self.reader.description}>"

    def for_tenant(self, tenant_id: str) -> Self:
        """Return a store that reads one tenant's rows through the connections of this one.

        Raises
        ------
        TenantMismatch
            This store is scoped to another tenant.
        """
        store = copy.copy(self)
        store._use(self.reader.for_tenant(tenant_id))  # noqa: SLF001
        return store

    def get_trace_summary(self, run_id: str, tenant_id: str | None = None) -> TraceSummarySnapshot | None:
        """Return the run's trace: one with a violation, else the last started, else the greatest ``trace_id``.

        Parameters
        ----------
        run_id : str
        tenant_id : str, optional
            Needed where the store is not scoped to one.

        Returns
        -------
        TraceSummarySnapshot or None
            None if the run has no trace.

        Raises
        ------
        ConfigError
            Neither the call nor the store names a tenant.
        TenantMismatch
            `tenant_id` is not the store's tenant.
        """
        return next(iter(self.pick_trace(run_id, tenant_id)), None)

    def pick_trace(self, run_id: str, tenant_id: str | None = None) -> SnapshotTable[TraceSummarySnapshot]:
        """Like :meth:`get_trace_summary`, as a table of at most one row with its extra columns.

        Its ``total`` counts the run's traces where there are several.
        """
        tenant, run_id = self._tenant(tenant_id), require_id("run_id", run_id)
        with self.reader.transaction(tenant) as connection:
            sources = self.reader.bound(connection).sources
            traces, steps = sources["traces"], sources["trace_steps"]
            violated = sa.or_(traces["violation_step_index"].is_not(None), traces["violation_timestamp"].is_not(None))
            started = _first_step_at(traces, steps, tenant) if traces.started_at is None else traces.started_at
            order = [
                sa.case((violated, 0), else_=1),
                started.desc().nulls_last(),
                self.reader.by_text(traces["trace_id"]).desc(),
            ]
            of_run = [traces.among("run_id", [run_id])]
            return self.reader.rows(
                connection, TraceSummarySnapshot, of_run, tenant, read="pick", order=order, limit=1, keys=of_run
            )

    def get_trace_steps(self, trace_id: str, tenant_id: str | None = None) -> SnapshotTable[TraceStepSnapshot]:
        """Return all steps of a trace.

        Parameters
        ----------
        trace_id : str
        tenant_id : str, optional
            Needed where the store is not scoped to one.

        Returns
        -------
        SnapshotTable of TraceStepSnapshot
            By ``step_index``; empty if there are none.

        Raises
        ------
        ConfigError
            Neither the call nor the store names a tenant.
        TenantMismatch
            `tenant_id` is not the store's tenant.
        InconsistentData
            A column forbids one of its values, or two steps have the same index.
        """
        tenant, trace_id = self._tenant(tenant_id), require_id("trace_id", trace_id)
        with self.reader.transaction(tenant) as connection:
            steps = self.reader.bound(connection).sources["trace_steps"]
            statement = (
                steps.select(steps.payload)
                .where(*self.reader.is_tenant(steps, tenant), steps.among("trace_id", [trace_id]))
                .order_by(steps["step_index"])
            )
            origin = Origin(steps.table, within=f"trace_id={trace_id!r}")
            table = self._read_steps(connection, statement, steps, origin, tenant)
        found: SnapshotTable[TraceStepSnapshot] = SnapshotTable(TraceStepSnapshot, table, origin=origin)
        _require_unique(found, origin)
        return found

    def _read_steps(
        self, connection: Connection, statement: Select[Any], steps: BoundSource, origin: Origin, tenant: str
    ) -> pa.Table:
        database, read, columns = self.reader.database, "get trace_steps", steps.payload
        if (
            database.dialect == "postgresql"
            and count_rows(database, connection, statement, read="trace_steps", limit=BULK_ROWS) == BULK_ROWS
            and (
                table := self._bulk.read_table(connection, statement, columns, read=read, origin=origin, tenant=tenant)
            )
            is not None
        ):
            return table
        return read_table(database, connection, statement, columns, read=read, origin=origin, key=steps.record_type.key)

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
        """Read the steps of many traces batch by batch, in bounded memory.

        Parameters
        ----------
        tenant_id : str, optional
            By default the store's tenant, or all tenants.
        since, until : datetime.datetime, optional
            With a time zone; half-open, [since, until), over the step's own timestamp.
        agent_id, run_id : str or collection of str, optional
            Read only the steps of these agents or runs.
        columns : collection of str, optional
            The columns to read, whatever their order; by default all.
        run_columns : collection of str, optional
            Columns of the step's run to read as well, own or extra, such as ``termination_reason``; by default none.

        Returns
        -------
        pyarrow.RecordBatchReader
            ``tenant_id``, ``run_id``, ``trace_id``, ``agent_id`` (str; ``run_id`` and ``agent_id`` are NULL where the
            trace or the run is unknown), then the step's own and extra columns, then `run_columns` in the order in which
            runs have them (NULL where the run is unknown); sorted by trace_id, step_index and
            tenant_id, text by code points. All rows are of one snapshot. The reader holds a connection until its end;
            close it, or leave its ``with`` block, to stop early. pandas, Polars and DuckDB accept it as it is.

        Raises
        ------
        ConfigError
            There is no such column, a run's column has the name of a step's, a datetime is naive, or `since` is not before `until`.
        TenantMismatch
            `tenant_id` is not the store's tenant.
        StoreError
            The database cannot be read: at the call, or from the reader at any row. Arrow's C stream, through which
            Polars, DuckDB, ``pyarrow.table`` and pandas read, carries only an error's text: they raise their own error
            that repeats ours, and leaving a ``with`` block of the reader then raises ours in its place.

        Examples
        --------
        >>> from exporttools import SqlTraceStore
        >>> from exporttools.database.embedded import embedded_database
        >>> with SqlTraceStore(embedded_database()).scan_trace_steps(columns=["tokens"]) as reader:
        ...     reader.schema.names
        ['tokens']
        """
        schema, batches = self.step_batches(
            tenant_id=tenant_id,
            since=since,
            until=until,
            agent_id=agent_id,
            run_id=run_id,
            columns=columns,
            run_columns=run_columns,
        )
        return ScanReader(schema, batches)

    def step_batches(
        self,
        *,
        tenant_id: str | None,
        since: dt.datetime | None,
        until: dt.datetime | None,
        agent_id: str | Collection[str] | None,
        run_id: str | Collection[str] | None,
        columns: Collection[str] | None,
        run_columns: Collection[str] | None = None,
    ) -> tuple[pa.Schema, Generator[pa.RecordBatch, None, None]]:
        """The schema and batches of :meth:`scan_trace_steps`; errors keep their types, and closing the batches ends the read."""
        start, end = require_period(since, until)
        filters = {"agent_id": choices("agent_id", agent_id), "run_id": choices("run_id", run_id)}
        batches = self._scan(self.reader.tenant(tenant_id), start, end, filters, columns, run_columns)
        return next(batches), batches  # faults of the arguments or the database are raised by this first step

    def _scan(
        self,
        tenant: str | None,
        since: dt.datetime | None,
        until: dt.datetime | None,
        filters: dict[str, list[str] | None],
        names: Collection[str] | None,
        run_names: Collection[str] | None,
    ) -> Generator[Any, None, None]:
        """The schema, then the batches. The read ends when the generator is closed."""
        for parameter, given in (("columns", names), ("run_columns", run_names)):
            if isinstance(given, str):
                raise ConfigError(f"{parameter} is {one_line(repr(given), 60)}; expected a list of columns")
        database = self.reader.database
        with ExitStack() as stack:
            connection = stack.enter_context(self.reader.transaction(tenant))
            sources = self.reader.bound(connection).sources
            steps, traces, runs = sources["trace_steps"], sources["traces"], sources["runs"]
            self.reader.require_unique_keys(connection, (steps, traces, runs), tenant)
            expressions = {column.name: (column, steps[column.name]) for column in steps.columns}
            for joined, name in ((runs, "agent_id"), (traces, "run_id")):
                found = next(column for column in joined.columns if column.name == name)
                expressions[name] = (replace(found, nullable=True), joined[name])
            order = ["tenant_id", "run_id", "trace_id", "agent_id", *(column.name for column in steps.payload)]
            if unknown := sorted({*(names or ())} - {*order}):
                raise ConfigError(f"no column {', '.join(map(repr, unknown))}; found {', '.join(order)}")
            picked = [expressions[name] for name in order if names is None or name in names]
            picked += [(replace(c, nullable=True), runs[c.name]) for c in _of_runs(run_names, runs, order)]
            tables = steps.from_clause.outerjoin(
                traces.from_clause,
                sa.and_(traces.same(steps, "trace_id", "tenant_id"), *traces.conditions),
            ).outerjoin(
                runs.from_clause,
                sa.and_(runs.same(traces, "run_id", "tenant_id"), *runs.conditions),
            )
            where = [*steps.conditions]
            if tenant is not None:
                where += self.reader.is_tenant(steps, tenant)
            joined_steps = sa.select().select_from(tables).where(*where)
            of = {"agent_id": runs, "run_id": traces}
            among = [of[name].among(name, values) for name, values in filters.items() if values is not None]
            where += among
            if since is not None or until is not None:
                time = self.reader.time(connection, steps, "timestamp", tenant, *among, among=joined_steps)
                where += time.within(since, until)
            by_text = self.reader.by_text
            statement = (
                sa.select(*(expression.label(column.name) for column, expression in picked))
                .select_from(tables)
                .where(*where)
                .order_by(by_text(steps["trace_id"]), steps["step_index"], by_text(steps["tenant_id"]))
            )
            columns = [column for column, _ in picked]
            origin, key = Origin(steps.table), ("tenant_id", "trace_id", *steps.record_type.key)
            session, read = None, "scan trace_steps"
            if database.dialect == "postgresql":
                session = stack.enter_context(self._bulk.session(connection, tenant))
            if session is not None:
                batches = session.batches(statement, columns, read=read, origin=origin)
            else:
                batches = stream_rows(
                    database, connection, statement, columns, read=read, origin=origin, key=key, tenant=tenant
                )
            stack.callback(batches.close)  # before the transaction ends
            schema = pa.schema([column.arrow_field for column in columns])
            yield schema
            for batch in batches:
                self.reader.require_owners(connection, batch, steps)
                require_valid(batch, columns, origin=origin, key=key)
                yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)

    def get_columns(self, table: str) -> tuple[Column, ...]:
        """Return the columns that can be read of a table: a record's own, and the extra ones that this database has.

        Parameters
        ----------
        table : {"runs", "traces", "trace_steps"}

        Raises
        ------
        ConfigError
            There is no such table.
        SchemaMismatch
            The layout does not fit the database.

        Examples
        --------
        >>> from exporttools import SqlTraceStore
        >>> from exporttools.database.embedded import embedded_database
        >>> [column.name for column in SqlTraceStore(embedded_database()).get_columns("traces")]
        ['trace_id', 'run_id', 'tenant_id', 'violation_step_index', 'violation_timestamp']
        """
        return self.reader.columns(table)

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
        """List traces by their run's start; see :meth:`ExportBundleStore.list_traces`."""
        start, end = require_period(since, until)
        limit, agents = require_limit(limit), choices("agent_id", agent_id)
        tenant = self.reader.tenant(tenant_id)
        with self.reader.transaction(tenant) as connection:
            sources = self.reader.bound(connection).sources
            traces, runs = sources["traces"], sources["runs"]
            where: list[ColumnElement[bool]] = []
            if run_id is not None:
                where.append(traces.among("run_id", [require_id("run_id", run_id)]))
            if agents is not None:
                where.append(runs.among("agent_id", agents))
            same_run = traces.same(runs, "run_id", "tenant_id")
            own = [] if tenant is None else self.reader.is_tenant(traces, tenant)
            joined = traces.select([], joined=(runs, same_run)).where(*own)
            started = self.reader.time(connection, runs, "started_at", tenant, *where, among=joined)
            where += started.within(start, end)
            by = self.reader.ordered(order, started.moment, traces["trace_id"])
            return self.reader.rows(
                connection,
                TraceSummarySnapshot,
                where,
                tenant,
                read="list",
                order=by,
                lookup=(runs, same_run),
                limit=limit,
            )

    def _tenant(self, tenant_id: str | None) -> str:
        tenant = self.reader.tenant(tenant_id)
        if tenant is None:
            raise ConfigError("traces are read for one tenant; pass tenant_id= to this call or to the store")
        return tenant


def _of_runs(names: Collection[str] | None, runs: BoundSource, of_steps: Collection[str]) -> list[Column]:
    """The columns of runs that a scan of steps is asked for."""
    asked = {*(names or ())}
    if clashes := [name for name in of_steps if name in asked]:
        raise ConfigError(
            f"run_columns has {', '.join(map(repr, clashes))}, which steps have themselves; read it as a column of theirs"
        )
    if unknown := sorted(asked - {column.name for column in runs.columns}, key=str):
        found = ", ".join(column.name for column in runs.columns if column.name not in of_steps)
        raise ConfigError(f"runs have no column {', '.join(map(repr, unknown))}; found {found}")
    return [column for column in runs.columns if column.name in asked]


def _first_step_at(traces: BoundSource, steps: BoundSource, tenant: str) -> ColumnElement[Any]:
    """When a trace's first step started: one index lookup for each of the run's traces."""
    first = steps.select([]).add_columns(steps.time("timestamp").moment)
    first = first.where(steps.among("tenant_id", [tenant]), steps.same(traces, "trace_id"))
    return first.order_by(steps["step_index"]).limit(1).correlate(traces.from_clause).scalar_subquery()


def _require_unique(steps: SnapshotTable[TraceStepSnapshot], origin: Origin) -> None:
    index = steps.to_arrow()["step_index"]
    if len(index) < 2:
        return
    repeated = pc.equal(index.slice(1), index.slice(0, len(index) - 1))
    if pc.any(repeated).as_py():
        value = index[pc.index(repeated, pa.scalar(True)).as_py()].as_py()
        raise origin.fault(f"step_index={value}", "step_index", f"{value} twice", "each index once")
