"""A dataset as people read it: what its newest manifest lists, as Arrow, as SQL, and whether it is what it says it is.

Only files that a manifest lists are ever opened. DuckDB is imported when SQL is asked for.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds

from exporttools.dataset.checking import DatasetVerification, verify_dataset
from exporttools.dataset.compaction import compact
from exporttools.dataset.manifest import Manifest, PartFile, read_manifest, read_part_files
from exporttools.dataset.storage import Destination, Storage, open_storage
from exporttools.errors import ConfigError, DatasetUnreadable
from exporttools.files.digests import combined_digest
from exporttools.records.schema import RECORD_TYPES, Column, arrow_schema
from exporttools.text.inert import html_text, one_line
from exporttools.times import parse_utc

if TYPE_CHECKING:
    import duckdb

_TENANTS_SHOWN = 8


def open_dataset(destination: Destination, *, as_of: int | None = None) -> Dataset:
    """Open a dataset that :func:`export_dataset` wrote.

    Parameters
    ----------
    destination : str, path or storage
        As it was given to the export.
    as_of : int, optional
        The number of the manifest to read by; None: the newest.

    Returns
    -------
    Dataset

    Raises
    ------
    DatasetUnreadable
        No dataset is there, no manifest of that number, or it is damaged.

    Examples
    --------
    >>> import tempfile
    >>> open_dataset(tempfile.mkdtemp())
    Traceback (most recent call last):
    exporttools.errors.DatasetUnreadable: ...: no manifest; expected a dataset that export_dataset wrote
    """
    storage = open_storage(destination)
    manifest = read_manifest(storage, as_of)
    if manifest is None:
        raise DatasetUnreadable(f"{storage.url}: no manifest; expected a dataset that export_dataset wrote")
    return Dataset(storage, manifest)


class Dataset:
    """Incidents, runs, traces and steps in Parquet files, as of one manifest. Immutable: open it again to see more.

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

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self._storage = storage
        self.manifest = manifest

    @cached_property
    def part_files(self) -> tuple[PartFile, ...]:
        """The Parquet files, by table, tenant, day and time."""
        found: list[PartFile] = []
        for window in self.manifest.windows:
            found += read_part_files(self._storage, window)
        tables = list(RECORD_TYPES)
        return tuple(sorted(found, key=lambda part: (tables.index(part.table), part.tenant_id, part.day)))

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
        windows = self.manifest.windows
        return MappingProxyType(
            {table: sum(getattr(window, what)[table] for window in windows) for table in RECORD_TYPES}
        )

    @property
    def tenants(self) -> tuple[str, ...]:
        """The tenants whose rows are here, sorted."""
        return tuple(sorted({part.tenant_id for part in self.part_files}))

    @property
    def time_range(self) -> tuple[dt.datetime, dt.datetime] | None:
        """The first and the last time of any incident, run's start or step; None where there is none."""
        lows = [part.min_time for part in self.part_files if part.min_time]
        highs = [part.max_time for part in self.part_files if part.max_time]
        return (parse_utc(min(lows)), parse_utc(max(highs))) if lows and highs else None

    @property
    def content_digests(self) -> Mapping[str, str]:
        """By table: one digest of its parts' content digests, by tenant, day and time.

        Equal rows in windows of whole days give equal digests, whatever the windows' length; shorter windows cut days
        into parts, which have digests of their own.
        """
        digests = {
            table: combined_digest(part.content_digest for part in self.part_files if part.table == table)
            for table in RECORD_TYPES
        }
        return MappingProxyType(digests)

    @property
    def content_digest(self) -> str:
        """One digest of all four tables'."""
        return combined_digest(self.content_digests.values())

    def files(self, table: str) -> list[str]:
        """The paths or URLs of a table's files: what to give to Spark, Trino or Dask, which know no manifests.

        Raises
        ------
        ConfigError
            No such table.
        """
        return [self._storage.location(part.path) for part in self._parts_of(table)]

    @cached_property
    def _extra(self) -> dict[str, tuple[Column, ...]]:
        """By table: the columns that any of its files has beyond the record's."""
        found: dict[str, dict[str, Column]] = {table: {} for table in RECORD_TYPES}
        for window in self.manifest.windows:
            for table, names in window.extra_columns.items():
                for name, kind in names.items():
                    column = found[table].setdefault(name, RECORD_TYPES[table].extra_column(name, kind))
                    if column.type != kind:  # of another type at another time: as text, it is one column
                        found[table][name] = RECORD_TYPES[table].extra_column(name, "string")
        return {table: tuple(columns.values()) for table, columns in found.items()}

    def schema(self, table: str) -> pa.Schema:
        """A table's Arrow schema: ``tenant_id`` and ``trace_id`` before a step's columns, then extra columns.

        Raises
        ------
        ConfigError
            No such table.
        """
        self._parts_of(table)
        return arrow_schema(RECORD_TYPES[table].stored_columns(self._extra[table]))

    def to_arrow(
        self,
        table: str,
        columns: Collection[str] | None = None,
        filter: ds.Expression | None = None,  # noqa: A002
    ) -> pa.Table:
        """A table's rows, in memory.

        Parameters
        ----------
        table : {"incidents", "runs", "traces", "trace_steps"}
        columns : collection of str, optional
            Only these, in this order.
        filter : pyarrow.dataset.Expression, optional
            Such as ``pyarrow.compute.field("status") == "error"``; row groups without a match are not read.

        Raises
        ------
        ConfigError
            No such table or column; the message lists those there are.
        """
        return self.scan(table, columns, filter).read_all()

    def scan(
        self,
        table: str,
        columns: Collection[str] | None = None,
        filter: ds.Expression | None = None,  # noqa: A002
    ) -> pa.RecordBatchReader:
        """As :meth:`to_arrow`, batch by batch."""
        schema = self.schema(table)
        names = schema.names if columns is None else list(columns)
        if unknown := [name for name in names if name not in schema.names]:
            raise ConfigError(
                f"{table} has no column {', '.join(map(repr, unknown))}; there are {', '.join(schema.names)}"
            )
        found = ds.dataset(
            [self._storage.arrow_path(part.path) for part in self._parts_of(table)],
            schema=schema,
            format=ds.ParquetFileFormat(default_fragment_scan_options=_scan_options()),
            filesystem=self._storage.arrow_filesystem(),
        )
        # Few batches ahead: a scan's memory would otherwise grow with the files' row groups.
        return found.scanner(
            columns=names, filter=filter, batch_size=65_536, batch_readahead=4, fragment_readahead=2
        ).to_reader()

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """Ask in SQL; DuckDB answers.

        Parameters
        ----------
        query : str
            Over the views ``incidents``, ``runs``, ``traces``, ``trace_steps`` and ``ledger``: each step with its run
            (``tenant_id, run_id, trace_id, agent_id, day``, the run's ``started_at, completed_at, termination_reason``,
            then the step's columns), the frame for questions of cost. All have ``day``, a text: the UTC day on which
            the run started (the incident was created), or ``__undated__``.

        Returns
        -------
        duckdb.DuckDBPyRelation
            Lazy; ``.df()``, ``.arrow()``, ``.pl()``, ``.fetchall()``.

        Raises
        ------
        duckdb.Error
            The query is none.
        ConfigError
            A table has extra columns that SQL, which takes no notice of case, cannot tell from others.
        """
        return self._connection.sql(query)

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        connection = duckdb.connect(":memory:")
        connection.execute("SET TimeZone = 'UTC'")
        self._storage.register(connection)
        for table in RECORD_TYPES:
            connection.execute(f"CREATE VIEW {table} AS {self._view(table)}")
        steps = ", ".join(
            f"s.{_quoted(name)}" for name in self.schema("trace_steps").names if name not in ("tenant_id", "trace_id")
        )
        connection.execute(
            "CREATE VIEW ledger AS SELECT s.tenant_id, t.run_id, s.trace_id, r.agent_id, s.day, "  # noqa: S608 - quoted
            f"r.started_at, r.completed_at, r.termination_reason, {steps} FROM trace_steps AS s "
            "LEFT JOIN traces AS t ON t.tenant_id = s.tenant_id AND t.trace_id = s.trace_id "
            "LEFT JOIN runs AS r ON r.tenant_id = t.tenant_id AND r.run_id = t.run_id"
        )
        return connection

    def _view(self, table: str) -> str:
        columns = RECORD_TYPES[table].stored_columns(self._extra[table])
        files = self.files(table)
        if not files:
            nulls = ", ".join(
                f"CAST(NULL AS {_DUCKDB_TYPES[column.type]}) AS {_quoted(column.name)}" for column in columns
            )
            return f"SELECT {nulls}, CAST(NULL AS VARCHAR) AS day WHERE false"
        _require_distinct(table, columns)
        # read_parquet knows the columns of the files alone; an extra one may be declared where no file has it.
        held = {column.name for column in RECORD_TYPES[table].stored_columns()}
        for window in self.manifest.windows:
            if window.rows[table]:
                held |= window.extra_columns.get(table, {}).keys()
        names = ", ".join(
            f"CAST({_quoted(column.name) if column.name in held else 'NULL'} AS {_DUCKDB_TYPES[column.type]}) "
            f"AS {_quoted(column.name)}"
            for column in columns
        )
        listed = ", ".join("'" + _literal(path).replace("'", "''") + "'" for path in files)
        # The day stands in the path alone; the tenant in the file, too, and there as it is.
        return (
            f"SELECT {names}, regexp_extract({_FILENAME}, '/day=([0-9_a-z-]+)/[^/]*$', 1) AS day "  # noqa: S608
            f"FROM read_parquet([{listed}], union_by_name = true, filename = '{_FILENAME}', hive_partitioning = false)"
        )

    def verify(self) -> DatasetVerification:
        """Hold every file against the manifest, and every row against its place.

        Returns
        -------
        DatasetVerification
            Everything that was found to be wrong; its truth value says whether nothing was. Memory is bounded by batches.
        """
        return verify_dataset(self._storage, self.manifest)

    def compact(self, *, window: str = "1d") -> Dataset:
        """Merge small files: settled windows that follow each other without a gap in one of the given length become one.

        Rows and, for windows of whole days, content digests stay as they are; the old files stay for ``as_of``. Windows
        with a gap between them stay apart, for a later export may yet find runs there; so do those in which an extra
        column was of another type.

        Returns
        -------
        Dataset
            The dataset as of the new manifest; this one where nothing was to be merged.

        Raises
        ------
        DatasetUnreadable
            A file to be merged is not what the manifest says. Nothing was merged.
        DestinationConflict
            An export or another compaction began here meanwhile.
        """
        manifest = compact(self._storage, self.manifest, window)
        return self if manifest is self.manifest else Dataset(self._storage, manifest)

    def _parts_of(self, table: str) -> Sequence[PartFile]:
        if table not in RECORD_TYPES:
            raise ConfigError(f"no table {one_line(repr(table), 60)}; there are {', '.join(RECORD_TYPES)}")
        return [part for part in self.part_files if part.table == table]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What people want to know first, as names and texts."""
        windows = self.manifest.windows
        provisional = sum(not window.settled for window in windows)
        span = self.time_range
        tenants = self.tenants
        shown = ", ".join(one_line(name, 40) for name in tenants[:_TENANTS_SHOWN])
        more = f" and {len(tenants) - _TENANTS_SHOWN} more" if len(tenants) > _TENANTS_SHOWN else ""
        return [
            ("time", "none" if span is None else f"{span[0]:%Y-%m-%d %H:%M:%S} to {span[1]:%Y-%m-%d %H:%M:%S} UTC"),
            ("tenants", f"{len(tenants):,}: {shown}{more}" if tenants else "none"),
            (
                "windows",
                f"{len(windows):,}, {provisional:,} provisional; {sum(w.open_runs for w in windows):,} open runs",
            ),
            ("undated runs", f"{sum(window.undated_runs for window in windows):,}"),
        ]

    def __repr__(self) -> str:
        rows = ", ".join(f"{count:,} {table}" for table, count in self.rows.items())
        return f"<Dataset {one_line(self._storage.url, 200)} · manifest {self.manifest.number} · {rows}>"

    def _repr_html_(self) -> str:
        left = "text-align:left"
        files = {table: len(self._parts_of(table)) for table in RECORD_TYPES}
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


_DUCKDB_TYPES = {"string": "VARCHAR", "int64": "BIGINT", "float64": "DOUBLE", "timestamp": "TIMESTAMP WITH TIME ZONE"}


_FILENAME = "exporttools_filename"


def _require_distinct(table: str, columns: Sequence[Column]) -> None:
    """Raise where SQL would answer for one column with another's values."""
    seen = {"day": "day", _FILENAME: _FILENAME}
    for column in columns:
        other = seen.setdefault(column.name.lower(), column.name)
        if other != column.name or column.name in ("day", _FILENAME):
            raise ConfigError(
                f"{table} has a column {one_line(repr(column.name), 80)} that SQL cannot tell from {one_line(repr(other), 80)}; "
                "read it by to_arrow or scan, or name it otherwise in the layout"
            )


def _literal(path: str) -> str:
    """A file's name as DuckDB takes it for that file alone: a directory named by the user may look like a pattern."""
    if "://" in path:  # of an object store: what DuckDB reads it by knows no patterns
        return path
    return re.sub(r"[*?\[]", r"[\g<0>]", path)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _scan_options() -> Any:
    return ds.ParquetFragmentScanOptions(page_checksum_verification=True, pre_buffer=False)
