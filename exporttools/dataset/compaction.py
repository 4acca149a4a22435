"""Merges small files: adjacent windows become one, as if exported as one. Knows no database."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import pyarrow as pa

from exporttools.dataset.committing import Committer
from exporttools.dataset.manifest import Manifest, PartFile, Window, new_window, table_columns
from exporttools.dataset.manifest_reader import read_part_files
from exporttools.dataset.part_files import new_part_file
from exporttools.dataset.spilling import spilling_connection
from exporttools.dataset.storage import Storage
from exporttools.dataset.windows import grid_number, parse_window
from exporttools.errors import DatasetError, DatasetUnreadable
from exporttools.files.parquet import open_parquet
from exporttools.records.schema import RECORD_TYPES, Column, ColumnType, arrow_schema
from exporttools.text.inert import one_line
from exporttools.times import parse_utc

_BATCH_ROWS = 65_536
_SORT_MEMORY = "400MB"
"""How much memory DuckDB may use to sort; it spills the rest to a temporary directory."""

Extra = Mapping[str, Mapping[str, ColumnType]]


def compact(storage: Storage, manifest: Manifest, window: str) -> Manifest:
    """Merge adjacent settled windows that lie in one window of the given length.

    Returns
    -------
    Manifest
        The newest, or the given one if there was nothing to merge.

    Raises
    ------
    ConfigError
        `window` is not a valid length.
    DatasetUnreadable
        A file is not what the manifest says; merged, its damage would get a valid digest. Nothing was merged.
    DestinationConflict
        Another writer began meanwhile.
    DatasetError
        The storage failed. Nothing was merged.
    """
    groups = list(_groups(manifest.windows, parse_window(window)))
    if all(len(group) == 1 for group in groups):
        return manifest
    try:
        committer = Committer(storage, manifest)
        committer.replace([group[0] if len(group) == 1 else _merged(storage, group) for group in groups])
    except OSError as error:
        raise DatasetError(
            f"{storage.url}: the compaction stopped: {one_line(error, 1500)}. Nothing was merged, and no row was lost"
        ) from error
    return committer.manifest


def _groups(windows: Iterable[Window], length_s: int) -> Iterator[list[Window]]:
    group: list[Window] = []
    extra: dict[tuple[str, str], str] = {}
    for window in windows:
        own = {(table, name): kind for table, named in window.extra_columns.items() for name, kind in named.items()}
        # A column that had another type before is another column, and a file holds only one of each name.
        agrees = all(extra.get(column, kind) == kind for column, kind in own.items())
        if group and not (agrees and _mergeable(group[-1], window, length_s)):
            yield group
            group, extra = [], {}
        group.append(window)
        extra |= own
    if group:
        yield group


def _mergeable(a: Window, b: Window, length_s: int) -> bool:
    if a.since is None or b.since is None or b.until is None or not (a.settled and b.settled):
        return False
    if a.until != b.since:
        # Perhaps no export ever looked for runs between them; if they became one window, no later one would.
        return False
    last = parse_utc(b.until) - dt.timedelta(microseconds=1)
    return grid_number(parse_utc(a.since), length_s) == grid_number(last, length_s)


def _merged(storage: Storage, group: Sequence[Window]) -> Window:
    part_files = [(file, window.extra_columns) for window in group for file in read_part_files(storage, window)]
    extra = {
        table: {name: kind for window in group for name, kind in window.extra_columns.get(table, {}).items()}
        for table in RECORD_TYPES
    }

    def place(item: tuple[PartFile, Extra]) -> tuple[int, str, str]:
        return list(RECORD_TYPES).index(item[0].table), item[0].tenant_id, item[0].day

    merged = []
    for _, found in groupby(sorted(part_files, key=place), key=place):
        some = list(found)
        part_file, own = some[0]
        # A single file stays as it is, unless it lacks a column of the merged window.
        whole = len(some) == 1 and own.get(part_file.table, {}) == extra[part_file.table]
        merged.append(part_file if whole else _merge(storage, some, table_columns(part_file.table, extra)))
    first, last = group[0], group[-1]
    assert first.since is not None
    assert last.until is not None
    return new_window(
        storage,
        parse_utc(first.since),
        parse_utc(last.until),
        merged,
        read_at=min(window.read_at for window in group),
        open_runs=0,
        undated_runs=0,
        settled=True,
        extra_columns=extra,
    )


def _merge(storage: Storage, part_files: Sequence[tuple[PartFile, Extra]], columns: Sequence[Column]) -> PartFile:
    first, schema = part_files[0][0], arrow_schema(columns)
    for part_file, extra in part_files:
        _require_unchanged(storage, part_file, arrow_schema(table_columns(part_file.table, extra)))
    # DuckDB ignores case in names, so it gets numbers instead.
    numbered = pa.schema([pa.field(f"c{i}", field.type) for i, field in enumerate(schema)])
    rows = pa.RecordBatchReader.from_batches(numbered, _rows(storage, part_files, schema, numbered))
    key = ", ".join(f"c{schema.get_field_index(name)}" for name in RECORD_TYPES[first.table].stored_key)
    with spilling_connection(_SORT_MEMORY) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        # It sorts text by its UTF-8 bytes, which is the order of code points.
        batches = connection.from_arrow(rows).order(key).to_arrow_reader(_BATCH_ROWS)
        with new_part_file(storage, RECORD_TYPES[first.table], columns, first.tenant_id, first.day) as writer:
            for batch in batches:
                arrays = [array.cast(field.type) for array, field in zip(batch.columns, schema, strict=True)]
                writer.write(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return writer.part_file


def _require_unchanged(storage: Storage, part_file: PartFile, schema: pa.Schema) -> None:
    """Raise if a file is not what the manifest says; merged, its damage would get a valid digest."""
    try:
        with storage.open(part_file.path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            found = f"SHA-256 {sha256}"
            if sha256 == part_file.sha256:
                file.seek(0)
                if open_parquet(file).schema_arrow.equals(schema, check_metadata=False):
                    return
                found = "other columns than those of its window"
    except FileNotFoundError:
        found = "no file"
    raise DatasetUnreadable(
        f"{storage.url}: {part_file.path} cannot be merged: expected SHA-256 {part_file.sha256}; found {found}. "
        "Nothing was merged; verify() lists everything that is wrong"
    )


def _rows(
    storage: Storage, part_files: Sequence[tuple[PartFile, Extra]], schema: pa.Schema, numbered: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one part file after another, with NULL in the columns that a file lacks."""
    for part_file, extra in part_files:
        own = {column.name for column in table_columns(part_file.table, extra)}
        with storage.open(part_file.path) as file:
            parquet = open_parquet(file)
            for batch in parquet.iter_batches(_BATCH_ROWS):
                arrays = [
                    batch[field.name] if field.name in own else pa.nulls(batch.num_rows, field.type) for field in schema
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=numbered)
