"""One window, from a database into part files: a worker's task, in a thread, a process or on another machine."""

from __future__ import annotations

import datetime as dt
import queue
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from time import sleep
from typing import Any

import pyarrow as pa

from exporttools.database.readers import require_count
from exporttools.database.store import ExportBundleStore
from exporttools.database.window_reader import TenantDay, WindowSnapshot
from exporttools.dataset.manifest import UNDATED, PartFile, Window, new_window, undated_columns
from exporttools.dataset.part_files import new_part_file
from exporttools.dataset.storage import Storage
from exporttools.errors import StoreError
from exporttools.records.schema import RECORD_TYPES, Column
from exporttools.times import utc_text

QUEUED_BATCHES = 8
"""How many batches may wait between reading and writing."""

BACK_OFF_S = (0.5, 2.0, 8.0)
"""How long to wait before the second, third and fourth attempt at a window, times a random factor from 0.5 to 1.5."""


@dataclass(frozen=True, slots=True)
class ExportTask:
    """A window to export. Small, and picklable where the store is.

    Attributes
    ----------
    store : ExportBundleStore
    storage : Storage
        The dataset's storage.
    tenant_id : str or None
    since, until : datetime.datetime or None
        Both are None for the rows that have no place in time.
    settle : datetime.timedelta
        How long a window must have been over to be settled.
    on_rows : callable or None
        Called with the number of rows after each batch; only for workers that are threads.
    """

    store: ExportBundleStore
    storage: Storage
    tenant_id: str | None
    since: dt.datetime | None
    until: dt.datetime | None
    settle: dt.timedelta
    on_rows: Callable[[int], None] | None = None


@dataclass(frozen=True, slots=True)
class ExportedWindow:
    """A window whose part files are written, to be committed.

    Attributes
    ----------
    window : Window
    retries : tuple of str
        For each time that it was read again, the reason.
    """

    window: Window
    retries: tuple[str, ...]


def export_window(task: ExportTask) -> ExportedWindow:
    """Read a window in one database snapshot and write its part files; after a transient failure, start again.

    Raises
    ------
    StoreError
        The database or its rows are at fault; if that may be transient, after the last attempt.
    OSError
        The destination failed.
    """
    retries: list[str] = []
    while True:
        try:
            return ExportedWindow(_attempt(task), tuple(retries))
        except StoreError as error:
            if not error.transient or len(retries) == len(BACK_OFF_S):
                raise
            retries.append(str(error))
            # Random, so that the windows stopped by one failure do not all come back at once.
            sleep(BACK_OFF_S[len(retries) - 1] * random.uniform(0.5, 1.5))  # noqa: S311


def _attempt(task: ExportTask) -> Window:
    read_at = dt.datetime.now(dt.UTC)
    with task.store.window_snapshot() as snapshot:
        tenant_days = snapshot.tenant_days(task.tenant_id, task.since, task.until)
        part_files = _written(task, _items(snapshot, tenant_days))
        extra = {
            table: {column.name: column.type for column in snapshot.columns(table)[len(record_type.stored_columns()) :]}
            for table, record_type in RECORD_TYPES.items()
        }
    open_runs = sum(tenant_day.open_runs for tenant_day in tenant_days)
    return new_window(
        task.storage,
        task.since,
        task.until,
        part_files,
        read_at=utc_text(read_at),
        open_runs=open_runs,
        undated_runs=sum(tenant_day.runs for tenant_day in tenant_days) if task.since is None else 0,
        extra_columns=extra,
        settled=task.until is not None and not open_runs and read_at - task.until >= task.settle,
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a part file, in order."""

    table: str
    tenant_id: str
    day: str
    columns: tuple[Column, ...]
    batch: pa.RecordBatch

    def same_part_file(self, other: _Rows) -> bool:
        return (self.table, self.tenant_id, self.day) == (other.table, other.tenant_id, other.day)


def _items(snapshot: WindowSnapshot, tenant_days: Sequence[TenantDay]) -> Generator[_Rows, None, None]:
    """Yield all rows of a window, one part file after another."""
    for tenant_day in tenant_days:
        day = UNDATED if tenant_day.since is None else tenant_day.since.date().isoformat()

        def rows(
            table: str, batches: Iterator[pa.RecordBatch], tenant_day: TenantDay = tenant_day, day: str = day
        ) -> Iterator[_Rows]:
            columns = snapshot.columns(table) if day != UNDATED else undated_columns(table, snapshot.columns(table))
            for batch in batches:
                if batch.num_rows:
                    yield _Rows(table, tenant_day.tenant_id, day, columns, batch)

        counts = dict.fromkeys(RECORD_TYPES, 0)
        trace_ids: list[str] = []
        for table, batches in (
            ("incidents", snapshot.incidents(tenant_day)),
            ("runs", snapshot.runs(tenant_day)),
            ("traces", snapshot.traces(tenant_day)),
        ):
            for item in rows(table, batches):
                counts[table] += item.batch.num_rows
                if table == "traces":
                    trace_ids += item.batch["trace_id"].to_pylist()
                yield item
        where = f"{tenant_day.tenant_id!r} on {day}"
        require_count(f"runs of {where}", tenant_day.runs, counts["runs"])
        require_count(f"incidents of {where}", tenant_day.incidents, counts["incidents"])
        yield from rows("trace_steps", snapshot.trace_steps(tenant_day, trace_ids))


def _written(task: ExportTask, items: Generator[_Rows, None, None]) -> list[PartFile]:
    """Write the part files in a separate thread, while this one reads on."""
    waiting: queue.Queue[_Rows | None] = queue.Queue(QUEUED_BATCHES)
    with ThreadPoolExecutor(1, thread_name_prefix="exporttools-writer") as pool:
        writing = pool.submit(_write_part_files, task, waiting)
        try:
            with closing(items):  # before its transaction ends
                for item in items:
                    if not _put(waiting, item, writing):
                        break
        except BaseException:
            _put(waiting, _Abandon(), writing)
            raise
        _put(waiting, None, writing)
        return writing.result()


class _Abandon:
    """Put in the queue instead of the next batch when the reader has failed."""


class _Abandoned(Exception):
    """The reader failed; the part file being written is discarded."""


def _put(waiting: queue.Queue[Any], item: Any, writing: Future[Any]) -> bool:
    """Put an item in the queue, unless the writer has ended; return whether it still runs."""
    while not writing.done():
        try:
            waiting.put(item, timeout=0.2)
        except queue.Full:
            continue
        return True
    return False


def _write_part_files(task: ExportTask, waiting: queue.Queue[Any]) -> list[PartFile]:
    part_files: list[PartFile] = []
    item = waiting.get()
    while item is not None:
        if isinstance(item, _Abandon):
            raise _Abandoned
        first: _Rows = item
        with new_part_file(
            task.storage, RECORD_TYPES[first.table], first.columns, first.tenant_id, first.day
        ) as writer:
            while isinstance(item, _Rows) and item.same_part_file(first):
                writer.write(item.batch)
                if task.on_rows is not None:
                    task.on_rows(item.batch.num_rows)
                item = waiting.get()
            if isinstance(item, _Abandon):
                raise _Abandoned
        part_files.append(writer.part_file)
    return part_files
