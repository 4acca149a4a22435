"""Writes a part of a bundle as a Parquet file, and reads one, whoever wrote it, in batches and under a byte budget.

There is one way to write the rows of a part as columns, pages and a footer, apart from where row groups and pages end. Before
pyarrow sees a file, its pages are walked and its footer is compared with the one that follows from them, so that every
reader finds the same rows in it, and the cost of reading them is known.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from exporttools.bundle.canonical import OverBudget, RowGroup, read_canonical
from exporttools.bundle.description import FORMAT_VERSION
from exporttools.bundle.page_contents import in_one_segment
from exporttools.bundle.parquet_footers import MAGIC, ROW_GROUP_ROWS, framed, head_of, row_group, whole
from exporttools.bundle.parquet_pages import Chunk, read_pages
from exporttools.bundle.row_claims import hold
from exporttools.bundle.stated_footers import MOST_COLUMNS, MOST_FOOTER_BYTES, require_names
from exporttools.bundle.thrift import encode
from exporttools.errors import ExportToolsError
from exporttools.files.parquet import open_parquet, parquet_writer, repeating_columns
from exporttools.records.schema import Column, RecordType
from exporttools.records.snapshot_table import SnapshotTable, SnapshotType, extra_columns
from exporttools.records.validity import Origin, require_valid
from exporttools.text.inert import one_line

MOST_PART_BYTES = (4 << 30) - 1
"""The most bytes of one file of a bundle, so that a zip file without zip64 can hold it."""

MOST_END_BYTES = MOST_FOOTER_BYTES + 8
"""The most bytes of what a file ends with: its footer, the footer's length and the magic number."""

ROW_GROUP_BYTES = 32 << 20
"""The most bytes of a row group, and so of one row: half of what may be read at one time."""

BATCH_ROWS = 65_536
BATCH_BYTES = 32 << 20

_LEAST_BATCH_ROWS = 1024

_Item = TypeVar("_Item")

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
    record_type, rows = table.record_type, table.to_arrow()
    columns = (*record_type.columns, *extra_columns(record_type, rows.schema))
    if len(columns) > MOST_COLUMNS:
        raise PartRefused(f"{len(columns):,} columns; expected at most {MOST_COLUMNS}")
    with _refusing():
        require_names(record_type, columns, format_version=FORMAT_VERSION)
    write_rows(rows, columns, file)
    for _ in read_part(record_type, file)[1]:
        pass


def write_rows(rows: pa.Table, columns: Sequence[Column], file: BinaryIO) -> None:
    """Write rows as a part has them, without looking at them.

    pyarrow compresses the pages. Their headers and the footer are written here, so that what a bundle says of its rows does
    not depend on pyarrow's version.

    Parameters
    ----------
    rows : pyarrow.Table
    columns : sequence of Column
        Those of the rows.
    file : binary file
        Empty.

    Raises
    ------
    PartRefused
        A row is too large.
    """
    dictionary = repeating_columns(rows)
    file.write(MAGIC)
    groups = [
        row_group(_write_group(group, columns, dictionary, file))
        for start in range(0, len(rows), ROW_GROUP_ROWS)
        for group in _row_groups(rows.slice(start, ROW_GROUP_ROWS))
    ]
    file.write(framed(whole(head_of(columns), groups)))


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


def _write_group(rows: pa.Table, columns: Sequence[Column], dictionary: Sequence[str], file: BinaryIO) -> list[Chunk]:
    """Write a row group's pages: what pyarrow makes of the rows, with headers of our own."""
    made = io.BytesIO()
    with parquet_writer(made, rows.schema, dictionary=dictionary, store_schema=False, statistics=False) as writer:
        writer.write_table(rows)
    chunks, octets, position = [], bytearray(), len(MAGIC)
    start, size_bytes = file.tell(), made.tell()
    for column in columns:
        chunk = Chunk(column, start + len(octets))
        for page, _, header, content in read_pages(made, position, size_bytes, len(rows), _free):
            position += len(header) + len(content)
            frame = in_one_segment(content)
            ours = page.holding(frame)
            header = encode(ours.header())
            chunk.add(ours, len(header))
            octets += header + frame
        if len(chunk.data_pages) > 1:  # pyarrow gave up the dictionary, which became too large
            return _write_group(rows, columns, [name for name in dictionary if name != column.name], file)
        chunks.append(chunk)
    file.write(octets)
    return chunks


