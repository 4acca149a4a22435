"""What a file says of its rows beside the rows, held against them as they are read: batch by batch, in their order.

In both formats, how many bytes the plain texts of a column take; in format 1, statistics, by which readers decide what they
need not read (:mod:`exporttools.bundle.format_1`). Knows no files.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from exporttools.records.schema import ARROW_TYPES


@dataclass(slots=True)
class Claim:
    """What a file says of the values of one column in some rows.

    Attributes
    ----------
    where : str
        For messages.
    column : str
    start, stop : int
        The rows, counted from the first of the row group.
    text_bytes : int or None
        Of all its texts.
    least, greatest : bytes or None
        As Parquet's statistics have them: numbers as eight bytes, texts in UTF-8.
    """

    where: str
    column: str
    start: int
    stop: int
    text_bytes: int | None = None
    least: bytes | None = None
    greatest: bytes | None = None
    _text_bytes: int = 0
    _extents: list[dict[str, Any]] = field(default_factory=list)

    def update(self, values: pa.Array) -> None:
        """Take the next of its values."""
        if self.text_bytes is not None:
            self._text_bytes += pc.sum(pc.binary_length(values)).as_py() or 0
        if self.least is not None or self.greatest is not None:
            if values.type == ARROW_TYPES["timestamp"]:
                values = values.cast(pa.int64())
            extent = pc.min_max(values).as_py()
            if extent["min"] is not None:
                self._extents.append(extent)

    def require(self) -> None:
        """Raise unless the values are as the file says.

        Raises
        ------
        ValueError
            They are not.
        """
        if self.text_bytes not in (None, self._text_bytes):
            raise ValueError(f"{self.where}: texts of {self.text_bytes:,} bytes; expected {self._text_bytes:,}")
        for name, stated, pick in (("min", self.least, min), ("max", self.greatest, max)):
            if stated is not None:
                ends = [extent[name] for extent in self._extents]
                expected = encoded_end(pick(ends), name) if ends else b""
                if stated != expected:
                    raise ValueError(f"{self.where}: {name} {_shown(stated)}; expected {_shown(expected)}")


def encoded_end(value: float | str, end: str) -> bytes:
    r"""Write a column's minimum or maximum as Parquet's statistics have it.

    A zero is -0.0 as a minimum and 0.0 as a maximum (parquet.thrift: ColumnOrder).

    Examples
    --------
    >>> encoded_end(3, "max"), encoded_end("é", "min")
    (b'\x03\x00\x00\x00\x00\x00\x00\x00', b'\xc3\xa9')
    """
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int):
        return struct.pack("<q", value)
    return struct.pack("<d", value or (-0.0 if end == "min" else 0.0))


def hold(claims: Sequence[Claim], batch: pa.RecordBatch, first_row: int) -> None:
    """Hold the claims of a row group against the next of its rows.

    Parameters
    ----------
    claims : sequence of Claim
    batch : pyarrow.RecordBatch
    first_row : int
        Which row of the row group is the first in the batch.

    Raises
    ------
    ValueError
        A claim whose rows have all been there is false.
    """
    end = first_row + batch.num_rows
    for claim in claims:
        start, stop = max(claim.start, first_row), min(claim.stop, end)
        if start < stop:
            claim.update(batch.column(claim.column).slice(start - first_row, stop - start))
            if stop == claim.stop:
                claim.require()


def _shown(end: bytes) -> str:
    return f"{end[:8].hex(' ')}{'...' if len(end) > 8 else ''}" or "nothing"
