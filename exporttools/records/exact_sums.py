"""Sums without any rounding in between, whatever the order of the values and their batches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa

BATCH_ROWS = 16_384

"""How many rows are taken at a time: what the work needs stays in the processor's cache, and sums below 2**53."""


class ExactSum:
    """The sum of int64 or float64 values without any rounding in between, whatever their order and batches.

    Parameters
    ----------
    arrow_type : pyarrow.DataType
        ``int64`` or ``float64``.

    Notes
    -----
    A finite binary64 is an integer times a power of two (IEEE 754 §3.3). With numpy the integers are added up by
    exponent, in two halves, each sum below 2**53 and so without error; then they are put together in one Python int.

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
        self._sum = 0  # of floats: in 1 / _FLOAT_UNITS

    def add(self, values: pa.Array) -> None:
        """Take the next values, finite ones; NULLs count zero."""
        numbers = values.drop_null().to_numpy()
        block_sum = _float_sum if self._is_float else _integer_sum
        for start in range(0, len(numbers), BATCH_ROWS):
            self._sum += block_sum(numbers[start : start + BATCH_ROWS])

    @property
    def value(self) -> int | float:
        """The sum: an int, however great; or the float that is nearest to it, infinite where no float can hold it."""
        if not self._is_float:
            return self._sum
        try:
            return self._sum / _FLOAT_UNITS  # of two ints, and so correctly rounded
        except OverflowError:
            return math.inf if self._sum > 0 else -math.inf


def exact_sum(column: pa.ChunkedArray) -> int | float:
    """The exact sum of an int64 or float64 column; see :class:`ExactSum`.

    Examples
    --------
    >>> exact_sum(pa.chunked_array([[2**63 - 1, None], [1]]))
    9223372036854775808
    """
    total = ExactSum(column.type)
    for chunk in column.chunks:
        total.add(chunk)
    return total.value


# np.frexp gives exponents from -1073 (of 2**-1074, the least subnormal) and fractions of 53 binary places.
_LEAST_EXPONENT = -1073

_FLOAT_UNITS = 1 << (53 - _LEAST_EXPONENT)


def _float_sum(values: Any) -> int:
    """The exact sum of a block of finite floats, in 1 / _FLOAT_UNITS."""
    fractions, exponents = np.frexp(values)
    scaled = fractions * 2.0**27
    high = np.trunc(scaled)
    low = (scaled - high) * 2.0**26
    places = exponents - _LEAST_EXPONENT
    highs, lows = np.bincount(places, weights=high), np.bincount(places, weights=low)
    used = np.flatnonzero((highs != 0) | (lows != 0)).tolist()
    return sum(((int(highs[place]) << 26) + int(lows[place])) << place for place in used)


def _integer_sum(values: Any) -> int:
    """The exact sum of a block of int64, of which two may be more than an int64 can hold."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFF_FFFF).sum())