def _free(cost: int) -> None:
    """What is written is not accounted for: it is when it is read back."""


def read_part(
    record_type: RecordType,
    file: io.RawIOBase | BinaryIO,
    *,
    format_version: int = FORMAT_VERSION,
    max_bytes: int | None = None,
) -> tuple[pa.Schema, Generator[pa.RecordBatch]]:
    """Read a part's rows.

    Parameters
    ----------
    record_type : RecordType
        The kind of the rows.
    file : raw file
        Seekable; stays open.
    format_version : int
        The format of the bundle: that of format 1 has statistics and an Arrow schema in its footer.
    max_bytes : int, optional
        The most bytes that it may unpack to. By default 256 MiB or 200 times its size, whichever is more.

    Returns
    -------
    schema : pyarrow.Schema
        The record type's columns, then any extra columns.
    batches : generator of pyarrow.RecordBatch
        Valid rows; at most 65,536 a batch, and about 32 MiB. Close it before the file: a thread may be reading ahead.

    Raises
    ------
    PartRefused
        The file is not such a part, is damaged, or unpacks to too much. Raised here or by the iterator.
    InconsistentData
        A value is not valid in its column.
    OSError
        The file cannot be read.
    """
    size_bytes = file.seek(0, io.SEEK_END)
    budget = _Budget(size_bytes, max_bytes)
    with _refusing():
        columns, groups = read_canonical(
            record_type, file, size_bytes, format_version=format_version, spend=budget.spend
        )
        schema = record_type.arrow_schema(columns[len(record_type.columns) :])
        parquet = open_parquet(file, max_footer_bytes=MOST_FOOTER_BYTES)  # not before its footer is known to be ours
        if not parquet.schema_arrow.equals(schema):
            raise PartRefused(f"pyarrow reads the columns as {parquet.schema_arrow}; expected {schema}")
    return schema, _batches(record_type, columns, parquet, groups, budget)


def _batches(
    record_type: RecordType,
    columns: Sequence[Column],
    parquet: pq.ParquetFile,
    groups: Sequence[RowGroup],
    budget: _Budget,
) -> Generator[pa.RecordBatch]:
    schema = record_type.arrow_schema(columns[len(record_type.columns) :])
    unpacked = _unpacked(parquet, groups, len(columns))
    if any(_is_large(group) for group in groups):
        unpacked = _one_ahead(unpacked)
    with _refusing():
        for group, first_row, found in unpacked:
            budget.spend(sum(found[name].nbytes for name in group.dictionary_texts))
            batch = pa.RecordBatch.from_arrays(found.columns, schema=schema)
            batch.validate(full=True)  # otherwise text that is not UTF-8 would go unnoticed
            require_valid(batch, columns, origin=Origin(record_type.table), key=record_type.key)
            hold(group.claims, batch, first_row)
            yield batch


def _unpacked(
    parquet: pq.ParquetFile, groups: Sequence[RowGroup], columns: int
) -> Generator[tuple[RowGroup, int, pa.RecordBatch]]:
    """The batches as they are unpacked, each with its row group, and where in it the batch begins."""
    for number, group in enumerate(groups):
        rows = 0
        # One row group at a time: a batch over two could hold what both unpack to.
        if not group.rows:
            continue
        for batch in parquet.iter_batches(
            batch_size=_batch_rows(group, columns), row_groups=[number], use_threads=_is_large(group)
        ):
            yield group, rows, batch
            rows += batch.num_rows
        if rows != group.rows:
            raise PartRefused(f"row group {number}: {rows:,} rows; expected {group.rows:,}")


def _one_ahead(items: Generator[_Item]) -> Generator[_Item]:
    """The same items; while one is used, a thread makes the next."""
    with ThreadPoolExecutor(1, thread_name_prefix="exporttools-reader") as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item


def _is_large(group: RowGroup) -> bool:
    """Whether threads are worth it: starting them takes longer than reading a small part."""
    return group.rows > _LEAST_BATCH_ROWS


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
        OverBudget
            Fewer are left.
        """
        self._spent += count
        if self._spent > self._most:
            raise OverBudget(
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
