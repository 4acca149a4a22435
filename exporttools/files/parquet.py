"""How Parquet files are opened and written here: the options, once. Knows no records, and not what a file is for.

Every page is written with a checksum and checked when it is read: without one, most one-bit flips in a page give wrong
values and no error. Nothing is read ahead, so that memory is bounded by a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_BUFFER_BYTES = 256 << 10
_SAMPLE_ROWS = 2_000
_TEXT_BYTES = 128  # so that the longest texts of many columns still leave a reader batches of some size


def open_parquet(file: Any, *, page_checksums: bool = True, max_footer_bytes: int | None = None) -> pq.ParquetFile:
    """Open a Parquet file to read it in batches.

    Parameters
    ----------
    file : binary file
        Seekable; stays open.
    page_checksums : bool
        Whether to check each page. False only for a file that was hashed whole before it is read.
    max_footer_bytes : int, optional
        The most bytes of a text and elements of a list in the footer, for files from strangers. By default pyarrow's
        own, much larger limits.

    Raises
    ------
    pyarrow.ArrowException, OSError
        The file is not Parquet, or cannot be read.

    Examples
    --------
    >>> import io
    >>> file = io.BytesIO()
    >>> rows = pa.table({"n": [1, 2, 3]})
    >>> with parquet_writer(file, rows.schema, dictionary=[]) as writer:
    ...     writer.write_table(rows)
    >>> open_parquet(file).read().equals(rows)
    True
    """
    return pq.ParquetFile(
        file,
        page_checksum_verification=page_checksums,
        pre_buffer=False,  # it would hold the whole file until the last batch
        buffer_size=_BUFFER_BYTES,  # otherwise each column chunk is read whole, and others write large ones
        thrift_string_size_limit=max_footer_bytes,
        thrift_container_size_limit=max_footer_bytes,
    )


def scan_options() -> ds.ParquetFragmentScanOptions:
    """Return the options for a dataset scan. It reads column chunks whole: its readahead bounds how many are open."""
    import pyarrow.dataset as ds

    return ds.ParquetFragmentScanOptions(page_checksum_verification=True, pre_buffer=False)


def parquet_writer(
    file: Any,
    schema: pa.Schema,
    *,
    dictionary: Sequence[str],
    compression_level: int = 1,
    store_schema: bool = True,
    statistics: bool = True,
) -> pq.ParquetWriter:
    """A writer of one Parquet file: zstd, with a checksum in every page.

    Parameters
    ----------
    file : binary file or Path
    schema : pyarrow.Schema
    dictionary : sequence of str
        The columns to write with a dictionary; see :func:`repeating_columns`.
    compression_level : int
        1 is zstd's fastest and pyarrow's default; a file that ships with the package is worth more time.
    store_schema : bool
        Whether the footer also holds the Arrow schema, with the units and meanings of columns.
    statistics : bool
        Whether it holds the minimum and maximum of each column, by which readers pass over row groups.
    """
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=compression_level,
        use_dictionary=list(dictionary),
        store_schema=store_schema,
        write_statistics=statistics,
        write_page_checksum=True,
    )


def repeating_columns(rows: pa.Table) -> list[str]:
    """The columns of few different short texts, which a dictionary makes small and fast to read.

    Examples
    --------
    >>> repeating_columns(pa.table({"status": ["ok"] * 50, "hash": [str(i) for i in range(50)], "n": [0] * 50}))
    ['status']
    """
    return [field.name for field in rows.schema if _repeats(rows[field.name])]


def _repeats(column: pa.ChunkedArray) -> bool:
    if column.type != pa.string() or (pc.max(pc.binary_length(column)).as_py() or 0) > _TEXT_BYTES:
        return False
    sample = column.take(np.linspace(0, len(column) - 1, min(len(column), _SAMPLE_ROWS)).astype(np.int64))
    return len(sample.unique()) <= 1 + len(sample) // 10
