"""What is usual for each agent and step type, and what is not: median and MAD on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporttools.analysis.columns import Kind, require_keys
from exporttools.analysis.frames import TRACE_KEYS, Frame, apply, arrow_schema, read, sort, to_arrow, to_native
from exporttools.analysis.groups import Flags, Floats, Groups, group, numbers, sort_within
from exporttools.errors import ConfigError
from exporttools.records.schema import TRACE_STEPS
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    from narwhals.typing import IntoFrameT

    from exporttools.analysis.frames import ArrowSteps

THRESHOLD = 5.0
"""The least robust z-score of an unusual value. The customary 3.5 (Iglewicz and Hoaglin, How to Detect and Handle
Outliers, 1993) is meant for a single sample; here thousands of values are judged."""

AT_LEAST = 10
"""How many rows of a group a baseline needs for its statistics to mean something."""

MEASURES = ("cost_cents", "tokens", "duration_ms")
BY = ("agent_id", "step_type")

_STATISTICS = ("median", "mad", "p95", "max", "spread")
_TO_SIGMA = 1.4826  # a normal distribution's standard deviation in MADs
_MEAN_TO_SIGMA = 1.2533  # and in mean absolute deviations
_LEAST_SPREAD = math.log(1.1)
_IDENTITY = (*TRACE_KEYS, "step_index", "timestamp")


@overload
def baseline(frame: IntoFrameT, *, by: Sequence[str] = ..., measures: Sequence[str] = ...) -> IntoFrameT: ...
@overload
def baseline(frame: ArrowSteps, *, by: Sequence[str] = ..., measures: Sequence[str] = ...) -> pa.Table: ...
def baseline(frame: Any, *, by: Sequence[str] = BY, measures: Sequence[str] = MEASURES) -> Any:
    """What is usual: the size of each group, and the median, MAD and 95th percentile of each measure.

    Parameters
    ----------
    frame : frame of steps, or of anything else with these columns
        Has `by` and `measures`; the result of :func:`run_profiles`, for example.
    by : sequence of str
        The columns to group by. Add ``"name"`` if a step type covers tools that differ much.
    measures : sequence of str
        Columns of numbers >= 0; ``cost_cents`` in US cents, ``duration_ms`` in ms. NULL and NaN are left out.

    Returns
    -------
    frame
        Of the same kind. Columns: `by`; ``count``, the number of rows; and for each measure, in its unit,
        ``<measure>_median``, ``<measure>_mad`` (median absolute deviation from the median, not scaled),
        ``<measure>_p95``, ``<measure>_max``, and ``<measure>_spread``, the robust standard deviation of its natural
        logarithm, which :func:`anomalies` uses (NULL if the median is 0). NULL if a group has no values.
        Sorted by `by`.

    Raises
    ------
    ConfigError
        A column is missing or of another type.

    Notes
    -----
    Quantiles are exact, interpolated linearly. Costs, tokens and durations vary by factors, not by amounts, so the
    spread is that of ln((x + c) / (median + c)), where c is a hundredth of the median, so that zeros have a logarithm:
    1.4826 times its MAD or, if more than half of the values are equal, 1.2533 times its mean absolute deviation
    (Iglewicz and Hoaglin 1993); never less than ln 1.1, since nobody investigates differences of a few percent.

    Examples
    --------
    >>> import polars as pl
    >>> steps = pl.DataFrame({"agent_id": ["a"] * 5, "step_type": ["llm_call"] * 5, "tokens": [1, 2, 3, 4, 100]})
    >>> baseline(steps, measures=["tokens"]).select("count", "tokens_median", "tokens_mad", "tokens_max").rows()
    [(5, 3.0, 1.0, 100.0)]
    """
    measures = _listed("measures", measures)
    by = require_keys("by", _listed("by", by), ("count", *measures))
    source = read(frame, dict.fromkeys(by, Kind.KEY) | dict.fromkeys(measures, Kind.NUMBER))
    schema = pa.schema(
        [
            *arrow_schema(source, by),
            ("count", pa.int64()),
            *((f"{measure}_{statistic}", pa.float64()) for measure in measures for statistic in _STATISTICS),
        ]
    )

    def describe(table: pa.Table) -> pa.Table:
        groups = group(table, by)
        rows = pa.array(groups.first)
        columns = {name: table[name].take(rows) for name in by}
        columns["count"] = groups.sizes
        for measure in measures:
            found = _statistics(groups, numbers(table, measure))
            columns |= {f"{measure}_{name}": pa.array(found[name], from_pandas=True) for name in _STATISTICS}
        return pa.table(columns, schema=schema)

    return to_native(sort(apply(source, [*by, *measures], describe, schema, together=by), *by))


def _listed(parameter: str, names: Sequence[str]) -> list[str]:
    if isinstance(names, str) or not names:
        raise ConfigError(f"{parameter} is {one_line(repr(names), 60)}; expected a list of columns")
    return list(dict.fromkeys(names))


def _statistics(groups: Groups, values: Floats) -> dict[str, Floats]:
    ordered = sort_within(groups, values)
    median, p95 = ordered.quantile(0.5), ordered.quantile(0.95)
    usual = median[groups.of_row]
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.abs(_log_ratio(values, usual))
    logarithm[~np.isfinite(logarithm)] = np.nan
    deviations = sort_within(groups, logarithm)
    spread = _TO_SIGMA * deviations.quantile(0.5)
    count = np.maximum(deviations.count, 1)
    mean = groups.sums(np.nan_to_num(logarithm)) / count
    spread = np.where(spread == 0, _MEAN_TO_SIGMA * mean, spread)
    return {
        "median": median,
        "mad": sort_within(groups, np.abs(values - usual)).quantile(0.5),
        "p95": p95,
        "max": ordered.quantile(1.0),
        "spread": np.where(median > 0, np.maximum(spread, _LEAST_SPREAD), np.nan),
    }


def _log_ratio(values: Floats, usual: Floats) -> Floats:
    """The logarithm of a value's ratio to the usual one, after adding a hundredth of the usual one to both."""
    ratio: Floats = np.log((values + 0.01 * usual) / (1.01 * usual))
    return ratio


