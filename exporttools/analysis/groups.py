"""Groups of rows and their order statistics, in numpy. Takes Arrow tables, no other frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Flags: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]
Integers: TypeAlias = NDArray[np.int64]

_MOST_COUNTED = 1 << 22
_FEW_IN_A_GROUP = 8  # below, one call for all rows is faster than one for each group


@dataclass(frozen=True, slots=True)
class Groups:
    """The group of each row. Groups are numbered from 0, in arbitrary order.

    Attributes
    ----------
    of_row : array of int
        Shape (rows,).
    first : array of int
        Shape (groups,); the first row of each.
    """

    of_row: Indices
    first: Indices

    def __len__(self) -> int:
        return len(self.first)

    @property
    def sizes(self) -> Indices:
        """The number of rows of each group."""
        return np.bincount(self.of_row, minlength=len(self.first))

    def sums(self, values: Any) -> Floats:
        """The sum over each group of values that are given for each row."""
        return np.bincount(self.of_row, values, len(self.first)).astype(np.float64)


def group(table: pa.Table, keys: Sequence[str]) -> Groups:
    """Group rows that are equal in all keys; NULL equals NULL. Without keys all rows are one group."""
    code = np.zeros(len(table), np.int64)
    count = 1
    for key in keys:
        encoded = table[key].combine_chunks().dictionary_encode(null_encoding="encode")
        code = code * len(encoded.dictionary) + encoded.indices.to_numpy().astype(np.int64)
        count *= max(1, len(encoded.dictionary))
        if count > _MOST_COUNTED:  # so that no product of the next keys can overflow
            present, code = np.unique(code, return_inverse=True)
            count = len(present)
    present = np.flatnonzero(np.bincount(code, minlength=count))
    number = np.zeros(count, np.intp)
    number[present] = np.arange(len(present))
    of_row = number[code]
    first = np.zeros(len(present), np.intp)
    first[of_row[::-1]] = np.arange(len(table) - 1, -1, -1)
    return Groups(of_row, first)


@dataclass(frozen=True, slots=True)
class SortedGroups:
    """The values of each group in ascending order, group after group, without missing values."""

    values: Floats
    start: Indices
    count: Indices

    def quantile(self, share: float) -> Floats:
        """The quantile of each group, interpolated linearly as in numpy, pandas and PERCENTILE_CONT; NaN without values."""
        result = np.full(len(self.count), np.nan)
        some = self.count > 0
        place = (self.count[some] - 1) * share
        below = np.floor(place).astype(np.intp)
        above = np.minimum(below + 1, self.count[some] - 1)
        low, high = self.values[self.start[some] + below], self.values[self.start[some] + above]
        part = place - below
        with np.errstate(invalid="ignore"):  # the infinite have no distance
            result[some] = np.where((part == 0) | (low == high), low, low + (high - low) * part)
        return result


class Sorting:
    """Sorts any number of columns within the same groups: the rows are brought together once."""

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        # Integers of 16 bits are sorted by radix, in a tenth of the time.
        small = len(groups) <= np.iinfo(np.uint16).max
        self.rows = np.argsort(groups.of_row.astype(np.uint16) if small else groups.of_row, kind="stable")
        self.sizes = groups.sizes

    def sort(self, values: Floats) -> SortedGroups:
        """Sort the values of each group; missing ones are left out."""
        together = values[self.rows]
        count = self.sizes
        missing = np.isnan(together)
        if missing.any():
            count = np.bincount(self.groups.of_row[self.rows[~missing]], minlength=len(self.groups))
            together = together[~missing]
        end = np.cumsum(count)
        start = end - count
        if len(together) < _FEW_IN_A_GROUP * len(count):
            group_of = np.repeat(np.arange(len(count)), count)
            together = together[np.lexsort((together, group_of))]
        else:
            for first, last in zip(start.tolist(), end.tolist(), strict=True):
                together[first:last].sort()
        return SortedGroups(together, start, count)


def sort_within(groups: Groups, values: Floats) -> SortedGroups:
    """Sort values within their groups."""
    return Sorting(groups).sort(values)


def numbers(table: pa.Table, column: str) -> Floats:
    """A column of numbers as float64; NaN for NULL."""
    values: Floats = pc.fill_null(table[column].cast(pa.float64(), safe=False), float("nan")).to_numpy()
    return values
