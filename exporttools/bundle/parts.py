"""One part of a bundle as a Parquet file, and back: from whoever made it, in batches, under a byte budget.

What reading a file costs is known before anything is unpacked (:mod:`exporttools.bundle.parquet_pages`), but for what
rows make of a dictionary's texts: there the longest bounds a batch, and batches are counted as they come. So memory is
bounded by a row group and a batch, whatever the bytes are.
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
"""The most that a file of a bundle may have: a zip file without zip64 holds it."""

MOST_COLUMNS = 200

ROW_GROUP_ROWS = 131_072
ROW_GROUP_BYTES = 32 << 20
"""The most that a row group has, and so one row: half of what may be read at one time."""

BATCH_ROWS = 65_536
BATCH_BYTES = 32 << 20

_LEAST_BATCH_ROWS = 1024

# A bomb is told from a big bundle by what it costs to send. A byte of a file that a writer of traces made unpacks to some
# 3 to 60; of a bomb, to thousands. No size alone would do: the largest traces are larger than the smallest bombs.
_LEAST_BUDGET_BYTES = 256 << 20
_MOST_RATIO = 200


class PartRefused(ValueError):
    """A Parquet file that cannot be, or is not safe to be, read as a part of a bundle."""


def write_part(table: SnapshotTable[SnapshotType], file: BinaryIO) -> None:
    """Write a table, and read it back; units and meanings go into the schema's metadata.

    Parameters
    ----------
    table : SnapshotTable
    file : binary file
        Empty; open for writing and reading.

    Raises
    ------
    PartRefused
        A reader would refuse it: a row or the number of columns is too large, or it all unpacks to too much.
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
    """The rows in halves of halves, until each is small enough to be read at once."""
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
    record : RecordType
        What they are.
    file : raw file
        Seekable; stays open.
    max_bytes : int, optional
        The most that it may unpack to. By default 256 MiB or 200 times its size, whichever is more.

    Returns
    -------
    schema : pyarrow.Schema
        The record's columns, then any extra ones.
    batches : iterator of pyarrow.RecordBatch
        Of valid values; each of at most 65,536 rows, and of about 32 MiB in files that :func:`write_part` wrote.

    Raises
    ------
    PartRefused
        At once or when a batch is asked for: the file is no such part, is damaged, or unpacks to too much.
    ConfigError, InconsistentData
        An extra column is of a type that none has; a value is one that its column forbids.
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
            # One row group after another: over several, a batch would have what both may unpack to.
            if not group.rows:
                continue
            found_batches = parquet.iter_batches(
                batch_size=batch_rows,
                row_groups=[number],
                use_threads=group.rows > _LEAST_BATCH_ROWS,  # they take longer to start than a small part takes to read
            )
            for found in found_batches:
                rows += found.num_rows
                budget.spend(sum(found[name].nbytes for name in group.dictionary_texts))
                batch = pa.RecordBatch.from_arrays(found.columns, schema=schema)
                batch.validate(full=True)  # text that is not UTF-8 would be found only when it is looked at
                require_valid(batch, columns, origin=Origin(record_type.table), key=record_type.key)
                yield batch
            if rows != group.rows:
                raise PartRefused(f"row group {number} of {group.rows:,} rows; found {rows:,}")


def _batch_rows(group: RowGroup, columns: int) -> int:
    """How many rows to unpack at once, so that they are not too much even if each has a dictionary's longest text."""
    row_bytes = 8 * columns + sum(group.dictionary_texts.values())
    rows = min(BATCH_ROWS, BATCH_BYTES // row_bytes)
    if rows < min(_LEAST_BATCH_ROWS, group.rows):  # a batch costs time however small it is
        raise PartRefused(
            f"{group.rows:,} rows of dictionaries whose longest texts have {row_bytes:,} bytes; "
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
        """Take bytes off.

        Raises
        ------
        PartRefused
            There are not so many left.
        """
        self._spent += count
        if self._spent > self._most:
            raise PartRefused(
                f"{self._size_bytes:,} bytes that unpack to {self._spent:,} or more; expected at most {self._most:,} "
                "(max_bytes sets another limit)"
            )


@contextmanager
def _refusing() -> Iterator[None]:
    """Whatever pyarrow, or the walk over pages, says of a file becomes a refusal; errors of our own stay."""
    try:
        yield
    except (PartRefused, ExportToolsError):
        raise
    except (pa.ArrowException, ValueError, OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the file system's, not pyarrow's
            raise
        raise PartRefused(one_line(error, 300)) from error


def _columns(record_type: RecordType, found: pa.Schema) -> Sequence[Column]:
    """The columns of a file: the record's, then extra ones."""
    if len(found) > MOST_COLUMNS:
        raise PartRefused(f"{len(found):,} columns; expected at most {MOST_COLUMNS}")
    require_schema(record_type, found)
    columns = (*record_type.columns, *extra_columns(record_type, found))
    for column, field in zip(columns, found, strict=True):
        if field.type != column.arrow_field.type:
            raise PartRefused(f"column {field.name!r} is of type {field.type}; expected {column.arrow_field.type}")
        if b"ARROW:extension:name" in (field.metadata or {}):  # of a type that is not known here
            raise PartRefused(f"column {field.name!r} is of an extension type; expected {field.type}")
    return columns


def require_schema(record_type: RecordType, found: pa.Schema) -> None:
    """Raise where a schema does not begin with exactly the record's columns.

    Raises
    ------
    PartRefused
        Says the first column that differs.
    """
    for i, field in enumerate(record_type.arrow_schema()):
        there = found.field(i) if i < len(found) else None
        if there is None or not there.equals(field):  # metadata apart
            raise PartRefused(f"column {i} is {_shown(there)}; expected {_shown(field)}")
    if len(set(found.names)) < len(found.names):
        raise PartRefused(f"a column name twice in {', '.join(found.names)}")
    context = sorted({column.name for column in record_type.context}.intersection(found.names))
    if context:  # a SnapshotTable passes over them, so no digest would cover them
        raise PartRefused(f"column {context[0]}, which {record_type.table} in a bundle has no place for")


def _shown(field: pa.Field | None) -> str:
    return "none" if field is None else f"{field.name}: {field.type}{'' if field.nullable else ' not null'}"
