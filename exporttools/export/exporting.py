"""Exports a fleet into a dataset, window by window. Plans and commits; the tasks read and write."""

from __future__ import annotations

import datetime as dt
import os
import pickle
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporttools.database.scoped_reader import require_period
from exporttools.database.store import ExportBundleStore
from exporttools.dataset.committing import Committer
from exporttools.dataset.destinations import open_storage
from exporttools.dataset.manifest import Window, first_manifest
from exporttools.dataset.manifest_reader import read_manifest
from exporttools.dataset.windows import Interval, grid_number, new_intervals, overlaps, parse_window
from exporttools.errors import ConfigError, DatasetError, DestinationConflict, ExportInterrupted, ExportToolsError
from exporttools.export.export_report import ExportPlan, ExportReport, PlannedWindow
from exporttools.export.task import ExportedWindow, ExportTask, export_window
from exporttools.records.schema import RECORD_TYPES
from exporttools.text.inert import one_line
from exporttools.times import EARLIEST, parse_length, parse_utc

if TYPE_CHECKING:
    from exporttools.dataset.destinations import Destination

BYTES_PER_STEP = 45
"""A step's size in Parquet, for estimates before the first export (benchmarks/bench_export.py)."""

_SUBMITTED = 64
"""How many windows an executor has at a time, so that a failure leaves few to cancel."""


def export_dataset(
    store: ExportBundleStore,
    destination: Destination,
    *,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    window: str = "1d",
    tenant_id: str | None = None,
    executor: Executor | None = None,
    jobs: int | None = None,
    settle: str = "1h",
    progress: bool = True,
) -> ExportReport:
    """Export runs with all their traces and steps, and incidents, as a partitioned Parquet dataset.

    Every window is read in one database snapshot and committed by one new manifest, whole or not at all. Settled windows
    of earlier exports are skipped. Provisional ones are read again: they had open runs, or had not been over for long
    enough. So the same call keeps a dataset up to date when made every night, and resumes when made after a failure.

    Parameters
    ----------
    store : ExportBundleStore
        With traces in the same database. For worker processes or machines it must be picklable: made from a path, from
        ``env:NAME``, or from a function that returns the URL.
    destination : str, path or storage
        A directory, or a URL in an object store (``s3://bucket/prefix``; extra ``cloud``). Created if necessary.
    since, until : datetime.datetime, optional
        With a time zone; half-open, [since, until), over a run's start and an incident's creation.
    window : str
        The windows' length, whole days or a length that divides a day: ``"1d"``, ``"7d"``, ``"1h"``. Windows lie on a grid
        that starts at 1970-01-01 UTC.
    tenant_id : str, optional
        Export only this tenant's rows. A destination holds either one tenant or all.
    executor : concurrent.futures.Executor, optional
        Where to export windows, by default threads. It is not shut down.
    jobs : int, optional
        How many threads, without an executor. By default 2, or 1 on a machine with one processor.
    settle : str
        How long after its end a window may still change, because runs reach the database late.
    progress : bool
        Whether to show a progress bar, on a terminal or in a notebook.

    Returns
    -------
    ExportReport

    Raises
    ------
    ConfigError
        A bad argument, or an executor of processes with a store that cannot be pickled.
    DestinationConflict
        Another export or compaction began in this destination meanwhile, or it holds another tenant's export. All
        commits stay.
    ExportInterrupted
        The database or the destination failed. All commits stay, and the same call resumes.
    DatasetUnreadable
        A manifest in the destination cannot be read.

    Notes
    -----
    Runs without a start, traces without a known run, and incidents without a time of creation are exported under
    ``day=__undated__``, and read again by every export. Part files that no manifest lists, left by a killed export, are removed when the next one begins.

    Examples
    --------
    >>> import tempfile
    >>> from exporttools import open_dataset
    >>> from exporttools.database.embedded import embedded_database
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = export_dataset(ExportBundleStore(embedded_database()), folder, window="7d", progress=False)
    ...     rows = open_dataset(folder).rows["runs"]
    >>> report.rows["runs"] == rows
    True
    """
    began = time.monotonic()
    if isinstance(executor, ProcessPoolExecutor):
        _require_picklable(store)
    with _beginning():
        job = _Job(store, destination, since, until, window, tenant_id, settle, create=True)
    writer = None
    retries: list[str] = []
    written = dict.fromkeys(RECORD_TYPES, 0), dict.fromkeys(RECORD_TYPES, 0)
    committed = unchanged = 0
    if job.planned:
        with _beginning():
            writer = Committer(job.storage, job.manifest)
        with _Bar(job.planned, shown=progress) as bar, _executing(executor, jobs) as (pool, in_threads):
            tasks = [job.task(planned, bar.rows if in_threads else None) for planned in job.planned]
            for exported, changed in _committed(pool, tasks, writer):
                retries += exported.retries
                bar.window(exported.window, in_threads)
                if not changed:
                    unchanged += 1
                    continue
                committed += 1
                for total, more in zip(written, (exported.window.rows, exported.window.bytes), strict=True):
                    for table, count in more.items():
                        total[table] += count
    manifest = writer.manifest if writer else job.manifest
    within = [known for known in manifest.windows if job.covers(known)]
    return ExportReport(
        destination=job.storage.url,
        manifest=manifest.number,
        rows=written[0],
        bytes=written[1],
        windows_committed=committed,
        windows_skipped=job.skipped,
        windows_unchanged=unchanged,
        windows_provisional=sum(not known.settled and known.since is not None for known in within),
        open_runs=sum(known.open_runs for known in within),
        undated_runs=sum(known.undated_runs for known in within),
        undated_incidents=sum(known.undated_incidents for known in within),
        unowned_rows=job.unowned_rows,
        default_tenant=job.default_tenant,
        retries=tuple(retries),
        seconds=time.monotonic() - began,
    )


