"""Sums without any rounding error, whatever the batches."""

from __future__ import annotations

import math
import sys

import numpy as np
import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from exporttools.records.exact_sums import BATCH_ROWS, ExactSum, exact_sum
from tests.records.rounding import rounded

LEAST, GREATEST = 5e-324, sys.float_info.max
EXTREMES = [
    0.0, -0.0, LEAST, -LEAST, 3 * LEAST, sys.float_info.min, -sys.float_info.min, 1.7e308, -1.7e308, GREATEST, -GREATEST,
    2.0**970, -(2.0**970), 2.0**969, 1e16, 1.0, -1.0, 0.1, 2.0**53 - 1, 2.0**-53, 1 + 2.0**-52, 1 - 2.0**-53, math.pi,
]  # fmt: skip
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(EXTREMES)


@given(st.lists(st.lists(st.none() | FLOATS)))
@example([])
@example([[]])
@example([[-0.0]])
@example([[1.7e308, 1.7e308], [-1.7e308, -1.7e308]])
@example([[GREATEST, 2.0**969], [2.0**969]])  # half of a unit in the last place: rounds up, out of range
@example([[GREATEST, 2.0**969], [2.0**969, -LEAST]])  # and just less than that
@example([[1.0, 2.0**-53]])  # half to even
@example([[1.0, 2.0**-53], [LEAST]])
@example([[LEAST, None, LEAST], [sys.float_info.min, -LEAST]])
def test_a_sum_of_floats_is_that_of_fsum(chunks: list[list[float | None]]) -> None:
    found = exact_sum(pa.chunked_array(chunks, pa.float64()))
    expected = rounded([value for chunk in chunks for value in chunk if value is not None])
    assert (found, type(found), math.copysign(1, found)) == (expected, float, math.copysign(1, expected))


def test_a_sum_of_many_magnitudes() -> None:
    rng = np.random.default_rng(7)
    values = np.ldexp(rng.uniform(-1, 1, 3 * BATCH_ROWS + 5), rng.integers(-1074, 1000, 3 * BATCH_ROWS + 5))
    assert exact_sum(pa.chunked_array([values])) == math.fsum(values)
    assert exact_sum(pa.chunked_array([values, -values])) == 0.0
    assert exact_sum(pa.chunked_array([rng.permutation(values)])) == exact_sum(pa.chunked_array([values]))


def test_a_sum_that_no_float_can_hold_is_infinite() -> None:
    for sign in (1.0, -1.0):
        total = ExactSum(pa.float64())
        total.add(pa.array([sign * GREATEST] * 3))
        assert total.value == sign * math.inf
        total.add(pa.array([-sign * GREATEST] * 2))  # it was never lost
        assert total.value == sign * GREATEST


@given(st.lists(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1))))
@example([[2**63 - 1] * 3, [2**63 - 1]])
@example([[-(2**63)] * 3, [None]])
def test_a_sum_of_integers_is_pythons(chunks: list[list[int | None]]) -> None:
    found = exact_sum(pa.chunked_array(chunks, pa.int64()))
    assert found == sum(value for chunk in chunks for value in chunk if value is not None)
    assert type(found) is int


def test_a_sum_of_a_slice_is_of_its_rows_alone() -> None:
    assert exact_sum(pa.chunked_array([pa.array([1, 2, None, 4, 8])[1:4]])) == 6
    assert exact_sum(pa.chunked_array([pa.array([1.5, 2.5, None, 4.5, 8.5])[1:4]])) == 7.0
