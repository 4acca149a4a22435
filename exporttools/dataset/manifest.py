"""What a dataset holds, as data: windows, their part files, and the chain of manifests. Knows no Parquet, no database.

``_manifest/000007.json`` describes a dataset as of its seventh change: for each window its rows, its digests and its
*part list*, the file that lists the window's part files. Part lists are named by their content and never change, so a
manifest stays small (a few hundred bytes a window) however many part files the windows have. Manifests are created,
never replaced, and each names its parent by number and SHA-256.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import quote

from exporttools.dataset.storage import Storage
from exporttools.files.digests import combined_digest
from exporttools.records.schema import RECORD_TYPES, Column, ColumnType
from exporttools.times import utc_text

FORMAT = 1
UNDATED = "__undated__"
"""The day, in paths and manifests, of rows that have no place in time."""


@dataclass(frozen=True, slots=True)
class PartFile:
    """A Parquet file with rows of one table, tenant and day, in key order.

    Attributes
    ----------
    table, tenant_id, day : str
        `day` is the UTC day on which the runs started (or the incidents were created), or ``__undated__``.
    path : str
        Relative to the dataset, with ``/``.
    rows, bytes : int
    sha256 : str
        The file's SHA-256.
    content_digest : str
        The rows' digest; see :mod:`exporttools.files.digests`.
    min_time, max_time : str or None
        The first and last of the runs' starts, the incidents' creations or the steps' times; None for traces.
    """

    table: str
    tenant_id: str
    day: str
    path: str
    rows: int
    bytes: int
    sha256: str
    content_digest: str
    min_time: str | None
    max_time: str | None


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open interval of time whose runs, with all their traces and steps, were read in one database snapshot.

    Attributes
    ----------
    since, until : str or None
        [since, until) in ISO 8601, UTC. Both are None for the rows that have no place in time.
    read_at : str
        When it was read, by the exporter's clock.
    open_runs : int
        Runs that had not ended by then.
    undated_runs : int
        Runs without a start.
    settled : bool
        Whether no change is expected: no run was open, and the window had been over for long enough. A window that is
        not settled is provisional: the next export reads it again.
    rows, bytes : mapping of str to int
        By table.
    content_digests : mapping of str to str
        By table, the combined digest of its part files, by tenant and day.
    extra_columns : mapping of str to mapping of str to str
        By table, the types of the columns beyond the record type's own, by name.
    parts_path, parts_sha256 : str
        The part list's path and SHA-256.
    """

    since: str | None
    until: str | None
    read_at: str
    open_runs: int
    undated_runs: int
    settled: bool
    rows: Mapping[str, int]
    bytes: Mapping[str, int]
    content_digests: Mapping[str, str]
    extra_columns: Mapping[str, Mapping[str, ColumnType]]
    parts_path: str
    parts_sha256: str

    @property
    def name(self) -> str:
        """The window's name in messages."""
        return "undated rows" if self.since is None else f"{self.since} to {self.until}"

    @property
    def undated_incidents(self) -> int:
        """Incidents without a time of creation."""
        return self.rows["incidents"] if self.since is None else 0

    def columns(self, table: str) -> tuple[Column, ...]:
        """Return the columns of a table's part files."""
        columns = table_columns(table, self.extra_columns)
        return undated_columns(table, columns) if self.since is None else columns


