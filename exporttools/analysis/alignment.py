"""Which elements of two sequences belong together: the longest common subsequence, exactly, of long ones as well.

The table of lengths is computed a row at a time, each row as the bits of one integer (Hyyrö 2004), so that a row of n columns costs a
few additions of n bits. What the rows say is kept while it fits in memory; longer sequences are cut in halves first, where
the lengths from both ends meet (Hirschberg 1975). The time is bounded by the product of the lengths, over 64, whatever is in them: no
element counts as too common, and no guess is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from exporttools.analysis.groups import Indices

_MOST_BITS = 1 << 28
_SMALL = 64
_FEW = 8


def align(a: Indices, b: Indices) -> tuple[Indices, Indices]:
    """Return the places, ascending, of a longest common subsequence in both sequences of numbers from 0.

    Examples
    --------
    >>> align(np.array([5, 1, 2, 3]), np.array([1, 3, 2, 3, 4]))
    (array([1, 2, 3]), array([0, 2, 3]))
    """
    if len(a) * len(b) <= _SMALL:
        found = np.array(list(_pairs(a.tolist(), b.tolist())), np.intp).reshape(-1, 2)
        return found[:, 0], found[:, 1]
    # What only one of them has can be left out, and what both begin or end with belongs together.
    kept_a, kept_b = (np.flatnonzero(np.isin(own, other)) for own, other in ((a, b), (b, a)))
    a, b = a[kept_a], b[kept_b]
    shorter = min(len(a), len(b))
    head = _equal(a[:shorter], b[:shorter])
    tail = _equal(a[len(a) - shorter + head :][::-1], b[len(b) - shorter + head :][::-1])
    inner = list(_pairs(a[head : len(a) - tail].tolist(), b[head : len(b) - tail].tolist()))
    middle = np.array(inner, np.intp).reshape(-1, 2) + head
    ends = np.arange(-tail, 0)
    pairs = (np.r_[np.arange(head), middle[:, side], ends + len(of)] for side, of in enumerate((a, b)))
    in_a, in_b = pairs
    return kept_a[in_a], kept_b[in_b]


def _equal(a: Indices, b: Indices) -> int:
    """How many elements two sequences of one length have in common at their beginning."""
    return int(np.argmin(np.r_[a == b, False]))


def _pairs(a: list[int], b: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of places, ascending."""
    if not a or not b:
        return
    if len(a) == 1:
        if a[0] in b:
            yield 0, b.index(a[0])
        return
    if len(a) * len(b) <= _MOST_BITS:
        yield from _walked_back(a, b)
        return
    half = len(a) // 2
    before, after = _lengths(a[:half], b), _lengths(a[half:][::-1], b[::-1])[::-1]
    cut = int(np.argmax(before + after))
    yield from _pairs(a[:half], b[:cut])
    yield from ((half + i, cut + j) for i, j in _pairs(a[half:], b[cut:]))


def _rows(a: list[int], b: list[int]) -> Iterator[int]:
    """Yield a row for each element of `a`; bit j is 0 where the length grows between the first j and j + 1 elements of `b`."""
    mask_of = _masks(b)
    every = row = (1 << len(b)) - 1
    for element in a:
        common = row & mask_of(element)
        row = ((row + common) | (row - common)) & every
        yield row


def _masks(b: list[int]) -> Callable[[int], int]:
    """Where each element is in `b`, as bits. Those of rare elements are made when asked for: together they would be as large as the table."""
    places: dict[int, list[int]] = {}
    for place, element in enumerate(b):
        places.setdefault(element, []).append(place)
    common = {element: _bits(at, len(b)) for element, at in places.items() if len(at) > _FEW}
    return lambda element: common.get(element) or sum(1 << place for place in places.get(element, ()))


def _bits(places: list[int], count: int) -> int:
    bits = np.zeros(count, np.uint8)
    bits[places] = 1
    return int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")


def _lengths(a: list[int], b: list[int]) -> Indices:
    """How long the longest common subsequence is of `a` and the first 0, 1, ... elements of `b`."""
    row = 0
    for row in _rows(a, b):  # noqa: B007 - the last is the answer
        pass
    bits = np.unpackbits(
        np.frombuffer(row.to_bytes(len(b) // 8 + 1, "little"), np.uint8), bitorder="little", count=len(b)
    )
    lengths: Indices = np.r_[0, np.cumsum(bits == 0)]
    return lengths


def _walked_back(a: list[int], b: list[int]) -> list[tuple[int, int]]:
    """The pairs, found from the ends of both back to their beginnings in all the rows; of equally good ones the earliest."""
    size = len(b) // 8 + 1
    rows = [row.to_bytes(size, "little") for row in _rows(a, b)]
    pairs = []
    i, j = len(a) - 1, len(b) - 1
    while i >= 0 and j >= 0:
        if rows[i][j >> 3] >> (j & 7) & 1:
            j -= 1
        elif i and not rows[i - 1][j >> 3] >> (j & 7) & 1:
            i -= 1
        else:
            pairs.append((i, j))
            i, j = i - 1, j - 1
    return pairs[::-1]
