"""Writes a part of a bundle as a Parquet file, and reads one, whoever wrote it, in batches and under a byte budget.

The cost of reading a file is known before anything is unpacked (:mod:`exporttools.bundle.parquet_pages`), except for rows
that refer to a dictionary's texts: there the longest text limits the size of a batch, and batches are counted as they
come. So memory is bounded by a row group and a batch, whatever the bytes are.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from exporttools.bundle.parquet_pages import MOST_FOOTER_BYTES, MOST_METADATA_BYTES, RowGroup, read_footer, row_groups
from exporttools.errors import ExportToolsError
from exporttools.files.parquet import open_parquet, parquet_writer, repeating_columns
from exporttools.records.schema import Column, RecordType
from exporttools.records.snapshot_table import SnapshotTable, SnapshotType, extra_columns
from exporttools.records.validity import Origin, require_valid
from exporttools.text.inert import one_line

MOST_PART_BYTES = (4 << 30) - 1
"""The most bytes of one file of a bundle, so that a zip file without zip64 can hold it."""

MOST_COLUMNS = 200

ROW_GROUP_ROWS = 131_072
ROW_GROUP_BYTES = 32 << 20
"""The most bytes of a row group, and so of one row: half of what may be read at one time."""

BATCH_ROWS = 65_536
BATCH_BYTES = 32 << 20

_LEAST_BATCH_ROWS = 1024

# What distinguishes a bomb from a big bundle is its ratio. A byte of real traces unpacks to some 3 to 60; a byte of a bomb
# to thousands. A limit on the size alone would not do: the largest traces are larger than the smallest bombs.
_LEAST_BUDGET_BYTES = 256 << 20
_MOST_RATIO = 200


class PartRefused(ValueError):
    """A Parquet file that cannot be read as a part of a bundle, or not safely."""


def write_part(table: SnapshotTable[SnapshotType], file: BinaryIO) -> None:
    """Write a table, then read it back as a reader would.

    Parameters
    ----------
    table : SnapshotTable
    file : binary file
        Empty; open for writing and reading.

    Raises
    ------
    PartRefused
        Readers would refuse it: a row is too large, there are too many columns, or it unpacks to too much.
    """
    rows = table.to_arrow()
    # Units and meanings are for other readers; the types are Parquet's own.
    store_schema = len(rows.schema.serialize()) * 4 // 3 < MOST_METADATA_BYTES - 512
    dictionary = repeating_columns(rows)
    with parquet_writer(file, rows.schema, dictionary=dictionary, store_schema=store_schema) as writer:
        for start in range(0, len(rows), ROW_GROUP_ROWS):
            for group in _row_groups(rows.slice(start, ROW_GROUP_ROWS)):
                writer.write_table(group)
    for _ in read_part(table.record_type, file)[1]:
        pass


def _row_groups(rows: pa.Table) -> Iterator[pa.Table]:
    """The rows, halved until each row group is small enough to be read at once."""
    if rows.nbytes <= ROW_GROUP_BYTES:
        yield rows
    elif len(rows) == 1:
        raise PartRefused(f"a row of {rows.nbytes:,} bytes; expected at most {ROW_GROUP_BYTES:,}")
    else:
        middle = len(rows) // 2
        yield from _row_groups(rows.slice(0, middle))
        yield from _row_groups(rows.slice(middle))


def read_part(
    record_type: RecordType, file: io.RawIOBase | BinaryIO, *, max_bytes: int | None = None
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Read a part's rows.

    Parameters
    ----------
    record_type : RecordType
        The kind of the rows.
    file : raw file
        Seekable; stays open.
    max_bytes : int, optional
        The most bytes that it may unpack to. By default 256 MiB or 200 times its size, whichever is more.

    Returns
    -------
    schema : pyarrow.Schema
        The record type's columns, then any extra columns.
    batches : iterator of pyarrow.RecordBatch
        Valid rows; at most 65,536 a batch, and about 32 MiB a batch in files that :func:`write_part` wrote.

    Raises
    ------
    PartRefused
        The file is not such a part, is damaged, or unpacks to too much. Raised here or by the iterator.
    ConfigError, InconsistentData
        An extra column has a type that extra columns cannot have; a value is not valid in its column.
    OSError
        The file cannot be read.
    """
    size_bytes = file.seek(0, io.SEEK_END)
    budget = _Budget(size_bytes, max_bytes)
    with _refusing():
        footer = read_footer(file, size_bytes)  # before pyarrow sees any of it
        parquet = open_parquet(file, max_footer_bytes=MOST_FOOTER_BYTES)
        columns = _columns(record_type, parquet.schema_arrow)
        groups = row_groups(file, size_bytes, footer, parquet.schema_arrow, spend=budget.spend)
        sizes = [_batch_rows(group, len(columns)) for group in groups]
    return record_type.arrow_schema(columns[len(record_type.columns) :]), _batches(
        record_type, columns, parquet, list(zip(groups, sizes, strict=True)), budget
    )