def plan_export(
    store: ExportBundleStore,
    destination: Destination,
    *,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    window: str = "1d",
    tenant_id: str | None = None,
) -> ExportPlan:
    """Return what :func:`export_dataset` would do with the same arguments. Writes nothing.

    Returns
    -------
    ExportPlan
        Runs and incidents are counted; steps and bytes are estimates.
    """
    job = _Job(store, destination, since, until, window, tenant_id, "1h", create=False)
    runs = sum(planned.runs for planned in job.planned)
    steps = sum(known.rows["trace_steps"] for known in job.manifest.windows)
    known_runs = sum(known.rows["runs"] for known in job.manifest.windows)
    size = sum(known.bytes["trace_steps"] for known in job.manifest.windows)
    if runs and not (steps and known_runs):
        with job.store.window_snapshot() as snapshot:
            steps, known_runs = round(1e6 * snapshot.mean_steps(job.tenant)), 10**6
    estimate = round(runs * steps / known_runs) if known_runs else 0
    return ExportPlan(
        destination=job.name,
        windows=tuple(job.planned),
        windows_skipped=job.skipped,
        estimated_steps=estimate,
        estimated_bytes=round(estimate * (size / steps if size else BYTES_PER_STEP)),
    )


class _Job:
    """What to export: the request, compared with the destination and the database."""

    def __init__(
        self,
        store: ExportBundleStore,
        destination: Destination,
        since: dt.datetime | None,
        until: dt.datetime | None,
        window: str,
        tenant_id: str | None,
        settle: str,
        *,
        create: bool,
    ) -> None:
        self.length_s, self.settle = parse_window(window), parse_length("settle", settle)
        self.since, self.until = require_period(since, until)
        self.tenant = store.scope(tenant_id)
        self.store = store if self.tenant is None else store.for_tenant(self.tenant)
        found = None
        if (
            create
            or not isinstance(destination, (str, os.PathLike))
            or "://" in str(destination)
            or Path(destination).is_dir()
        ):
            self.storage = open_storage(destination, create=create)
            self.name = self.storage.url
            found = read_manifest(self.storage)
        else:
            self.name = os.fspath(destination)
        if found is not None and found.tenant_id != self.tenant:
            held, asked = (("all tenants" if t is None else f"tenant {t!r}") for t in (found.tenant_id, self.tenant))
            raise DestinationConflict(
                f"{self.name} holds an export of {one_line(held)}; this one is of {one_line(asked)}. "
                "Export to another destination"
            )
        self.manifest = found or first_manifest(self.tenant)
        self.planned = self._plan()

    def covers(self, window: Window) -> bool:
        """Return whether a window overlaps the requested period; the undated one always does."""
        interval = _interval(window)
        return interval is None or overlaps(interval, self.since, self.until)

    def _plan(self) -> list[PlannedWindow]:
        within = [known for known in self.manifest.windows if self.covers(known)]
        self.skipped = sum(known.settled for known in within)
        with self.store.window_snapshot() as snapshot:
            counts = {
                found.number: found
                for found in snapshot.grid_counts(self.length_s, self.tenant, self.since, self.until)
            }
            undated = snapshot.undated(self.tenant)
            self.unowned_rows = snapshot.unowned_rows(self.tenant)
            self.default_tenant = snapshot.default_tenant if self.unowned_rows else None
        committed = [interval for known in self.manifest.windows if (interval := _interval(known))]
        planned = []
        for start, end in new_intervals(counts, self.length_s, self.since, self.until, committed):
            count = counts[grid_number(start, self.length_s)]
            planned.append(PlannedWindow(start, end, "new", count.runs, count.open_runs, count.incidents))
        for known in within:
            if not known.settled and known.since is not None:
                start, end = parse_utc(known.since), parse_utc(known.until or known.since)
                runs, incidents = known.rows["runs"], known.rows["incidents"]
                planned.append(PlannedWindow(start, end, "provisional", runs, known.open_runs, incidents))
        planned.sort(key=lambda one: one.since or EARLIEST)
        if undated or any(known.since is None for known in within):
            planned.append(PlannedWindow(None, None, "provisional", undated.runs, 0, undated.incidents))
        return planned

    def task(self, planned: PlannedWindow, on_rows: Any) -> ExportTask:
        """Return a worker's task for a window."""
        return ExportTask(self.store, self.storage, self.tenant, planned.since, planned.until, self.settle, on_rows)