@dataclass(frozen=True, slots=True)
class Manifest:
    """A dataset as of one of its changes.

    Attributes
    ----------
    number : int
        Counted from 1.
    parent_sha256 : str or None
        The previous manifest's SHA-256.
    created_at : str
    writer : str
        A random id of the export or compaction that wrote it.
    change : str
        ``start`` (a writer announces itself, and no other can commit from then on), ``window`` or ``compact``.
    tenant_id : str or None
        The only tenant exported here, or None for all.
    windows : tuple of Window
        By time, the undated last, without overlaps.
    """

    number: int
    parent_sha256: str | None
    created_at: str
    writer: str
    change: str
    tenant_id: str | None
    windows: tuple[Window, ...]

    @property
    def path(self) -> str:
        """The manifest's path in the dataset."""
        return f"_manifest/{self.number:06d}.json"

    def encoded(self) -> bytes:
        """Return the file's bytes."""
        return _encoded({"format": FORMAT, **asdict(self)})

    def child(self, change: str, writer: str, windows: Sequence[Window]) -> Manifest:
        """Return the manifest that follows this one."""
        return Manifest(
            number=self.number + 1,
            parent_sha256=hashlib.sha256(self.encoded()).hexdigest(),
            created_at=utc_text(dt.datetime.now(dt.UTC)),
            writer=writer,
            change=change,
            tenant_id=self.tenant_id,
            windows=tuple(sorted(windows, key=lambda window: (window.since is None, window.since or ""))),
        )

    def with_window(self, writer: str, window: Window) -> Manifest:
        """Return the manifest that follows when a window is committed, replacing those that it overlaps."""
        kept = [other for other in self.windows if not _overlap(other, window)]
        return self.child("window", writer, [*kept, window])


def first_manifest(tenant_id: str | None) -> Manifest:
    """Return number 0, which the first manifest of a dataset follows and which is never written."""
    return Manifest(0, None, "", "", "start", tenant_id, ())


def first_child(root: Manifest, writer: str) -> Manifest:
    """Return the first manifest of a dataset."""
    return replace(root.child("start", writer, ()), parent_sha256=None)


def _overlap(a: Window, b: Window) -> bool:
    if a.since is None or b.since is None or a.until is None or b.until is None:
        return a.since == b.since
    return a.since < b.until and b.since < a.until


def new_window(
    storage: Storage,
    since: dt.datetime | None,
    until: dt.datetime | None,
    part_files: Sequence[PartFile],
    *,
    read_at: str,
    open_runs: int,
    undated_runs: int,
    settled: bool,
    extra_columns: Mapping[str, Mapping[str, ColumnType]],
) -> Window:
    """Write a window's part list and return the window, to be committed by a manifest."""
    tables = list(RECORD_TYPES)
    ordered = sorted(part_files, key=lambda file: (tables.index(file.table), file.tenant_id, file.day, file.path))
    data = _encoded({"format": FORMAT, "parts": [asdict(file) for file in ordered]})
    sha256 = hashlib.sha256(data).hexdigest()
    path = f"_manifest/windows/{sha256[:32]}.json"
    with suppress(FileExistsError):  # named by its content, so the same
        storage.create(path, data)
    by_table = {table: [file for file in ordered if file.table == table] for table in tables}
    return Window(
        since=None if since is None else utc_text(since),
        until=None if until is None else utc_text(until),
        read_at=read_at,
        open_runs=open_runs,
        undated_runs=undated_runs,
        settled=settled,
        rows={table: sum(file.rows for file in files) for table, files in by_table.items()},
        bytes={table: sum(file.bytes for file in files) for table, files in by_table.items()},
        content_digests={
            table: combined_digest(file.content_digest for file in files) for table, files in by_table.items()
        },
        extra_columns={table: dict(columns) for table, columns in extra_columns.items() if columns},
        parts_path=path,
        parts_sha256=sha256,
    )


def partition_path(table: str, tenant_id: str, day: str) -> str:
    """Return the directory of a table's part files of a tenant and day; the tenant is percent-encoded as by Hive and Spark."""
    return f"{table}/tenant_id={quote(tenant_id, safe='')}/day={day}"


def table_columns(table: str, extra_columns: Mapping[str, Mapping[str, ColumnType]]) -> tuple[Column, ...]:
    """Return the columns of a table's part files in a window with these extra columns."""
    record_type = RECORD_TYPES[table]
    return record_type.stored_columns(
        [record_type.extra_column(*item) for item in extra_columns.get(table, {}).items()]
    )


def undated_columns(table: str, columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return a table's columns as its part files under ``day=__undated__`` have them: incidents there lack their time."""
    return tuple(
        replace(column, nullable=True) if (table, column.name) == ("incidents", "created_at") else column
        for column in columns
    )


def _encoded(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")
