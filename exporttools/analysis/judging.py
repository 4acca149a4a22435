"""What is unusual: rows that a baseline makes improbable and that are worth a look, and why, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporttools.analysis.arrow_functions import apply
from exporttools.analysis.baselines import AT_LEAST, MEASURES, PRICE, KnownGroups, group_keys, has_profiles
from exporttools.analysis.columns import Kind, require_integer
from exporttools.analysis.frames import TRACE_KEYS, Frame, arrow_schema, read, to_native
from exporttools.analysis.groups import Flags, Floats, Groups, Indices, group, numbers, sort_within
from exporttools.analysis.tails import LEAST_TIMES, Judgement, fit
from exporttools.analysis.trees import read_own_amounts
from exporttools.errors import ConfigError
from exporttools.records.schema import TRACE_STEPS
from exporttools.text.inert import one_line
from exporttools.text.words import plural

if TYPE_CHECKING:
    from narwhals.typing import IntoFrameT

    from exporttools.analysis.frames import ArrowSteps

FALSE_ALARMS = 0.001
"""The greatest share of normal rows that is reported, over all measures together."""

AT_LEAST_CENTS, AT_LEAST_MS, AT_LEAST_TOKENS = 0.1, 1000.0, 1000.0
"""The least difference from the usual that is reported: nobody is woken for less, however improbable it is."""

_SURE = 0.75  # of `false_alarms`: tails are estimated, which makes more of them than if they were known
_IDENTITY = (*TRACE_KEYS, "step_index", "timestamp")
_FLOORS = {
    "cost_cents": "at_least_cents", "duration_ms": "at_least_ms", "elapsed_ms": "at_least_ms",
    "tokens": "at_least_tokens", PRICE: "at_least_cents",
}  # fmt: skip
_WEIGHTS = ("steps", "tokens")
LEAST_DIFFERENCES = {
    "cost_cents": AT_LEAST_CENTS, "duration_ms": AT_LEAST_MS, "elapsed_ms": AT_LEAST_MS, "tokens": AT_LEAST_TOKENS,
    "steps": 5.0, "failed": 5.0,
}  # fmt: skip
"""The same for each measure."""

UNITS = {column.name: column.unit for column in TRACE_STEPS.columns if column.unit}
UNITS |= {
    PRICE: "US cents per 1,000 tokens",
    "elapsed_ms": "ms from start to end",
    "steps": "steps",
    "failed": "failed steps",
}


@overload
def anomalies(
    frame: IntoFrameT, baseline: Any, *, false_alarms: float = ..., at_least: int = ..., at_least_cents: float = ...,
    at_least_ms: float = ..., at_least_tokens: float = ...,
) -> IntoFrameT: ...  # fmt: skip
@overload
def anomalies(
    frame: ArrowSteps, baseline: Any, *, false_alarms: float = ..., at_least: int = ..., at_least_cents: float = ...,
    at_least_ms: float = ..., at_least_tokens: float = ...,
) -> pa.Table: ...  # fmt: skip
def anomalies(
    frame: Any,
    baseline: Any,
    *,
    false_alarms: float = FALSE_ALARMS,
    at_least: int = AT_LEAST,
    at_least_cents: float = AT_LEAST_CENTS,
    at_least_ms: float = AT_LEAST_MS,
    at_least_tokens: float = AT_LEAST_TOKENS,
) -> Any:
    """What is far above the usual of its agent, step type and name, and why, in words.

    Parameters
    ----------
    frame : frame of steps, of runs, or of whatever the baseline describes
        Has the columns that `baseline` is grouped by and its measures; optionally ``tenant_id``, ``run_id``,
        ``trace_id``, ``step_index`` and ``timestamp``.
    baseline : frame
        The result of :func:`baseline`, of any kind: for the same rows or, better, for a period that was good.
    false_alarms : float
        The share of normal rows that may be reported, over all measures together: 0.001 is one in 1,000.
    at_least : int
        Groups with fewer rows in `baseline` are not judged; each has one row that says so.
    at_least_cents, at_least_ms, at_least_tokens : float
        How far above the usual a cost, a time or a number of tokens is at least; a number of steps or failed steps is
        5 above it. For the mean steps of :func:`run_profiles`, what the difference comes to in all the run's steps.

    Returns
    -------
    frame
        Of the kind of `frame`. Columns: those that identify the row (see above); the groups' columns; ``measure``;
        ``value`` and ``usual``, the group's median, in the measure's unit; ``times_usual`` (NULL if ``usual`` is 0);
        ``p_value``, the chance of a normal value as large as that; ``reason``, in words. The most improbable first.
        Then rows with NULL for measure, value and p_value: one for each group that is too small to be judged, and at last
        one that says how many rows were judged and how many false alarms to expect.

    Raises
    ------
    ConfigError
        A column is missing or of another type, `false_alarms` is not between 0 and 1, `at_least` is not an integer >= 0,
        or something else to have at least is not a number >= 0.

    Notes
    -----
    Of the n values of a group, the k of its larger half exceed a start u, by a mean s of their natural logarithms that
    stands on m of them. The excess of a value x is e = (ln x - ln u) / s, and p = k/n (1 + y/m)^-m with y = e if the tail is
    exponential: the predictive distribution, whose uncertainty is greater where m is small. As far as the tails of
    all groups show to be lighter, y = (e Γ(1 + w))^(1/w) with w down to 0.68, as for a lognormal distribution. Groups
    whose spreads are alike lend each other strength: m and s are then more than a group's own. s is at least 0.07.

    A row is reported if its c lowest p are at most 0.75 `false_alarms` c / (number of measures), for any c (Simes, An
    Improved Bonferroni Procedure, Biometrika 73, 1986), and then by each measure whose p is at most `false_alarms`. The
    value is at least 1.5 times the usual, and so much above what the baseline has, but for the 1 % set aside. In a
    group that had only zeros each value above 0 is reported, with p = 1/(n + 1): what happens once in m rows is a false
    alarm there as long as n is not far more than m, so the last row counts these apart. Unusually small values never are: a call
    that failed is short and free.

    Examples
    --------
    >>> import polars as pl
    >>> from exporttools import baseline
    >>> steps = pl.DataFrame({"agent_id": ["a"] * 40, "step_type": ["tool_call"] * 40, "step_index": range(40),
    ...     "duration_ms": [90.0, 100.0, 110.0, 105.0] * 9 + [95.0, 100.0, 102.0, 48_000.0]})
    >>> found = anomalies(steps, baseline(steps, measures=["duration_ms"]))
    >>> found.select("step_index", "reason").rows()[0]
    (39, '48,000 ms, 475 times the usual 101 ms of a · tool_call')
    >>> found["reason"][-1]
    'judged 40 rows by 1 measure: expect at most 0.04 false alarms'
    """
    require_integer("at_least", at_least, 0)
    if not _is_number(false_alarms) or not 0 < false_alarms <= 1:
        raise ConfigError(f"false_alarms is {one_line(repr(false_alarms), 60)}; expected a number above 0, at most 1")
    floors = {"at_least_cents": at_least_cents, "at_least_ms": at_least_ms, "at_least_tokens": at_least_tokens}
    for name, floor in floors.items():
        if not _is_number(floor) or not 0 <= floor < math.inf:
            raise ConfigError(f"{name} is {one_line(repr(floor), 60)}; expected a number >= 0")
    known = KnownGroups.read(baseline)
    needed = dict.fromkeys(known.by, Kind.KEY) | dict.fromkeys(known.measures, Kind.NUMBER)
    source = read_own_amounts(frame, needed, optional=_IDENTITY)
    if has_profiles(source.names):
        source = read(source.native, needed | dict.fromkeys(_WEIGHTS, Kind.NUMBER), optional=_IDENTITY)
    identity = [name for name in source.has(*_IDENTITY) if name not in known.by]
    schema = pa.schema(
        [
            *arrow_schema(source, [*identity, *known.by]),
            ("measure", pa.string()), ("value", pa.float64()), ("usual", pa.float64()), ("times_usual", pa.float64()),
            ("p_value", pa.float64()), ("reason", pa.string()),
        ]
    )  # fmt: skip
    per_step = has_profiles(source.names)
    floor_of = LEAST_DIFFERENCES | {name: floors[parameter] for name, parameter in _FLOORS.items()}
    judge = _Judge(known, schema, tuple(identity), false_alarms, at_least, floor_of, per_step)
    columns = dict.fromkeys([*identity, *known.by, *known.measures, *(_WEIGHTS if per_step else [])])
    found = apply(source, list(columns), judge, schema)
    kinds = {name: source.kinds[name] for name in (*identity, *known.by)}
    kinds |= {"measure": Kind.TEXT, "reason": Kind.TEXT}
    kinds |= dict.fromkeys(("value", "usual", "times_usual", "p_value"), Kind.NUMBER)
    gathered = Frame(source.native, found, source.what, tuple(schema.names), kinds)
    order = _Order(schema, tuple(known.by), tuple(identity), at_least, false_alarms, len(known.measures))
    return to_native(apply(gathered, schema.names, order, schema, together=()))


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real)


def sure_limits(
    known: KnownGroups, measure: str, false_alarms: float, at_least: int, *, per_step: bool = False
) -> Floats:
    """The value of each group of a baseline above which this measure alone makes a row unusual; NaN if not judged.

    Of mean steps (`per_step`) the least difference is one of all the run's steps: no value of one step says that.
    """
    found = _limits(known, _SURE * false_alarms / len(known.measures), at_least)[measure]
    if per_step:
        return found
    least: Floats = known.statistic(measure, "median") + LEAST_DIFFERENCES.get(measure, 0.0)
    return np.maximum(found, least)


def _limits(known: KnownGroups, chance: float, at_least: int) -> dict[str, Floats]:
    """For each measure, the value of each group above which one has less than this chance; NaN if not judged."""
    judged = known.count >= at_least
    limits = {}
    for measure, judgement in _judgements(known, at_least).items():
        found = judgement.limits(known.tails(measure), chance)
        found = np.fmax(found, LEAST_TIMES * known.statistic(measure, "median"))
        found = np.where(known.statistic(measure, "max") == 0, 0.0, found)
        limits[measure] = np.where(judged, found, np.nan)
    return limits


def _judgements(known: KnownGroups, at_least: int) -> dict[str, Judgement]:
    found = Judgement.of([known.tails(measure) for measure in known.measures], known.count >= at_least)
    return dict(zip(known.measures, found, strict=True))


def unusual(values: Floats) -> Flags:
    """Which values are unusually large among the others, by the rule of :func:`anomalies`, whatever their size."""
    groups = Groups(np.zeros(len(values), np.intp), np.zeros(1, np.intp))
    ordered = sort_within(groups, values)
    tails = fit(ordered)
    (judgement,) = Judgement.of([tails], np.ones(1, np.bool_))
    limit = np.fmax(judgement.limits(tails, FALSE_ALARMS), LEAST_TIMES * ordered.quantile(0.5))
    return np.asarray(values > limit)


@dataclass(frozen=True, slots=True)
class _Judge:
    """Finds the unusual rows of a table, in no order; and adds a row for each group that is not judged, whose ``usual`` is
    the number of its rows in the baseline, and one whose ``value`` is the number of rows that were judged.
    """

    known: KnownGroups
    schema: pa.Schema
    identity: tuple[str, ...]
    false_alarms: float
    at_least: int
    floors: Mapping[str, float]
    per_step: bool

    def __call__(self, table: pa.Table) -> pa.Table:
        known = self.known
        folded = known.folded(table)
        groups = group(folded, known.by)
        keys = group_keys(folded.select(known.by).take(pa.array(groups.first)), known.by)
        found = np.array([known.row(key) for key in keys], np.intp)
        judged = (found >= 0) & (np.append(known.count, 0)[found] >= self.at_least)
        row = np.where(judged, found, -1)[groups.of_row]
        parts = [
            self._rows(pa.table({}), value=np.array([(row >= 0).sum()], np.float64)),
            self._unjudged(folded, groups, np.flatnonzero(~judged), found),
        ]
        parts += self._unusual(table, row)
        return pa.concat_tables(parts)

    def _unusual(self, table: pa.Table, row: Any) -> Iterator[pa.Table]:
        """The unusual rows, by each measure: by Simes' test, whose chance to report a normal row is no more than
        `false_alarms` over all measures, whether they go together or not.
        """
        known = self.known
        limits = _limits(known, self.false_alarms, self.at_least)
        values = {measure: numbers(table, measure) for measure in known.measures}
        above = {
            measure: self._above(measure, values[measure], row, limits[measure], self._weight(table, measure))
            for measure in values
        }
        chosen = np.flatnonzero(np.logical_or.reduce(list(above.values())))
        of, judgements = row[chosen], _judgements(known, self.at_least)
        chances = np.ones((len(known.measures), len(chosen)))
        for place, measure in enumerate(known.measures):
            found = judgements[measure].chances(known.tails(measure).take(of), values[measure][chosen])
            never = known.statistic(measure, "max")[of] == 0
            found = np.where(never, 1 / (known.count[of] + 1.0), found)
            chances[place] = np.where(above[measure][chosen], found, 1.0)
        allowed = np.arange(1, len(chances) + 1)[:, None] * _SURE * self.false_alarms / len(chances)
        reported = (np.sort(chances, axis=0) <= allowed).any(axis=0)
        for place, measure in enumerate(known.measures):
            never = known.statistic(measure, "max")[of] == 0
            kept = np.flatnonzero(above[measure][chosen] & (reported | never))
            yield self._reported(table, measure, chosen[kept], of[kept], values[measure], chances[place, kept])

    def _weight(self, table: pa.Table, measure: str) -> Floats:
        """What a difference in this measure is multiplied by, to be what it comes to in the whole run."""
        if not self.per_step or measure not in (*MEASURES, PRICE):
            return np.ones(len(table))
        steps = numbers(table, "steps")
        return steps * numbers(table, "tokens") / 1000 if measure == PRICE else steps

    def _above(self, measure: str, values: Floats, row: Any, limits: Floats, weight: Floats) -> Flags:
        """Which rows are above the limit of their group, by what is worth a look."""
        found: Flags = values > np.append(limits, np.nan)[row]
        some = np.flatnonzero(found)
        difference = values[some] - self.known.statistic(measure, "median")[row[some]]
        found[some] = difference * weight[some] >= self.floors.get(measure, 0.0)
        return found

    def _reported(
        self, table: pa.Table, measure: str, rows: Indices, of: Indices, values: Floats, p_value: Floats
    ) -> pa.Table:
        known, value = self.known, values[rows]
        usual, p95, most = (known.statistic(measure, name)[of] for name in ("median", "p95", "max"))
        with np.errstate(divide="ignore", invalid="ignore"):
            times = np.where(usual > 0, value / usual, np.nan)
        reasons = [
            _words(measure, self.per_step, known.text(known.keys[place]), *figures)
            for place, *figures in zip(*(part.tolist() for part in (of, value, usual, p95, most)), strict=True)
        ]
        return self._rows(
            table.select([*self.identity, *known.by]).take(pa.array(rows)),
            measure=pa.array([measure] * len(rows), pa.string()),
            value=value, usual=usual, times_usual=times, p_value=p_value, reason=pa.array(reasons, pa.string()),
        )  # fmt: skip

    def _unjudged(self, table: pa.Table, groups: Groups, small: Any, found: Any) -> pa.Table:
        counts = np.append(self.known.count, 0)[found[small]].astype(np.float64)
        rows = table.select(self.known.by).take(pa.array(groups.first[small]))
        texts = [self.known.text(key) for key in group_keys(rows, self.known.by)]
        return self._rows(rows, usual=counts, reason=pa.array(texts, pa.string()))

    def _rows(self, table: pa.Table, **columns: Any) -> pa.Table:
        """A table of the schema, with NULL in columns that are not given."""
        given = {name: table[name] for name in table.column_names} | {
            name: pa.array(values, from_pandas=True) if isinstance(values, np.ndarray) else values
            for name, values in columns.items()
        }
        count = len(next(iter(given.values())))
        absent = {field.name: pa.nulls(count, field.type) for field in self.schema if field.name not in given}
        return pa.table({name: (given | absent)[name] for name in self.schema.names}, schema=self.schema)


@dataclass(frozen=True, slots=True)
class _Order:
    """Sorts all that was found, keeps one row for each group that is too small, and adds up how many rows were judged."""

    schema: pa.Schema
    by: tuple[str, ...]
    identity: tuple[str, ...]
    at_least: int
    false_alarms: float
    measures: int

    def __call__(self, table: pa.Table) -> pa.Table:
        judged = table.filter(pc.is_valid(table["measure"]))
        ties = [(name, "ascending") for name in (*self.by, *self.identity, "measure")]
        judged = judged.sort_by(
            [("p_value", "ascending"), ("times_usual", "descending"), ("value", "descending"), *ties]
        )
        other = table.filter(pc.is_null(table["measure"]))
        small = other.filter(pc.is_null(other["value"]))
        small = small.take(pa.array(group(small, self.by).first))
        small = small.sort_by([(name, "ascending") for name in self.by])
        few = [
            f"not judged: too few rows in the baseline ({found['usual']:,.0f} of {found['reason']}, {self.at_least:,} needed)"
            for found in small.select(["usual", "reason"]).to_pylist()
        ]
        rows = int(np.nansum(numbers(other, "value")))
        said = [*few, *([self._said(rows, beyond(judged, self.false_alarms))] if rows or few else [])]
        nothing = {
            field.name: small[field.name].combine_chunks()
            if field.name in self.by
            else pa.nulls(len(small), field.type)
            for field in self.schema
        }
        last = {
            name: pa.concat_arrays([values, pa.nulls(len(said) - len(few), values.type)])
            for name, values in nothing.items()
        }
        last["reason"] = pa.array(said, pa.string())
        return pa.concat_tables([judged, pa.table(last, schema=self.schema)])

    def _said(self, rows: int, uncounted: int) -> str:
        judged = f"judged {plural(rows, 'row')} by {plural(self.measures, 'measure')}"
        return f"{judged}: {expected_text(rows * self.false_alarms, uncounted)}"


def beyond(found: pa.Table, false_alarms: float) -> int:
    """How many of the values found are only there because their group had none above 0: no share of false alarms holds for these."""
    return pc.sum(pc.greater(found["p_value"], false_alarms)).as_py() or 0


def expected_text(false_alarms: float, uncounted: int = 0) -> str:
    """How many normal rows are expected to be reported, besides so many values of groups that only had zeros.

    Examples
    --------
    >>> expected_text(3.618), expected_text(1234)
    ('expect at most 3.6 false alarms', 'expect at most 1,234 false alarms')
    >>> expected_text(1, 2)
    'expect at most 1 false alarm, not counting 2 values where the baseline has only zeros'
    """
    number = f"{false_alarms:,.0f}" if false_alarms >= 100 else f"{false_alarms:.2g}"
    said = f"expect at most {number} {'false alarm' if number == '1' else 'false alarms'}"
    return said + (
        f", not counting {plural(uncounted, 'value')} where the baseline has only zeros" if uncounted else ""
    )


def _words(measure: str, per_step: bool, group_name: str, value: float, usual: float, p95: float, most: float) -> str:
    each = " a step" if per_step and measure in MEASURES else ""
    said = measure_text(value, measure) + each
    if not most > 0:
        return f"{said}; {group_name} has only zeros in the baseline"
    if not usual > 0:
        return f"{said}; 95 in 100 rows of {group_name} have at most {measure_text(p95, measure)}"
    times = value / usual
    factor = f"{times:,.0f}" if times >= 10 else f"{times:.2g}"
    return f"{said}, {factor} times the usual {measure_text(usual, measure)} of {group_name}"


def measure_text(value: float, measure: str) -> str:
    """The value of a measure, with its unit or else its name.

    Examples
    --------
    >>> measure_text(48_000.2, "duration_ms"), measure_text(0.0123456, "cost_cents"), measure_text(7, "weight")
    ('48,000 ms', '0.01235 US cents', 'weight 7')
    """
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{number} {UNITS[measure]}" if measure in UNITS else f"{one_line(measure, 60)} {number}"
