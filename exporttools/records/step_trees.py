"""Which step is part of which: the tree that ``parent_step_index`` says, as arrays. No amounts, no file.

Always a tree, whatever the column says: a step whose parent is not in its trace is a root, and so is, of steps that are
parts of each other, the one with the smallest index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from exporttools.errors import InconsistentData

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]
Integers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepTree:
    """The steps of one or several traces as trees.

    Attributes
    ----------
    parent : array of int
        Shape (steps,); the row of the step that each is part of, -1 for a root.
    levels : tuple of arrays of int
        The rows of each depth, roots first; the children of one step stand side by side.
    orphans, broken : int
        How many steps name a parent that is not there; how many were parts of each other and are roots now.
    """

    parent: Indices
    levels: tuple[Indices, ...]
    orphans: int = 0
    broken: int = 0

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def has_children(self) -> NDArray[np.bool_]:
        """Whether each step has parts."""
        found = np.zeros(len(self), np.bool_)
        found[self.parent[self.parent >= 0]] = True
        return found

    @property
    def depth(self) -> Integers:
        """How many steps each is part of: 0 for a root."""
        depth = np.zeros(len(self), np.int64)
        for level, rows in enumerate(self.levels):
            depth[rows] = level
        return depth

    @property
    def descendants(self) -> Integers:
        """How many steps are part of each, at any depth."""
        below, one = np.zeros(len(self), np.int64), np.ones(len(self), np.int64)
        for rows in self.bottom_up():
            self.add_to_parents(rows, one, below)
        return below

    def bottom_up(self) -> Iterator[Indices]:
        """The rows of each depth, the deepest first."""
        return reversed(self.levels)

    def add_to_parents(self, rows: Indices, own: Any, below: Any) -> None:
        """Add what the rows of one depth have, themselves and below them, to what is below their parents."""
        parents = self.parent[rows]
        if len(rows) and parents[0] >= 0:
            added = own[rows] + below[rows]
            if len(rows) > 1:  # not so along a chain, which may be as deep as it has steps
                starts = np.flatnonzero(np.r_[True, parents[1:] != parents[:-1]])
                parents, added = parents[starts], np.add.reduceat(added, starts)
            below[parents] += added


def flat_tree(steps: int) -> StepTree:
    """The tree of steps of which none is part of another."""
    return StepTree(np.full(steps, -1, np.intp), (np.arange(steps),))


def build_tree(trace: Any, step_index: Any, parent_step_index: Any, known: Any) -> StepTree:
    """Build the tree of steps in any order.

    Parameters
    ----------
    trace, step_index, parent_step_index : arrays of int
        Shape (steps,); traces numbered from 0.
    known : array of bool
        Whether each step's ``parent_step_index`` is known; where it is not, that is ignored.

    Raises
    ------
    InconsistentData
        Two steps of a trace have the same index.

    Examples
    --------
    >>> tree = build_tree(np.zeros(4, int), np.arange(4), np.array([0, 0, 1, 9]), np.array([False, True, True, True]))
    >>> tree.parent.tolist(), tree.depth.tolist(), tree.orphans
    ([-1, 0, 1, -1], [0, 1, 2, 0], 1)
    """
    parent = _parent_rows(trace, step_index, parent_step_index, known)
    orphans = int(known.sum() - (parent >= 0).sum())
    levels = _levels(parent)
    broken = 0
    if sum(map(len, levels)) < len(parent):
        broken = _break_cycles(parent, levels, step_index)
        levels = _levels(parent)
    return StepTree(parent, levels, orphans, broken)


def _parent_rows(trace: Any, step_index: Any, parent_step_index: Any, known: Any) -> Indices:
    """The row of each step's parent, -1 where it has none."""
    parent = np.full(len(trace), -1, np.intp)
    asking = np.flatnonzero(known)
    own, wanted = _codes(step_index, parent_step_index[asking])
    width = int(max(own.max(initial=0), wanted.max(initial=0))) + 1
    keys = trace.astype(np.int64) * width + own
    order = None
    if (keys[1:] <= keys[:-1]).any():
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        if len(again := np.flatnonzero(keys[1:] == keys[:-1])):
            index = int(step_index[order[again[0]]])
            raise InconsistentData(
                f"two steps of a trace have step_index = {index:,}, so that it is not clear which steps are part of them",
                column="step_index", key=f"step_index={index}",
            )  # fmt: skip
    asked = trace[asking].astype(np.int64) * width + wanted
    place = np.searchsorted(keys, asked)
    found = place < len(keys)
    found[found] = keys[place[found]] == asked[found]
    rows = place[found] if order is None else order[place[found]]
    parent[asking[found]] = rows
    return parent


def _codes(own: Any, wanted: Any) -> tuple[Integers, Integers]:
    """Indices as numbers small enough to combine with a trace's; wanted ones that nobody has stay different from all."""
    if not len(own) or (min(own.min(), wanted.min(initial=0)) >= 0 and max(own.max(), wanted.max(initial=0)) < 1 << 31):
        return own.astype(np.int64), wanted.astype(np.int64)
    _, codes = np.unique(np.concatenate([own, wanted]), return_inverse=True)
    return codes[: len(own)].astype(np.int64), codes[len(own) :].astype(np.int64)


def _levels(parent: Indices) -> tuple[Indices, ...]:
    """The rows of each depth; rows that no root leads to are in none."""
    children = np.flatnonzero(parent >= 0)
    children = children[np.argsort(parent[children], kind="stable")]
    counts = np.bincount(parent[children], minlength=len(parent)) if len(parent) else np.zeros(0, np.intp)
    starts = np.cumsum(counts) - counts
    rows = np.flatnonzero(parent < 0)
    levels = [rows]
    while True:
        rows = rows[counts[rows] > 0]
        if not len(rows):
            return tuple(levels)
        lengths = counts[rows]
        offsets = np.cumsum(lengths) - lengths
        rows = children[np.repeat(starts[rows] - offsets, lengths) + np.arange(lengths.sum())]
        levels.append(rows)


def _break_cycles(parent: Indices, levels: tuple[Indices, ...], step_index: Any) -> int:
    """Make a root of the step with the smallest index in each cycle, and return how many there were."""
    unseen, path_of = -1, np.full(len(parent), -1, np.intp)
    for rows in levels:
        path_of[rows] = -2  # a root leads there
    broken = 0
    for start in np.flatnonzero(path_of == unseen).tolist():
        path = []
        row = start
        while path_of[row] == unseen:
            path_of[row] = start
            path.append(row)
            row = int(parent[row])
        if path_of[row] == start and path:  # back on the path just taken
            cycle = path[path.index(row) :]
            parent[min(cycle, key=lambda member: int(step_index[member]))] = -1
            broken += 1
    return broken
