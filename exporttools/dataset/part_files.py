"""Part files: Parquet of one table, tenant and day, written batch by batch. Knows no database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from exporttools.dataset.manifest import PartFile, partition_path
from exporttools.dataset.storage import NewPartFile, Storage
from exporttools.errors import InconsistentData
from exporttools.files.digests import ContentDigest
from exporttools.files.parquet import parquet_writer, repeating_columns
from exporttools.records.schema import Column, RecordType, arrow_schema
from exporttools.records.validity import Origin, require_valid
from exporttools.text.inert import one_line
from exporttools.times import utc_text

ROW_GROUP_ROWS = 131_072
ROW_GROUP_BYTES = 32 << 20
"""How much a writer holds before it writes a row group, whichever is reached first."""


class PartFileWriter:
    """Write a part file, in key order; holds one row group in memory.

    Attributes
    ----------
    part_file : PartFile
        What was written; set when the block of :func:`new_part_file` ends.
    """

    part_file: PartFile

    def __init__(self, new: NewPartFile, record_type: RecordType, columns: Sequence[Column]) -> None:
        self._new, self._record_type, self._columns = new, record_type, columns
        self._schema = arrow_schema(columns)
        self._file = _Hashing(new.file)
        self._digest = ContentDigest(record_type.table, self._schema)
        self._order = KeyOrder(record_type)
        self._writer: pq.ParquetWriter | None = None
        self._held: list[pa.RecordBatch] = []
        self._held_rows = self._held_bytes = 0
        self._times: tuple[Any, Any] | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Write the next rows.

        Raises
        ------
        InconsistentData
            A column forbids a value, or a key is not above the previous one.
        """
        if not batch.num_rows:
            return
        batch = pa.RecordBatch.from_arrays(batch.columns, schema=self._schema)
        record_type, time = self._record_type, self._record_type.time
        require_valid(batch, self._columns, origin=Origin(record_type.table), key=record_type.stored_key)
        self._order.require_next(batch)
        self._digest.update(batch)
        if time is not None:
            extent = pc.min_max(batch[time])
            if extent["min"].is_valid:
                found = extent["min"].as_py(), extent["max"].as_py()
                known = self._times or found
                self._times = min(known[0], found[0]), max(known[1], found[1])
        self._held.append(batch)
        self._held_rows += batch.num_rows
        self._held_bytes += batch.nbytes
        if self._held_rows >= ROW_GROUP_ROWS or self._held_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        rows = pa.Table.from_batches(self._held, schema=self._schema)
        self._held, self._held_rows, self._held_bytes = [], 0, 0
        if self._writer is None:
            self._writer = parquet_writer(self._file, self._schema, dictionary=repeating_columns(rows))
        self._writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)

    def finish(self, tenant_id: str, day: str) -> None:
        """Write the remaining rows and the footer, and publish the file, named by its content."""
        self._flush()
        assert self._writer is not None
        self._writer.close()
        table, sha256 = self._record_type.table, self._file.sha256.hexdigest()
        low, high = (None, None) if self._times is None else map(utc_text, self._times)
        self.part_file = PartFile(
            table=table,
            tenant_id=tenant_id,
            day=day,
            path=f"{partition_path(table, tenant_id, day)}/part-{sha256[:32]}.parquet",
            rows=self._digest.rows,
            bytes=self._file.bytes,
            sha256=sha256,
            content_digest=self._digest.hexdigest(),
            min_time=low,
            max_time=high,
        )
        self._new.publish(self.part_file.path)


@contextmanager
def new_part_file(
    storage: Storage, record_type: RecordType, columns: Sequence[Column], tenant_id: str, day: str
) -> Iterator[PartFileWriter]:
    """Write a part file, published when the block ends; if the block raises, nothing is left behind.

    Readers see the file once a manifest lists it.

    Parameters
    ----------
    storage : Storage
    record_type : RecordType
    columns : sequence of Column
        See :meth:`RecordType.stored_columns`.
    tenant_id, day : str
    """
    with storage.new_part_file() as new:
        writer = PartFileWriter(new, record_type, columns)
        yield writer
        writer.finish(tenant_id, day)


class KeyOrder:
    """Require rows in strictly ascending order of their table's key, across batches."""

    def __init__(self, record_type: RecordType) -> None:
        self._table, self._key = record_type.table, record_type.stored_key
        self._last: pa.RecordBatch | None = None

    def require_next(self, batch: pa.RecordBatch) -> None:
        """Raise unless the next rows continue the order.

        Raises
        ------
        InconsistentData
            A key is not above the previous one: it occurs twice, or the rows are out of order.
        """
        rows = batch.select(list(self._key))
        before = rows if self._last is None else pa.Table.from_batches([self._last, rows]).combine_chunks()
        self._last = rows.slice(rows.num_rows - 1)
        if before.num_rows < 2:
            return
        ascending = same = None
        for name in self._key:
            earlier, later = before[name].slice(0, before.num_rows - 1), before[name].slice(1)
            above = pc.less(earlier, later)
            ascending = above if ascending is None else pc.or_(ascending, pc.and_(same, above))
            if name != self._key[-1]:
                same = pc.equal(earlier, later)
        at = pc.index(ascending, pa.scalar(False)).as_py()
        if at >= 0:
            keys = [
                ", ".join(f"{n}={one_line(repr(before[n][row].as_py()), 100)}" for n in self._key)
                for row in (at, at + 1)
            ]
            raise InconsistentData(
                f"{self._table}: row {keys[1]} comes after {keys[0]}; expected strictly ascending keys without duplicates",
                table=self._table, key=keys[1], column=self._key[-1],
            )  # fmt: skip


class _Hashing:
    """A file for writing, with the SHA-256 and the number of the bytes written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.bytes = 0
        self.closed = False
        self.mode = "wb"

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        count = self._file.write(data)
        self.bytes += count
        return count

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self.bytes

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """Leave the file open; whoever opened it closes it."""
        self.closed = True
