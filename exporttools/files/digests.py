"""Digests of a file's bytes, and of a table's content, whatever wrote it. Knows no records.

The **content digest** says "the same rows" across Parquet writers, chunk sizes, compressions and databases. Rows come in
key order. For each column it takes SHA-256 of the validity (one byte a row: 1 valid, 0 NULL) and of the values: int64
and timestamps (microseconds since 1970 UTC) as little-endian int64, float64 as IEEE 754 binary64 with -0.0 made 0.0,
strings as their UTF-8 bytes, with SHA-256 of their lengths in bytes as little-endian int64 beside it; a NULL counts as
zero or empty. The table's digest is SHA-256 of the compact ASCII JSON array
``[table, rows, [[name, type, validity, values(, lengths)], ...]]`` with the columns in schema order; several tables'
digest is SHA-256 of the compact ASCII JSON array of their hexadecimal digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporttools.errors import ConfigError, InconsistentData

_TYPE_NAMES = {
    pa.string(): "string",
    pa.int64(): "int64",
    pa.float64(): "float64",
    pa.timestamp("us", tz="UTC"): "timestamp",
}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ContentDigest:
    """The content digest of one table, updated batch by batch in the memory of one batch.

    Parameters
    ----------
    table : str
        The table's name. It is part of the digest.
    schema : pyarrow.Schema
        Its columns, each of type string, int64, float64 or timestamp[us, UTC].

    Examples
    --------
    >>> import pyarrow as pa
    >>> rows = pa.table({"n": [1, None, 3]})
    >>> digest = ContentDigest("numbers", rows.schema)
    >>> for batch in rows.to_batches():
    ...     digest.update(batch)
    >>> digest.rows, digest.hexdigest()[:8]
    (3, '...')
    """

    def __init__(self, table: str, schema: pa.Schema) -> None:
        self.table = table
        self.rows = 0
        self._expected = _shown(schema)
        self._columns: list[tuple[str, str, list[Any]]] = []
        for field in schema:
            if field.type not in _TYPE_NAMES:
                accepted = ", ".join(map(str, _TYPE_NAMES))
                raise ConfigError(
                    f"column {field.name!r} is of type {field.type}, which has no content digest; expected one of {accepted}"
                )
            type_name = _TYPE_NAMES[field.type]
            hashes = [hashlib.sha256() for _ in range(3 if type_name == "string" else 2)]
            self._columns.append((field.name, type_name, hashes))

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the next rows, in key order.

        Raises
        ------
        ConfigError
            The batch has other columns than the schema.
        InconsistentData
            A float is NaN, which has many bit patterns and is never valid in a record.
        """
        if (found := _shown(batch.schema)) != self._expected:
            raise ConfigError(f"{self.table}: expected rows of {self._expected}; found {found}")
        for array, (name, type_name, hashes) in zip(batch.columns, self._columns, strict=True):
            valid = np.ones(len(array), np.uint8) if not array.null_count else _uint8(pc.is_valid(array))
            hashes[0].update(valid)
            if type_name == "string":
                filled = array.fill_null("") if array.null_count else array
                offsets, data = _string_buffers(filled)
                hashes[1].update(data)
                hashes[2].update(np.diff(offsets).astype("<i8"))
                continue
            if type_name == "float64":
                values = (array.fill_null(0.0) if array.null_count else array).to_numpy(zero_copy_only=False) + 0.0
                if np.isnan(values).any():
                    row = self.rows + int(np.isnan(values).argmax())
                    raise InconsistentData(
                        f"{self.table}: row {row} has {name} = nan; expected a number",
                        table=self.table, key=f"row {row}", column=name,
                    )  # fmt: skip
                hashes[1].update(values.astype("<f8", copy=False))
            else:
                integers = array.view(pa.int64())
                filled = integers.fill_null(0) if array.null_count else integers
                hashes[1].update(filled.to_numpy(zero_copy_only=False).astype("<i8", copy=False))
        self.rows += batch.num_rows

    def hexdigest(self) -> str:
        """The digest of the rows so far, in lower-case hexadecimal."""
        columns = [[name, kind, *(sha256.hexdigest() for sha256 in hashes)] for name, kind, hashes in self._columns]
        return _json_sha256([self.table, self.rows, columns])


def table_digest(name: str, table: pa.Table) -> str:
    """The content digest of a whole table, in lower-case hexadecimal.

    Examples
    --------
    >>> import pyarrow as pa
    >>> table_digest("t", pa.table({"x": [-0.0]})) == table_digest("t", pa.table({"x": [0.0]}))
    True
    """
    digest = ContentDigest(name, table.schema)
    for batch in table.to_batches():
        digest.update(batch)
    return digest.hexdigest()


def combined_digest(digests: Iterable[str]) -> str:
    """One digest for several tables: SHA-256 of the JSON array of their digests, in the given order."""
    return _json_sha256(list(digests))


def _json_sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii")).hexdigest()


def _shown(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def _uint8(mask: pa.BooleanArray) -> Any:
    return mask.to_numpy(zero_copy_only=False).astype(np.uint8)


def _string_buffers(array: pa.StringArray) -> tuple[Any, Any]:
    """The offsets of a string array without NULLs, and the bytes between the first and the last offset."""
    _, offset_buffer, data_buffer = array.buffers()
    if not len(array):
        return np.zeros(1, np.int32), b""
    offsets = np.frombuffer(offset_buffer, np.int32)[array.offset : array.offset + len(array) + 1]
    data = memoryview(data_buffer)[offsets[0] : offsets[-1]] if data_buffer is not None else b""
    return offsets, data
