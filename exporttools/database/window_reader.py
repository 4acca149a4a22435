"""What an export reads from a database: which runs started when, and the rows of one tenant's day. Writes no file.

Steps are read by the keys of a few hundred traces at a time. Every database answers that from its index, in key order and
without a sort that spills to disk, however the rows of a day are mixed with others.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.sql import ColumnElement

from exporttools.database.binding import BoundSource
from exporttools.database.readers import BulkSession, select_all, stream_rows
from exporttools.database.scoped_reader import ScopedReader, without_tenant
from exporttools.database.stored_times import StoredTime
from exporttools.errors import TenantMismatch
from exporttools.records.schema import INCIDENTS, RUNS, TRACE_STEPS, TRACES, Column, RecordType
from exporttools.records.validity import Origin
from exporttools.text.inert import one_line
from exporttools.times import EPOCH

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select

TRACES_PER_READ = 512
"""How many traces' steps are read at once. PostgreSQL answers this many from the index; with 2,048 it did not."""


@dataclass(frozen=True, slots=True)
class GridCount:
    """What started in one interval of a time grid.

    Attributes
    ----------
    number : int
        The interval's number: 0 starts at 1970-01-01.
    runs, open_runs, incidents : int
        How many runs started in it, how many of those are still open, and how many incidents were created in it.
    """

    number: int
    runs: int
    open_runs: int
    incidents: int


@dataclass(frozen=True, slots=True)
class UndatedRows:
    """What has no place in time.

    Attributes
    ----------
    runs, traces, incidents : int
        Runs without a start, traces whose run is unknown or has no start, and incidents without a time of creation.
    """

    runs: int
    traces: int
    incidents: int

    def __bool__(self) -> bool:
        return bool(self.runs or self.traces or self.incidents)


@dataclass(frozen=True, slots=True)
class TenantDay:
    """One tenant's runs and incidents of a UTC day, or of as much of the day as a window covers.

    Attributes
    ----------
    since, until : datetime.datetime or None
        Half-open, [since, until); both None for what has no place in time.
    runs, open_runs, incidents : int
        As counted in the window's snapshot.
    """

    tenant_id: str
    since: dt.datetime | None
    until: dt.datetime | None
    runs: int
    open_runs: int
    incidents: int


class WindowReader:
    """Reads windows of the fleet.

    Parameters
    ----------
    reader : ScopedReader
        Reads all four records.
    """

    def __init__(self, reader: ScopedReader) -> None:
        self._reader = reader

    @contextmanager
    def snapshot(self) -> Iterator[WindowSnapshot]:
        """Read at one point in time."""
        database, tenant = self._reader.database, self._reader.tenant_id
        with database.snapshot() as connection:
            database.set_tenant(connection, tenant)
            if database.dialect != "postgresql":
                yield WindowSnapshot(self._reader, connection, None)
                return
            with self._reader.bulk.session(connection, tenant) as session:
                yield WindowSnapshot(self._reader, connection, session)


