"""Which columns a Parquet dictionary makes small and fast to read. Knows no files and no records."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_SAMPLE_ROWS = 2_000
_TEXT_BYTES = 128  # so that the longest texts of many columns still leave a reader batches of some size


def repeating_columns(rows: pa.Table) -> list[str]:
    """The columns of few different short texts.

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
