"""Intervals of time in groups: the length of their union, and which of them ended one after the other. No step and no record.

Groups stand side by side in the arrays. Where the intervals of a group follow each other, which is the rule, nothing is sorted.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Flags: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]


def union_lengths(group: Any, begin: Floats, end: Floats) -> tuple[Indices, Floats]:
    """The first row of each group, and the length of the union of its intervals.

    Examples
    --------
    >>> union_lengths(np.array([7, 7, 4]), np.array([0.0, 1.0, 5.0]), np.array([2.0, 3.0, 6.0]))
    (array([0, 2]), array([3., 1.]))
    """
    if not len(group):
        return np.zeros(0, np.intp), np.zeros(0)
    first, number = _numbered(group)
    if _falls(number, begin):
        order = np.lexsort((begin, number))
        begin, end = begin[order], end[order]
    new = end - begin
    rows = _of_groups(number, _overlaps(number, begin, end))
    if len(rows):
        reached = running_max(number[rows], end[rows])
        starts = np.r_[True, np.diff(number[rows]) > 0]
        before = np.where(starts, begin[rows], np.r_[0.0, reached[:-1]])
        new[rows] = np.maximum(end[rows] - np.maximum(begin[rows], before), 0.0)
    return first, np.add.reduceat(new, first)


def last_before_last(group: Any, begin: Floats, end: Floats) -> Flags:
    """Of each group: the interval that ended last, the last that had ended when that one began, and so on.

    Parameters
    ----------
    group, begin, end : arrays
        Shape (intervals,); each ends after it begins. Of those that end together, the one that began first counts as the last,
        and of those that are equal the first.

    Examples
    --------
    >>> last_before_last(np.zeros(3), np.array([0.0, 1.0, 2.0]), np.array([2.0, 3.0, 5.0]))
    array([ True, False,  True])
    """
    chosen = np.zeros(len(group), np.bool_)
    if not len(group):
        return chosen
    starts, number = _numbered(group)
    order = np.arange(len(group))
    if _falls(number, end) or _ties(number, end):
        order = np.lexsort((-order, -begin, end, number))
    begin, end = begin[order], end[order]
    before = np.arange(-1, len(group) - 1)
    rows = _of_groups(number, _overlaps(number, begin, end))
    if len(rows):
        before[rows] = np.minimum(before[rows], _ended_before(number[rows], begin[rows], end[rows], rows))
    first = starts[number]
    reached = np.r_[starts[1:], len(group)] - 1
    while len(reached):
        chosen[order[reached]] = True
        following = before[reached]
        reached = following[following >= first[reached]]
    return chosen


def running_max(group: Any, values: Floats) -> Floats:
    """The greatest value so far within each group; groups are numbered ascending."""
    ranked = np.argsort(values, kind="stable")
    rank = np.empty(len(values), np.int64)
    rank[ranked] = np.arange(len(values))
    offset = group.astype(np.int64) * len(values)
    reached: Floats = values[ranked[np.maximum.accumulate(rank + offset) - offset]]
    return reached


def _numbered(group: Any) -> tuple[Indices, Indices]:
    """The first row of each group, and the number of each row's group, ascending."""
    begins = np.r_[True, group[1:] != group[:-1]]
    return np.flatnonzero(begins), np.cumsum(begins) - 1


def _falls(number: Indices, values: Floats) -> bool:
    return bool(((number[1:] == number[:-1]) & (values[1:] < values[:-1])).any())


def _ties(number: Indices, values: Floats) -> bool:
    return bool(((number[1:] == number[:-1]) & (values[1:] == values[:-1])).any())


def _overlaps(number: Indices, begin: Floats, end: Floats) -> Indices:
    """The groups in which an interval begins before the one in front of it has ended."""
    return np.unique(number[1:][(number[1:] == number[:-1]) & (begin[1:] < end[:-1])])


def _of_groups(number: Indices, groups: Indices) -> Indices:
    """The rows of some groups."""
    if not len(groups):
        return np.zeros(0, np.intp)
    wanted = np.zeros(int(number[-1]) + 1, np.bool_)
    wanted[groups] = True
    return np.flatnonzero(wanted[number])


def _ended_before(number: Indices, begin: Floats, end: Floats, rows: Indices) -> Indices:
    """The last of the rows that had ended when each interval began, of its group or one before; -1 without any. Sorted by end."""
    count = len(number)
    both = np.lexsort((np.repeat([0, 1], count), np.r_[end, begin], np.r_[number, number]))
    ended = np.cumsum(both < count)
    asking = both >= count
    last = np.empty(count, np.intp)
    last[both[asking] - count] = ended[asking]
    found: Indices = np.r_[-1, rows][last]
    return found
