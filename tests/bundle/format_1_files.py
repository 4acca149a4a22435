"""Parts as bundles of format 1 have them: footers by pyarrow, with statistics and the Arrow schema."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from exporttools import SnapshotTable
from exporttools.files.parquet import repeating_columns


def written_in_format_1(table: SnapshotTable[Any]) -> bytes:
    """What the writer of format 1 wrote."""
    rows, file = table.to_arrow(), io.BytesIO()
    store_schema = len(rows.schema.serialize()) * 4 // 3 < 8192 - 512
    options: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "write_page_checksum": True}
    with pq.ParquetWriter(
        file, rows.schema, use_dictionary=repeating_columns(rows), store_schema=store_schema, **options
    ) as writer:
        for start in range(0, len(rows), 131_072):
            for group in _row_groups(rows.slice(start, 131_072)):
                writer.write_table(group)
    return file.getvalue()


def _row_groups(rows: pa.Table) -> Iterator[pa.Table]:
    if rows.nbytes <= 32 << 20:
        yield rows
    else:
        yield from _row_groups(rows.slice(0, len(rows) // 2))
        yield from _row_groups(rows.slice(len(rows) // 2))
