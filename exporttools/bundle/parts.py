"""One part of a bundle as a Parquet file, and back: from whoever made it, in batches, under a byte budget.

What reading a file costs is known from its page headers before anything is unpacked, but for texts that refer to a
dictionary: these are unpacked piece by piece, after their lengths are counted. So memory is bounded by a batch and by
the pages that are read side by side, whatever the bytes are.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from exporttools.bundle.parquet_pages import MOST_FOOTER_BYTES, MOST_PAGE_BYTES, ColumnCost, column_costs
from exporttools.errors import ExportToolsError
from exporttools.inert import one_line
from exporttools.schema import Column, Origin, Record, require_valid
from exporttools.snapshot_table import SnapshotTable, SnapshotType, extra_columns

MOST_PART_BYTES = (4 << 30) - 1
"""The most that a file of a bundle may have: a zip file without zip64 holds it."""

ROW_GROUP_ROWS = 131_072
BATCH_ROWS = 65_536
BATCH_BYTES = 32 << 20

_MOST_FOOTER_ITEMS = 1_000_000
_BUFFER_BYTES = 1 << 20
_MOST_RESIDENT_BYTES = 128 << 20

# Of a file that a writer of traces made, a byte unpacks to some 3 to 60; of a bomb, to thousands. A file is judged by
# that, not by a size alone: the largest traces are larger than the smallest bombs.
_LEAST_BUDGET_BYTES = 256 << 20
_MOST_RATIO = 200

_DICTIONARY_SAMPLE_ROWS = 10_000


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
        A reader would refuse it: a text is too long, or it all unpacks to too much.
    """
    rows = table.to_arrow()
    texts = [column for column in rows.columns if column.type == pa.string()]
    longest_bytes = max((pc.max(pc.binary_length(text)).as_py() or 0 for text in texts), default=0)
    pq.write_table(
        rows,
        file,
        compression="zstd",
        row_group_size=ROW_GROUP_ROWS,
        use_dictionary=[field.name for field in rows.schema if _repeats(rows[field.name])],
        # A page ends after so many values at the earliest, whatever their size.
        write_batch_size=max(1, min(1024, MOST_PAGE_BYTES // 4 // (longest_bytes + 1))),
        write_page_checksum=True,  # most one-bit flips in a page give wrong values and no error without it
    )
    for _ in read_part(table.snapshot_type.RECORD, file)[1]:
        pass


def _repeats(column: pa.ChunkedArray) -> bool:
    """Whether a column is text of few different values, which a dictionary makes small and fast to read."""
    if column.type != pa.string():
        return False
    sample = column.take(np.linspace(0, len(column) - 1, min(len(column), _DICTIONARY_SAMPLE_ROWS)).astype(np.int64))
    return len(sample.unique()) <= 1 + len(sample) // 10


def read_part(
    record: Record, file: io.RawIOBase | BinaryIO, *, max_bytes: int | None = None
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Read a part's rows.

    Parameters
    ----------
    record : Record
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
        Of valid values; each of at most 65,536 rows and about 32 MiB.

    Raises
    ------
    PartRefused
        At once or when a batch is asked for: the file is no such part, is damaged, or unpacks to too much.
    ConfigError, InconsistentData
        An extra column is of a type that none has; a value is one that its column forbids.
    """
    size_bytes = file.seek(0, io.SEEK_END)
    with _refusing():
        costs = column_costs(file, size_bytes)  # before pyarrow sees any of it
        with _open(file) as parquet:
            metadata, found = parquet.metadata, parquet.schema_arrow
        require_schema(record, found)
        columns = (*record.columns, *extra_columns(record, found))
        costs = costs or [ColumnCost(0, 0, 0, has_dictionary=False)] * len(columns)  # without a row group
        if len(costs) != len(columns):
            raise PartRefused(f"{len(costs)} columns of pages; expected {len(columns)}")
    resident_bytes = sum(cost.resident_bytes for cost in costs)
    if resident_bytes > _MOST_RESIDENT_BYTES:
        raise PartRefused(
            f"pages that unpack to {resident_bytes:,} bytes side by side; expected at most {_MOST_RESIDENT_BYTES:,}"
        )
    budget = _Budget(size_bytes, max_bytes)
    budget.spend(sum(cost.page_bytes for cost in costs))
    budget.spend(metadata.num_rows * 8 * len(columns))
    schema = record.arrow_schema(columns[len(record.columns) :])
    return schema, _batches(record, columns, schema, file, metadata, costs, budget)


def _batches(
    record: Record,
    columns: Sequence[Column],
    schema: pa.Schema,
    file: io.RawIOBase | BinaryIO,
    metadata: pq.FileMetaData,
    costs: Sequence[ColumnCost],
    budget: _Budget,
) -> Iterator[pa.RecordBatch]:
    row_bytes = sum(8 if cost.has_dictionary else 8 + cost.bytes_per_value for cost in costs)
    rows = max(1, min(BATCH_ROWS, int(BATCH_BYTES / row_bytes)))
    texts = [
        field.name
        for field, cost in zip(schema, costs, strict=True)
        if cost.has_dictionary and field.type == pa.string()
    ]
    count = 0
    with _refusing(), _open(file, metadata=metadata, read_dictionary=texts) as parquet:
        # Threads take longer to start than a small part takes to read.
        for batch in parquet.iter_batches(batch_size=rows, use_threads=metadata.num_rows > BATCH_ROWS):
            for piece in _unpacked(batch, budget):
                plain = pa.RecordBatch.from_arrays(piece, schema=schema)
                plain.validate(full=True)  # text that is not UTF-8 would be found only when it is looked at
                require_valid(plain, columns, origin=Origin(record.table), key=record.key)
                count += plain.num_rows
                yield plain
    if count != metadata.num_rows:
        raise PartRefused(f"a footer of {metadata.num_rows:,} rows; found {count:,}")


def _unpacked(batch: pa.RecordBatch, budget: _Budget) -> Iterator[list[pa.Array]]:
    """A batch's columns with all text written out, in pieces of about :data:`BATCH_BYTES`."""
    text_bytes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            lengths = pc.binary_length(column.dictionary).fill_null(0).take(column.indices)
            text_bytes += lengths.fill_null(0).to_numpy(zero_copy_only=False)
    total = np.cumsum(text_bytes)
    if batch.num_rows:
        budget.spend(int(total[-1]))
    start = 0
    while start < batch.num_rows:
        before = int(total[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(total, before + BATCH_BYTES, side="right")))
        yield [
            column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            for column in batch.slice(start, end - start).columns
        ]
        start = end


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


def _open(file: io.RawIOBase | BinaryIO, **options: Any) -> pq.ParquetFile:
    return pq.ParquetFile(
        file,
        page_checksum_verification=True,
        pre_buffer=False,  # it would hold all of the file until the last batch
        buffer_size=_BUFFER_BYTES,  # otherwise a row group is read whole, and others write large ones
        thrift_string_size_limit=MOST_FOOTER_BYTES,
        thrift_container_size_limit=_MOST_FOOTER_ITEMS,
        **options,
    )


@contextmanager
def _refusing() -> Iterator[None]:
    """Whatever pyarrow, or the walk over pages, says of a file becomes a refusal; errors of our own stay."""
    try:
        yield
    except (PartRefused, ExportToolsError):
        raise
    except (pa.ArrowException, ValueError, OSError, OverflowError) as error:
        raise PartRefused(one_line(error, 300)) from error


def require_schema(record: Record, found: pa.Schema) -> None:
    """Raise where a schema does not begin with exactly the record's columns.

    Raises
    ------
    PartRefused
        Says the first column that differs.
    """
    for i, field in enumerate(record.arrow_schema()):
        there = found.field(i) if i < len(found) else None
        if there is None or not there.equals(field):  # metadata apart
            raise PartRefused(f"column {i} is {_shown(there)}; expected {_shown(field)}")
    if len(set(found.names)) < len(found.names):
        raise PartRefused(f"a column name twice in {', '.join(found.names)}")
    context = sorted({column.name for column in record.context}.intersection(found.names))
    if context:  # a SnapshotTable passes over them, so no digest would cover them
        raise PartRefused(f"column {context[0]}, which {record.table} in a bundle has no place for")


def _shown(field: pa.Field | None) -> str:
    return "none" if field is None else f"{field.name}: {field.type}{'' if field.nullable else ' not null'}"