def unusual(values: Floats, threshold: float = THRESHOLD) -> Flags:
    """Which values are unusually large among the others, by the rule of :func:`anomalies`."""
    groups = Groups(np.zeros(len(values), np.intp), np.zeros(1, np.intp))
    found = _statistics(groups, values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(_log_ratio(values, found["median"]) / found["spread"] >= threshold)


@overload
def anomalies(frame: IntoFrameT, baseline: Any, threshold: float = ..., *, at_least: int = ...) -> IntoFrameT: ...
@overload
def anomalies(frame: ArrowSteps, baseline: Any, threshold: float = ..., *, at_least: int = ...) -> pa.Table: ...
def anomalies(frame: Any, baseline: Any, threshold: float = THRESHOLD, *, at_least: int = AT_LEAST) -> Any:
    """What is far above the usual for its agent and step type, and why, in words.

    Parameters
    ----------
    frame : frame of steps, or of whatever the baseline describes
        Has the columns that `baseline` is grouped by and its measures; optionally ``tenant_id``, ``run_id``,
        ``trace_id``, ``step_index`` and ``timestamp``.
    baseline : frame
        The result of :func:`baseline`, of any kind: for the same rows or, better, for a period that was good.
    threshold : float
        The least robust z-score to report.
    at_least : int
        Groups with fewer rows in `baseline` are not judged; each has one row that says so.

    Returns
    -------
    frame
        Of the kind of `frame`. Columns: those that identify the row (see above); the groups' columns; ``measure``;
        ``value`` and ``usual``, the group's median, in the measure's unit; ``times_usual``; ``z``; ``reason``, in
        words. First the values above 0 in groups that had only zeros (``usual`` is 0, ``times_usual`` and ``z`` are
        NULL), then by descending z. Last a row for each group that is too small to be judged, with NULL for measure, value and z.

    Raises
    ------
    ConfigError
        A column is missing or of another type, or `threshold` is not above 0.

    Notes
    -----
    z = ln((x + c) / (median + c)) / spread, see :func:`baseline`. Unusually small values are not reported: a call that
    failed is short and free. If the median is 0, only a value above 0 in a group that never had one is reported.

    Examples
    --------
    >>> import polars as pl
    >>> steps = pl.DataFrame({"agent_id": ["a"] * 40, "step_type": ["tool_call"] * 40, "step_index": range(40),
    ...     "duration_ms": [90.0, 100.0, 110.0, 105.0] * 9 + [95.0, 100.0, 102.0, 48_000.0]})
    >>> found = anomalies(steps, baseline(steps, measures=["duration_ms"]))
    >>> found.select("step_index", "reason").rows()
    [(39, '48,000 ms, 475 times the usual 101 ms of a · tool_call')]
    """
    if not isinstance(threshold, (int, float)) or not threshold > 0:
        raise ConfigError(f"threshold is {one_line(repr(threshold), 60)}; expected a number above 0")
    known = _Baseline.read(baseline)
    needed = dict.fromkeys(known.by, Kind.KEY) | dict.fromkeys(known.measures, Kind.NUMBER)
    source = read(frame, needed, optional=_IDENTITY)
    identity = [name for name in source.has(*_IDENTITY) if name not in known.by]
    schema = pa.schema(
        [
            *arrow_schema(source, [*identity, *known.by]),
            ("measure", pa.string()),
            ("value", pa.float64()),
            ("usual", pa.float64()),
            ("times_usual", pa.float64()),
            ("z", pa.float64()),
            ("reason", pa.string()),
        ]
    )
    judge = _judge(known, schema, identity, threshold, at_least)
    found = apply(source, [*identity, *known.by, *known.measures], judge, schema)
    kinds = {name: source.kinds[name] for name in (*identity, *known.by)}
    kinds |= {"measure": Kind.TEXT, "reason": Kind.TEXT}
    kinds |= dict.fromkeys(("value", "usual", "times_usual", "z"), Kind.NUMBER)
    gathered = Frame(source.native, found, source.what, tuple(schema.names), kinds)
    return to_native(apply(gathered, schema.names, _ordered(schema, known.by, identity, at_least), schema, together=()))


def baseline_columns(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """What a baseline with these columns is grouped by, and what it measures."""
    by = list(names[: names.index("count")])
    return by, [name.removesuffix("_spread") for name in names if name.endswith("_spread")]


class _Baseline:
    """The rows of a baseline, to look up by group. Small, and sent to workers."""

    def __init__(self, by: Sequence[str], measures: Sequence[str], table: pa.Table) -> None:
        self.by, self.measures = list(by), list(measures)
        self.rows = {key: row for row, key in enumerate(_keys(table, self.by))}
        self.count = table["count"].to_numpy()
        self.statistics = {
            (measure, name): numbers(table, f"{measure}_{name}")
            for measure in self.measures
            for name in ("median", "max", "spread")
        }

    @classmethod
    def read(cls, frame: Any) -> _Baseline:
        known = read(frame, {"count": Kind.WHOLE}, what="baseline")
        by, measures = baseline_columns(known.names)
        numeric = [f"{measure}_{name}" for measure in measures for name in ("median", "max", "spread")]
        kinds = dict.fromkeys(by, Kind.KEY) | {"count": Kind.WHOLE} | dict.fromkeys(numeric, Kind.NUMBER)
        return cls(by, measures, to_arrow(read(known.native, kinds, what="baseline")))


def _keys(table: pa.Table, by: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in by), strict=True)) if by else []


