"""Counts, amounts and shares in words."""

from __future__ import annotations

import math

import pytest

from exporttools.text.words import amount_text, plural, share_text


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 steps"), (1, "1 step"), (1.0, "1 step"), (2, "2 steps"), (1_234_567, "1,234,567 steps")],
)
def test_a_count_with_its_noun(count: float, expected: str) -> None:
    assert plural(count, "step") == expected


def test_a_plural_of_its_own() -> None:
    assert plural(1, "row differs", "rows differ") == "1 row differs"
    assert plural(0, "row differs", "rows differ") == "0 rows differ"
    assert plural(1000, "query", "queries") == "1,000 queries"


@pytest.mark.parametrize(
    ("amount", "unit", "expected"),
    [
        (0, "US cents", "0 US cents"),
        (0.5, "US cents", "0.5 US cents"),
        (99.994, "US cents", "99.99 US cents"),
        (100, "US cents", "100.00 US cents"),
        (1_234_567.891, "ms", "1,234,567.89 ms"),
        (0.000123456, "US cents", "0.0001235 US cents"),
        (0.000012345, "US cents", "0.00001234 US cents"),
        (-0.00004, "US cents", "-0.00004 US cents"),
        (0.0000001, "US cents", "<0.000001 US cents"),
        (math.inf, "US cents", "inf US cents"),
        (0, "tokens", "0 tokens"),
        (12_345.6, "tokens", "12,346 tokens"),
    ],
)
def test_an_amount_with_its_unit(amount: float, unit: str, expected: str) -> None:
    assert amount_text(amount, unit) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, "0%"),
        (1e-9, "<1%"),
        (0.0099, "<1%"),
        (0.01, "1%"),
        (0.5, "50%"),
        (0.99, "99%"),
        (0.9901, ">99%"),
        (1 - 1e-9, ">99%"),
        (1.0, "100%"),
        (1.25, "125%"),
    ],
)
def test_a_share_is_never_rounded_to_none_or_all(share: float, expected: str) -> None:
    assert share_text(share) == expected