def _interval(window: Window) -> Interval | None:
    if window.since is None or window.until is None:
        return None
    return parse_utc(window.since), parse_utc(window.until)


def _same(known: Window | None, found: Window) -> bool:
    """Return whether a window that was read again has the committed rows, and is as provisional as before."""
    return known is not None and (
        known.rows,
        known.content_digests,
        known.open_runs,
        known.settled,
        known.parts_sha256,
    ) == (
        found.rows,
        found.content_digests,
        found.open_runs,
        found.settled,
        found.parts_sha256,
    )


def _committed(pool: Executor, tasks: Sequence[ExportTask], writer: Committer) -> Iterator[tuple[ExportedWindow, bool]]:
    """Yield each window once it is committed, and whether it changed; after a failure, cancel the rest."""
    before = {(known.since, known.until): known for known in writer.manifest.windows}
    waiting = list(reversed(tasks))
    running: set[Future[ExportedWindow]] = set()
    ready = 0
    try:
        while waiting or running:
            while waiting and len(running) < _SUBMITTED:
                running.add(pool.submit(export_window, waiting.pop()))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                exported = future.result()
                changed = not _same(before.get((exported.window.since, exported.window.until)), exported.window)
                if changed:
                    writer.commit(exported.window)
                ready += 1
                yield exported, changed
    except DestinationConflict:
        raise
    except (ExportToolsError, OSError) as error:
        if writer.overtaken():
            raise writer.conflict() from error
        if isinstance(error, DatasetError):
            raise
        raise ExportInterrupted(
            f"the export stopped: {one_line(error, 1500).rstrip('.')}. {ready:,} of {len(tasks):,} windows are committed and stay; "
            "the same export, run again, continues from there"
        ) from error
    finally:
        for future in running:
            future.cancel()
        wait(running)


@contextmanager
def _beginning() -> Iterator[None]:
    """Turn a failure of the destination before the first window into an error that says so."""
    try:
        yield
    except OSError as error:
        raise ExportInterrupted(
            f"the export could not begin: {one_line(error, 1500)}. No window was committed; once that is "
            "fixed, run the same export again"
        ) from error


def _require_picklable(store: ExportBundleStore) -> None:
    """Raise now: the pool's own error would not say whose function it is."""
    try:
        pickle.dumps(store)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"the store cannot be sent to other processes: {one_line(error, 200)}. Define the functions of its layout, and the "
            "one that returns its URL, with def at the top level of a module; or export in threads, by jobs="
        ) from error


@contextmanager
def _executing(executor: Executor | None, jobs: int | None) -> Iterator[tuple[Executor, bool]]:
    """Yield the executor, and whether its workers are threads of this process."""
    if executor is not None:
        yield executor, isinstance(executor, ThreadPoolExecutor)
        return
    workers = jobs or min(2, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, thread_name_prefix="exporttools-window") as pool:
        yield pool, True


class _Bar:
    """A progress bar of rows, rows per second and windows."""

    def __init__(self, planned: Sequence[PlannedWindow], *, shown: bool) -> None:
        from tqdm import tqdm

        self._lock = threading.Lock()
        self._windows, self._of = 0, len(planned)
        self._bar = tqdm(
            unit=" rows", unit_scale=True, desc="export", disable=not (shown and _is_watched()), dynamic_ncols=True
        )
        self._bar.set_postfix_str(f"0/{self._of} windows")

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def rows(self, count: int) -> None:
        """Count rows that were read; from any thread."""
        with self._lock:
            self._bar.update(count)

    def window(self, window: Window, rows_known: bool) -> None:
        """Count a window that is done."""
        if not rows_known:
            self.rows(sum(window.rows.values()))
        self._windows += 1
        with self._lock:
            self._bar.set_postfix_str(f"{self._windows}/{self._of} windows")


def _is_watched() -> bool:
    """Return whether anyone sees a bar: on a terminal, or in a notebook, whose standard error is not a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return sys.stderr.isatty() or hasattr(shell, "kernel")