def _judge(
    known: _Baseline, schema: pa.Schema, identity: Sequence[str], threshold: float, at_least: int
) -> Callable[[pa.Table], pa.Table]:
    """A function that finds the unusual rows of a table, in no order and without words."""

    def judge(table: pa.Table) -> pa.Table:
        groups = group(table, known.by)
        keys = _keys(table.select(known.by).take(pa.array(groups.first)), known.by)
        row = np.array([known.rows.get(key, -1) for key in keys], np.intp)
        judged = (row >= 0) & (np.append(known.count, 0)[row] >= at_least)
        parts = [_unjudged(table, groups, np.flatnonzero(~judged), known, schema, row)]
        usual_row = np.where(judged, row, -1)[groups.of_row]
        for measure in known.measures:
            values = numbers(table, measure)
            median, most, spread = (
                np.append(known.statistics[measure, name], np.nan)[usual_row] for name in ("median", "max", "spread")
            )
            with np.errstate(divide="ignore", invalid="ignore"):
                z = _log_ratio(values, median) / spread
                times = values / median
            first_of_all = (most == 0) & (values > 0)
            chosen = np.flatnonzero((z >= threshold) | first_of_all)
            parts.append(
                _rows(
                    table.select([*identity, *known.by]).take(pa.array(chosen)),
                    schema,
                    measure=pa.array([measure] * len(chosen), pa.string()),
                    value=values[chosen],
                    usual=median[chosen],
                    times_usual=np.where(first_of_all, np.nan, times)[chosen],
                    z=np.where(first_of_all, np.nan, z)[chosen],
                )
            )
        return pa.concat_tables(parts)

    return judge


