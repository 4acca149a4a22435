"""A dataset as users read it: the files of one manifest as Arrow tables and in SQL, verified, compacted.

Only files that the manifest lists are opened. DuckDB is imported on the first query.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as ds

from exporttools.dataset.checking import DatasetVerification, verify_dataset
from exporttools.dataset.compaction import compact
from exporttools.dataset.destinations import Destination, open_storage
from exporttools.dataset.ledger import create_ledger
from exporttools.dataset.manifest import UNDATED, Manifest, PartFile, Window, undated_columns
from exporttools.dataset.manifest_reader import read_manifest, read_part_files
from exporttools.dataset.sql_views import only_files, table_view
from exporttools.dataset.storage import Storage
from exporttools.errors import ConfigError, DatasetUnreadable
from exporttools.files.digests import combined_digest
from exporttools.files.parquet import scan_options
from exporttools.records.schema import RECORD_TYPES, Column, arrow_schema
from exporttools.text.inert import html_text, one_line
from exporttools.text.words import plural
from exporttools.times import parse_utc, time_text

if TYPE_CHECKING:
    import duckdb

_TENANTS_SHOWN = 8


def open_dataset(destination: Destination, *, as_of: int | None = None, tenant_id: str | None = None) -> Dataset:
    """Open a dataset that :func:`export_dataset` wrote.

    Parameters
    ----------
    destination : str, path or storage
        As given to :func:`export_dataset`.
    as_of : int, optional
        The number of the manifest to read, by default the newest.
    tenant_id : str, optional
        Show only this tenant's files and rows. A query can then open no other file.

    Returns
    -------
    Dataset

    Raises
    ------
    DatasetUnreadable
        There is no dataset or no manifest of that number, or it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> open_dataset(tempfile.mkdtemp())
    Traceback (most recent call last):
    exporttools.errors.DatasetUnreadable: ...: no manifest found; expected a dataset that export_dataset wrote
    """
    storage = open_storage(destination)
    manifest = read_manifest(storage, as_of)
    if manifest is None:
        raise DatasetUnreadable(f"{storage.url}: no manifest found; expected a dataset that export_dataset wrote")
    return Dataset(storage, manifest, tenant_id)


class Dataset:
    """Incidents, runs, traces and steps in Parquet files, as of one manifest. Immutable: open it again to see changes.

    Examples
    --------
    >>> import tempfile
    >>> from exporttools import ExportBundleStore, export_dataset
    >>> from exporttools.database.embedded import embedded_database
    >>> folder = tempfile.TemporaryDirectory()
    >>> report = export_dataset(ExportBundleStore(embedded_database()), folder.name, window="7d", progress=False)
    >>> dataset = open_dataset(folder.name)
    >>> dataset.sql("select count(distinct tenant_id) from ledger").fetchall()
    [(3,)]
    >>> folder.cleanup()
    """

    def __init__(self, storage: Storage, manifest: Manifest, tenant_id: str | None = None) -> None:
        self._storage = storage
        self.manifest = manifest
        self._has_ledger = False
        self.tenant_id = tenant_id
        """The tenant whose files and rows are shown, or None for all tenants."""

    @cached_property
    def _windows(self) -> list[tuple[Window, list[PartFile]]]:
        """Each window with its part files, within the tenant."""
        return [
            (window, [f for f in read_part_files(self._storage, window) if self.tenant_id in (None, f.tenant_id)])
            for window in self.manifest.windows
        ]

    @cached_property
    def part_files(self) -> tuple[PartFile, ...]:
        """The Parquet files, ordered by table, tenant, day and time."""
        found = [file for _, files in self._windows for file in files]
        tables = list(RECORD_TYPES)
        return tuple(sorted(found, key=lambda file: (tables.index(file.table), file.tenant_id, file.day)))

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables' names."""
        return tuple(RECORD_TYPES)

    @property
    def rows(self) -> Mapping[str, int]:
        """Rows by table."""
        return self._totals("rows")

    @property
    def bytes(self) -> Mapping[str, int]:
        """The Parquet files' bytes by table."""
        return self._totals("bytes")

    def _totals(self, what: str) -> Mapping[str, int]:
        if self.tenant_id is None:
            counts = [getattr(window, what) for window in self.manifest.windows]
        else:
            counts = [{file.table: getattr(file, what)} for file in self.part_files]
        return MappingProxyType({table: sum(count.get(table, 0) for count in counts) for table in RECORD_TYPES})

    @property
    def tenants(self) -> tuple[str, ...]:
        """The tenants that have rows here, sorted."""
        return tuple(sorted({file.tenant_id for file in self.part_files}))

    @property
    def time_range(self) -> tuple[dt.datetime, dt.datetime] | None:
        """The first and last time of all incidents, run starts and steps, or None without any."""
        lows = [file.min_time for file in self.part_files if file.min_time]
        highs = [file.max_time for file in self.part_files if file.max_time]
        return (parse_utc(min(lows)), parse_utc(max(highs))) if lows and highs else None

    @property
    def content_digests(self) -> Mapping[str, str]:
        """The combined content digest of each table's part files, ordered by tenant, day and time.

        Equal rows in windows of whole days have equal digests, whatever the windows' length. Shorter windows split a day
        into several part files, and so have other digests.
        """
        digests = {
            table: combined_digest(file.content_digest for file in self.part_files if file.table == table)
            for table in RECORD_TYPES
        }
        return MappingProxyType(digests)

    @property
    def content_digest(self) -> str:
        """The combined digest of all four tables."""
        return combined_digest(self.content_digests.values())

    def files(self, table: str) -> list[str]:
        """Return the paths or URLs of a table's files, for Spark, Trino or Dask, which do not know manifests.

        Raises
        ------
        ConfigError
            There is no such table.
        """
        return [self._storage.location(file.path) for file in self._part_files_of(table)]

    @cached_property
    def _extra(self) -> dict[str, tuple[Column, ...]]:
        """By table, the columns that any of its files has beyond the record type's own."""
        found: dict[str, dict[str, Column]] = {table: {} for table in RECORD_TYPES}
        for window in self.manifest.windows:
            for table, names in window.extra_columns.items():
                for name, kind in names.items():
                    column = found[table].setdefault(name, RECORD_TYPES[table].extra_column(name, kind))
                    if column.type != kind:  # its type changed between exports; as text it is one column
                        found[table][name] = RECORD_TYPES[table].extra_column(name, "string")
        return {table: tuple(columns.values()) for table, columns in found.items()}

    def schema(self, table: str) -> pa.Schema:
        """Return a table's Arrow schema: ``tenant_id`` and ``trace_id`` before a step's columns, extra columns last.

        An incident's ``created_at`` is nullable where incidents without one are exported, under ``day=__undated__``.

        Raises
        ------
        ConfigError
            There is no such table.
        """
        self._require_table(table)
        columns = RECORD_TYPES[table].stored_columns(self._extra[table])
        if any(file.day == UNDATED for file in self._part_files_of(table)):
            columns = undated_columns(table, columns)
        return arrow_schema(columns)

    def to_arrow(
        self,
        table: str,
        columns: Collection[str] | None = None,
        filter: ds.Expression | None = None,  # noqa: A002
    ) -> pa.Table:
        """Return a table's rows, in memory.

        Parameters
        ----------
        table : {"incidents", "runs", "traces", "trace_steps"}
        columns : collection of str, optional
            Only these, in this order.
        filter : pyarrow.dataset.Expression, optional
            For example ``pyarrow.compute.field("status") == "error"``; row groups without a match are not read.

        Raises
        ------
        ConfigError
            There is no such table or column; the message lists those that exist.
        """
        return self.scan(table, columns, filter).read_all()

    def scan(
        self,
        table: str,
        columns: Collection[str] | None = None,
        filter: ds.Expression | None = None,  # noqa: A002
    ) -> pa.RecordBatchReader:
        """Return the rows of :meth:`to_arrow` batch by batch."""
        schema = self.schema(table)
        names = schema.names if columns is None else list(columns)
        if unknown := [name for name in names if name not in schema.names]:
            raise ConfigError(
                f"{table} has no column {', '.join(map(repr, unknown))}; its columns are {', '.join(schema.names)}"
            )
        found = ds.dataset(
            [self._storage.arrow_path(file.path) for file in self._part_files_of(table)],
            schema=schema,
            format=ds.ParquetFileFormat(default_fragment_scan_options=scan_options()),
            filesystem=self._storage.arrow_filesystem(),
        )
        if self.tenant_id is not None:
            own = ds.field("tenant_id") == self.tenant_id
            filter = own if filter is None else own & filter  # noqa: A001
        # With more read ahead, a scan's memory would grow with the files' row groups.
        return found.scanner(
            columns=names, filter=filter, batch_size=65_536, batch_readahead=4, fragment_readahead=2
        ).to_reader()

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """Query the dataset in SQL, with DuckDB.

        Parameters
        ----------
        query : str
            Over the views ``incidents``, ``runs``, ``traces``, ``trace_steps`` and ``ledger``. The ledger has each step
            with its run, for questions about cost: ``tenant_id, run_id, trace_id, agent_id, day``, the run's
            ``started_at, completed_at, termination_reason``, then the step's columns. Each view has ``day``, a string:
            the UTC day on which the run started (or the incident was created), or ``__undated__``.

            Where steps are parts of others (``parent_step_index``), the ledger has each step's own amounts, so that sums
            over it count each cent once; ``roll_up`` and ``rolled_up_cost_cents``, ``rolled_up_tokens``,
            ``rolled_up_duration_ms`` say what it leaves out (see :func:`exporttools.step_tree`). ``trace_steps`` has what was recorded.

        Returns
        -------
        duckdb.DuckDBPyRelation
            Lazy; read it with ``.df()``, ``.arrow()``, ``.pl()`` or ``.fetchall()``.

        Raises
        ------
        duckdb.Error
            DuckDB cannot run the query.
        ConfigError
            An extra column's name differs from another only in case, which SQL ignores.
        """
        if "ledger" in query.lower() and not self._has_ledger:  # to find what it leaves out, steps are read
            create_ledger(self._connection, self.schema("trace_steps"))
            self._has_ledger = True
        return self._connection.sql(query)

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        connection = duckdb.connect(":memory:")
        connection.execute("SET TimeZone = 'UTC'")
        self._storage.register(connection)
        for table in RECORD_TYPES:
            connection.execute(f"CREATE VIEW {table} AS {self._view(table)}")
        if self.tenant_id is not None:
            connection.execute(only_files([file for table in RECORD_TYPES for file in self.files(table)]))
        return connection

    def _view(self, table: str) -> str:
        record_type = RECORD_TYPES[table]
        held = {column.name for column in record_type.stored_columns()}
        for window, files in self._windows:
            if any(file.table == table for file in files):
                held |= window.extra_columns.get(table, {}).keys()
        columns = record_type.stored_columns(self._extra[table])
        return table_view(table, columns, self.files(table), held, self.tenant_id)

    def verify(self) -> DatasetVerification:
        """Check every file against the manifest, and every row against its place. Memory is bounded by batches.

        Returns
        -------
        DatasetVerification
            All findings; true if there are none.

        Raises
        ------
        ConfigError
            The dataset was opened for one tenant.
        DatasetUnreadable
            The storage cannot list the files.
        """
        self._require_whole("verified")
        return verify_dataset(self._storage, self.manifest)

    def compact(self, *, window: str = "1d") -> Dataset:
        """Merge small files: adjacent settled windows that lie in one window of the given length become one.

        The rows do not change, nor do the content digests of windows of whole days; the old files stay for ``as_of``.
        Windows with a gap between them are not merged, because a later export may find runs there; nor are windows in
        which an extra column has different types.

        Returns
        -------
        Dataset
            The dataset as of the new manifest, or this one if there was nothing to merge.

        Raises
        ------
        ConfigError
            `window` is not a valid length, or the dataset was opened for one tenant.
        DatasetUnreadable
            A file to be merged is not what the manifest says. Nothing was merged.
        DestinationConflict
            An export or another compaction began here meanwhile.
        DatasetError
            The storage failed. Nothing was merged.
        """
        self._require_whole("compacted")
        manifest = compact(self._storage, self.manifest, window)
        return self if manifest is self.manifest else Dataset(self._storage, manifest)

    def _part_files_of(self, table: str) -> Sequence[PartFile]:
        self._require_table(table)
        return [file for file in self.part_files if file.table == table]

    def _require_whole(self, verb: str) -> None:
        if self.tenant_id is not None:
            raise ConfigError(
                f"a dataset is {verb} as a whole, with the files of all tenants; open it without a tenant"
            )

    def _require_table(self, table: str) -> None:
        if table not in RECORD_TYPES:
            raise ConfigError(
                f"there is no table {one_line(repr(table), 60)}; the tables are {', '.join(RECORD_TYPES)}"
            )

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What users want to know first, as pairs of name and text."""
        windows = self.manifest.windows
        provisional = sum(not window.settled for window in windows)
        span = self.time_range
        tenants = self.tenants
        shown = ", ".join(one_line(name, 40) for name in tenants[:_TENANTS_SHOWN])
        more = f" and {len(tenants) - _TENANTS_SHOWN} more" if len(tenants) > _TENANTS_SHOWN else ""
        facts = [
            ("time", "none" if span is None else f"{time_text(span[0])} to {time_text(span[1])} UTC"),
            ("tenants", f"{len(tenants):,}: {shown}{more}" if tenants else "none"),
        ]
        if self.tenant_id is not None:  # the manifest counts the rest over all tenants
            return facts
        return [
            *facts,
            (
                "windows",
                f"{len(windows):,}, {provisional:,} provisional; {plural(sum(w.open_runs for w in windows), 'open run')}",
            ),
            (
                "undated rows",
                f"{plural(sum(window.undated_runs for window in windows), 'run')}, "
                f"{plural(sum(window.undated_incidents for window in windows), 'incident')}",
            ),
        ]

    def __repr__(self) -> str:
        rows = ", ".join(f"{count:,} {table}" for table, count in self.rows.items())
        scope = "" if self.tenant_id is None else f" · tenant {one_line(self.tenant_id, 60)!r}"
        return f"<Dataset {one_line(self._storage.url, 200)} · manifest {self.manifest.number}{scope} · {rows}>"

    def _repr_html_(self) -> str:
        left = "text-align:left"
        files = {table: len(self._part_files_of(table)) for table in RECORD_TYPES}
        rows = "".join(
            f"<tr><td style='{left}'>{table}</td><td>{self.rows[table]:,}</td><td>{files[table]:,}</td>"
            f"<td>{self.bytes[table] / 1e6:,.1f}</td></tr>"
            for table in RECORD_TYPES
        )
        facts = "".join(f"<br>{name}: {html_text(value, 500)}" for name, value in self.facts)
        return (
            f"<p><b>dataset</b> <code>{html_text(self._storage.url, 300)}</code>, manifest {self.manifest.number}{facts}</p>"
            f"<table><thead><tr><th style='{left}'>table</th><th>rows</th><th>files</th><th>MB</th></tr></thead>"
            f"<tbody>{rows}</tbody></table>"
        )
