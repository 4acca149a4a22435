"""Exact sums: no intermediate rounding, so neither the order of the values nor their batches matter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa

BATCH_ROWS = 16_384
"""Rows summed at a time: few enough to stay in the processor's cache and to keep every partial sum below 2**53."""


class ExactSum:
    """The exact sum of int64 or float64 values, added batch by batch.

    Parameters
    ----------
    arrow_type : pyarrow.DataType
        ``int64`` or ``float64``.

    Notes
    -----
    A finite binary64 is an integer times a power of two (IEEE 754 §3.3). numpy adds these integers by exponent, in
    two halves, so that each sum is below 2**53 and exact; then they are combined in one Python int.

    Examples
    --------
    >>> total = ExactSum(pa.float64())
    >>> for values in ([1e16, 0.1], [1.0, -1e16]):
    ...     total.add(pa.array(values))
    >>> total.value
    1.1
    """

    def __init__(self, arrow_type: pa.DataType) -> None:
        self._is_float = arrow_type == pa.float64()
        self._sum = 0  # of floats: in units of 1 / _FLOAT_UNITS

    def add(self, values: pa.Array) -> None:
        """Add values, which must be finite. NULLs count as zero."""
        numbers = values.drop_null().to_numpy()
        block_sum = _float_sum if self._is_float else _integer_sum
        for start in range(0, len(numbers), BATCH_ROWS):
            self._sum += block_sum(numbers[start : start + BATCH_ROWS])

    @property
    def value(self) -> int | float:
        """The sum: an int of any size, or the nearest float, infinite if no float can hold it."""
        if not self._is_float:
            return self._sum
        try:
            return self._sum / _FLOAT_UNITS  # int / int rounds correctly
        except OverflowError:
            return math.inf if self._sum > 0 else -math.inf


def exact_sum(column: pa.ChunkedArray) -> int | float:
    """Return the exact sum of an int64 or float64 column; see :class:`ExactSum`.

    Examples
    --------
    >>> exact_sum(pa.chunked_array([[2**63 - 1, None], [1]]))
    9223372036854775808
    """
    total = ExactSum(column.type)
    for chunk in column.chunks:
        total.add(chunk)
    return total.value


# np.frexp returns exponents from -1073 (for 2**-1074, the smallest subnormal) and fractions of 53 bits.
_LEAST_EXPONENT = -1073
_FLOAT_UNITS = 1 << (53 - _LEAST_EXPONENT)


def _float_sum(values: Any) -> int:
    """The exact sum of a block of finite floats, in units of 1 / _FLOAT_UNITS."""
    fractions, exponents = np.frexp(values)
    scaled = fractions * 2.0**27
    high = np.trunc(scaled)
    low = (scaled - high) * 2.0**26
    places = exponents - _LEAST_EXPONENT
    highs, lows = np.bincount(places, weights=high), np.bincount(places, weights=low)
    used = np.flatnonzero((highs != 0) | (lows != 0)).tolist()
    return sum(((int(highs[place]) << 26) + int(lows[place])) << place for place in used)


def _integer_sum(values: Any) -> int:
    """The exact sum of a block of int64, which may not fit into an int64."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFF_FFFF).sum())