def _batches(
    record_type: RecordType,
    columns: Sequence[Column],
    parquet: pq.ParquetFile,
    groups: Sequence[tuple[RowGroup, int]],
    budget: _Budget,
) -> Iterator[pa.RecordBatch]:
    schema = record_type.arrow_schema(columns[len(record_type.columns) :])
    with _refusing():
        for number, (group, batch_rows) in enumerate(groups):
            rows = 0
            # One row group at a time: a batch over two could hold what both unpack to.
            if not group.rows:
                continue
            found_batches = parquet.iter_batches(
                batch_size=batch_rows,
                row_groups=[number],
                use_threads=group.rows > _LEAST_BATCH_ROWS,  # starting them takes longer than reading a small part
            )
            for found in found_batches:
                rows += found.num_rows
                budget.spend(sum(found[name].nbytes for name in group.dictionary_texts))
                batch = pa.RecordBatch.from_arrays(found.columns, schema=schema)
                batch.validate(full=True)  # otherwise text that is not UTF-8 would go unnoticed
                require_valid(batch, columns, origin=Origin(record_type.table), key=record_type.key)
                yield batch
            if rows != group.rows:
                raise PartRefused(f"row group {number}: {rows:,} rows; expected {group.rows:,}")


def _batch_rows(group: RowGroup, columns: int) -> int:
    """How many rows to unpack at once, so that they fit even if each has its dictionary's longest text."""
    row_bytes = 8 * columns + sum(group.dictionary_texts.values())
    rows = min(BATCH_ROWS, BATCH_BYTES // row_bytes)
    if rows < min(_LEAST_BATCH_ROWS, group.rows):  # a batch costs time however small it is
        raise PartRefused(
            f"{group.rows:,} rows with dictionary texts of up to {row_bytes:,} bytes a row; "
            f"expected at most {BATCH_BYTES // _LEAST_BATCH_ROWS:,}"
        )
    return rows


class _Budget:
    """The bytes that a file may still unpack to."""

    def __init__(self, size_bytes: int, max_bytes: int | None) -> None:
        self._most = max(_LEAST_BUDGET_BYTES, _MOST_RATIO * size_bytes) if max_bytes is None else max_bytes
        self._size_bytes = size_bytes
        self._spent = 0

    def spend(self, count: int) -> None:
        """Subtract bytes.

        Raises
        ------
        PartRefused
            Fewer are left.
        """
        self._spent += count
        if self._spent > self._most:
            raise PartRefused(
                f"{self._size_bytes:,} bytes that unpack to {self._spent:,} or more; expected at most {self._most:,} "
                "(max_bytes sets another limit)"
            )


@contextmanager
def _refusing() -> Iterator[None]:
    """Raise PartRefused for whatever pyarrow or the walk over pages says of a file; our own errors pass."""
    try:
        yield
    except (PartRefused, ExportToolsError):
        raise
    except (pa.ArrowException, ValueError, OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the file system's, not pyarrow's
            raise
        raise PartRefused(one_line(error, 300)) from error


def _columns(record_type: RecordType, found: pa.Schema) -> Sequence[Column]:
    """The columns of a file: the record type's, then extra ones."""
    if len(found) > MOST_COLUMNS:
        raise PartRefused(f"{len(found):,} columns; expected at most {MOST_COLUMNS}")
    require_schema(record_type, found)
    columns = (*record_type.columns, *extra_columns(record_type, found))
    for column, field in zip(columns, found, strict=True):
        if field.type != column.arrow_field.type:
            raise PartRefused(f"column {field.name!r} is of type {field.type}; expected {column.arrow_field.type}")
        if b"ARROW:extension:name" in (field.metadata or {}):  # a type that pyarrow does not know
            raise PartRefused(f"column {field.name!r} is of an extension type; expected {field.type}")
    return columns


def require_schema(record_type: RecordType, found: pa.Schema) -> None:
    """Raise unless a schema begins with exactly the record type's columns.

    Raises
    ------
    PartRefused
        Names the first column that differs.
    """
    for i, field in enumerate(record_type.arrow_schema()):
        there = found.field(i) if i < len(found) else None
        if there is None or not there.equals(field):  # metadata apart
            raise PartRefused(f"column {i} is {_shown(there)}; expected {_shown(field)}")
    if len(set(found.names)) < len(found.names):
        raise PartRefused(f"duplicate column names in {', '.join(found.names)}")
    context = sorted({column.name for column in record_type.context}.intersection(found.names))
    if context:  # a SnapshotTable drops them, so no digest would cover them
        raise PartRefused(f"column {context[0]}, which {record_type.table} in a bundle cannot have")


def _shown(field: pa.Field | None) -> str:
    return "missing" if field is None else f"{field.name}: {field.type}{'' if field.nullable else ' not null'}"
