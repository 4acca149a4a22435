"""Small files into larger ones: neighbouring windows become one, as if exported as one. Knows no database."""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import pyarrow as pa
import pyarrow.parquet as pq

from exporttools.dataset.committing import Committer
from exporttools.dataset.manifest import Manifest, PartFile, Window, new_window, read_part_files
from exporttools.dataset.part_files import new_part_file
from exporttools.dataset.storage import Storage
from exporttools.dataset.windows import grid_number, parse_window
from exporttools.errors import DatasetUnreadable
from exporttools.records.schema import RECORD_TYPES, Column, ColumnType, arrow_schema
from exporttools.times import parse_utc

_BATCH_ROWS = 65_536
_READ_BYTES = 1 << 20
_SORT_MEMORY = "400MB"
"""What DuckDB sorts in; the rest lies in a temporary directory meanwhile."""

Extra = Mapping[str, Mapping[str, ColumnType]]


def compact(storage: Storage, manifest: Manifest, window: str) -> Manifest:
    """Merge settled windows that follow each other without a gap and lie in one window of the given length.

    Returns
    -------
    Manifest
        The newest; the given one where nothing was to be merged.

    Raises
    ------
    ConfigError
        `window` is no length.
    DatasetUnreadable
        A file is not what the manifest says: it would be merged into one that is in order. Nothing was merged.
    DestinationConflict
        Another writer came meanwhile.
    """
    groups = list(_groups(manifest.windows, parse_window(window)))
    if all(len(group) == 1 for group in groups):
        return manifest
    committer = Committer(storage, manifest)
    committer.replace([group[0] if len(group) == 1 else _merged(storage, group) for group in groups])
    return committer.manifest


def _groups(windows: Iterable[Window], length_s: int) -> Iterator[list[Window]]:
    group: list[Window] = []
    extra: dict[tuple[str, str], str] = {}
    for window in windows:
        own = {(table, name): kind for table, named in window.extra_columns.items() for name, kind in named.items()}
        # A column that was of another type before is another column, and one file holds only one of its name.
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
        # Nobody says that anything between them was ever looked for; in one window, no export would look for it again.
        return False
    last = parse_utc(b.until) - dt.timedelta(microseconds=1)
    return grid_number(parse_utc(a.since), length_s) == grid_number(last, length_s)


def _merged(storage: Storage, group: Sequence[Window]) -> Window:
    parts = [(part, window.extra_columns) for window in group for part in read_part_files(storage, window)]
    extra = {
        table: {name: kind for window in group for name, kind in window.extra_columns.get(table, {}).items()}
        for table in RECORD_TYPES
    }

    def place(item: tuple[PartFile, Extra]) -> tuple[int, str, str]:
        return list(RECORD_TYPES).index(item[0].table), item[0].tenant_id, item[0].day

    merged = []
    for _, found in groupby(sorted(parts, key=place), key=place):
        some = list(found)
        part, own = some[0]
        # One alone stays as it is, unless it lacks a column that the files of the merged window have.
        whole = len(some) == 1 and own.get(part.table, {}) == extra[part.table]
        merged.append(part if whole else _merge(storage, some, _columns(part.table, extra)))
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


def _columns(table: str, extra: Extra) -> tuple[Column, ...]:
    record_type = RECORD_TYPES[table]
    return record_type.stored_columns([record_type.extra_column(*item) for item in extra.get(table, {}).items()])


def _merge(storage: Storage, parts: Sequence[tuple[PartFile, Extra]], columns: Sequence[Column]) -> PartFile:
    import duckdb

    first, schema = parts[0][0], arrow_schema(columns)
    for part, extra in parts:
        _require_unchanged(storage, part, arrow_schema(_columns(part.table, extra)))
    # DuckDB takes no notice of case in names, so that it is given numbers.
    numbered = pa.schema([pa.field(f"c{i}", field.type) for i, field in enumerate(schema)])
    rows = pa.RecordBatchReader.from_batches(numbered, _rows(storage, parts, schema, numbered))
    key = ", ".join(f"c{schema.get_field_index(name)}" for name in RECORD_TYPES[first.table].stored_key)
    with tempfile.TemporaryDirectory(prefix="exporttools-") as spill:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": _SORT_MEMORY,
            "temp_directory": spill,
        }
        with duckdb.connect(":memory:", config=settings) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            # It sorts text by its UTF-8 bytes, which is the order of code points.
            batches = connection.from_arrow(rows).order(key).to_arrow_reader(_BATCH_ROWS)
            with new_part_file(storage, RECORD_TYPES[first.table], columns, first.tenant_id, first.day) as writer:
                for batch in batches:
                    arrays = [array.cast(field.type) for array, field in zip(batch.columns, schema, strict=True)]
                    writer.write(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return writer.part


def _require_unchanged(storage: Storage, part: PartFile, schema: pa.Schema) -> None:
    """Raise where a file is not what the manifest says: merged, its damage would have a digest that fits."""
    try:
        with storage.open(part.path) as file:
            sha256 = hashlib.sha256()
            while data := file.read(_READ_BYTES):
                sha256.update(data)
            found = f"SHA-256 {sha256.hexdigest()}"
            if sha256.hexdigest() == part.sha256:
                file.seek(0)
                if pq.ParquetFile(file, pre_buffer=False).schema_arrow.equals(schema, check_metadata=False):
                    return
                found = "other columns than its window's"
    except FileNotFoundError:
        found = "no file"
    raise DatasetUnreadable(
        f"{storage.url}: {part.path} cannot be merged: expected SHA-256 {part.sha256}; found {found}. "
        "Nothing was merged; verify() says all that is wrong"
    )


def _rows(
    storage: Storage, parts: Sequence[tuple[PartFile, Extra]], schema: pa.Schema, numbered: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """The rows of all parts, one after another, with NULL in the columns that a part lacks."""
    for part, extra in parts:
        own = {column.name for column in _columns(part.table, extra)}
        with storage.open(part.path) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False, buffer_size=256 << 10)
            for batch in parquet.iter_batches(_BATCH_ROWS):
                arrays = [
                    batch[field.name] if field.name in own else pa.nulls(batch.num_rows, field.type) for field in schema
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=numbered)