def _unjudged(table: pa.Table, groups: Groups, small: Any, known: _Baseline, schema: pa.Schema, row: Any) -> pa.Table:
    """A row for each group that has too few rows in the baseline; ``usual`` is how many."""
    counts = np.append(known.count, 0)[row[small]].astype(np.float64)
    return _rows(table.select(known.by).take(pa.array(groups.first[small])), schema, usual=counts)


def _rows(table: pa.Table, schema: pa.Schema, **columns: Any) -> pa.Table:
    """A table of the schema, with NULL in columns that are not given."""
    given = {name: table[name] for name in table.column_names} | {
        name: pa.array(values, from_pandas=True) if isinstance(values, np.ndarray) else values
        for name, values in columns.items()
    }
    absent = {field.name: pa.nulls(len(table), field.type) for field in schema if field.name not in given}
    return pa.table({name: (given | absent)[name] for name in schema.names}, schema=schema)


def _ordered(
    schema: pa.Schema, by: Sequence[str], identity: Sequence[str], at_least: int
) -> Callable[[pa.Table], pa.Table]:
    """A function that sorts all findings, keeps one row for each group that is too small, and writes the reasons."""

    def order(table: pa.Table) -> pa.Table:
        judged = table.filter(pc.is_valid(table["measure"]))
        small = table.filter(pc.is_null(table["measure"]))
        small = small.take(pa.array(group(small, by).first))
        ties = [(name, "ascending") for name in (*by, *identity, "measure")]
        judged = judged.append_column("never", pc.is_null(judged["z"]))
        judged = judged.sort_by([("never", "descending"), ("z", "descending"), ("value", "descending"), *ties])
        small = small.sort_by([(name, "ascending") for name in by])
        words = [
            _words(found, by) for found in judged.select([*by, "measure", "value", "usual", "times_usual"]).to_pylist()
        ]
        few = [
            f"not judged: too few rows in the baseline ({found['usual']:,.0f} of {_group_text(found, by)}, {at_least:,} needed)"
            for found in small.select([*by, "usual"]).to_pylist()
        ]
        small = small.set_column(small.column_names.index("usual"), "usual", pa.nulls(len(small), pa.float64()))
        both = pa.concat_tables([judged.select(schema.names), small.select(schema.names)])
        return both.set_column(both.column_names.index("reason"), "reason", pa.array([*words, *few], pa.string()))

    return order