class WindowSnapshot:
    """The fleet at one point in time."""

    def __init__(self, reader: ScopedReader, connection: Connection, bulk: BulkSession | None) -> None:
        self._reader, self._connection, self._bulk = reader, connection, bulk
        self._sources = reader.bound(connection).sources
        # Not the steps: those of a trace are read together, in key order, and whoever writes them finds a key that repeats.
        listed = [source for table, source in self._sources.items() if table != TRACE_STEPS.table]
        reader.require_unique_keys(connection, listed, reader.tenant_id)

    @property
    def layout(self) -> str:
        """The layout's name."""
        return self._reader.bound(self._connection).name

    def grid_counts(
        self, length_s: int, tenant: str | None, since: dt.datetime | None, until: dt.datetime | None
    ) -> list[GridCount]:
        """Count the runs and incidents in each interval of a time grid; empty intervals are left out, numbers ascend.

        Parameters
        ----------
        length_s : int
            The length of an interval, in seconds.
        """
        runs, incidents = self._sources["runs"], self._sources["incidents"]
        opened = sa.func.sum(sa.case((runs["completed_at"].is_(None), 1), else_=0))
        started = self._counts(runs, "started_at", length_s, tenant, since, until, opened)
        created = self._counts(incidents, "created_at", length_s, tenant, since, until, sa.literal(0))
        return [
            GridCount(number, *started.get(number, (0, 0)), created.get(number, (0, 0))[0])
            for number in sorted({*started, *created})
        ]

    def _counts(
        self,
        source: BoundSource,
        column: str,
        length_s: int,
        tenant: str | None,
        since: dt.datetime | None,
        until: dt.datetime | None,
        second: ColumnElement[Any],
    ) -> dict[int, tuple[int, int]]:
        time = self._time(source, column, tenant)
        number = time.grid_number(length_s)
        statement = (
            source.select([])
            .add_columns(number, sa.func.count(), second)
            .where(*self._of(source, tenant), time.read.is_not(None), *time.within(since, until))
            .group_by(number)
        )
        return {int(found): (int(count), int(more or 0)) for found, count, more in self._rows(statement)}

    def undated(self, tenant: str | None) -> UndatedRows:
        """Count the rows that have no place in time."""
        runs, incidents = self._sources["runs"], self._sources["incidents"]
        traces, joined = self._traces_and_runs()
        without_start = self._when(runs, "started_at", tenant, None, None)
        return UndatedRows(
            runs=self._count(runs, tenant, without_start),
            traces=self._count(traces, tenant, without_start, joined),
            incidents=self._count(incidents, tenant, self._when(incidents, "created_at", tenant, None, None)),
        )

    def _count(
        self,
        source: BoundSource,
        tenant: str | None,
        where: Sequence[ColumnElement[bool]],
        joined: tuple[BoundSource, ColumnElement[bool]] | None = None,
    ) -> int:
        counted = source.select([], joined=joined).add_columns(sa.func.count()).where(*self._of(source, tenant), *where)
        return int(self._rows(counted)[0][0])

    def tenant_days(self, tenant: str | None, since: dt.datetime | None, until: dt.datetime | None) -> list[TenantDay]:
        """List the tenants that have anything in a window, day by day; sorted by tenant and day."""
        found = []
        for start, end in [(None, None)] if since is None or until is None else _days(since, until):
            runs, incidents = self._sources["runs"], self._sources["incidents"]
            opened = sa.func.sum(sa.case((runs["completed_at"].is_(None), 1), else_=0))
            in_runs = self._when(runs, "started_at", tenant, start, end)
            started = self._by_tenant(runs, tenant, in_runs, opened)
            in_incidents = self._when(incidents, "created_at", tenant, start, end)
            created = self._by_tenant(incidents, tenant, in_incidents, sa.literal(0))
            traced: dict[str, tuple[int, int]] = {}
            if start is None:
                traces, joined = self._traces_and_runs()
                traced = self._by_tenant(traces, tenant, in_runs, sa.literal(0), joined=joined)
            found += [
                TenantDay(name, start, end, *started.get(name, (0, 0)), created.get(name, (0, 0))[0])
                for name in {*started, *created, *traced}
            ]
        return sorted(found, key=lambda tenant_day: (tenant_day.tenant_id, tenant_day.since or EPOCH))

    def unowned_rows(self, tenant: str | None) -> dict[str, int]:
        """Count the incidents, runs and traces without a tenant, which are read as the default tenant's; by table.

        Steps go with their trace. To count them would be to read them all.
        """
        listed = [table for table in self._sources if table != TRACE_STEPS.table]
        return self._reader.unowned_rows(self._connection, tenant, listed)

    @property
    def default_tenant(self) -> str | None:
        """The tenant that rows without one are read as."""
        return self._reader.bound(self._connection).default_tenant

    def _by_tenant(
        self,
        source: BoundSource,
        tenant: str | None,
        where: Sequence[ColumnElement[bool]],
        second: ColumnElement[Any],
        joined: tuple[BoundSource, ColumnElement[bool]] | None = None,
    ) -> dict[str, tuple[int, int]]:
        name = self._reader.by_text(source["tenant_id"])
        statement = (
            source.select([], joined=joined)
            .add_columns(name, sa.func.count(), second)
            .where(*self._of(source, tenant), *where)
            .group_by(name)
        )
        found = {}
        for found_name, count, more in self._rows(statement):
            if found_name is None:
                raise without_tenant(source, int(count))
            if not isinstance(found_name, str):
                shown = one_line(repr(found_name))
                raise Origin(source.table).fault(f"({count:,} of them)", "tenant_id", shown, "a string, never NULL")
            found[found_name] = (int(count), int(more or 0))
        return found

    def columns(self, table: str) -> tuple[Column, ...]:
        """The columns of a table's rows: the record's context, its own columns, then the layout's extra ones."""
        return self._sources[table].columns

    def runs(self, tenant_day: TenantDay) -> Iterator[pa.RecordBatch]:
        """Read the runs of a tenant's day, by run_id."""
        return self._record(RUNS, tenant_day, self._of_day(self._sources["runs"], "started_at", tenant_day))

    def incidents(self, tenant_day: TenantDay) -> Iterator[pa.RecordBatch]:
        """Read the incidents created on a tenant's day, by id."""
        return self._record(INCIDENTS, tenant_day, self._of_day(self._sources["incidents"], "created_at", tenant_day))

    def traces(self, tenant_day: TenantDay) -> Iterator[pa.RecordBatch]:
        """Read the traces of a tenant's day, by trace_id; traces of unknown runs go with the runs without a start."""
        _, joined = self._traces_and_runs()
        where = self._of_day(self._sources["runs"], "started_at", tenant_day)
        return self._record(TRACES, tenant_day, where, joined)

    def trace_steps(self, tenant_day: TenantDay, trace_ids: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Read the steps of traces whose ids are sorted, by trace_id and step_index."""
        steps = self._sources["trace_steps"]
        columns = [column for column in steps.columns if column.name != "tenant_id"]
        schema = pa.schema([column.arrow_field.with_nullable(True) for column in steps.columns])
        at = schema.get_field_index("tenant_id")
        trace_id = self._reader.by_text(steps["trace_id"])
        for start in range(0, len(trace_ids), TRACES_PER_READ):
            asked = trace_ids[start : start + TRACES_PER_READ]
            statement = (
                steps.select(columns)
                .where(*self._of(steps, tenant_day.tenant_id), steps.among("trace_id", asked))
                .order_by(trace_id, steps["step_index"])
            )
            for batch in self._batches(statement, columns, Origin(steps.table), TRACE_STEPS):
                # The tenant is not sent with every row: _of admits only this one.
                arrays = batch.columns
                arrays.insert(at, pa.repeat(pa.scalar(tenant_day.tenant_id), batch.num_rows))
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def mean_steps(self, tenant: str | None, runs: int = 300) -> float:
        """Estimate the steps per trace from the first few hundred traces."""
        traces, steps = self._sources["traces"], self._sources["trace_steps"]
        some = traces.select([]).add_columns(traces["trace_id"]).where(*self._of(traces, tenant)).limit(runs)
        ids = [row[0] for row in self._rows(some)]
        if not ids:
            return 0.0
        counted = (
            steps.select([]).add_columns(sa.func.count()).where(*self._of(steps, tenant), steps.among("trace_id", ids))
        )
        return int(self._rows(counted)[0][0]) / len(ids)

    def _record(
        self,
        record_type: RecordType,
        tenant_day: TenantDay,
        where: Sequence[ColumnElement[bool]],
        joined: tuple[BoundSource, ColumnElement[bool]] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        source = self._sources[record_type.table]
        key = [self._reader.by_text(source[name]) for name in record_type.key]
        statement = (
            source.select(source.columns, joined=joined)
            .where(*self._of(source, tenant_day.tenant_id), *where)
            .order_by(*key)
        )
        for batch in self._batches(statement, source.columns, Origin(source.table), record_type):
            if not pc.all(pc.equal(batch["tenant_id"], tenant_day.tenant_id)).as_py():
                raise TenantMismatch(
                    f"{source.table}: the database returned rows of other tenants for {tenant_day.tenant_id!r}"
                )
            yield batch

    def _batches(
        self, statement: Select[Any], columns: Sequence[Column], origin: Origin, record_type: RecordType
    ) -> Iterator[pa.RecordBatch]:
        read = f"export {record_type.table}"
        if self._bulk is not None:
            return self._bulk.batches(statement, columns, read=read, origin=origin)
        return stream_rows(
            self._reader.database,
            self._connection,
            statement,
            columns,
            read=read,
            origin=origin,
            key=record_type.key,
            tenant=self._reader.tenant_id,
        )

    def _rows(self, statement: Select[Any]) -> Sequence[Any]:
        database = self._reader.database
        database.set_tenant(self._connection, self._reader.tenant_id)
        return select_all(database, self._connection, statement, read="count for an export")

    def _of(self, source: BoundSource, tenant: str | None) -> list[ColumnElement[bool]]:
        """The conditions that a row is the tenant's; empty for all tenants."""
        return [] if tenant is None else self._reader.is_tenant(source, tenant)

    def _of_day(self, source: BoundSource, column: str, tenant_day: TenantDay) -> list[ColumnElement[bool]]:
        return self._when(source, column, tenant_day.tenant_id, tenant_day.since, tenant_day.until)

    def _when(
        self,
        source: BoundSource,
        column: str,
        tenant: str | None,
        since: dt.datetime | None,
        until: dt.datetime | None,
    ) -> list[ColumnElement[bool]]:
        """The conditions that a time is in [since, until), or that there is none."""
        time = self._time(source, column, tenant)
        return [time.read.is_(None)] if since is None else time.within(since, until)

    def _time(self, source: BoundSource, column: str, tenant: str | None) -> StoredTime:
        return self._reader.time(self._connection, source, column, tenant)

    def _traces_and_runs(self) -> tuple[BoundSource, tuple[BoundSource, ColumnElement[bool]]]:
        traces, runs = self._sources["traces"], self._sources["runs"]
        return traces, (runs, traces.same(runs, "run_id", "tenant_id"))


def _days(since: dt.datetime, until: dt.datetime) -> Iterator[tuple[dt.datetime, dt.datetime]]:
    """Split a window into UTC days; the window may cut the first and the last."""
    start = since
    while start < until:
        midnight = dt.datetime.combine(start.date(), dt.time(), dt.UTC)
        end = until if until - midnight <= dt.timedelta(days=1) else midnight + dt.timedelta(days=1)
        yield start, end
        start = end
