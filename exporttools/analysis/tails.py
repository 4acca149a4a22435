"""How improbable a large value is, judging by the larger half of each group. Numpy only: no frames, no words.

The excess of the larger values over a start is described on a logarithmic scale, where a power law has an exponential
tail (Hill, A Simple General Approach to Inference About the Tail of a Distribution, Annals of Statistics 3, 1975). Most
costs and durations have lighter tails. So a tail is exponential to begin with, and lighter (Weibull) only as far as all
groups together show it to be: what is unknown errs on the side of silence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporttools.analysis.groups import Flags, Floats, Indices, SortedGroups

LEAST_TIMES = 1.5
"""How many times the usual a value is at least before it can be unusual: nobody investigates less."""

_LEAST_SPREAD = 0.07
_EQUAL, _TIMES_EQUAL = 0.02, 2.0  # groups whose spread is less are of equal values, and have this much room
_MOST_LENT = 60.0
_LENDERS = 5
_FEW = 30
_RARE = 0.02  # rarer than what is set aside
_SHAPES = 200.0
_SHAPED = 8
# The upper half of a lognormal distribution has the shape pi / 4, and from there on the tail of this power.
_LIGHT_SHAPE, _LIGHT_POWER = 0.9, 0.68
_POWERS = np.linspace(_LIGHT_POWER, 1.0, 33)
_MEANS = np.array([math.gamma(1 + power) for power in _POWERS])


@dataclass(frozen=True, slots=True)
class Tails:
    """The larger values of each group: what a baseline says about them. NaN for a group without values above 0.

    Attributes
    ----------
    start : array of float
        The value above which they lie.
    end : array of float
        The largest of them, but for those set aside.
    share : array of float
        Their share of the group's values, zeros included.
    spread : array of float
        The mean excess of their natural logarithms over that of `start`.
    shape : array of float
        The mean square of that excess, relative to its expected value in an exponential tail: 1 there, less if lighter.
    count : array of float
        How many of them these means stand on, without those set aside.
    """

    start: Floats
    end: Floats
    share: Floats
    spread: Floats
    shape: Floats
    count: Floats

    def take(self, rows: Any) -> Tails:
        """The tails of these groups, in this order; -1 for a group that is not there."""
        return Tails(*(np.append(getattr(self, field.name), np.nan)[rows] for field in fields(self)))


def fit(ordered: SortedGroups) -> Tails:
    """Describe the larger half of each group's values above 0.

    The largest 1 % of them and one more may be anomalies: they are set aside, that is, count as large as the next (Type
    II censoring), so that what is unusual does not pass for usual because it is in the baseline itself. None is set aside
    of fewer than 30, where it may be all that is known of a kind of row.
    """
    end = ordered.start + ordered.count
    above = np.concatenate(([0], np.cumsum(ordered.values > 0)))
    positive = above[end] - above[ordered.start]
    some = np.flatnonzero(positive)
    positive, end = positive[some], end[some]
    k = np.maximum(positive // 2, 1)
    aside = np.where(positive < _FEW, 0, 1 + positive // 100)
    counted = k - aside
    start = ordered.values[end - np.minimum(k + 1, positive)]
    last = ordered.values[end - aside - 1]
    with np.errstate(invalid="ignore", over="ignore"):
        total, squares = _excess(ordered.values, start, end - k, counted)
        reach = np.log(last) - np.log(start)
        total, squares = total + aside * reach, squares + aside * reach**2
        shape = np.where(total > 0, squares / total**2 / _expected(k, aside), np.nan)
    counted = np.where(positive > 1, counted, 0)
    found = (start, last, k / ordered.count[some], total / np.maximum(counted, 1), shape, counted)
    columns = np.full((len(found), len(ordered.count)), np.nan)
    columns[:, some] = found
    return Tails(*columns)


def _excess(values: Floats, start: Floats, first: Indices, count: Indices) -> tuple[Floats, Floats]:
    """For each group, the sums of ln(value / start), and of its square, over `count` values from the `first` on."""
    if not len(count):
        return np.zeros(0), np.zeros(0)
    begins = np.cumsum(count) - count
    rows = np.arange(count.sum()) + np.repeat(first - begins, count)
    excess = np.log(values[rows]) - np.repeat(np.log(start), count)
    return np.add.reduceat(excess, begins), np.add.reduceat(excess**2, begins)


def _expected(k: Indices, aside: Indices) -> Floats:
    """The expected sum of squares over the square of the sum, of the k excesses of an exponential tail."""
    pairs, which = np.unique(np.stack([k, aside]), axis=1, return_inverse=True)
    found = np.empty(pairs.shape[1])
    for place, (size, ones) in enumerate(pairs.T.tolist()):
        steps = 1.0 / np.arange(size, ones, -1)  # the mean distance from one value to the next
        squares = np.cumsum(steps) ** 2 + np.cumsum(steps**2)
        counted = size - ones
        found[place] = (squares.sum() + ones * squares[-1]) / (counted * (counted + 1))
    return found[which.ravel()]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the groups of a baseline say about each other: how a measure's tails are to be read.

    Attributes
    ----------
    lent, spread : float
        How many values of that mean excess each group has from the others, besides its own.
    shape, weight : float
        The mean shape of all tails, and how many values it stands on.
    """

    lent: float
    spread: float
    shape: float
    weight: float

    @classmethod
    def of(cls, tails: Sequence[Tails], judged: Flags) -> list[Judgement]:
        """What the judged groups say: of spreads, for each measure; of the shape, for all measures together.

        The spreads of groups are taken to follow an inverse gamma distribution, whose form is found by the variance of
        their logarithms beyond what chance makes of so few values (empirical Bayes). Fewer than five groups lend nothing.
        """
        known = [each.take(np.flatnonzero(judged)) for each in tails]
        counts = np.concatenate([each.count for each in known])
        shapes = np.concatenate([each.shape for each in known])
        usable = (counts >= _SHAPED) & np.isfinite(shapes)
        weight = float(counts[usable].sum())
        shape = float(shapes[usable] @ counts[usable]) / weight if weight else 1.0
        return [cls(*_lent(each), shape, weight) for each in known]

    def chances(self, tails: Tails, values: Floats) -> Floats:
        """The chance of a value as large as that, in the group of each: its p-value."""
        count, power, scale = self._tail(tails)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            excess = np.maximum(np.log(values) - np.log(tails.start), 0.0) / scale
            found: Floats = tails.share * (1 + excess ** (1 / power) / count) ** -count
        return np.where(count > 0, found, tails.share)

    def limits(self, tails: Tails, chance: float) -> Floats:
        """The value of each group above which one has less than this chance; NaN without values above 0.

        It is at least 1.5 times what the baseline itself has, but for what was set aside: another such value is not news;
        and twice the start if all these are about equal.
        """
        count, power, scale = self._tail(tails)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            rare = count * (np.maximum(tails.share / chance, 1.0) ** (1 / count) - 1)
            found = tails.start * np.exp(scale * rare**power)
        found = np.where((count == 0) & (tails.share > chance), np.inf, found)
        found = np.where(tails.spread < _EQUAL, np.fmax(found, _TIMES_EQUAL * tails.start), found)
        return np.fmax(found, LEAST_TIMES * tails.end) if chance < _RARE else found

    def _tail(self, tails: Tails) -> tuple[Floats, Floats, Floats]:
        """The number of values that a group's tail stands on, and the power and scale of the Weibull distribution of
        its excess: its own, together with what other groups say.
        """
        with np.errstate(invalid="ignore"):
            own = np.where(np.isfinite(tails.shape), tails.count, 0.0)
            shape = (own * np.nan_to_num(tails.shape) + _SHAPES * self.shape) / (own + _SHAPES)
            # The standard error of an exponential tail's shape is 1 / sqrt(count).
            weight = max(self.weight, 1.0)
            error = np.sqrt(own + _SHAPES**2 / weight) / (own + _SHAPES) + 3 / weight
            power = np.interp(shape + error, (_LIGHT_SHAPE, 1.0), (_LIGHT_POWER, 1.0))
            count = tails.count + self.lent
            spread = np.maximum((tails.count * tails.spread + self.lent * self.spread) / count, _LEAST_SPREAD)
        return count, power, spread / np.interp(power, _POWERS, _MEANS)


def _lent(tails: Tails) -> tuple[float, float]:
    known = (tails.count >= 1) & (tails.spread > 0) & np.isfinite(tails.spread)
    groups = int(known.sum())
    if groups < _LENDERS:
        return 0.0, 0.0
    count = tails.count[known]
    logarithm = np.log(tails.spread[known]) + 0.5 / count
    middle = float(np.median(logarithm))
    chance = float(np.mean(1 / np.maximum(count - 0.5, 0.5)))
    between = float(np.sum((logarithm - middle) ** 2)) / (groups - 3) - chance
    lent = max(1 / (max(between, 0.0) + 1 / _MOST_LENT), 0.5)
    return lent, float(np.exp(middle)) * max(lent - 0.5, 0.1) / lent
