"""What follows from a table's rows, fed batch by batch: count, digest, exact sums, errors, first and last time.

Memory is one batch, so that a bundle of any size can be held against what it says of itself. No file may come in here,
and no rule on single values: the rows fed are those that :func:`exporttools.schema.require_valid` lets pass.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporttools.errors import InconsistentData
from exporttools.hashing import ContentDigest
from exporttools.schema import ARROW_TYPES, ERROR_STATUSES, Record

BATCH_ROWS = 16_384
"""How many rows are taken at a time: what the work needs stays in the processor's cache, and sums below 2**53."""


class RowTotals:
    """What follows from the rows of one table.

    Parameters
    ----------
    record : Record
        What the rows are.
    schema : pyarrow.Schema
        The record's columns, then any extra ones.

    Examples
    --------
    >>> from exporttools import RunSnapshot
    >>> rows = RunSnapshot(run_id="r1", tenant_id="acme", total_cost_cents=12).to_arrow()
    >>> totals = RowTotals(RunSnapshot.RECORD, rows.schema)
    >>> for batch in rows.to_batches():
    ...     totals.update(batch)
    >>> totals.rows, dict(totals.sums), totals.errors, totals.time_range
    (1, {'total_cost_cents': 12}, 0, None)
    """

    def __init__(self, record: Record, schema: pa.Schema) -> None:
        types = {column.name: column.type for column in record.columns}
        self._digest = ContentDigest(record.table, schema)
        self._sums = {c.name: ExactSum(ARROW_TYPES[c.type]) for c in record.columns if c.additive}
        # A record whose key is text has at most one row in a bundle, and databases sort text each in its own way.
        self._key = record.key[0] if [types[name] for name in record.key] == ["int64"] else None
        self._last_key: int | None = None
        # Made here: pyarrow loads pandas where it makes an array of a list, and importing this room must not.
        self._error_statuses = pa.array(sorted(ERROR_STATUSES)) if "status" in types else None
        self._has_time = "timestamp" in types
        self._nulls = dict.fromkeys(schema.names, 0)
        self._errors = 0
        self._time_range: tuple[dt.datetime, dt.datetime] | None = None

    @classmethod
    def of(cls, record: Record, table: pa.Table) -> RowTotals:
        """The totals of a whole table.

        Raises
        ------
        ConfigError, InconsistentData
            As :meth:`update`.
        """
        totals = cls(record, table.schema)
        for batch in table.to_batches(max_chunksize=BATCH_ROWS):
            totals.update(batch)
        return totals

    def update(self, batch: pa.RecordBatch) -> None:
        """Take the next rows, in key order. After an error the totals are void.

        Raises
        ------
        ConfigError
            The batch's columns are not the schema's.
        InconsistentData
            A float is NaN, or an integer key is not above the one before it.
        """
        self._digest.update(batch)
        if not batch.num_rows:
            return
        if self._key is not None:
            self._require_ascending(self._key, batch[self._key])
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self._nulls[name] += column.null_count
        for name, total in self._sums.items():
            total.add(batch[name])
        if self._error_statuses is not None:
            self._errors += pc.sum(pc.is_in(batch["status"], self._error_statuses)).as_py()
        if self._has_time:
            extent = pc.min_max(batch["timestamp"])
            found = [extent[end].as_py().replace(tzinfo=dt.UTC) for end in ("min", "max")]
            known = self._time_range or found
            self._time_range = min(known[0], found[0]), max(known[1], found[1])

    def _require_ascending(self, key: str, values: pa.Array) -> None:
        if (step_back := first_step_back(values, after=self._last_key)) is not None:
            _, before, found = step_back
            table = self._digest.table
            raise InconsistentData(
                f"{table}: row {key}={found} has {key} = {found} after {before}; expected strictly ascending",
                table=table, key=f"{key}={found}", column=key,
            )  # fmt: skip
        self._last_key = values[-1].as_py()

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._digest.rows

    @property
    def content_digest(self) -> str:
        """The table's content digest (see :mod:`exporttools.hashing`), in lower-case hexadecimal."""
        return self._digest.hexdigest()

    @property
    def sums(self) -> Mapping[str, int | float]:
        """The exact sum of each additive column, in its unit; see :class:`ExactSum`. NULLs count zero."""
        return MappingProxyType({name: total.value for name, total in self._sums.items()})

    @property
    def nulls(self) -> Mapping[str, int]:
        """How many rows have NULL, by column, extra ones too."""
        return MappingProxyType(self._nulls)

    @property
    def errors(self) -> int:
        """How many rows have a status that is an error; 0 where the record has no ``status``."""
        return self._errors

    @property
    def time_range(self) -> tuple[dt.datetime, dt.datetime] | None:
        """The least and the greatest ``timestamp``; None without rows, or where the record has none."""
        return self._time_range


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


def first_step_back(keys: pa.Array | pa.ChunkedArray, *, after: int | None = None) -> tuple[int, int, int] | None:
    """Where integer keys first fail to ascend strictly.

    Parameters
    ----------
    keys : pyarrow.Array or ChunkedArray
        Of int64, without NULL.
    after : int, optional
        The key before the first of them.

    Returns
    -------
    tuple of int, or None
        The row, the key before it, and its own. None: they ascend.

    Examples
    --------
    >>> first_step_back(pa.array([0, 4, 4])), first_step_back(pa.array([0, 4]), after=0)
    ((2, 4, 4), (0, 0, 0))
    """
    values = keys.to_numpy()
    if after is not None:
        values = np.concatenate([[after], values])
    back = values[1:] <= values[:-1]  # not their difference, which may overflow
    if not back.any():
        return None
    i = int(back.argmax())
    return i + (after is None), int(values[i]), int(values[i + 1])
