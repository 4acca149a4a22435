"""The correctly rounded sum of floats, by other means than ours."""

from __future__ import annotations

import math
from fractions import Fraction


def rounded(values: list[float]) -> float:
    """The sum by math.fsum, or by fractions where fsum gives up on an overflow in between."""
    try:
        return math.fsum(values)
    except OverflowError:
        exact = sum(map(Fraction, values))
        try:
            return float(exact)
        except OverflowError:
            return math.copysign(math.inf, 1 if exact > 0 else -1)
