"""The longest common subsequence, exactly, whatever is in the sequences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporttools.analysis import alignment
from exporttools.analysis.alignment import align

NUMBERS = st.lists(st.integers(0, 4), max_size=24)


def longest(a: list[int], b: list[int]) -> int:
    """The length, by the textbook's table."""
    above = [0] * (len(b) + 1)
    for x in a:
        row = [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else max(above[j + 1], row[j]))
        above = row
    return above[-1]


# All rows kept, and cut in halves until next to nothing is left; with and without what both begin and end with left out.
@pytest.mark.parametrize(("bits", "small"), [(1 << 28, 64), (1 << 28, 0), (8, 0)])
@settings(deadline=None)
@given(a=NUMBERS, b=NUMBERS)
@example(a=[], b=[])
@example(a=[0], b=[0])
@example(a=[0, 0, 1], b=[0, 1])
@example(a=[0, 1, 0], b=[1, 0, 1, 0])
def test_as_many_as_can_be_are_paired_in_order(bits: int, small: int, a: list[int], b: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "_MOST_BITS", bits)
        patch.setattr(alignment, "_SMALL", small)
        at_a, at_b = align(np.array(a, np.intp), np.array(b, np.intp))
    assert [a[i] for i in at_a] == [b[j] for j in at_b]
    assert len(at_a) == longest(a, b)
    assert np.all(np.diff(at_a) > 0)
    assert np.all(np.diff(at_b) > 0)


def test_elements_that_are_common_are_paired_like_others() -> None:
    """Which difflib does not do: from 200 elements on, it leaves out those that are more than a hundredth."""
    a = np.array([0, 1, 2, 3] * 300)
    at_a, at_b = align(a, np.r_[9, a[:-1]])
    assert len(at_a) == len(at_b) == len(a) - 1


def test_a_permutation_has_no_pairs_out_of_order() -> None:
    a = np.arange(3000)
    assert [len(pairs) for pairs in align(a, a[::-1])] == [1, 1]
    assert [len(pairs) for pairs in align(a, a + 3000)] == [0, 0]
