"""What a plot of spending shows: US cents, or tokens if no step has a cost. The rule, and the words that say so."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from exporttools.analysis.groups import Floats


class Measure(NamedTuple):
    """The column that a plot shows as spent, its unit, and the facts that a reader has to know about the choice."""

    column: str
    unit: str
    facts: tuple[str, ...]


_COST = Measure("cost_cents", "US cents", ())
_TOKENS = Measure("tokens", "tokens", ("no step has a cost, so tokens are shown",))


def choose_measure(cost_cents: Floats, tokens: Floats) -> tuple[Measure, Floats]:
    """Choose what to show as spent by these steps or groups of steps, and return it with its amounts.

    Examples
    --------
    >>> import numpy as np
    >>> choose_measure(np.array([0.0, 2.5]), np.array([10.0, 20.0]))[0].unit
    'US cents'
    >>> choose_measure(np.zeros(2), np.array([10.0, 20.0]))[0].unit
    'tokens'
    """
    if tokens.any() and not cost_cents.any():
        return _TOKENS, tokens
    return _COST, cost_cents