def _words(found: Mapping[str, Any], by: Sequence[str]) -> str:
    value, measure = measure_text(found["value"], found["measure"]), found["measure"]
    if found["times_usual"] is None:
        return f"{value}; {_group_text(found, by)} has none in the baseline"
    times = found["times_usual"]
    factor = f"{times:,.0f}" if times >= 10 else f"{times:.2g}"
    return f"{value}, {factor} times the usual {measure_text(found['usual'], measure)} of {_group_text(found, by)}"


def _group_text(found: Mapping[str, Any], by: Sequence[str]) -> str:
    return " · ".join("NULL" if found[name] is None else one_line(found[name], 60) for name in by)


_UNITS = {column.name: column.unit for column in TRACE_STEPS.columns if column.unit}


def measure_text(value: float, measure: str) -> str:
    """The value of a measure, with its unit or else its name.

    Examples
    --------
    >>> measure_text(48_000.2, "duration_ms"), measure_text(0.0123456, "cost_cents"), measure_text(7, "steps")
    ('48,000 ms', '0.01235 US cents', 'steps 7')
    """
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{number} {_UNITS[measure]}" if measure in _UNITS else f"{one_line(measure, 60)} {number}"


@overload
def run_profiles(frame: IntoFrameT, *, by: Sequence[str] = ..., at_least: int = ...) -> IntoFrameT: ...
@overload
def run_profiles(frame: ArrowSteps, *, by: Sequence[str] = ..., at_least: int = ...) -> pa.Table: ...
def run_profiles(frame: Any, *, by: Sequence[str] = BY, at_least: int = 1) -> Any:
    """The average step of each run: how many steps there were, and their mean cost, tokens and duration.

    Single steps vary widely, a run's mean does not. What crept in over all steps of a run, such as a more expensive model or
    longer contexts, shows here.

    Parameters
    ----------
    frame : frame of steps
        Has `by`, ``run_id``, ``cost_cents`` (US cents), ``tokens``, ``duration_ms`` (ms); optionally ``tenant_id``.
    by : sequence of str
        As for :func:`baseline`, which takes the result.
    at_least : int
        How many steps of a group a run needs to get a row: the mean of a few says little.

    Returns
    -------
    frame
        Of the same kind. Columns: ``tenant_id``, ``run_id``; `by`; ``steps``; ``cost_cents``, ``tokens`` and
        ``duration_ms`` per step. A row for each run and group.

    Raises
    ------
    ConfigError
        A column is missing or of another type.

    Examples
    --------
    >>> import polars as pl
    >>> steps = pl.DataFrame({"run_id": ["r1", "r1"], "agent_id": ["a", "a"], "step_type": ["llm_call"] * 2,
    ...     "cost_cents": [1.0, 2.0], "tokens": [100, 300], "duration_ms": [500.0, 700.0]})
    >>> run_profiles(steps).select("run_id", "steps", "cost_cents", "tokens").rows()
    [('r1', 2, 1.5, 200.0)]
    """
    by = require_keys("by", _listed("by", by), ("steps", *MEASURES))
    source = read(
        frame, dict.fromkeys((*by, "run_id"), Kind.KEY) | dict.fromkeys(MEASURES, Kind.NUMBER), optional=("tenant_id",)
    )
    keys = list(dict.fromkeys([*source.has("tenant_id"), "run_id", *by]))
    grouped = source.data.group_by(*keys).agg(nw.len().alias("steps"), *(nw.col(name).mean() for name in MEASURES))
    kept = grouped.with_columns(nw.col("steps").cast(nw.Int64)).filter(nw.col("steps") >= at_least)
    return to_native(sort(kept, *keys))
